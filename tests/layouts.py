"""Tiny made-up data sets, each in its own layout on disk."""

from pathlib import Path

import numpy as np
from PIL import Image

from unseen.vocabulary import Vocabulary, find_vocabulary

SIZE = (40, 56)
"""Height and width of every picture."""


def draw(index: int, vocabulary: Vocabulary, *, zero: bool) -> tuple[Image.Image, Image.Image]:
    """Return a picture of noise and a label map of four classes, one of them unseen.

    Args:
        index: decides the picture.
        vocabulary: what labels mean.
        zero: label 0 is background, classes count from 1.
    """
    random = np.random.default_rng(index)
    pixels = random.integers(0, 256, (*SIZE, 3), np.uint8)
    hidden = vocabulary.positions(vocabulary.unseen[:1])
    chosen = [*random.choice(len(vocabulary), 3, replace=False), *hidden]
    labels = np.repeat(np.array(chosen, np.uint8), SIZE[1] // len(chosen))[None].repeat(SIZE[0], 0)
    labels = labels + np.uint8(zero)
    labels[:4] = 0 if zero else 255
    labels[4:8] = 255
    return Image.fromarray(pixels), Image.fromarray(np.ascontiguousarray(labels))


def write_lists(root: Path, folder: str, lists: dict[str, list[str]]) -> None:
    place = root / "ImageSets" / folder
    place.mkdir(parents=True)
    for name, names in lists.items():
        (place / f"{name}.txt").write_text("\n".join(names) + "\n")


def write_voc(root: Path) -> Path:
    """Write VOC 2012: two pictures to train on, one more among the augmented, one to test."""
    vocabulary = find_vocabulary("voc20")
    places = {"a": "SegmentationClass", "b": "SegmentationClass", "v": "SegmentationClass"}
    for index, (name, place) in enumerate({**places, "c": "SegmentationClassAug"}.items()):
        _save(draw(index, vocabulary, zero=True), root, "JPEGImages", place, name)
    write_lists(root, "Segmentation", {"train": ["a", "b"], "aug": ["c"], "val": ["v"]})
    return root


def write_context(root: Path) -> Path:
    """Write PASCAL Context: two pictures to train on, one to test."""
    vocabulary = find_vocabulary("context59")
    for index, name in enumerate("abv"):
        picture = draw(index, vocabulary, zero=True)
        _save(picture, root, "JPEGImages", "SegmentationClassContext", name)
    write_lists(root, "SegmentationContext", {"train": ["a", "b"], "val": ["v"]})
    return root


def write_coco(root: Path) -> Path:
    """Write COCO-Stuff: two pictures to train on, one to test."""
    vocabulary = find_vocabulary("coco171")
    for index, (name, split) in enumerate({"a": "train", "b": "train", "v": "val"}.items()):
        image, labels = draw(index, vocabulary, zero=False)
        images, maps = (root / kind / f"{split}2017" for kind in ("images", "annotations"))
        images.mkdir(parents=True, exist_ok=True)
        maps.mkdir(parents=True, exist_ok=True)
        image.save(images / f"{name}.jpg", format="PNG")
        labels.save(maps / f"{name}_labelTrainIds.png")
    return root


def _save(
    pair: tuple[Image.Image, Image.Image], root: Path, images: str, maps: str, name: str
) -> None:
    for folder in (images, maps):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pair[0].save(root / images / f"{name}.jpg", format="PNG")
    pair[1].save(root / maps / f"{name}.png")


WRITERS = {
    "voc": write_voc,
    "context": write_context,
    "context-released": write_context,
    "coco": write_coco,
}
"""What writes each data set that recipes use."""


def make_own(folder: Path, count: int) -> str:
    """Write a data set of one's own, and return its YAML file."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels = random.integers(0, 256, (60, 70, 3), dtype=np.uint8)
        labels = random.integers(0, 3, (60, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(labels).save(folder / "masks" / f"{number:02}.png")
    names = "".join(f"{number:02}\n" for number in range(count))
    (folder / "train.txt").write_text(names)
    (folder / "own.yaml").write_text(
        "names: [person, sky, bus]\nunseen: [bus]\nimages: images/*.jpg\nmasks: masks/*.png\n"
        "splits: {train: {list: train.txt}, val: {list: train.txt}}\n"
    )
    return str(folder / "own.yaml")
