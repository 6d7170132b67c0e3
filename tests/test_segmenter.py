import copy
import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unseen.checkpoints import ModelConfig, read_config
from unseen.clip import CLIP, fingerprint
from unseen.confidence import Confidence
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError
from unseen.methods import zegclip
from unseen.miniature.world import MICRO
from unseen.readout import score_map
from unseen.segmenter import Segmenter, resolve_device
from unseen.vocabulary import VOC20, Vocabulary


@pytest.fixture
def micro(micro_clip: CLIP) -> Segmenter:
    """Return an untrained ZegCLIP over the micro world."""
    config = ModelConfig(
        method="zegclip",
        options={},
        vocabulary=MICRO,
        setting="inductive",
        calibration=0.1,
        short_side=48,
        window=48,
        stride=40,
    )
    model = zegclip(micro_clip.image, prompts=2, heads=4)
    return Segmenter(model, micro_clip.text, config, device="cpu")


def test_a_result_says_what_it_is_in_a_line(segmenter):
    text = repr(segmenter(np.zeros((40, 60, 3), np.uint8), ["sky", "cow"]))
    assert text.startswith("<Segmentation of 60×40 pixels into 2 labels: ") and "%" in text


@pytest.mark.parametrize("size", [(48, 48), (60, 91), (200, 20), (1, 1)])
def test_a_mask_is_as_large_as_its_picture(micro, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = micro(image, "bus, boat, sky")
    assert result.mask.shape == result.scores.shape == size
    assert result.mask.dtype == np.int64
    assert set(np.unique(result.mask)) <= {0, 1, 2}
    assert sum(region["share"] for region in result.regions()) == pytest.approx(1, abs=1e-3)


def test_paths_pil_images_and_arrays_give_the_same(micro, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    first = micro(image, ["bus", "sky"])
    for picture in (Image.fromarray(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert (micro(picture, ["bus", "sky"]).mask == first.mask).all()


def test_a_list_gives_a_list_and_an_iterator_one_at_a_time(micro, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    first = micro(image, "bus, sky")
    listed = micro([image, tmp_path / "a.png"], "bus, sky")
    assert [one.source for one in listed] == ["", str(tmp_path / "a.png")]
    assert all((one.mask == first.mask).all() for one in listed)
    taken = []
    lazy = micro((taken.append(i) or image for i in range(1000)), "bus, sky")
    assert (next(lazy).mask == first.mask).all() and taken == [0]


def test_a_broken_picture_is_named_and_skipped_where_that_is_wished(micro, tmp_path):
    image = np.zeros((50, 60, 3), np.uint8)
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(InputError, match="a.png is no picture"):
        micro([image, tmp_path / "a.png", image], "bus, sky")
    with pytest.warns(UserWarning, match="skipped: .*a.png is no picture"):
        found = micro([image, tmp_path / "a.png", image], "bus, sky", skip_broken=True)
    assert len(found) == 2


def test_a_label_can_stand_for_several_words(micro):
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    names, groups = ["bus", "lorry", "sky", "boat"], {"vehicle": ["bus", "lorry"]}
    words = micro(image, names, calibration=0.0)
    found = micro(image, {**groups, "sky": "sky", "boat": ["boat"]}, calibration=0.0)
    assert found.labels == ("vehicle", "sky", "boat") and found.unseen == ("boat",)
    assert (found.mask == np.array([0, 0, 1, 2])[words.mask]).all()
    spelt = micro(image, {"vehicle": "bus,lorry", "sky": ["sky "], "boat": "boat"}, calibration=0.0)
    assert spelt.labels == found.labels and (spelt.mask == found.mask).all()
    merged = micro(image, names, merge={"vehicle": "bus,  lorry"}, calibration=0.0)
    assert merged.labels == found.labels and (merged.mask == found.mask).all()
    for wrong in ({"labels": {"sky": [], "bus": "bus"}}, {"labels": "bus", "merge": {"sky": []}}):
        with pytest.raises(InputError, match="'sky' is given no words"):
            micro(image, **wrong)
    # γ is taken from a lorry as from a bus, which training showed: all but the boat is
    least = micro(image, names, merge=groups, calibration=2.0)
    assert least.labels == found.labels and (least.mask == 2).all()
    assert (micro(image, names, calibration=2.0).mask == 1).any()


@pytest.mark.parametrize("tta", [False, True])
def test_margins_are_what_a_slow_loop_finds(micro, tta):
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    names = "bus, sky, boat, lorry"
    groups = {"vehicle": ["boat", "lorry"]}  # the best two everywhere
    found, merged = (micro(image, names, margins=True, tta=tta, merge=one) for one in ({}, groups))
    assert micro(image, names).margins is None
    for result, one in ((found, {}), (merged, groups)):
        views = micro.views(image, names, tta=tta, merge=one)
        total = 0
        for view in views:
            scores = F.interpolate(score_map(view)[None], image.shape[:2], mode="bilinear")[0]
            scores = scores.flip(2) if view.flipped else scores
            total = total + (scores.softmax(0) * view.weight if tta else scores)
        total = total / sum(view.weight for view in views)
        if one:  # the words of a label do not compete with each other
            total = torch.stack([*total[:2], torch.maximum(total[2], total[3])])
        best = total.topk(2, dim=0).values
        assert result.margins == pytest.approx((best[0] - best[1]).numpy(), abs=1e-5)
        assert result.scores == pytest.approx(best[0].numpy(), abs=1e-5)
    alone = micro(image, ["bus"], margins=True)
    assert (alone.margins == alone.scores).all()


def test_confidence_follows_the_curve_and_decides_what_is_rejected(micro):
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    plain = micro(image, "bus, sky")
    middle = float(np.median(plain.scores))
    assert plain.confidence is None
    assert (micro(image, "bus, sky", threshold=middle).mask == 2).sum() == (
        plain.scores < middle
    ).sum()
    curve = Confidence(seen=((middle - 1, middle + 1), (0.0, 1.0)), calibration=0.1)
    sure = Segmenter(micro.model, micro.text, replace(micro.config, confidence=curve), device="cpu")
    found = sure(image, "bus, sky")
    assert found.confidence == pytest.approx((plain.scores - middle + 1) / 2, abs=1e-5)
    rejected = sure(image, "bus, sky", threshold=0.5, other="nothing")
    assert rejected.labels[-1] == "nothing"
    assert (rejected.mask_of("nothing") == (found.confidence < 0.5)).all()
    lower = sure(image, "bus, sky", calibration=0.3)  # both were shown: γ moves no pixel
    assert lower.confidence == pytest.approx(found.confidence, abs=1e-5)
    assert sure(image, "bus, sky", tta=True).confidence is None  # its scores are others
    with pytest.raises(InputError, match="those of --tta are others: leave one out"):
        sure(image, "bus, sky", tta=True, threshold=0.5)


def test_a_curve_from_before_its_calibration_was_noted_is_at_the_models_own(micro):
    curve = Confidence(seen=((0.0, 1.0), (0.0, 1.0)), calibration=0.3)
    told = json.loads(json.dumps(asdict(replace(micro.config, confidence=curve))))
    assert read_config(told).confidence == curve
    del told["confidence"]["calibration"]
    assert read_config(told).confidence == replace(curve, calibration=0.1)


def test_the_vocabulary_is_an_argument_of_any_length(micro):
    image = np.zeros((48, 48, 3), np.uint8)
    for names in (["bus"], list(MICRO.names), ["sky", "boat"]):
        assert micro(image, names).labels == tuple(names)


def test_calibration_lowers_seen_classes_alone(micro):
    names = ["bus", "train", "grass", "Bus", "tie"]
    assert micro.is_taught(names) == [True, False, False, True, False]
    assert micro.is_taught(names, {"one": names[:2]}) == [True, True, False, True, False]
    assert micro.is_taught(names, {names[0]: names[1:3]}) == [True, True, True, True, False]
    assert not any(micro.is_taught(["c", "d"], {"sky": ["c"], "c": ["d"]})[1:])
    assert micro.is_taught(names, {"one": names[1:3]}) == [True, False, False, True, False]
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    plain = micro(image, "bus, train", calibration=0.0)
    assert (micro(image, "bus, train", calibration=2.0).mask == 1).all()
    assert (micro(image, "bus, train", calibration=-2.0).mask == 0).all()
    whole = micro(image, "bus, train", calibration=1)  # through several windows
    assert (whole.scores == micro(image, "bus, train", calibration=1.0).scores).all()
    assert plain.unseen == ("train",)


def test_the_score_map_has_every_labels_scores_at_the_size_that_is_shown(micro):
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    names = ["bus", "train", "sky"]
    scores, result = micro.score_map(image, names), micro(image, names)
    assert scores.shape == (3, 48, 80)  # as large as it is shown
    assert (scores.argmax(dim=0).numpy() == result.mask).mean() > 0.999
    assert np.allclose(scores.amax(dim=0), result.scores, atol=1e-5)


def test_very_long_pictures_are_held_at_a_limit_with_a_warning(micro):
    image = np.zeros((4, 600, 3), np.uint8)
    with pytest.warns(UserWarning, match="held at 480"):
        assert micro(image, "bus, sky", limit=480).mask.shape == (4, 600)
    assert micro._shown_size((4, 600), 48, None) == (48, 7200)
    assert micro._shown_size((10, 20000), 48, 4096) == (8, 4096)


def test_arrays_that_are_no_pictures_get_one_sentence():
    code = """
import numpy as np
from unseen.pictures import InputError, as_array
for thing in (["a.png"], None):
    try:
        as_array(thing)
    except InputError as error:
        assert "expected a picture" in str(error)
    else:
        raise SystemExit(f"{thing} was taken")
for shape, dtype in ((4, 4), "u1"), ((4, 4, 4), "u1"), ((4, 4, 3), "f4"), ((0, 4, 3), "u1"):
    array = np.zeros(shape, dtype)
    try:
        as_array(array)
    except InputError as error:
        assert "(height, width, 3) and uint8" in str(error)
    else:
        raise SystemExit(f"{array.shape} {array.dtype} was taken")
"""  # in a process of its own: here, beartype would refuse them first
    subprocess.run([sys.executable, "-c", code], check=True)


def test_text_embeddings_can_stand_for_words(micro, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    vocabulary = Vocabulary("mine", ("bus", "sky", "boat"), templates=MICRO.templates)
    made = micro.embed(vocabulary)
    made.save(tmp_path / "text.safetensors")
    loaded = TextEmbeddings.load(tmp_path / "text.safetensors")
    assert loaded.vocabulary == vocabulary
    assert "CLIP " in loaded.describe() and "1 template" in loaded.describe()
    assert (micro(image, loaded).mask == micro(image, vocabulary).mask).all()


def test_text_embeddings_of_another_clip_are_refused(micro, tmp_path):
    vocabulary = Vocabulary("mine", ("bus", "sky"))
    stranger = TextEmbeddings(vocabulary, torch.randn(2, 32), clip="0123456789abcdef")
    with pytest.raises(InputError, match="were made by CLIP 0123456789abcdef"):
        micro(np.zeros((48, 48, 3), np.uint8), stranger)
    with pytest.raises(InputError, match="512 wide"):
        micro(np.zeros((48, 48, 3), np.uint8), TextEmbeddings(vocabulary, torch.randn(2, 512)))


def test_rows_without_names_need_a_vocabulary_of_their_length(tmp_path):
    np.save(tmp_path / "voc.npy", np.zeros((20, 512), np.float16))
    assert len(TextEmbeddings.load(tmp_path / "voc.npy", VOC20).values) == 20
    with pytest.raises(InputError, match="rows without names"):
        TextEmbeddings.load(tmp_path / "voc.npy")
    with pytest.raises(InputError, match="2 labels need as many rows"):
        TextEmbeddings.load(tmp_path / "voc.npy", Vocabulary("two", ("a", "b")))
    whole = (tmp_path / "voc.npy").read_bytes()
    for name, content in (
        ("text.safetensors", b"nonsense"),
        ("text.npy", b"nonsense"),
        ("cut.npy", whole[: len(whole) // 2]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a file of text embeddings"):
            TextEmbeddings.load(tmp_path / name, VOC20)
    with pytest.raises(InputError, match="there is no file"):
        TextEmbeddings.load(tmp_path / "nowhere.safetensors")


def test_a_model_without_text_encoder_asks_for_embeddings(micro):
    bare = Segmenter(micro.model, None, micro.config, device="cpu")
    with pytest.raises(InputError, match="no text encoder"):
        bare(np.zeros((48, 48, 3), np.uint8), "bus")


def test_devices_that_are_not_there_get_one_sentence():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="auto, cpu, cuda or mps"):
        resolve_device("tpu")
    missing = next(name for name in ("mps", "cuda") if not getattr(torch, name).is_available())
    with pytest.raises(InputError, match="has no"):
        resolve_device(missing)


@pytest.mark.parametrize("method", ["maskclip", "plain"])
def test_clip_alone_segments_with_nothing_trained(method):
    segmenter = Segmenter.from_clip("miniature", method=method, device="cpu")
    result = segmenter(np.full((64, 64, 3), (110, 165, 235), np.uint8), "sky, road, cow")
    assert result.mask.shape == (64, 64)
    assert result.unseen == ()


def test_a_method_that_must_be_trained_is_not_clip_alone():
    with pytest.raises(InputError, match="maskclip or plain"):
        Segmenter.from_clip("miniature", method="zegclip")


def test_embeddings_are_of_the_vocabulary_that_was_asked_for(micro):
    one = Vocabulary("one", ("bus", "sky"), unseen=("bus",))
    two = Vocabulary("two", ("bus", "sky"))
    first, second = micro.embed(one), micro.embed(two)
    assert (first.vocabulary, second.vocabulary) == (one, two)
    assert torch.equal(first.values, second.values)


@pytest.mark.parametrize("gamma", [1e300, -101, float("nan")])
def test_a_calibration_beyond_all_scores_gets_one_sentence(micro, gamma):
    with pytest.raises(InputError, match="from -100 to 100, got .*: scores are from 0 to 1"):
        micro(np.zeros((48, 48, 3), np.uint8), "bus, boat", calibration=gamma)


def test_a_model_that_answers_no_numbers_is_told_so(micro):
    micro.model.head.load_state_dict(
        {key: value * torch.nan for key, value in micro.model.head.state_dict().items()}
    )
    with pytest.raises(InputError, match="answers what is no number"):
        micro(np.zeros((48, 48, 3), np.uint8), "bus, boat")


def test_embeddings_saved_from_a_half_precision_model_are_of_the_same_clip(micro):
    halved = copy.deepcopy(micro.text).half().float()
    assert fingerprint(halved) == micro.fingerprint
    with torch.no_grad():
        halved.text_projection += 0.01
    assert fingerprint(halved) != micro.fingerprint


def test_suffixes_that_cannot_be_written_get_one_sentence(micro, tmp_path):
    result = micro(np.zeros((8, 8, 3), np.uint8), "bus")
    for name in ("a.psd", "a", "a.txt"):
        with pytest.raises(InputError, match="names no format"):
            result.save(tmp_path / name)
    assert not list(tmp_path.glob("a*"))


def test_several_views_of_a_picture_give_one_mask_and_mirrored_pictures_mirrored_masks(
    micro: Segmenter,
):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    result = micro(image, ["bus", "sky"], tta=True)
    assert result.mask.shape == (50, 70) and 0 < result.scores.min() <= result.scores.max() <= 1
    mirrored = micro(np.ascontiguousarray(image[:, ::-1]), ["bus", "sky"], tta=True)
    assert np.allclose(result.scores, mirrored.scores[:, ::-1], atol=1e-4)


def test_several_views_of_a_long_picture_warn_once(micro: Segmenter):
    with pytest.warns(UserWarning, match="held at 200") as caught:
        micro(np.zeros((8, 80, 3), np.uint8), ["bus", "sky"], tta=True, limit=200)
    assert len(caught) == 1
