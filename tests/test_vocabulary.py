import pytest

from unseen.errors import InputError
from unseen.vocabulary import (
    CAMVID,
    COCO171,
    CONTEXT59,
    CONTEXT59_RELEASED,
    MINIATURE,
    MULTI_TEMPLATES,
    UAVID,
    UAVID_FOREGROUND,
    UDD6,
    UDD6_FOREGROUND,
    VOC20,
    VOCABULARIES,
    Vocabulary,
    find_vocabulary,
    read_vocabulary,
)


def test_published_splits_hold_out_the_published_indices():
    assert VOC20.positions(VOC20.unseen) == (15, 16, 17, 18, 19)
    published = (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)
    assert sorted(COCO171.positions(COCO171.unseen)) == list(published)
    assert (len(VOC20), len(COCO171), len(COCO171.stuff)) == (20, 171, 91)


def test_both_context_splits_are_one_list_of_indices_in_two_orders():
    published = {0, 2, 3, 7, 9, 13, 17, 19, 31, 37}
    assert set(CONTEXT59_RELEASED.positions(CONTEXT59_RELEASED.unseen)) == published
    # the other order: VOC's names, then bag to keyboard, some that were left out at first later
    names = ["table" if name == "diningtable" else name for name in VOC20.names]
    later = {*names, "bedclothes", "curtain"}
    names += [name for name in CONTEXT59.names if name not in later]
    assert {names.index(name) for name in CONTEXT59.unseen} == published
    assert list(CONTEXT59.names) == sorted(CONTEXT59.names) and len(CONTEXT59) == 59
    assert CONTEXT59.names == CONTEXT59_RELEASED.names
    assert len(CONTEXT59.templates) == 15


def test_scenes_of_roads_and_drones_have_their_published_order():
    assert (len(CAMVID), CAMVID.names[0], CAMVID.names[-1]) == (11, "Sky", "Bicyclist")
    assert "Void" not in CAMVID.names
    assert UAVID.names[3] == "Moving Car" and UDD6.names.index("Roof") == 5
    assert UAVID_FOREGROUND.names == UAVID.names[1:]
    assert UDD6_FOREGROUND.names == UDD6.names[1:]
    assert all(name == vocabulary.name for name, vocabulary in VOCABULARIES.items())


def test_published_templates():
    assert VOC20.templates == ("a photo of a {}",)
    assert len(COCO171.templates) == 15
    assert all(template.count("{}") == 1 for template in MULTI_TEMPLATES)


def test_miniature_holds_out_names_that_the_benchmarks_hold_out():
    published = {*VOC20.unseen, *COCO171.unseen}
    assert set(MINIATURE.unseen) <= published
    assert (len(MINIATURE.things), len(MINIATURE.stuff)) == (24, 10)


def test_seen_and_unseen_divide_the_names():
    assert sorted(VOC20.seen + VOC20.unseen) == sorted(VOC20.names)


def test_labels_may_be_words_a_list_a_file_or_a_vocabulary(tmp_path):
    lines = tmp_path / "labels.txt"
    lines.write_text("cat\ntraffic  light\n\nroad, sky\n")
    assert read_vocabulary("cat, traffic  light ,road").names == ("cat", "traffic light", "road")
    assert read_vocabulary(["cat", "road"]).names == ("cat", "road")
    assert read_vocabulary(str(lines)).names == ("cat", "traffic light", "road", "sky")
    assert read_vocabulary("# all\n" + lines.read_text()) == read_vocabulary(
        ["cat", "traffic light", "road", "sky"]
    )
    assert read_vocabulary("coco171") is COCO171
    assert read_vocabulary(VOC20) is VOC20
    assert read_vocabulary("cat").names == ("cat",)
    assert read_vocabulary("voc21,").names == ("voc21",)


def test_plain_words_take_the_templates_asked_for():
    assert read_vocabulary("cat, dog", templates=MULTI_TEMPLATES).templates == MULTI_TEMPLATES
    assert read_vocabulary("voc20", templates=MULTI_TEMPLATES).templates == VOC20.templates


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("", "no labels were given"),
        (" , ,", "no labels were given"),
        ([], "no labels were given"),
        (["cat", " "], "an empty one"),
        ("cat, dog, cat", "these repeat: 'cat'"),
        ("voc21", "did you mean 'voc20'"),
        ("coco", "did you mean 'coco171'"),
        ("labels.txt", "no file of labels at labels.txt"),
    ],
)
def test_bad_labels_get_one_sentence(labels, says):
    with pytest.raises(InputError, match=says):
        read_vocabulary(labels)


def test_a_file_that_is_no_text_gets_one_sentence(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="not a text file"):
        read_vocabulary(str(path))


def test_a_group_in_a_file_of_labels_is_no_label(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\nsky: sky, clouds\n")
    with pytest.raises(InputError, match="'sky: sky, clouds', which is no label: .* --merge"):
        read_vocabulary(str(path))


def test_a_group_among_labels_is_no_label():
    with pytest.raises(InputError, match="the list of labels holds 'background: sky', .* --merge"):
        read_vocabulary("background: sky, wall")


def test_an_unseen_name_must_be_among_the_names():
    with pytest.raises(InputError, match="unseen names 'cow'"):
        Vocabulary("mine", ("cat", "dog"), unseen=("cow",))


def test_unknown_vocabulary_names_the_known():
    with pytest.raises(InputError, match="known: voc20, coco171, miniature"):
        find_vocabulary("ade20k")


def test_vocabularies_survive_json():
    import json
    from dataclasses import asdict

    assert Vocabulary.from_dict(json.loads(json.dumps(asdict(MINIATURE)))) == MINIATURE
