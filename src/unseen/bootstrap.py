"""How far the difference of two models may come of the pictures: a paired bootstrap.

Pictures are drawn anew with replacement, the same ones for both models; their counts are summed and
scored as ever, once a resample (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993,
percentile intervals). Of a picture's confusion matrix only three numbers a class enter the headline
scores, so a data set of 5,000 pictures and 171 classes takes 20 MB.

What an interval says holds for these weights on other pictures of the kind. It says nothing of the
same training from another seed.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from unseen.errors import InputError
from unseen.metrics import Scores, divide
from unseen.vocabulary import Vocabulary

MEASURES = ("pAcc", "mIoU", "mIoU(S)", "mIoU(U)", "hIoU")
"""What is compared, named as in ``Scores.summary``."""

RESAMPLES = 1000

_CHUNK = 2**23  # numbers held at a time: 64 MB


class Difference(NamedTuple):
    """A difference with the ends of its 95 % interval, in points of percent; NaN if undefined."""

    value: float
    low: float
    high: float


def tally(scores: Scores) -> Int64[np.ndarray, "3 C"]:
    """Return what a picture adds to the headlines: a class's pixels right, labelled, predicted."""
    matrix = scores.matrix
    return np.stack([np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)]).astype(np.int64)


def headlines(
    counts: Float[np.ndarray, "R 3 C"], vocabulary: Vocabulary
) -> Float[np.ndarray, "R M"]:
    """Score sums of tallies by ``MEASURES``, in percent, as ``Scores`` does."""
    right, labelled, predicted = np.moveaxis(counts, 1, 0)
    union = labelled + predicted - right
    iou = divide(right, union)

    def mean(names: tuple[str, ...]) -> np.ndarray:
        kept = iou[:, list(vocabulary.positions(names))]
        count = np.isfinite(kept).sum(axis=1)
        total = np.nansum(kept, axis=1)
        return divide(total, count)

    seen, unseen, pixels = mean(vocabulary.seen), mean(vocabulary.unseen), labelled.sum(axis=1)
    both = seen + unseen
    harmonic = np.divide(
        2 * seen * unseen, both, out=np.where(both == 0, 0, np.nan), where=both > 0
    )
    accuracy = divide(right.sum(axis=1), pixels)
    return 100 * np.stack([accuracy, mean(vocabulary.names), seen, unseen, harmonic], axis=1)


def compare_paired(
    first: Int64[np.ndarray, "N 3 C"],
    second: Int64[np.ndarray, "N 3 C"],
    vocabulary: Vocabulary,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Return ``second`` less ``first`` for each of ``MEASURES``, with 95 % intervals over pictures.

    A resample in which a score is undefined (no picture with an unseen class, say) is left out of
    that score's interval.

    Args:
        first: tallies of the pictures, of one model.
        second: of the other, of the same pictures in the same order.
        vocabulary: the classes.
        resamples: how many.
        seed: of the draws; the same for all pairs, so that these compare too.

    Raises:
        InputError: there are fewer than two pictures.
    """
    if len(first) < 2:
        raise InputError(f"an interval over pictures needs two or more of them, got {len(first)}")
    number = len(first)
    # whole numbers below 2^53 are exact in double precision, also when matrices are multiplied
    flat = np.concatenate([one.reshape(number, -1) for one in (first, second)], axis=1)
    flat = flat.astype(np.float64)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(number, flat.shape[1]))
    drawn = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights = generator.multinomial(number, np.full(number, 1 / number), size=size)
        drawn.append(_gain(weights @ flat, vocabulary))
    gains = np.concatenate(drawn)
    (value,) = _gain(flat.sum(axis=0, keepdims=True), vocabulary)
    found = {}
    for i, name in enumerate(MEASURES):
        kept = gains[np.isfinite(gains[:, i]), i]
        low, high = np.percentile(kept, (2.5, 97.5)) if len(kept) else (np.nan, np.nan)
        found[name] = Difference(float(value[i]), float(low), float(high))
    return found


def _gain(sums: Float[np.ndarray, "R N"], vocabulary: Vocabulary) -> Float[np.ndarray, "R M"]:
    ours, theirs = np.moveaxis(sums.reshape(len(sums), 2, 3, -1), 1, 0)
    return headlines(theirs, vocabulary) - headlines(ours, vocabulary)
