"""Data sets: numbered pictures with label maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from unseen.data.images import read_image, read_labels
from unseen.errors import InputError
from unseen.vocabulary import IGNORE, VOC20, Vocabulary


class Sample(NamedTuple):
    """A picture, 8-bit RGB, its labels (positions in the vocabulary, or ``IGNORE``), its name."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    name: str


@runtime_checkable
class Dataset(Protocol):
    """Anything with a vocabulary, a length, and samples by number."""

    vocabulary: Vocabulary

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class MaskFolder:
    """Pictures and label maps in files.

    Args:
        pairs: (picture, label map) paths.
        vocabulary: what the labels mean.
        reduce_zero: label 0 is background and becomes ``IGNORE``; all others move down by one.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        vocabulary: Vocabulary,
        *,
        reduce_zero: bool = False,
    ) -> None:
        self.pairs = pairs
        self.vocabulary = vocabulary
        self.reduce_zero = reduce_zero

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        picture, label_map = self.pairs[index]
        image, labels = read_image(picture), read_labels(label_map)
        if image.shape[:2] != labels.shape:
            raise InputError(
                f"{picture} is {image.shape[:2]} and its labels {label_map} are {labels.shape} "
                "(height, width): they must be of one size"
            )
        return Sample(
            image, reduce_zero_label(labels) if self.reduce_zero else labels, picture.stem
        )


class Subset:
    """The first samples of a data set.

    Args:
        dataset: the data set.
        count: how many to keep at most.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.vocabulary = dataset.vocabulary
        self._dataset = dataset
        self._count = min(count, len(dataset))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._dataset[index]


def reduce_zero_label(labels: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Turn label 0 into ``IGNORE`` and move the others down by one; ``IGNORE`` stays."""
    reduced = labels - np.uint8(1)  # 0 wraps around to 255
    reduced[labels == IGNORE] = IGNORE
    return reduced


def voc(root: str | Path, split: str = "val") -> MaskFolder:
    """Read PASCAL VOC 2012 in its official layout, background ignored.

    Args:
        root: the folder that holds ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        split: the list in ``ImageSets/Segmentation``.

    Raises:
        InputError: the folder is laid out otherwise, or the list is empty.
    """
    root = Path(root)
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listing.is_file():
        raise InputError(
            f"there is no {listing}: give the VOC2012 folder that holds JPEGImages, "
            "SegmentationClass and ImageSets"
        )
    names = listing.read_text(encoding="utf-8").split()
    if not names:
        raise InputError(f"{listing} names no pictures")
    pairs = [
        (root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png")
        for name in names
    ]
    return MaskFolder(pairs, VOC20, reduce_zero=True)
