"""Scores of a whole data set, from counts of all its pixels.

As mmsegmentation counts: intersections and unions are summed over the data set before they are
divided. A class absent from labels and predictions has no score (NaN) and enters no mean. All
counts are whole numbers: pictures add up to the same scores in any order, in any number of parts.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from unseen.errors import InputError
from unseen.vocabulary import IGNORE, Vocabulary


def check_maps(
    prediction: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."], num_classes: int
) -> None:
    """Refuse maps that cannot be compared.

    Raises:
        InputError: the two differ in size, a label is neither a class nor ``IGNORE``, a prediction
            is no class where there is a label, or there are so many classes that one is ``IGNORE``.
    """
    if num_classes > IGNORE:
        raise InputError(
            f"at most {IGNORE} classes can be scored, got {num_classes}: label {IGNORE} stands for "
            "pixels without one"
        )
    if prediction.shape != labels.shape:
        raise InputError(
            f"prediction and labels must have one size, got {prediction.shape} and {labels.shape}"
        )
    valid = labels != IGNORE
    for what, values in (("labels", labels), ("predictions", prediction)):
        for found in (values.min(where=valid, initial=0), values.max(where=valid, initial=0)):
            if not 0 <= found < num_classes:
                none = f", or {IGNORE} for none" if values is labels else ""
                raise InputError(
                    f"{what} must be below {num_classes}, the number of classes{none}; found "
                    f"{found}: check the label map and its order"
                )


def confusion(
    prediction: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."], num_classes: int
) -> Integer[np.ndarray, "C C"]:
    """Count pixels by (label, prediction); pixels labelled ``IGNORE`` are left out.

    Raises:
        InputError: as ``check_maps``.
    """
    check_maps(prediction, labels, num_classes)
    valid = labels != IGNORE
    pairs = num_classes * labels[valid].astype(np.int64) + prediction[valid].astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


BOUNDARY = 0.02
"""Width of a boundary as a share of a picture's diagonal (Boundary IoU, arXiv 2103.16562)."""

BINS = 15
"""Into how many bins of equal width scores go for their calibration."""

UNIT = 10**6
"""Scores are summed in millionths: whole numbers add up alike in any order."""


def near_boundary(
    labels: Integer[np.ndarray, "H W"], ignored: Bool[np.ndarray, "H W"], width: int
) -> Bool[np.ndarray, "H W"]:
    """Mark the pixels that have another label, or the end of the picture, within reach.

    The region of a class within ``width`` pixels, counted as a king walks, of its contour: what is
    left when the eroded mask is taken off the mask (arXiv 2103.16562), for all classes at once.
    What is ignored is on no side of a contour.

    Args:
        labels: a label a pixel.
        ignored: where they do not count.
        width: of the boundary in pixels.
    """
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    values = labels.astype(np.int16)
    high = cv2.dilate(np.where(ignored, np.int16(-1), values), kernel)
    low = cv2.erode(np.where(ignored, np.int16(2**15 - 1), values), kernel)
    near = (high != values) | (low != values)
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    near &= ~ignored
    return near


def _count_boundaries(
    prediction: Integer[np.ndarray, "H W"], labels: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "3 C"]:
    """Count each class's boundary pixels: labelled, predicted, both."""
    ignored = labels == IGNORE
    width = max(1, round(BOUNDARY * float(np.hypot(*labels.shape))))
    ours, theirs = (near_boundary(one, ignored, width) for one in (prediction, labels))
    both = ours & theirs & (prediction == labels)
    kept = labels[theirs], prediction[ours], labels[both]
    return np.stack([np.bincount(one, minlength=num_classes) for one in kept])


def count_reliability(
    hits: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]
) -> Int64[np.ndarray, "3 B"]:
    """Count, by bins of the score: pixels, those that are right, millionths of score."""
    clipped = np.clip(scores.astype(np.float64), 0, 1)
    place = np.minimum((clipped * BINS).astype(np.int64), BINS - 1)
    # sums of whole numbers below 2^53 are exact in double precision
    units = np.bincount(place, np.rint(clipped * UNIT), minlength=BINS).astype(np.int64)
    counts = [np.bincount(one, minlength=BINS) for one in (place, place[hits])]
    return np.stack([*counts, units])


def to_sparse(counts: Int64[np.ndarray, "..."]) -> list[list[int]]:
    """Return where counts are not 0, and what they are there: few numbers, as JSON takes them."""
    places = np.flatnonzero(counts)
    return [places.tolist(), counts.reshape(-1)[places].tolist()]


def add_sparse(total: Int64[np.ndarray, "..."], sparse: list[list[int]]) -> None:
    """Add to counts, in place, what ``to_sparse`` made of others."""
    places, values = sparse
    total.reshape(-1)[places] += np.array(values, np.int64)


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def harmonic_mean(seen: float, unseen: float) -> float:
    """Return hIoU = 2·S·U / (S + U); 0 where both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0


@dataclass(frozen=True)
class Scores:
    """What counts over pictures say of a vocabulary; shares in 0..1, NaN where undefined.

    Args:
        matrix: pixels by (label, prediction).
        vocabulary: the classes, with their unseen names and their stuff.
        boundary: pixels near boundaries of each class: labelled, predicted, both; None if they were
            not counted.
        reliability: by bins of the score: pixels, those that are right, millionths of score; None
            if no scores were given.
    """

    matrix: Integer[np.ndarray, "C C"] | Float[np.ndarray, "C C"]
    vocabulary: Vocabulary
    boundary: Int64[np.ndarray, "3 C"] | None = None
    reliability: Int64[np.ndarray, "3 B"] | None = None

    @classmethod
    def count(
        cls,
        prediction: Integer[np.ndarray, "H W"],
        labels: Integer[np.ndarray, "H W"],
        vocabulary: Vocabulary,
        scores: Float[np.ndarray, "H W"] | None = None,
    ) -> "Scores":
        """Count a picture; ``+`` adds others.

        Args:
            prediction: a label a pixel.
            labels: the right ones, and ``IGNORE``.
            vocabulary: what labels mean.
            scores: how sure the model is of each prediction, in 0..1; what lies outside is clipped.

        Raises:
            InputError: maps of two sizes, or a label that the vocabulary does not have.
        """
        size = len(vocabulary)
        matrix = confusion(prediction, labels, size)
        reliability = None
        if scores is not None:
            valid = labels != IGNORE
            reliability = count_reliability((prediction == labels)[valid], scores[valid])
        return cls(matrix, vocabulary, _count_boundaries(prediction, labels, size), reliability)

    def __add__(self, other: "Scores") -> "Scores":
        """Return the scores of both's pictures; what only one has counted is left out.

        Raises:
            InputError: they are of different vocabularies.
        """
        if self.vocabulary != other.vocabulary:
            raise InputError(
                f"scores of {self.vocabulary.name} and of {other.vocabulary.name} do not add up"
            )

        def both(one: np.ndarray | None, two: np.ndarray | None) -> np.ndarray | None:
            return None if one is None or two is None else one + two

        return replace(
            self,
            matrix=self.matrix + other.matrix,
            boundary=both(self.boundary, other.boundary),
            reliability=both(self.reliability, other.reliability),
        )

    def pack(self) -> list[list[list[int]]]:
        """Return the counts of a picture as JSON takes them; ``unpack`` makes scores of them."""
        assert self.boundary is not None and self.reliability is not None
        return [to_sparse(one) for one in (self.matrix, self.boundary, self.reliability)]

    @classmethod
    def unpack(cls, packed: list[list[list[int]]], vocabulary: Vocabulary) -> "Scores":
        """Return what was packed."""
        size = len(vocabulary)
        counts = [np.zeros(shape, np.int64) for shape in ((size, size), (3, size), (3, BINS))]
        for total, sparse in zip(counts, packed, strict=True):
            add_sparse(total, sparse)
        matrix, boundary, reliability = counts
        return cls(matrix, vocabulary, boundary, reliability)

    @property
    def _hits(self) -> np.ndarray:
        return np.diag(self.matrix)

    @property
    def _labelled(self) -> np.ndarray:
        return self.matrix.sum(axis=1)

    @property
    def _predicted(self) -> np.ndarray:
        return self.matrix.sum(axis=0)

    @property
    def iou(self) -> Float[np.ndarray, " C"]:
        """Intersection over union of each class."""
        return divide(self._hits, self._labelled + self._predicted - self._hits)

    @property
    def accuracy(self) -> Float[np.ndarray, " C"]:
        """Share of each class's pixels that were found: its recall."""
        return divide(self._hits, self._labelled)

    @property
    def precision(self) -> Float[np.ndarray, " C"]:
        """Share of the pixels given to each class that are its own."""
        return divide(self._hits, self._predicted)

    @property
    def dice(self) -> Float[np.ndarray, " C"]:
        """Dice coefficient of each class."""
        return divide(2 * self._hits, self._labelled + self._predicted)

    @property
    def f_score(self) -> Float[np.ndarray, " C"]:
        """Harmonic mean of precision and recall: Dice, but NaN where a class was never right."""
        return divide(2 * self.precision * self.accuracy, self.precision + self.accuracy)

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean IoU, each class weighted by its share of the labelled pixels (fwIoU)."""
        total = self._labelled.sum()
        weighted = np.nan_to_num(self.iou) * self._labelled
        return float(weighted.sum() / total) if total else float("nan")

    @property
    def boundary_iou(self) -> Float[np.ndarray, " C"]:
        """IoU of each class within a band along its contours; NaN where nothing was counted."""
        if self.boundary is None:
            return np.full(len(self.vocabulary), np.nan)
        labelled, predicted, both = self.boundary
        return divide(both, labelled + predicted - both)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (ECE): how far scores are from the share that is right.

        The mean over pixels of |mean score - share right| of their bin; no score, NaN.
        """
        if self.reliability is None or not self.reliability[0].sum():
            return float("nan")
        pixels, right, units = self.reliability
        return float(np.abs(units / UNIT - right).sum() / pixels.sum())

    @property
    def reliability_by_bin(self) -> Float[np.ndarray, "3 B"] | None:
        """By bins of the score: share of the pixels, share of these right, mean score (or NaN)."""
        if self.reliability is None:
            return None
        pixels, right, units = self.reliability
        shares = pixels / max(pixels.sum(), 1)
        return np.stack([shares, divide(right, pixels), divide(units / UNIT, pixels)])

    @property
    def unseen_as_seen(self) -> float:
        """Share of the pixels of unseen classes that were given to seen ones."""
        return self._given(self.vocabulary.unseen, self.vocabulary.seen)

    @property
    def seen_as_unseen(self) -> float:
        """Share of the pixels of seen classes that were given to unseen ones."""
        return self._given(self.vocabulary.seen, self.vocabulary.unseen)

    def _given(self, labelled: Sequence[str], predicted: Sequence[str]) -> float:
        rows, columns = (list(self.vocabulary.positions(n)) for n in (labelled, predicted))
        total = self.matrix[rows].sum()
        return float(self.matrix[np.ix_(rows, columns)].sum() / total) if total else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of all labelled pixels that are right (pAcc)."""
        total = self.matrix.sum()
        return float(self._hits.sum() / total) if total else float("nan")

    def mean(self, values: Float[np.ndarray, " C"], names: Sequence[str] | None = None) -> float:
        """Average a per-class score over named classes, or all; NaN values are left out."""
        if names is not None:
            values = values[list(self.vocabulary.positions(names))]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    @property
    def seen(self) -> float:
        """Mean IoU over seen classes: mIoU(S)."""
        return self.mean(self.iou, self.vocabulary.seen)

    @property
    def unseen(self) -> float:
        """Mean IoU over unseen classes: mIoU(U)."""
        return self.mean(self.iou, self.vocabulary.unseen)

    @property
    def hiou(self) -> float:
        """Harmonic mean of mIoU(S) and mIoU(U)."""
        return harmonic_mean(self.seen, self.unseen)

    def summary(self) -> dict[str, float]:
        """Return the headline numbers in percent, things and stuff apart where there are both."""
        numbers = {
            "pAcc": self.pixel_accuracy,
            "mIoU": self.mean(self.iou),
            "mAcc": self.mean(self.accuracy),
            "mIoU(S)": self.seen,
            "mIoU(U)": self.unseen,
            "hIoU": self.hiou,
        }
        vocabulary = self.vocabulary
        if vocabulary.stuff and vocabulary.things:
            for group, names in (("things", vocabulary.things), ("stuff", vocabulary.stuff)):
                for tag, kept in (("S", vocabulary.seen), ("U", vocabulary.unseen)):
                    members = [name for name in names if name in kept]
                    numbers[f"{group}({tag})"] = self.mean(self.iou, members)
        return {name: 100 * value for name, value in numbers.items()}

    def details(self) -> dict[str, float]:
        """Return what the headlines leave out, in percent."""
        numbers = {
            "fwIoU": self.frequency_weighted_iou,
            "boundary IoU": self.mean(self.boundary_iou),
            "ECE": self.calibration_error,
            "unseen given to seen": self.unseen_as_seen,
            "seen given to unseen": self.seen_as_unseen,
        }
        return {name: 100 * value for name, value in numbers.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it: percent, None for what is undefined."""
        columns = {
            "IoU": self.iou,
            "Acc": self.accuracy,
            "Dice": self.dice,
            "boundary IoU": self.boundary_iou,
        }
        return {
            **rounded({**self.summary(), **self.details()}),
            "classes": {
                name: {column: defined(100 * values[i]) for column, values in columns.items()}
                | {"unseen": name in self.vocabulary.unseen}
                for i, name in enumerate(self.vocabulary.names)
            },
        }

    def table(self) -> str:
        """Write the classes one by one as a Markdown table."""
        vocabulary = self.vocabulary
        columns = {
            "class": vocabulary.names,
            "split": ["unseen" if n in vocabulary.unseen else "seen" for n in vocabulary.names],
            "kind": ["stuff" if n in vocabulary.stuff else "thing" for n in vocabulary.names],
            "IoU": [show(100 * value) for value in self.iou],
            "Acc": [show(100 * value) for value in self.accuracy],
        }
        if not vocabulary.unseen:
            del columns["split"]
        if not vocabulary.stuff:
            del columns["kind"]
        return markdown(list(columns), list(zip(*columns.values(), strict=True)))


def compare(summaries: Mapping[str, Mapping[str, float | None]], *, corner: str = "%") -> str:
    """Write several ``Scores.summary()`` as a Markdown table, a row each, in percent."""
    columns = list(next(iter(summaries.values())))
    rows = [
        [title, *(show(numbers[column]) for column in columns)]
        for title, numbers in summaries.items()
    ]
    return markdown([corner, *columns], rows)


def chance(scores: Scores) -> Scores:
    """Return what guessing every class alike would score on the same labels, on average."""
    size = len(scores.vocabulary)
    labelled = scores.matrix.sum(axis=1, keepdims=True)
    return Scores(np.repeat(labelled, size, axis=1) / size, scores.vocabulary)


def rounded(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers as JSON takes them: four digits, None for what is undefined."""
    return {name: defined(value) for name, value in numbers.items()}


def defined(value: float, digits: int = 4) -> float | None:
    """Return a number as JSON takes it, None for NaN."""
    return None if np.isnan(value) else round(float(value), digits)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Write a mean and, of several values, ± their standard deviation."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def show(value: float | None) -> str:
    """Write a percentage, a dash for what is undefined."""
    return "–" if value is None or np.isnan(value) else f"{value:.1f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns also line up as plain text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
