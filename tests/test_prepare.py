"""Official downloads, in small, become what the readers take."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_cli import Run, assert_one_sentence
from test_data import write, write_lines, write_picture

from unseen.catalogue import open_dataset
from unseen.data import prepare as module
from unseen.data.prepare import COCO_IDS, CONTEXT_IDS, OFFICIAL, prepare
from unseen.errors import InputError
from unseen.vocabulary import COCO171, CONTEXT59

scipy_io = pytest.importorskip("scipy.io")
masks = pytest.importorskip("pycocotools.mask")
# pycocotools 2.0 has not caught up with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def download_voc(folder: Path) -> Path:
    """VOC2012 with a, b in train and c in val, SBD with a to f."""
    devkit, sbd = folder / "VOCdevkit" / "VOC2012", folder / "benchmark_RELEASE" / "dataset"
    for split, names in (("train", "ab"), ("val", "c")):
        write_lines(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", *names)
        for name in names:
            write(devkit / "SegmentationClass" / f"{name}.png", [[0, 1, 20, 255]])
    write_lines(sbd / "train.txt", "e", "a", "c", "d")
    write_lines(sbd / "val.txt", "b", "f")
    (sbd / "cls").mkdir()
    for i, name in enumerate("abcdef"):
        write_picture(devkit / "JPEGImages" / f"{name}.jpg")
        labels = np.array([[0, i, 20, 255]], np.uint8)
        fields = {"Boundaries": np.zeros(3), "Segmentation": labels, "CategoriesPresent": [i]}
        scipy_io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": fields})
    return folder


def download_context(folder: Path) -> Path:
    """VOC2010 and the Detail API's file of regions, of which the later lie on top."""
    sky, cow, other = np.zeros((3, 2, 4), np.uint8)
    sky[0], cow[:, 2:], other[1, 0] = 1, 1, 1

    def region(image_id: int, category_id: int, mask: np.ndarray) -> dict:
        runs = masks.encode(np.asfortranarray(mask))
        runs["counts"] = runs["counts"].decode()
        return {"image_id": image_id, "category_id": category_id, "segmentation": runs}

    ids = {name: category for category, name in CONTEXT_IDS.items()}
    images, regions = [], []
    for number, (stem, phase) in enumerate(
        {"2008_b": "train", "2008_a": "train", "2008_c": "val", "2008_d": "test"}.items()
    ):
        facts = {"image_id": number, "file_name": f"{stem}.jpg", "phase": phase}
        images.append({**facts, "height": 2, "width": 4})
        regions += [region(number, ids["sky"], sky), region(number, ids["cow"], cow)]
        regions.append(region(number, 1, other))  # accordion: none of the 59
        write_picture(folder / "VOCdevkit" / "VOC2010" / "JPEGImages" / f"{stem}.jpg", (2, 4))
    content = {"images": images, "annos_segmentation": regions}
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    return folder


def download_coco(folder: Path) -> Path:
    for split, names in (("train", "ba"), ("val", "c")):
        for name in names:
            write_picture(folder / f"{split}2017" / f"{name}.jpg")
            path = folder / "stuffthingmaps_trainval2017" / f"{split}2017" / f"{name}.png"
            write(path, [[0, 12, 181, 255]])
    return folder


DOWNLOADS = {"voc": download_voc, "context": download_context, "coco": download_coco}


@pytest.fixture(params=DOWNLOADS)
def download(request, tmp_path):
    """Return a data set's name and its unpacked downloads."""
    (tmp_path / "downloads").mkdir()
    return request.param, DOWNLOADS[request.param](tmp_path / "downloads")


def all_files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_what_was_prepared_can_be_opened(download, tmp_path):
    name, source = download
    before = all_files(source)
    done = prepare(name, source, tmp_path / "data")
    assert all_files(source) == before
    assert list(done.counts) == list(OFFICIAL[name])
    assert "not comparable" in done.warnings[-1]
    train = open_dataset(name, "train", root=tmp_path / "data")
    val = open_dataset(name, root=tmp_path / "data")
    assert len(train) == sum(done.counts.values()) - done.counts["val"]
    assert len(val) == done.counts["val"]
    sky, cow = (CONTEXT59.names.index(word) for word in ("sky", "cow"))
    expected = {
        "voc": [[255, 4, 19, 255]],
        "context": [[sky, sky, cow, cow], [255, 255, cow, cow]],
        "coco": [[0, COCO171.names.index("stop sign"), 170, 255]],
    }
    assert train[len(train) - 1].labels.tolist() == expected[name]


def test_sbd_adds_what_voc_does_not_have(tmp_path):
    done = prepare("voc", download_voc(tmp_path), tmp_path / "data")
    assert done.counts == {"train-only": 2, "aug": 3, "val": 1}
    assert open_dataset("voc", "train", root=tmp_path / "data").names == ["a", "b", "e", "d", "f"]


def test_context_is_split_by_phase_in_order(tmp_path):
    prepare("context", download_context(tmp_path), tmp_path / "data")
    assert open_dataset("context", "train", root=tmp_path / "data").names == ["2008_a", "2008_b"]
    assert open_dataset("context-released", root=tmp_path / "data").names == ["2008_c"]


def test_pictures_are_linked_or_copied(download, tmp_path):
    name, source = download
    prepare(name, source, tmp_path / "linked")
    prepare(name, source, tmp_path / "copied", copy_pictures=True)
    folders = {"voc": "VOCdevkit/VOC2012/JPEGImages", "context": "VOCdevkit/VOC2010/JPEGImages"}
    folder = folders.get(name, "coco_stuff164k/images/train2017")
    assert (tmp_path / "linked" / folder).is_symlink()
    copied = tmp_path / "copied" / folder
    assert not copied.is_symlink()
    linked = tmp_path / "linked" / folder
    prepare(name, source, tmp_path / "linked", copy_pictures=True)  # links become copies
    assert not linked.is_symlink() and all_files(linked)
    prepare(name, source, tmp_path / "linked")
    next(copied.iterdir()).unlink()
    assert len(open_dataset(name, "train", root=tmp_path / "linked"))
    prepare(name, source, tmp_path / "copied", copy_pictures=True)
    assert len(os.listdir(copied)) == len(os.listdir(tmp_path / "linked" / folder))


def test_without_links_pictures_are_copied(download, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(1, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    name, source = download
    prepare(name, source, tmp_path / "data")
    assert open_dataset(name, root=tmp_path / "data")[0].image.shape[2] == 3


def test_the_downloads_may_be_the_target(download):
    name, source = download
    prepare(name, source, source)
    assert len(open_dataset(name, "train", root=source))
    again = prepare(name, source, source)
    assert (again.made, again.kept > 0) == (0, True)


def test_what_was_interrupted_goes_on(download, tmp_path, monkeypatch):
    name, source = download
    target, write_bytes, written = tmp_path / "data", module._write_bytes, []

    def interrupt(path: Path, content: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_bytes(path, content)

    monkeypatch.setattr(module, "_write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(name, source, target)
    monkeypatch.undo()
    (first,) = written
    time = first.stat().st_mtime_ns
    done = prepare(name, source, target)
    assert done.kept == 1 and done.made > 0 and first.stat().st_mtime_ns == time
    first.write_bytes(first.read_bytes()[:-1])  # cut off by something else
    again = prepare(name, source, target)
    assert (again.made, again.kept) == (1, done.made)
    assert len(open_dataset(name, "train", root=target))


def test_a_wrong_folder_gets_one_sentence(download, tmp_path):
    name, source = download
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="does not hold .* expected"):
        prepare(name, tmp_path / "empty", tmp_path / "data")
    with pytest.raises(InputError, match="there is no folder"):
        prepare(name, tmp_path / "nowhere", tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        prepare(name, source, tmp_path / "file")
    assert not (tmp_path / "data").exists()


def test_broken_downloads_are_named(tmp_path):
    voc = download_voc(tmp_path / "voc")
    mat = voc / "benchmark_RELEASE" / "dataset" / "cls" / "e.mat"
    mat.write_bytes(mat.read_bytes()[:90])
    with pytest.raises(InputError, match="e.mat is not a label map of SBD"):
        prepare("voc", voc, tmp_path / "data")
    context = download_context(tmp_path / "context")
    path = context / "trainval_merged.json"
    path.write_text(path.read_text().replace('"height": 2', '"height": 3'))
    with pytest.raises(InputError, match="holds regions of 2008_. that cannot be painted"):
        prepare("context", context, tmp_path / "data")
    (context / "trainval_merged.json").write_text('{"images": [')
    with pytest.raises(InputError, match="not whole JSON"):
        prepare("context", context, tmp_path / "data")
    (context / "trainval_merged.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="annos_segmentation"):
        prepare("context", context, tmp_path / "data")
    coco = download_coco(tmp_path / "coco")
    write(coco / "stuffthingmaps_trainval2017" / "val2017" / "c.png", [[0, 11, 1, 1]])
    with pytest.raises(InputError, match="c.png holds the id 11, the removed class 'street sign'"):
        prepare("coco", coco, tmp_path / "data")


@pytest.mark.parametrize("copy", [False, True])
def test_a_folder_that_was_not_unpacked_is_named(tmp_path, copy):
    voc = download_voc(tmp_path / "voc")
    (label_maps,) = voc.rglob("SegmentationClass")
    shutil.rmtree(label_maps)
    with pytest.raises(InputError, match="SegmentationClass is missing: unpack"):
        prepare("voc", voc, tmp_path / "data", copy_pictures=copy)


def test_a_part_of_a_data_set_will_do_and_is_said(tmp_path):
    voc = download_voc(tmp_path / "voc")
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "e.jpg").unlink()
    (voc / "benchmark_RELEASE" / "dataset" / "cls" / "d.mat").unlink()
    done = prepare("voc", voc, tmp_path / "data")
    assert done.counts["aug"] == 1 and "2 pictures that SBD lists" in done.warnings[0]
    coco = download_coco(tmp_path / "coco")
    (coco / "train2017" / "a.jpg").unlink()
    done = prepare("coco", coco, tmp_path / "data")
    assert done.counts == {"train": 1, "val": 1} and "are left out: no picture" in done.warnings[0]
    (coco / "stuffthingmaps_trainval2017" / "val2017" / "c.png").unlink()
    write_picture(coco / "train2017" / "z.jpg")
    with pytest.raises(InputError, match="z.jpg has no label map"):
        prepare("coco", coco, tmp_path / "more")


def test_numbers_of_the_makers_stand_for_their_names():
    # COCO counts from 1, its label maps from 0
    for number, name in {1: "person", 13: "stop sign", 90: "toothbrush", 92: "banner"}.items():
        assert COCO171.names[COCO_IDS[number - 1]] == name
    assert (
        COCO171.names[COCO_IDS[157 - 1]] == "sky-other" and COCO171.names[COCO_IDS[181]] == "wood"
    )
    assert len(set(COCO_IDS.values())) == 172 and set(COCO_IDS) - set(range(182)) == {255}
    for number, name in {2: "aeroplane", 98: "cow", 308: "pottedplant", 458: "wood"}.items():
        assert CONTEXT_IDS[number] == name
    assert sum(OFFICIAL["voc"].values()) - OFFICIAL["voc"]["val"] == 10582


def test_data_is_prepared_and_examined(capsys, monkeypatch, tmp_path):
    def unseen(*arguments: str) -> Run:
        return Run(capsys, monkeypatch, *arguments)

    monkeypatch.chdir(tmp_path)
    download_coco(tmp_path / "downloads")
    run = unseen("data", "prepare", "coco-stuff", "downloads", "data")
    again = json.loads(unseen("data", "prepare", "coco", "downloads", "data", "--json").out)
    assert again["made"] == 0 < again["kept"] and again["data"] == "coco"
    assert run.code == 0 and "train 2, val 1 pictures; 3 label maps made" in run.out
    assert "not comparable with published ones" in run.err
    command = run.out.splitlines()[-1].partition("unseen ")[2]
    assert unseen(*command.split(), "--split", "train").code == 0
    assert_one_sentence(unseen("data", "prepare", "voc", "downloads", "data"), "does not hold VOC")
    assert "prepare" in unseen("data", "--help").out
