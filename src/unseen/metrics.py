"""Scores of a whole data set, from one confusion matrix over all its pixels.

As mmsegmentation counts: intersections and unions are summed over the data set before they are
divided. A class absent from labels and predictions has no score (NaN) and enters no mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from unseen.errors import InputError
from unseen.vocabulary import IGNORE, Vocabulary


def confusion(
    prediction: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."], num_classes: int
) -> Integer[np.ndarray, "C C"]:
    """Count pixels by (label, prediction); pixels labelled ``IGNORE`` are left out.

    Raises:
        InputError: the two differ in size, or a label is neither a class nor ``IGNORE``.
    """
    if prediction.shape != labels.shape:
        raise InputError(
            f"prediction and labels must have one size, got {prediction.shape} and {labels.shape}"
        )
    valid = labels != IGNORE
    kept = labels[valid].astype(np.int64)
    if kept.size and kept.max() >= num_classes:
        raise InputError(
            f"labels must be below {num_classes}, the number of classes, or {IGNORE} for none; "
            f"found {kept.max()}: check the label map and its order"
        )
    pairs = num_classes * kept + prediction[valid].astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def harmonic_mean(seen: float, unseen: float) -> float:
    """Return hIoU = 2·S·U / (S + U); 0 where both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says of a vocabulary; shares in 0..1, NaN where undefined.

    Args:
        matrix: pixels by (label, prediction).
        vocabulary: the classes, with their unseen names and their stuff.
    """

    matrix: Integer[np.ndarray, "C C"] | Float[np.ndarray, "C C"]
    vocabulary: Vocabulary

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
        return _divide(self._hits, self._labelled + self._predicted - self._hits)

    @property
    def accuracy(self) -> Float[np.ndarray, " C"]:
        """Share of each class's pixels that were found: its recall."""
        return _divide(self._hits, self._labelled)

    @property
    def precision(self) -> Float[np.ndarray, " C"]:
        """Share of the pixels given to each class that are its own."""
        return _divide(self._hits, self._predicted)

    @property
    def dice(self) -> Float[np.ndarray, " C"]:
        """Dice coefficient of each class."""
        return _divide(2 * self._hits, self._labelled + self._predicted)

    @property
    def f_score(self) -> Float[np.ndarray, " C"]:
        """Harmonic mean of precision and recall: Dice, but NaN where a class was never right."""
        return _divide(2 * self.precision * self.accuracy, self.precision + self.accuracy)

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

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it: percent, None for what is undefined."""
        rows = zip(self.vocabulary.names, self.iou, self.accuracy, strict=True)
        return {
            **{name: _round(value) for name, value in self.summary().items()},
            "classes": {
                name: {
                    "IoU": _round(100 * iou),
                    "Acc": _round(100 * accuracy),
                    "unseen": name in self.vocabulary.unseen,
                }
                for name, iou, accuracy in rows
            },
        }

    def table(self) -> str:
        """Write the classes one by one as a Markdown table."""
        vocabulary = self.vocabulary
        columns = {
            "class": vocabulary.names,
            "split": ["unseen" if n in vocabulary.unseen else "seen" for n in vocabulary.names],
            "kind": ["stuff" if n in vocabulary.stuff else "thing" for n in vocabulary.names],
            "IoU": [_show(100 * value) for value in self.iou],
            "Acc": [_show(100 * value) for value in self.accuracy],
        }
        if not vocabulary.unseen:
            del columns["split"]
        if not vocabulary.stuff:
            del columns["kind"]
        return markdown(list(columns), list(zip(*columns.values(), strict=True)))


def compare(summaries: Mapping[str, Mapping[str, float | None]]) -> str:
    """Write several ``Scores.summary()`` as a Markdown table, a row each, in percent."""
    columns = list(next(iter(summaries.values())))
    rows = [
        [title, *(_show(numbers[column]) for column in columns)]
        for title, numbers in summaries.items()
    ]
    return markdown(["%", *columns], rows)


def chance(scores: Scores) -> Scores:
    """Return what guessing every class alike would score on the same labels, on average."""
    size = len(scores.vocabulary)
    labelled = scores.matrix.sum(axis=1, keepdims=True)
    return Scores(np.repeat(labelled, size, axis=1) / size, scores.vocabulary)


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _show(value: float | None) -> str:
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
