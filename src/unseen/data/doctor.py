"""What is in a data set's label maps, and what is wrong with it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int16, Int64, Integer, UInt8
from PIL import Image

from unseen.data.datasets import NAMELESS, Dataset, MaskFolder
from unseen.data.images import read_image
from unseen.data.transforms import resize_image, resize_labels
from unseen.drawing import contact_sheet, overlay, palette
from unseen.errors import InputError
from unseen.progress import track
from unseen.vocabulary import IGNORE, Vocabulary

_IGNORED, _NAMELESS = (90, 90, 90), (255, 0, 0)
"""Colours on the sheet of what is ignored, and of what has no name."""


@dataclass
class Examination:
    """What was found in a data set.

    Args:
        vocabulary: the names.
        total: how many pictures the data set has.
        examined: the numbers of those that were looked at.
        meaning: the label of each stored id; ``NAMELESS`` where none.
        background: what becomes of id 0, in words.
        pixels: how many pixels each stored id has.
        pictures: how many pictures each stored id is in.
        sizes: (height, width) of the pictures.
        problems: a sentence for each file that cannot be used.
        hints: sentences on what looks wrong with the labels as a whole.
    """

    vocabulary: Vocabulary
    total: int
    examined: list[int]
    meaning: Int16[np.ndarray, " 256"]
    background: str
    pixels: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    pictures: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def nameless(self) -> list[int]:
        """The ids that occur and mean nothing."""
        return np.flatnonzero((self.pixels > 0) & (self.meaning == NAMELESS)).tolist()

    @property
    def never(self) -> list[str]:
        """The names that no pixel has."""
        seen = set(self.meaning[self.pixels > 0].tolist())
        return [name for i, name in enumerate(self.vocabulary.names) if i not in seen]

    @property
    def is_healthy(self) -> bool:
        """Whether every file can be used and every id means something."""
        return not self.problems and not self.nameless

    def name_of(self, stored: int) -> str | None:
        """Return the name of an id; None if it is ignored or has none."""
        label = int(self.meaning[stored])
        return None if label in (NAMELESS, IGNORE) else self.vocabulary.names[label]

    def meaning_of(self, stored: int) -> str:
        """Say what an id means."""
        name = self.name_of(stored)
        if name is None:
            return "(ignored)" if self.meaning[stored] == IGNORE else "HAS NO NAME"
        return f"{name} (unseen)" if name in self.vocabulary.unseen else name

    def rows(self) -> list[list[str]]:
        """Return a row for each id that occurs: id, meaning, pixels, share, pictures."""
        whole = max(int(self.pixels.sum()), 1)
        return [
            [
                str(i),
                self.meaning_of(i),
                str(self.pixels[i]),
                f"{self.pixels[i] / whole:.2%}",
                str(self.pictures[i]),
            ]
            for i in np.flatnonzero(self.pixels).tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON keeps it."""
        return {
            "vocabulary": self.vocabulary.name,
            "total": self.total,
            "examined": len(self.examined),
            "background": self.background,
            "ids": [
                {
                    "id": i,
                    "name": self.name_of(i),
                    "unseen": self.name_of(i) in self.vocabulary.unseen,
                    "ignored": int(self.meaning[i]) == IGNORE,
                    "pixels": int(self.pixels[i]),
                    "pictures": int(self.pictures[i]),
                }
                for i in np.flatnonzero(self.pixels).tolist()
            ],
            "nameless": self.nameless,
            "never": self.never,
            "sizes": describe_sizes(self.sizes),
            "problems": self.problems,
            "hints": self.hints,
        }


def examine(dataset: Dataset, count: int | None = None) -> Examination:
    """Look at the pictures and label maps of a data set; what is wrong is listed, not raised.

    Args:
        dataset: the data set.
        count: how many pictures to look at, spread evenly over it; by default all.
    """
    found = Examination(
        dataset.vocabulary,
        len(dataset),
        spread(len(dataset), count),
        dataset.meaning if isinstance(dataset, MaskFolder) else _plain(len(dataset.vocabulary)),
        _background(dataset),
    )
    for index in track(found.examined, "examining"):
        try:
            image, ids = _read(dataset, index)
        except InputError as error:
            found.problems.append(str(error))
            continue
        found.sizes.append(image.shape[:2])
        counted = np.bincount(ids.ravel(), minlength=256)
        found.pixels += counted
        found.pictures += counted > 0
    found.hints = _hints(found, dataset)
    return found


def spread(total: int, count: int | None) -> list[int]:
    """Return at most ``count`` numbers below ``total``, evenly apart."""
    if count is None or count >= total:
        return list(range(total))
    return [i * total // count for i in range(count)]


def _plain(num_classes: int) -> Int16[np.ndarray, " 256"]:
    meaning = np.full(256, NAMELESS, np.int16)
    meaning[:num_classes] = np.arange(num_classes)
    meaning[IGNORE] = IGNORE
    return meaning


def _read(
    dataset: Dataset, index: int
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Return a picture and its ids as they are stored."""
    if not isinstance(dataset, MaskFolder):
        sample = dataset[index]
        return sample.image, sample.labels
    picture, label_map = dataset.pairs[index]
    image, ids = read_image(picture), dataset.read_ids(index)
    if image.shape[:2] != ids.shape:
        raise InputError(
            f"{picture} is {image.shape[:2]} and its labels {label_map} are {ids.shape} "
            "(height, width)"
        )
    return image, ids


def _background(dataset: Dataset) -> str:
    first = dataset.vocabulary.names[0]
    if not isinstance(dataset, MaskFolder):
        return f"id 0 is {first!r}, a class like all others; 255 is ignored"
    if dataset.reduce_zero:
        return f"id 0 is background, ignored; the other ids move down by one: 1 is {first!r}"
    meaning = dataset.meaning.tolist()
    ignored = ", ".join(str(i) for i, label in enumerate(meaning) if label == IGNORE) or "nothing"
    if meaning[0] == 0:
        return f"id 0 is {first!r}, a class like all others; ignored: {ignored}"
    if meaning[0] == IGNORE:
        return f"id 0 is ignored; ignored in all: {ignored}"
    nameless = "given no meaning, and must not occur"
    named = nameless if meaning[0] == NAMELESS else repr(dataset.vocabulary.names[meaning[0]])
    return f"id 0 is {named}; ignored: {ignored}"


def _hints(found: Examination, dataset: Dataset) -> list[str]:
    """Say what looks shifted, or not reduced, or reduced without need."""
    hints = []
    num_classes, present = len(found.vocabulary), found.pixels > 0
    if not present.any():
        return ["no label was read"]
    reduced = isinstance(dataset, MaskFolder) and dataset.reduce_zero
    in_order = np.array_equal(found.meaning[:num_classes], np.arange(num_classes))
    largest = int(np.flatnonzero(present[:IGNORE]).max(initial=0))
    counted = found.pixels[:IGNORE]
    nameless = largest == num_classes and found.meaning[largest] == NAMELESS
    if in_order and not reduced and nameless:
        zero = (
            "id 0 never occurs"
            if not present[0]
            else "id 0 is the most frequent one"
            if counted.argmax() == 0
            else "id 0 occurs"
        )
        hints.append(
            f"the labels look shifted by one: {num_classes} names have the ids 0 to "
            f"{num_classes - 1}, the largest id is {num_classes}, and {zero}; if 0 is background, "
            "set reduce_zero: true"
        )
    elif in_order and not reduced and _is_like_background(found):
        hints.append(
            f"id 0, {found.vocabulary.names[0]!r}, has {counted[0] / counted.sum():.0%} of the "
            "labelled pixels and is in nearly every picture: if it is background, set "
            "reduce_zero: true, since the other labels are shifted by one then"
        )
    whole = len(found.examined) == found.total and not found.problems
    if reduced and whole and present[0] and not present[num_classes]:
        hints.append(
            f"id 0 is taken for background, and id {num_classes}, the last name "
            f"{found.vocabulary.names[-1]!r}, never occurs: if 0 is a class, the labels are "
            "shifted by one and reduce_zero must go"
        )
    for kind in ("unseen", "seen"):
        names = getattr(found.vocabulary, kind)
        if names and whole and set(names) <= set(found.never):
            hints.append(
                f"no pixel shows a class that is {kind} ({', '.join(names[:5])}): there is "
                "nothing here to "
                + ("measure them by" if kind == "unseen" else "learn from, or to measure them by")
            )
    table = dataset.colours if isinstance(dataset, MaskFolder) else None
    if table is not None and table.other is not None and (strange := found.pixels[table.other]):
        hints.append(
            f"{strange / found.pixels.sum():.1%} of the pixels have colours that stand for "
            f"nothing (id {table.other}): were the label maps resized, or saved with loss?"
        )
    ignored = found.pixels[found.meaning == IGNORE].sum() / found.pixels.sum()
    if ignored > 0.9:
        hints.append(f"{ignored:.0%} of all pixels are ignored: are the right ids mapped?")
    return hints


def _is_like_background(found: Examination) -> bool:
    """Tell whether id 0 is nearly everywhere, without being named so."""
    labelled, read = found.pixels[:IGNORE].sum(), len(found.sizes)
    return bool(
        read >= 10
        and found.pictures[0] >= 0.95 * read
        and found.pixels[0] > 0.4 * labelled
        and found.vocabulary.names[0].casefold() not in ("background", "other", "unlabelled")
    )


def describe_sizes(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Return smallest, median and largest height and width."""
    if not sizes:
        return {}
    return {
        side: [int(f([size[i] for size in sizes])) for f in (np.min, np.median, np.max)]
        for i, side in enumerate(("height", "width"))
    }


def draw_sheet(dataset: Dataset, count: int = 12, side: int = 480) -> Image.Image:
    """Paint the labels of some pictures over them, with legends, onto one sheet.

    Args:
        dataset: the data set.
        count: how many pictures, spread evenly over it; those that cannot be read are left out.
        side: long side of each in pixels.

    Raises:
        InputError: not one picture can be read.
    """
    meaning = dataset.meaning if isinstance(dataset, MaskFolder) else None
    names = [*dataset.vocabulary.names, "ignored"]
    tiles = []
    for index in spread(len(dataset), count):
        try:
            image, ids = _read(dataset, index)
        except InputError:
            continue
        factor = min(1.0, side / max(ids.shape))
        size = max(1, round(ids.shape[0] * factor)), max(1, round(ids.shape[1] * factor))
        image, ids = resize_image(image, size), resize_labels(ids, size)
        labels = (ids if meaning is None else meaning[ids]).astype(np.int64)
        shown, present = _show_nameless(labels, ids, names)
        rest = [_IGNORED] + [_NAMELESS] * (len(present) - len(names))
        colours = np.array([*palette(len(names) - 1), *rest], np.uint8)
        title = dataset.names[index] if isinstance(dataset, MaskFolder) else str(index)
        marked = dataset.vocabulary.unseen
        tiles.append((title, overlay(image, shown, present, marked=marked, colours=colours)))
    if not tiles:
        raise InputError("not one picture can be read: there is nothing to draw")
    return contact_sheet(tiles)


def _show_nameless(
    labels: Integer[np.ndarray, "H W"], ids: UInt8[np.ndarray, "H W"], names: list[str]
) -> tuple[Integer[np.ndarray, "H W"], list[str]]:
    """Give what is ignored, and every id without a name, a position after the names."""
    shown = np.where(labels == IGNORE, len(names) - 1, labels)
    present = list(names)
    for stored in sorted(Counter(ids[labels == NAMELESS].tolist())):
        shown[(labels == NAMELESS) & (ids == stored)] = len(present)
        present.append(f"id {stored} HAS NO NAME")
    return shown, present
