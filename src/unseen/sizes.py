"""Scores by the size of what is labelled: are small things found at all?

A component is a set of pixels of one class that hang together, corners included (8-connected);
its area says into which bin it falls. Pixels labelled ``IGNORE`` count nowhere, whatever is
predicted there: they belong to no component, and what they divide is two.

A labelled component is compared with the predicted components of its class that touch it: the
sIoU of SegmentMeIfYouCan (arXiv 2104.14812), made for masks that know no instances,

    sIoU = |k ∩ P| / |(k ∪ P) \\ A|,

k the component, P the predicted ones that share a pixel with it, A all other labelled components of
the class. So one blob over two neighbours finds both, while its pixels on other classes are held
against each of them; and neither an object in pieces nor a neighbour found too is a fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from unseen.errors import InputError
from unseen.metrics import check_maps, divide, markdown, rounded, show
from unseen.vocabulary import IGNORE, Vocabulary

FOUND = 0.5
"""The sIoU from which on a component counts as found."""

BINS = ("speckle", "small", "medium", "large")
"""The bins; those after the first are scored."""


@dataclass(frozen=True)
class Areas:
    """The areas from which on a component is small, medium, large. Below, it is speckle.

    Label maps are full of speckle, most of it of a few pixels: it is counted, never scored. The
    areas in pixels are COCO's for objects.

    Args:
        small: pixels of the label map; or its share in 0..1, if ``relative``.
        medium: likewise.
        large: likewise.
        relative: areas are shares of the picture, ignored pixels included.

    Raises:
        InputError: they do not rise from 0 on.
    """

    small: float = 16**2
    medium: float = 32**2
    large: float = 96**2
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.small <= self.medium <= self.large:
            raise InputError(f"where sizes begin must rise from 0 on, got {self._list()}")

    def place(self, areas: Integer[np.ndarray, " N"], picture: int) -> Int64[np.ndarray, " N"]:
        """Return the position in ``BINS`` of components of a picture of so many pixels."""
        begins = np.array([self.small, self.medium, self.large], np.float64)
        if self.relative:
            begins = np.round(begins * picture, 6)  # 0.07 % of 10,000 is 7.000000000000001
        return np.digitize(areas, begins)

    def describe(self) -> str:
        """Say in a line where the bins begin."""
        return f"{self._list()}; below is speckle, never scored"

    def _list(self) -> str:
        unit, factor = (" % of the picture", 100) if self.relative else (" pixels", 1)
        begins = [f"{name} from {factor * getattr(self, name):g}" for name in BINS[1:]]
        return ", ".join(begins) + unit


PIXELS = Areas()
SHARES = Areas(small=0.00025, medium=0.001, large=0.01, relative=True)
"""Here too speckle ends at a quarter of where medium begins."""


def _count_class(
    labelled: Bool[np.ndarray, "H W"], predicted: Bool[np.ndarray, "H W"], areas: Areas
) -> Int64[np.ndarray, "5 4"]:
    """Count what ``SizeScores.counts`` holds of one class."""
    x, y, width, height = cv2.boundingRect((labelled | predicted).view(np.uint8))
    box = slice(y, y + height), slice(x, x + width)
    theirs, their_area = _components(labelled[box])
    ours, our_area = _components(predicted[box])

    shared = (labelled & predicted)[box]
    pairs = theirs[shared].astype(np.int64) * (len(our_area) + 1) + ours[shared]
    pairs, overlap = np.unique(pairs, return_counts=True)
    k, p = np.divmod(pairs, len(our_area) + 1)
    k, p = k - 1, p - 1  # component 0 was what is not of the class

    hits = _sum(overlap, k, len(their_area))
    false = our_area - _sum(overlap, p, len(our_area))
    found = FOUND * (their_area + _sum(false[p], k, len(their_area))) <= hits

    place = areas.place(their_area, labelled.size)
    charged = np.zeros((len(our_area), len(BINS)), bool)
    charged[p, place[k]] = True
    charged[:, 0] = False  # else a speckle would hide what lies around it
    lonely = ~charged.any(axis=1)
    charged[lonely, areas.place(our_area[lonely], labelled.size)] = True
    by_bin = [_sum(one, place, len(BINS)) for one in (np.ones_like(hits), found, their_area, hits)]
    return np.stack([*by_bin, false @ charged])


def _components(
    mask: Bool[np.ndarray, "H W"],
) -> tuple[Integer[np.ndarray, "H W"], Int64[np.ndarray, " N"]]:
    """Return which component each pixel is of, from 1 on, and their areas."""
    mask = np.ascontiguousarray(mask)
    # OpenCV's own areas come with centroids and take four times as long
    _, components = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return components, np.bincount(components[mask])[1:].astype(np.int64)


def _sum(values: np.ndarray, place: np.ndarray, size: int) -> Int64[np.ndarray, " N"]:
    # sums of whole numbers below 2^53 are exact in double precision
    return np.bincount(place, values, minlength=size).astype(np.int64)


@dataclass(frozen=True)
class SizeScores:
    """What pictures say of the components of a vocabulary, by their size; NaN where undefined.

    Args:
        counts: of each class and bin: labelled components; those that were found; their pixels;
            those of their pixels that were found; false pixels charged to the bin.
        vocabulary: the classes.
        areas: where bins begin.
    """

    counts: Int64[np.ndarray, "5 C 4"]
    vocabulary: Vocabulary
    areas: Areas = PIXELS

    @classmethod
    def none(cls, vocabulary: Vocabulary, areas: Areas = PIXELS) -> "SizeScores":
        """Return the scores of no picture."""
        return cls(np.zeros((5, len(vocabulary), len(BINS)), np.int64), vocabulary, areas)

    @classmethod
    def count(
        cls,
        prediction: Integer[np.ndarray, "H W"],
        labels: Integer[np.ndarray, "H W"],
        vocabulary: Vocabulary,
        areas: Areas = PIXELS,
    ) -> "SizeScores":
        """Count a picture; ``+`` adds others.

        Args:
            prediction: a label a pixel.
            labels: the right ones, and ``IGNORE``.
            vocabulary: what labels mean.
            areas: where bins begin.

        Raises:
            InputError: maps of two sizes, or a label that the vocabulary does not have.
        """
        check_maps(prediction, labels, len(vocabulary))
        valid = labels != IGNORE
        theirs, ours = (
            np.where(valid, one.astype(np.int16), np.int16(-1)) for one in (labels, prediction)
        )
        counts = cls.none(vocabulary, areas).counts
        present = sum(np.bincount(one[valid], minlength=len(vocabulary)) for one in (theirs, ours))
        for c in np.flatnonzero(present):
            counts[:, c] = _count_class(theirs == c, ours == c, areas)
        return cls(counts, vocabulary, areas)

    def __add__(self, other: "SizeScores") -> "SizeScores":
        """Return the scores of both's pictures.

        Raises:
            InputError: they are of different vocabularies or bins.
        """
        if (self.vocabulary, self.areas) != (other.vocabulary, other.areas):
            raise InputError(
                f"scores by size of {self.vocabulary.name} and of {other.vocabulary.name} do not "
                "add up: they need the same classes and the same areas"
            )
        return replace(self, counts=self.counts + other.counts)

    @property
    def components(self) -> Int64[np.ndarray, "C 4"]:
        """How many are labelled of each class, by bin, speckle first."""
        return self.counts[0]

    @property
    def pixels(self) -> Int64[np.ndarray, "C 4"]:
        """How many pixels they have, speckle first."""
        return self.counts[2]

    @property
    def recall(self) -> Float[np.ndarray, "C 3"]:
        """Share of each class's components with a sIoU of ``FOUND`` or more."""
        return divide(self.counts[1], self.counts[0])[:, 1:]

    @property
    def pixel_recall(self) -> Float[np.ndarray, "C 3"]:
        """Share of the pixels of each class's components that were found."""
        return divide(self.counts[3], self.counts[2])[:, 1:]

    @property
    def iou(self) -> Float[np.ndarray, "C 3"]:
        """IoU of each class within each bin: sIoU with all components of the bin in k's place.

        As detections count in COCO's scores by area, a predicted component counts where what it
        touches does, and one that touches nothing scored in the bin of its own area. Its pixels on
        other classes count once in every bin that it touches; those on components of its own class
        in other bins are no fault. If all falls into one bin, this is the usual IoU. What is
        charged to a bin without labelled components is a score of 0.
        """
        return divide(self.counts[3], self.counts[2] + self.counts[4])[:, 1:]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the numbers of each bin over all classes: sums, and means in percent."""
        columns = self._columns()
        means = {
            name: [float(np.nanmean(one)) if np.isfinite(one).any() else np.nan for one in values.T]
            for name, values in columns.items()
        }
        return self._rows(self.components.sum(axis=0), self.pixels.sum(axis=0), means)

    def of(self, name: str) -> dict[str, dict[str, float]]:
        """Return the numbers of each bin of one class, as ``summary``."""
        c = self.vocabulary.names.index(name)
        own = {column: list(values[c]) for column, values in self._columns().items()}
        return self._rows(self.components[c], self.pixels[c], own)

    def _columns(self) -> dict[str, np.ndarray]:
        scored = {"recall": self.recall, "pixel recall": self.pixel_recall, "IoU": self.iou}
        nothing = np.full((len(self.vocabulary), 1), np.nan)
        return {name: np.hstack([nothing, 100 * values]) for name, values in scored.items()}

    def _rows(
        self, components: np.ndarray, pixels: np.ndarray, columns: dict[str, list[float]]
    ) -> dict[str, dict[str, float]]:
        shares = 100 * divide(pixels, np.full(len(BINS), pixels.sum()))
        return {
            name: {"components": int(components[b]), "% of pixels": float(shares[b])}
            | {column: float(values[b]) for column, values in columns.items()}
            for b, name in enumerate(BINS)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it: percent, None for what is undefined."""
        return {
            "areas": self.areas.describe(),
            "all": _plain(self.summary()),
            "classes": {name: _plain(self.of(name)) for name in self.vocabulary.names},
        }

    def table(self, names: Sequence[str] = ()) -> str:
        """Write the bins over all classes, then of named ones, as a Markdown table."""
        every = {"all": self.summary()} | {name: self.of(name) for name in names}
        rows = [
            [title, size, *(_write(value) for value in numbers.values())]
            for title, sizes in every.items()
            for size, numbers in sizes.items()
        ]
        return markdown(["class", "size", *every["all"]["small"]], rows)


def _plain(sizes: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        size: rounded(numbers) | {"components": numbers["components"]}
        for size, numbers in sizes.items()
    }


def _write(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else show(value)
