"""Data sets: numbered pictures with label maps."""

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int16, UInt8

from unseen.data.colours import ColourTable, read_colours
from unseen.data.images import read_image, read_labels
from unseen.errors import InputError
from unseen.vocabulary import IGNORE, Vocabulary

NAMELESS = -1
"""Stands in ``MaskFolder.meaning`` for ids that mean nothing."""


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

    A label map holds ids; id i means the vocabulary's name i, and 255 ``IGNORE``, where nothing
    else is said.

    Args:
        pairs: (picture, label map) paths.
        vocabulary: what the labels mean.
        reduce_zero: id 0 is background and becomes ``IGNORE``; all others move down by one.
        label_map: the label that each id means, a position or ``IGNORE``; instead of the rule.
        ignore: more ids that become ``IGNORE``.
        colours: for label maps painted in colours: the id of each.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        vocabulary: Vocabulary,
        *,
        reduce_zero: bool = False,
        label_map: Mapping[int, int] | None = None,
        ignore: Collection[int] = (),
        colours: ColourTable | None = None,
    ) -> None:
        self.pairs = pairs
        self.vocabulary = vocabulary
        self.reduce_zero = reduce_zero
        self.meaning = _meaning(len(vocabulary), reduce_zero, label_map, ignore)
        self.colours = colours

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read a picture and its labels.

        Raises:
            InputError: a broken or missing file, two sizes, or an id that means nothing.
        """
        picture, label_map = self.pairs[index]
        image, ids = read_image(picture), self.read_ids(index)
        if image.shape[:2] != ids.shape:
            raise InputError(
                f"{picture} is {image.shape[:2]} and its labels {label_map} are {ids.shape} "
                "(height, width): they must be of one size"
            )
        labels = self.meaning[ids]
        if labels.min() == NAMELESS:
            strange = int(ids[labels == NAMELESS].min())
            raise InputError(
                f"{label_map} holds the id {strange}, which none of the {len(self.vocabulary)} "
                f"names of {self.vocabulary.name} has: say what it means (label_map, reduce_zero "
                "or ignore, see docs/data.md) and look at all ids with: unseen doctor data"
            )
        return Sample(image, labels.astype(np.uint8), self.names[index])

    def read_ids(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Read a label map as it is stored; of one in colours, the ids of its table."""
        picture, label_map = self.pairs[index]
        if not label_map.is_file():
            raise InputError(
                f"{picture} has no label map, expected {label_map}: add it, or leave the picture "
                "out of the split"
            )
        if self.colours is None:
            return read_labels(label_map)
        return read_colours(label_map, self.colours)

    @cached_property
    def names(self) -> list[str]:
        """What the samples are called: pictures' stems, with their folders where they repeat.

        Where those repeat too (``a/b.png`` and ``a-b.png``, ``a.png`` and ``a.jpg``), with numbers.
        """
        pictures = [picture for picture, _ in self.pairs]
        stems = [picture.stem for picture in pictures]
        if len(set(stems)) == len(stems):
            return stems
        above = os.path.commonpath([picture.parent for picture in pictures])
        longer = ["-".join(p.relative_to(above).with_suffix("").parts) for p in pictures]
        if len(set(longer)) == len(longer):
            return longer
        return [f"{name}-{number}" for number, name in enumerate(longer, start=1)]


def folders_of(dataset: Dataset) -> set[Path]:
    """Return where a data set's pictures and label maps lie; none if it does not say."""
    pairs = dataset.pairs if isinstance(dataset, MaskFolder) else ()
    return {path.resolve().parent for pair in pairs for path in pair}


def _meaning(
    num_classes: int,
    reduce_zero: bool,
    label_map: Mapping[int, int] | None,
    ignore: Collection[int],
) -> Int16[np.ndarray, " 256"]:
    """Return the label of every id."""
    if num_classes > IGNORE:
        raise InputError(f"label maps of 8 bits hold {IGNORE} classes at most, got {num_classes}")
    meaning = np.full(256, NAMELESS, np.int16)
    meaning[IGNORE] = IGNORE
    if label_map is None:
        first = int(reduce_zero)
        meaning[0] = IGNORE
        meaning[first : first + num_classes] = np.arange(num_classes)
    else:
        for stored, label in label_map.items():
            meaning[stored] = label
    meaning[list(ignore)] = IGNORE
    return meaning


def pair_up(
    pictures: Mapping[str, Path], label_maps: Mapping[str, Path], where: str
) -> list[tuple[Path, Path]]:
    """Return (picture, label map) by key, in the keys' order.

    Args:
        pictures: the pictures by key.
        label_maps: the label maps by key.
        where: what they are the files of.

    Raises:
        InputError: there are none, or one lacks its other half.
    """
    if not pictures and not label_maps:
        raise InputError(f"there are no pictures in {where}: check the folder")
    for ones, others, lacks in (
        (pictures, label_maps, "label map"),
        (label_maps, pictures, "picture"),
    ):
        lonely = sorted(ones.keys() - others.keys())
        if lonely:
            more = f", nor have {len(lonely) - 1} others" if len(lonely) > 1 else ""
            raise InputError(
                f"{ones[lonely[0]]} has no {lacks}{more}: every picture of {where} needs its label "
                "map, and every label map its picture"
            )
    return [(pictures[key], label_maps[key]) for key in sorted(pictures)]


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
