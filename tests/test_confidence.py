"""How likely a label is right, measured on pictures that no result is reported on."""

import json
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.confidence import Confidence, rise
from unseen.data.datasets import Subset
from unseen.errors import InputError
from unseen.evaluation import calibration_curve, evaluate, measure_confidence
from unseen.journal import Journal
from unseen.miniature.scenes import Scenes
from unseen.report import Record
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
    measured = measure_confidence(segmenter, Subset(Scenes("val"), 12))
    config = replace(segmenter.config, confidence=measured)
    sure = Segmenter(segmenter.backend, segmenter.text, config)
    plain = Segmenter(segmenter.backend, segmenter.text, replace(config, confidence=None))
    before, after = (evaluate(one, Subset(Scenes("test"), 12)) for one in (plain, sure))
    assert (before.matrix == after.matrix).all()
    assert after.calibration_error < before.calibration_error
    assert measure_confidence(sure, Subset(Scenes("val"), 12)) == measured  # of scores, as before
    assert measured.calibration == 0.1
    other = replace(Scenes("val").vocabulary, names=Scenes("val").vocabulary.names[::-1])
    assert measure_confidence(sure, Subset(Scenes("val"), 1), labels=other).calibration == 0


def test_names_that_training_showed_have_a_curve_of_their_own():
    sure = Confidence(seen=((0.2, 0.6), (0.0, 1.0)), unseen=((0.0, 0.4), (0.5, 0.7)))
    scores = np.array([[0.4, 0.4], [0.9, 0.0]], np.float32)
    mask, taught = np.array([[0, 1], [0, 1]]), [True, False]
    found = np.array([[0.5, 0.7], [1.0, 0.5]])
    assert sure(scores, mask, taught, 0.0) == pytest.approx(found)
    alone = Confidence(unseen=sure.unseen)  # of a model that was shown none
    assert alone(scores, mask, taught, 0.0) == pytest.approx(np.array([[0.7, 0.7], [0.7, 0.5]]))
    moved = replace(sure, calibration=0.1)
    scores[:, 0] -= 0.2  # as γ = 0.3 leaves them where the curve has seen 0.1
    assert moved(scores, mask, taught, 0.3) == pytest.approx(found)
    assert Confidence.from_dict(json.loads(json.dumps(asdict(moved)))) == moved


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"seen": [[0.1], [0.2, 0.3]]},
        {"seen": [["a"], [0.1]]},
        {"unseen": [[0.1]]},
        {"seen": [[0.1], [0.1]], "calibration": "0.1"},
        [1],
    ],
)
def test_what_is_no_curve_is_refused(told):
    with pytest.raises((TypeError, AttributeError)):
        Confidence.from_dict(told)


def test_pictures_without_labels_tell_nothing(segmenter: Segmenter):
    class Unlabelled:
        vocabulary = Scenes("val").vocabulary

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int):
            sample = Scenes("val")[index]
            return sample._replace(labels=np.full_like(sample.labels, 255))

    with pytest.raises(InputError, match="no pixel of these pictures is labelled"):
        measure_confidence(segmenter, Unlabelled())


def test_a_journal_of_another_measurement_is_another_journal(segmenter: Segmenter):
    labels = segmenter.embed(["cow", "sky"])
    before = segmenter.conditions(labels)
    config = replace(segmenter.config, confidence=Confidence(unseen=((0.5,), (0.7,))))
    after = Segmenter(segmenter.model, segmenter.text, config).conditions(labels)
    assert {key for key in before if before[key] != after[key]} == {"confidence"}


def test_a_journal_recalls_nothing_of_another_question(segmenter: Segmenter, tmp_path):
    scenes = Subset(Scenes("val"), 2)
    ask = partial(evaluate, segmenter, scenes)
    conditions = segmenter.conditions(segmenter.embed(scenes.vocabulary))

    def journal() -> Journal:
        return Journal(tmp_path / "journal", conditions)

    first = ask(journal=journal())
    for other in ({"calibration": 0.0}, {"tta": True}, {"words": {"sky": ["water"]}}):
        assert (ask(**other, journal=journal()).matrix == ask(**other).matrix).all()
        assert (ask(**other).matrix != first.matrix).any()
    ask(keep=[Record()], journal=journal())
    curve = calibration_curve(segmenter, scenes, [0.0, 0.1], journal=journal())
    assert (curve[0.1].matrix == first.matrix).all()
