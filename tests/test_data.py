"""Data sets on disk: small made-up copies of every layout, and what is wrong with folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseen.catalogue import DATASETS, open_dataset
from unseen.data.colours import ColourTable
from unseen.data.datasets import Dataset, MaskFolder
from unseen.data.own import find_files
from unseen.data.published import CAMVID_COLOURS, UAVID_COLOURS
from unseen.errors import InputError
from unseen.vocabulary import (
    CAMVID,
    CONTEXT59,
    CONTEXT59_RELEASED,
    IGNORE,
    MULTI_TEMPLATES,
    UAVID,
    VOC20,
    VOCABULARIES,
    Vocabulary,
)


def write(path: Path, pixels: np.ndarray | list) -> Path:
    """Write a picture or a label map, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return path


def write_picture(path: Path, size: tuple[int, int] = (1, 4)) -> Path:
    return write(path, np.full((*size, 3), 128))


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


# Layouts -----------------------------------------------------------------------------------------


def write_voc(root: Path) -> Path:
    """VOC2012 with SBD: two pictures of train, one of aug, one of val."""
    lists = {"train": ["a", "b"], "aug": ["c"], "val": ["d"]}
    for split, names in lists.items():
        write_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", *names)
        labels = "SegmentationClassAug" if split == "aug" else "SegmentationClass"
        for name in names:
            write_picture(root / "JPEGImages" / f"{name}.jpg")
            write(root / labels / f"{name}.png", [[0, 1, 20, 255]])
    return root


def write_context(root: Path) -> Path:
    for split, name in (("train", "a"), ("val", "b")):
        write_lines(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", name)
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        write(root / "SegmentationClassContext" / f"{name}.png", [[0, 1, 59, 255]])
    return root


def write_coco(root: Path) -> Path:
    for split, names in (("train", "ba"), ("val", "c")):
        for name in names:
            write_picture(root / "images" / f"{split}2017" / f"{name}.jpg")
            path = root / "annotations" / f"{split}2017" / f"{name}_labelTrainIds.png"
            write(path, [[0, 1, 170, 255]])
    return root


def write_segnet(root: Path) -> Path:
    write_picture(root / "test" / "a.png")
    write(root / "testannot" / "a.png", [[0, 1, 10, 11]])
    return root


def write_camvid_colours(root: Path) -> Path:
    write_picture(root / "test" / "a.png")
    colours = [[[128, 128, 128], [192, 0, 128], [192, 0, 192], [0, 0, 0]]]
    write(root / "test_labels" / "a_L.png", colours)
    return root


def write_camvid_makers(root: Path) -> Path:
    write_picture(root / "701_StillsRaw_full" / "a.png")
    write_picture(root / "701_StillsRaw_full" / "not-listed.png")
    colours = [[[128, 128, 128], [192, 0, 128], [192, 0, 192], [1, 2, 3]]]
    write(root / "LabeledApproved_full" / "a_L.png", colours)
    write_lines(root / "test.txt", "/SegNet/CamVid/test/a.png /SegNet/CamVid/testannot/a.png")
    return root


def write_uavid(root: Path) -> Path:
    colours = [[[0, 0, 0], [128, 0, 0], [64, 64, 0], [64, 0, 128]]]
    for sequence in ("seq16", "seq17"):
        write_picture(root / "uavid_val" / sequence / "Images" / "000000.png")
        write(root / "uavid_val" / sequence / "Labels" / "000000.png", colours)
    return root


def write_udd6(root: Path) -> Path:
    write_picture(root / "val" / "src" / "DJI_1.JPG")
    write(root / "val" / "gt" / "DJI_1.png", [[0, 1, 5, 5]])
    return root


LAYOUTS = {
    ("voc", ""): (write_voc, [255, 0, 19, 255]),
    ("voc", "VOC2012"): (write_voc, [255, 0, 19, 255]),
    ("voc", "VOCdevkit/VOC2012"): (write_voc, [255, 0, 19, 255]),
    ("context", "VOC2010"): (write_context, [255, 0, 58, 255]),
    ("context-released", "VOC2010"): (write_context, [255, 0, 58, 255]),
    ("coco", ""): (write_coco, [0, 1, 170, 255]),
    ("coco", "coco_stuff164k"): (write_coco, [0, 1, 170, 255]),
    ("camvid", ""): (write_segnet, [0, 1, 10, 255]),
    ("camvid", " "): (write_camvid_colours, [0, 1, 10, 255]),
    ("camvid", "  "): (write_camvid_makers, [0, 1, 10, 255]),
    ("uavid", ""): (write_uavid, [0, 1, 7, 3]),
    ("uavid-foreground", ""): (write_uavid, [255, 0, 6, 2]),
    ("udd6", ""): (write_udd6, [0, 1, 5, 5]),
    ("udd6-foreground", ""): (write_udd6, [255, 0, 4, 4]),
}


@pytest.mark.parametrize(("name", "inside"), LAYOUTS)
def test_a_data_set_is_read_from_its_makers_layout(name, inside, tmp_path):
    write_layout, labels = LAYOUTS[name, inside]
    write_layout(tmp_path / inside.strip())
    dataset = open_dataset(name, root=tmp_path)
    assert isinstance(dataset, Dataset)
    for sample in (dataset[i] for i in range(len(dataset))):
        assert sample.labels.tolist() == [labels] and sample.labels.dtype == np.uint8
        assert sample.image.shape == (1, 4, 3)


def test_every_data_set_on_disk_has_a_layout_here():
    on_disk = {name for name, entry in DATASETS.items() if entry.read}
    assert on_disk == {name for name, _ in LAYOUTS}
    for entry in DATASETS.values():
        assert entry.scored in entry.splits and "train" in entry.splits
        assert (entry.read is None) != (entry.draw is None)


def test_train_is_what_the_papers_train_on(tmp_path):
    write_voc(tmp_path)
    names = {}
    for split in ("train", "trainaug", "train-only", "aug", "val"):
        names[split] = open_dataset("voc", split, root=tmp_path).names
    assert names == {
        "train": ["a", "b", "c"],
        "trainaug": ["a", "b", "c"],
        "train-only": ["a", "b"],
        "aug": ["c"],
        "val": ["d"],
    }


def test_coco_is_listed_in_order(tmp_path):
    assert open_dataset("coco", "train", root=write_coco(tmp_path)).names == ["a", "b"]


def test_both_context_splits_differ_in_their_unseen_names_only(tmp_path):
    write_context(tmp_path)
    assert open_dataset("context", root=tmp_path).vocabulary is CONTEXT59
    assert open_dataset("context-released", root=tmp_path).vocabulary is CONTEXT59_RELEASED


def test_pictures_of_one_name_in_two_folders_keep_apart(tmp_path):
    names = open_dataset("uavid", root=write_uavid(tmp_path)).names
    assert names == ["seq16-Images-000000", "seq17-Images-000000"]


@pytest.mark.parametrize("files", [("1/a.png", "1-a.png", "2/a.png"), ("a.png", "a.jpg", "b.png")])
def test_every_picture_has_a_name_of_its_own(files, tmp_path):
    pairs = [(tmp_path / file, tmp_path / "mask.png") for file in files]
    assert len(set(MaskFolder(pairs, VOC20).names)) == 3


def test_what_there_is_of_a_data_set_can_be_opened(tmp_path):
    write_segnet(tmp_path)
    with pytest.raises(InputError, match="split train is not in"):
        open_dataset("camvid", "train", root=tmp_path)


# What is wrong with folders ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.read])
def test_a_wrong_folder_gets_one_sentence(name, tmp_path):
    with pytest.raises(InputError, match="expected") as raised:
        open_dataset(name, root=tmp_path / "nowhere")
    assert "nowhere" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(InputError, match="--root"):
        open_dataset(name)


def test_a_data_set_that_nobody_knows_gets_a_hint():
    with pytest.raises(InputError, match="did you mean 'context'"):
        open_dataset("contex")
    with pytest.raises(InputError, match="leave --root out"):
        open_dataset("miniature", root=".")


def test_lists_and_folders_must_agree(tmp_path):
    write_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    with pytest.raises(InputError, match=r"no list .*mine.txt: the splits .* aug, train, val"):
        open_dataset("voc", "mine", root=tmp_path)
    write_lines(lists / "mine.txt", "a", "x", "y")
    with pytest.raises(InputError, match=r"names 3 pictures; missing in .*: x.jpg and 1 more"):
        open_dataset("voc", "mine", root=tmp_path)
    write_lines(lists / "mine.txt", "", " ")
    with pytest.raises(InputError, match=r"mine.txt names no pictures"):
        open_dataset("voc", "mine", root=tmp_path)
    (tmp_path / "SegmentationClass" / "d.png").unlink()
    with pytest.raises(InputError, match=r"val.txt names 1 .*SegmentationClass: d.png: add"):
        open_dataset("voc", root=tmp_path)
    (lists / "aug.txt").unlink()
    with pytest.raises(InputError, match=r"unseen data prepare voc, or take .* train-only"):
        open_dataset("voc", "train", root=tmp_path)


def test_every_coco_picture_needs_its_label_map_and_the_other_way_round(tmp_path):
    write_coco(tmp_path)
    extra = write_picture(tmp_path / "images" / "train2017" / "z.jpg")
    with pytest.raises(InputError, match=r"z.jpg has no label map:"):
        open_dataset("coco", "train", root=tmp_path)
    extra.unlink()
    (tmp_path / "images" / "train2017" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"a_labelTrainIds.png has no picture"):
        open_dataset("coco", "train", root=tmp_path)
    for path in (tmp_path / "annotations" / "val2017").iterdir():
        path.rename(path.with_name("c.png"))
    with pytest.raises(InputError, match="unseen data prepare coco"):
        open_dataset("coco", root=tmp_path)


def test_an_id_without_a_name_is_named_with_its_file_and_what_to_do(tmp_path):
    picture, labels = write_picture(tmp_path / "a.jpg"), tmp_path / "a.png"
    write(labels, [[0, 1, 20, 255]])
    with pytest.raises(InputError, match=r"a.png holds the id 20.*voc20.*unseen doctor data"):
        MaskFolder([(picture, labels)], VOC20)[0]
    assert MaskFolder([(picture, labels)], VOC20, reduce_zero=True)[0].labels.max() == 255
    ignored = MaskFolder([(picture, labels)], VOC20, ignore=[20])[0].labels
    assert ignored.tolist() == [[0, 1, 255, 255]]
    mapped = MaskFolder([(picture, labels)], VOC20, label_map={0: 5, 1: IGNORE, 20: 0})[0].labels
    assert mapped.tolist() == [[5, 255, 0, 255]]
    with pytest.raises(InputError, match="the id 1,"):
        MaskFolder([(picture, labels)], VOC20, label_map={0: 5, 20: 0})[0]


def test_a_label_map_that_is_missing_or_of_another_size_is_named(tmp_path):
    pair = write_picture(tmp_path / "a.jpg"), tmp_path / "a.png"
    with pytest.raises(InputError, match=r"a.jpg has no label map, expected .*a.png: add it"):
        MaskFolder([pair], VOC20)[0]
    write(pair[1], [[0, 1, 2]])
    with pytest.raises(InputError, match=r"a.jpg is \(1, 4\) .*a.png are \(1, 3\)"):
        MaskFolder([pair], VOC20)[0]


def test_label_maps_hold_at_most_255_classes():
    with pytest.raises(InputError, match="255 classes at most, got 300"):
        MaskFolder([], Vocabulary("many", tuple(f"name {i}" for i in range(300))))


# Colours -----------------------------------------------------------------------------------------


def test_colours_become_labels_pixel_by_pixel():
    table = ColourTable({(0, 0, 0): 3, (255, 0, 1): 0, (0, 255, 255): 7}, other=9)
    colours = np.array([*table.labels, (1, 2, 3), (255, 255, 255)], np.uint8)
    places = np.random.default_rng(0).integers(0, len(colours), (13, 17))
    expected = np.array([*table.labels.values(), 9, 9])[places]
    assert (table.decode(colours[places]) == expected).all()


def test_a_colour_that_stands_for_nothing_is_named_with_its_file(tmp_path):
    write_uavid(tmp_path)
    path = tmp_path / "uavid_val" / "seq16" / "Labels" / "000000.png"
    write(path, [[[0, 0, 0], [1, 2, 3], [1, 2, 3], [64, 0, 128]]])
    with pytest.raises(InputError, match=r"000000.png: the colour \(1, 2, 3\) of 2 pixels"):
        open_dataset("uavid", root=tmp_path)[0]


def test_published_colours_name_every_class():
    assert set(CAMVID_COLOURS.labels.values()) == {*range(len(CAMVID)), 11}
    assert len(CAMVID_COLOURS.labels) == 32 and CAMVID_COLOURS.labels[0, 0, 0] == 11
    assert sorted(UAVID_COLOURS.labels.values()) == list(range(len(UAVID)))


# One's own ---------------------------------------------------------------------------------------

YARD = """
root: yard
names: [grass, cow, fence]
unseen: [cow]
images: photos/*.jpg
masks: masks/*.png
"""


@pytest.fixture
def yard(tmp_path):
    """Return a function that writes a YAML file beside a folder of two pictures."""
    for name in ("a", "b"):
        write_picture(tmp_path / "yard" / "photos" / f"{name}.jpg")
        write(tmp_path / "yard" / "masks" / f"{name}.png", [[0, 1, 2, 255]])

    def describe(text: str) -> str:
        (tmp_path / "yard.yaml").write_text(text)
        return str(tmp_path / "yard.yaml")

    return describe


def test_one_file_describes_a_data_set(yard, tmp_path):
    dataset = open_dataset(yard(YARD))
    assert dataset.names == ["a", "b"] and dataset[0].labels.tolist() == [[0, 1, 2, 255]]
    assert (dataset.vocabulary.name, dataset.vocabulary.unseen) == ("yard", ("cow",))
    assert open_dataset(yard(YARD), "all").names == ["a", "b"]
    shutil.move(tmp_path / "yard", tmp_path / "elsewhere")
    assert open_dataset(yard(YARD), root=tmp_path / "elsewhere").names == ["a", "b"]


def test_names_may_be_those_of_a_vocabulary(yard):
    vocabulary = open_dataset(yard(YARD.replace("[grass, cow, fence]", "coco171"))).vocabulary
    assert vocabulary.names == VOCABULARIES["coco171"].names
    assert (vocabulary.name, vocabulary.unseen) == ("yard", ("cow",))


def test_ids_may_mean_anything(yard):
    def labels(text: str) -> list[int]:
        return open_dataset(yard(YARD + text))[0].labels[0].tolist()

    assert labels("reduce_zero: true") == [255, 0, 1, 255]
    assert labels("ignore: [1, 2]") == [0, 255, 255, 255]
    assert labels("ignore: 0") == [255, 1, 2, 255]
    assert labels("label_map: {0: ignore, 1: fence, 2: grass}") == [255, 2, 0, 255]
    assert labels("label_map: {0: ignore, 1: fence, 2: fence, 255: cow}") == [255, 2, 2, 1]


def test_label_maps_may_be_painted(yard, tmp_path):
    for name in ("a", "b"):
        colours = [[[0, 255, 0], [1, 2, 3], [255, 0, 0], [0, 0, 0]]]
        write(tmp_path / "yard" / "masks" / f"{name}.png", colours)
    text = "colours: {'#00ff00': grass, '#010203': fence, '#FF0000': cow, '#000000': ignore}"
    assert open_dataset(yard(YARD + text))[1].labels.tolist() == [[0, 2, 1, 255]]


def test_splits_have_their_own_patterns_or_lists(yard, tmp_path):
    path = yard(
        YARD
        + """
templates: multi
stuff: [grass]
splits:
  train: {images: "photos/a.jpg", masks: "masks/a.png"}
  val: {list: val.txt}
"""
    )
    assert open_dataset(path, "train").names == ["a"]
    for line in ("b", "b.jpg", "photos/b.jpg"):
        write_lines(tmp_path / "yard" / "val.txt", line)
        assert open_dataset(path).names == ["b"]
    write_picture(tmp_path / "yard" / "photos" / "b 2.jpg")
    write(tmp_path / "yard" / "masks" / "b 2.png", [[0, 1, 2, 255]])
    write_lines(tmp_path / "yard" / "val.txt", " b 2 ")
    assert open_dataset(path).names == ["b 2"]
    vocabulary = open_dataset(path, "val").vocabulary
    assert vocabulary.templates == MULTI_TEMPLATES and vocabulary.stuff == ("grass",)
    write_lines(tmp_path / "yard" / "val.txt", "b", "x", "y")
    with pytest.raises(InputError, match="val.txt names x and 1 more, not among images"):
        open_dataset(path)
    with pytest.raises(InputError, match="no split 'test': its splits are train, val"):
        open_dataset(path, "test")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("unseen:", "unsen:"), "no key 'unsen'; did you mean 'unseen'?"),
        (("names: [grass, cow, fence]", ""), "names is missing"),
        (("[grass, cow, fence]", "[grass, cow, no]"), "names holds False, .* put it in quotes"),
        (("[grass, cow, fence]", "coco172"), "no vocabulary is called 'coco172'"),
        (("[grass, cow, fence]", "{0: cow}"), "names must be a list"),
        (("[grass, cow, fence]", "[grass, cow, cow]"), "these repeat: 'cow'"),
        (("[cow]", "[calf]"), "unseen names 'calf'"),
        (("masks: masks/*.png", ""), "needs masks"),
        (("masks/*.png", "maps/*.png"), "no file of .* fits masks: maps"),
        (("root: yard", "root: yards"), "yards is no folder"),
        (("photos/*.jpg", "photos/a.jpg"), "has no label map|has no picture"),
        (("photos/*.jpg", "[a, b]"), "images must be text"),
        (("root", "ignore: 300\nroot"), "ids from 0 to 255, got 300"),
        (("root", "reduce_zero: 1\nroot"), "reduce_zero must be true or false"),
        (("root", "label_map: {a: cow}\nroot"), "label_map must say what ids"),
        (("root", "label_map: {0: cwo}\nroot"), "'cwo', .*; did you mean 'cow'"),
        (("root", "label_map: {0: cow}\nreduce_zero: true\nroot"), "exclude each other"),
        (("root", "colours: {red: cow}\nroot"), "written '#rrggbb'"),
        (("root", "colours: {'#ff0000': cow}\nignore: 0\nroot"), "map a colour to ignore"),
        (("root", "templates: many\nroot"), "templates must be single or multi"),
        (("root", "templates: [a photo]\nroot"), "one {} each"),
        (("root", "templates: ['a {} {x}']\nroot"), "one {} each"),
        (("root", "splits: [train]\nroot"), "splits must hold splits"),
        (("root", "splits: {val: {image: x}}\nroot"), "no key 'image'; did you mean 'images'"),
        (("root", "splits: {train: {}}\nroot"), "no split test or val to be scored"),
        (("root", "  - root"), "is not YAML, line"),
    ],
)
def test_a_mistake_in_the_file_gets_one_sentence(yard, change, says):
    with pytest.raises(InputError, match=says) as raised:
        open_dataset(yard(YARD.replace(*change)))
    assert "yard.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_a_key_that_is_there_twice_is_named(yard):
    for text, says in (
        ("label_map: {1: grass, 2: cow, 1: fence}", "line .*: 1 is there twice"),
        ("unseen: [cow]\nunseen: [fence]", "'unseen' is there twice"),
    ):
        with pytest.raises(InputError, match=says):
            open_dataset(yard(YARD + text))


def test_files_that_describe_nothing_get_one_sentence(yard, tmp_path):
    with pytest.raises(InputError, match="must hold keys and values"):
        open_dataset(yard("just text"))
    with pytest.raises(InputError, match="no data set file at"):
        open_dataset(str(tmp_path / "no.yaml"))
    with pytest.raises(InputError, match="it has no splits, so there is no 'train'"):
        open_dataset(yard(YARD), "train")


def test_stars_pair_pictures_with_their_label_maps(tmp_path):
    for name in ("a/x.jpg", "a/b/y.JPG", "z.jpg", "a/x.txt"):
        write_lines(tmp_path / "in" / name)
    assert sorted(find_files(tmp_path, "in/**/*.{jpg,JPG}")) == ["a/b/y", "a/x", "z"]
    assert sorted(find_files(tmp_path, "in/*/*.jpg")) == ["a/x"]
    assert sorted(find_files(tmp_path, "in/*.jpg")) == ["z"]
    assert find_files(tmp_path, "in/z.jpg") == {"": tmp_path / "in" / "z.jpg"}
    assert find_files(tmp_path, f"{tmp_path}/in/*.jpg") == {"z": tmp_path / "in" / "z.jpg"}
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    assert sorted(find_files(tmp_path, "in/*/*.jpg")) == ["a/x", "linked/x"]
    assert len(find_files(tmp_path, "in/**/*.jpg")) == 3
    with pytest.raises(InputError, match="one picture twice"):
        find_files(tmp_path, "in/a/*.{jpg,txt}")
