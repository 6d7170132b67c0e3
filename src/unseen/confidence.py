"""How likely a label is right, by its score.

A model that never saw masks of a class scores it lower, right or wrong: names that training showed
and those it did not have a curve each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""Scores in order, and the share of right pixels at each."""


@dataclass(frozen=True)
class Confidence:
    """What was measured on pictures with label maps; at least one curve is there.

    Args:
        seen: of pixels that were given names whose masks training showed.
        unseen: of those that were given other names.
        calibration: the γ that was subtracted from scores of the former.
    """

    seen: Curve = ((), ())
    unseen: Curve = ((), ())
    calibration: float = 0.0

    def __post_init__(self) -> None:
        curves = [curve for curve in (self.seen, self.unseen) if curve != ((), ())]
        lengths = [len({len(row) for row in curve}) == 1 and len(curve) == 2 for curve in curves]
        if not curves or not all(lengths):
            raise TypeError("a curve of confidence is two rows of as many numbers")

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> "Confidence":
        """Return what JSON tells of it.

        Raises:
            TypeError: it is something else.
        """
        curves = {}
        for name in ("seen", "unseen"):
            rows = tuple(tuple(map(_number, row)) for row in description.get(name, ((), ())))
            if len(rows) != 2:
                raise TypeError("a curve of confidence is two rows of as many numbers")
            curves[name] = (rows[0], rows[1])
        return cls(**curves, calibration=_number(description.get("calibration", 0.0)))

    def __call__(
        self,
        scores: Float[np.ndarray, "H W"],
        mask: Integer[np.ndarray, "H W"],
        taught: Sequence[bool],
        calibration: float,
    ) -> Float[np.ndarray, "H W"]:
        """Return how likely each pixel's label is right.

        Args:
            scores: of the labels.
            mask: which of them each pixel has.
            taught: of every label, whether training showed masks of it.
            calibration: the γ that was subtracted from these scores, where training did.
        """
        seen = self.seen if self.seen[0] else self.unseen
        unseen = self.unseen if self.unseen[0] else self.seen
        shown, other = (
            np.interp(there, np.array(levels), np.array(shares))
            for there, (levels, shares) in (
                (scores + (calibration - self.calibration), seen),
                (scores, unseen),
            )
        )
        return np.where(np.array(taught)[mask], shown, other).astype(np.float32)


def fit_curve(counts: Int64[np.ndarray, "3 B"], unit: float) -> Curve:
    """Return the curve of what was counted by bins of the score.

    Args:
        counts: pixels, those that are right, and the sum of their scores.
        unit: of that sum.
    """
    pixels, right, total = counts[:, counts[0] > 0].astype(np.float64)
    return tuple((total / unit / pixels).tolist()), tuple(rise(right / pixels, pixels).tolist())


def rise(values: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"]) -> np.ndarray:
    """Return the nearest values that never fall (isotonic regression, pooling neighbours)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (upper, heavy, many), (lower, light, few) = pools.pop(), pools.pop()
            total = heavy + light
            pools.append(((upper * heavy + lower * light) / total, total, many + few))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)
