import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import iou as slow_iou

from unseen.errors import InputError
from unseen.metrics import Scores, chance, compare, confusion, harmonic_mean
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
    ],
)
def test_maps_that_do_not_fit_get_one_sentence(prediction, labels, says):
    with pytest.raises(InputError, match=says):
        confusion(prediction, labels, 4)


def test_tables_are_markdown_with_a_row_a_model():
    scores = Scores(np.diag([1, 2, 3, 4]), KNOWN)
    lines = compare({"mine": scores.summary(), "other": scores.summary()}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| %") and lines[2].startswith("| mine ")
    table = scores.table()
    assert "| b     | unseen | thing |" in table
    scores = Scores(np.diag([1, 2]), Vocabulary("plain", ("a", "b")))
    assert scores.table().splitlines()[0] == "| class | IoU   | Acc   |"
