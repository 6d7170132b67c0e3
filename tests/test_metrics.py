from functools import reduce
from operator import add

import cv2
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import iou as slow_iou

from unseen.errors import InputError
from unseen.metrics import Scores, chance, compare, confusion, harmonic_mean, near_boundary
from unseen.vocabulary import Vocabulary

KNOWN = Vocabulary("known", ("a", "b", "c", "d"), unseen=("b",), stuff=("c", "d"))
MAPS = arrays(np.uint8, (4, 5), elements=st.integers(0, 3))
LABELS = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))


@settings(deadline=None, max_examples=60)
@given(prediction=MAPS, labels=LABELS)
def test_iou_equals_a_loop_over_pixels(prediction, labels):
    scores = Scores(confusion(prediction, labels, 4), KNOWN)
    np.testing.assert_allclose(scores.iou, slow_iou(prediction, labels, 4), equal_nan=True)


@settings(deadline=None, max_examples=30)
@given(first=MAPS, second=MAPS, labels=LABELS)
def test_data_set_scores_come_from_summed_pixels_not_from_averaged_pictures(first, second, labels):
    summed = confusion(first, labels, 4) + confusion(second, labels, 4)
    both = confusion(np.vstack([first, second]), np.vstack([labels, labels]), 4)
    assert (summed == both).all()


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), size=SIZES)
def test_boundaries_equal_a_loop_over_pixels(data, size):
    prediction = data.draw(arrays(np.uint8, size, elements=st.integers(0, 2)))
    labels = data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 255])))
    counted = Scores.count(prediction, labels, KNOWN).boundary
    assert (counted == oracles.boundary_counts(prediction, labels, 4)).all()


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_a_boundary_is_what_erosion_takes_off_a_mask(reach):
    labels = (np.indices((40, 60)).sum(axis=0) // 25).astype(np.uint8)
    near = near_boundary(labels, np.zeros(labels.shape, bool), reach)
    for c in range(4):
        mask = np.pad((labels == c).astype(np.uint8), 1)  # the end of a picture is a contour
        eroded = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=reach)
        assert ((mask - eroded)[1:-1, 1:-1].astype(bool) == (near & (labels == c))).all()


def test_a_boundary_score_sees_what_iou_hardly_does():
    labels = np.zeros((100, 100), np.uint8)
    labels[20:80, 20:80] = 1
    prediction = np.roll(labels, 2, axis=1)
    scores = Scores.count(prediction, labels, KNOWN)
    assert scores.iou[1] > 0.9 and scores.boundary_iou[1] < 0.6
    assert np.isnan(scores.boundary_iou[2:]).all()


@settings(deadline=None, max_examples=60)
@given(
    prediction=MAPS,
    labels=LABELS,
    scores=arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
)
def test_calibration_error_equals_a_loop_over_bins(prediction, labels, scores):
    ours = Scores.count(prediction, labels, KNOWN, scores).calibration_error
    valid = labels != 255
    if not valid.any():
        assert np.isnan(ours)
        return
    hits, kept = (prediction == labels)[valid], scores[valid].astype(np.float64)
    assert ours == pytest.approx(oracles.calibration_error(hits.tolist(), kept.tolist()), abs=2e-6)


@settings(deadline=None, max_examples=40)
@given(prediction=MAPS, labels=LABELS)
def test_what_unseen_and_seen_classes_take_from_each_other_equals_a_loop(prediction, labels):
    scores = Scores.count(prediction, labels, KNOWN)
    pairs = [(t, p) for t, p in zip(labels.flat, prediction.flat, strict=True) if t != 255]
    for ours, group in ((scores.unseen_as_seen, (1,)), (scores.seen_as_unseen, (0, 2, 3))):
        mine = [p for t, p in pairs if t in group]
        lost = [p for p in mine if p not in group]
        assert ours == pytest.approx(len(lost) / len(mine)) if mine else np.isnan(ours)
    if pairs:
        slow = slow_iou(prediction, labels, 4)
        weighted = sum(slow[t] for t, _ in pairs) / len(pairs)
        assert scores.frequency_weighted_iou == pytest.approx(weighted)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_scores_are_the_same_in_any_number_of_parts(parts):
    random = np.random.default_rng(0)
    pictures = [
        Scores.count(
            random.integers(4, size=(30, 40)),
            random.choice([0, 1, 2, 3, 255], (30, 40)).astype(np.uint8),
            KNOWN,
            random.random((30, 40), np.float32),
        )
        for _ in range(11)
    ]
    whole = reduce(add, pictures)
    shards = [reduce(add, pictures[i::parts]) for i in range(parts)]
    merged = reduce(add, shards[::-1])
    assert merged.to_dict() == whole.to_dict()
    for name in ("matrix", "boundary", "reliability"):
        assert (getattr(merged, name) == getattr(whole, name)).all()


def test_scores_of_two_vocabularies_do_not_add_up():
    ones = [Scores(np.diag([1, 1]), Vocabulary(n, ("a", "b"))) for n in ("x", "y")]
    with pytest.raises(InputError, match="of x and of y do not add up"):
        ones[0] + ones[1]


def test_what_only_one_part_counted_is_left_out():
    mask = np.zeros((4, 4), np.uint8)
    with_scores = Scores.count(mask, mask, KNOWN, np.ones((4, 4), np.float32))
    assert with_scores.calibration_error == 0
    assert (with_scores + Scores.count(mask, mask, KNOWN)).reliability is None


def test_a_perfect_answer_scores_one_hundred():
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    scores = Scores(confusion(np.array([[0, 1, 2, 3]]), labels, 4), KNOWN)
    summary = scores.summary()
    assert summary["pAcc"] == summary["mIoU"] == summary["hIoU"] == 100
    assert np.isnan(scores.iou[3])  # neither labelled nor predicted where it counts
    assert scores.to_dict()["classes"]["d"]["IoU"] is None


def test_everything_ignored_has_no_score_and_does_not_warn():
    labels = np.full((2, 2), 255, np.uint8)
    scores = Scores(confusion(np.zeros((2, 2), int), labels, 4), KNOWN)
    assert all(value is None for name, value in scores.to_dict().items() if name != "classes")
    assert "–" in compare({"nothing": scores.summary()})


def test_a_class_predicted_but_never_labelled_scores_zero_and_counts():
    scores = Scores(confusion(np.array([[0, 1]]), np.array([[0, 0]]), 4), KNOWN)
    assert scores.iou[1] == 0
    assert np.isnan(scores.accuracy[1])
    assert scores.mean(scores.iou) == pytest.approx((0.5 + 0) / 2)


def test_hiou_is_the_harmonic_mean_of_seen_and_unseen():
    assert harmonic_mean(0.9, 0.6) == pytest.approx(2 * 0.9 * 0.6 / 1.5)
    assert harmonic_mean(0.0, 0.0) == 0
    matrix = np.array([[8, 2, 0, 0], [3, 7, 0, 0], [0, 0, 5, 5], [0, 0, 0, 10]])
    scores = Scores(matrix, KNOWN)
    assert scores.seen == pytest.approx(np.mean([8 / 13, 5 / 10, 10 / 15]))
    assert scores.unseen == pytest.approx(7 / 12)
    assert scores.hiou == pytest.approx(harmonic_mean(scores.seen, scores.unseen))


def test_things_and_stuff_are_reported_apart():
    matrix = np.diag([4, 4, 4, 4])
    matrix[0, 1] = 4
    numbers = Scores(matrix, KNOWN).summary()
    assert numbers["things(S)"] == pytest.approx(50)
    assert numbers["things(U)"] == pytest.approx(50)
    assert numbers["stuff(S)"] == 100
    assert np.isnan(numbers["stuff(U)"])


def test_chance_is_what_uniform_guessing_scores():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=(400, 400), p=[0.6, 0.2, 0.15, 0.05])
    guessed = Scores(confusion(rng.integers(4, size=(400, 400)), labels, 4), KNOWN)
    expected = chance(guessed)
    np.testing.assert_allclose(expected.iou, guessed.iou, atol=0.01)
    assert expected.pixel_accuracy == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("prediction", "labels", "says"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "must have one size"),
        (np.zeros((1, 1), int), np.array([[9]]), "labels must be below 4"),
        (np.zeros((1, 1), int), np.array([[-1]]), "labels must be below 4.*found -1"),
        (np.array([[4]]), np.zeros((1, 1), int), "predictions must be below 4"),
    ],
)
def test_maps_that_do_not_fit_get_one_sentence(prediction, labels, says):
    with pytest.raises(InputError, match=says):
        confusion(prediction, labels, 4)


def test_a_class_that_would_be_the_label_of_nothing_is_refused():
    labels = np.full((2, 2), 254)
    assert confusion(labels, labels, 255)[254, 254] == 4
    with pytest.raises(InputError, match="at most 255 classes can be scored, got 256"):
        confusion(labels, labels, 256)


def test_tables_are_markdown_with_a_row_a_model():
    scores = Scores(np.diag([1, 2, 3, 4]), KNOWN)
    lines = compare({"mine": scores.summary(), "other": scores.summary()}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| %") and lines[2].startswith("| mine ")
    table = scores.table()
    assert "| b     | unseen | thing |" in table
    scores = Scores(np.diag([1, 2]), Vocabulary("plain", ("a", "b")))
    assert scores.table().splitlines()[0] == "| class | IoU   | Acc   |"
