"""How likely a label is right, measured on pictures that no result is reported on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.data.datasets import Subset
from unseen.errors import InputError
from unseen.evaluation import confidence_curve, evaluate, rise
from unseen.miniature.scenes import Scenes
from unseen.segmenter import Segmenter


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=8))
def test_rising_values_are_the_nearest_there_are(pairs: list[tuple[float, float]]):
    """Against the min-max formula of isotonic regression."""
    values, weights = (np.array(one) for one in zip(*pairs, strict=True))
    found = rise(values, weights)
    count = len(values)
    for i in range(count):
        slow = max(
            min(np.average(values[j : k + 1], weights=weights[j : k + 1]) for k in range(i, count))
            for j in range(i + 1)
        )
        assert found[i] == pytest.approx(slow)
    assert all(low <= high for low, high in pairwise(found))


def test_confidence_is_nearer_to_the_truth_than_scores_are(segmenter: Segmenter):
    curve = confidence_curve(segmenter, Subset(Scenes("val"), 12))
    sure = Segmenter(segmenter.backend, segmenter.text, replace(segmenter.config, confidence=curve))
    other = Subset(Scenes("test"), 12)
    before, after = evaluate(segmenter, other), evaluate(sure, other)
    assert (before.matrix == after.matrix).all()
    assert after.calibration_error < before.calibration_error
    assert confidence_curve(sure, Subset(Scenes("val"), 12)) == curve  # made of scores, as before


def test_pictures_without_labels_tell_nothing(segmenter: Segmenter):
    class Unlabelled:
        vocabulary = Scenes("val").vocabulary

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int):
            sample = Scenes("val")[index]
            return sample._replace(labels=np.full_like(sample.labels, 255))

    with pytest.raises(InputError, match="no pixel of these pictures is labelled"):
        confidence_curve(segmenter, Unlabelled())
