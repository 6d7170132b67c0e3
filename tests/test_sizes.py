from dataclasses import replace
from functools import reduce
from operator import add

import cv2
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from unseen.errors import InputError
from unseen.metrics import Scores, confusion
from unseen.sizes import BINS, PIXELS, SHARES, Areas, SizeScores
from unseen.vocabulary import COCO171, Vocabulary

KNOWN = Vocabulary("known", ("a", "b", "c", "d"))
TINY = Areas(small=2, medium=4, large=9)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def maps(shape: tuple[int, int], values: list[int]) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.uint8, shape, elements=st.sampled_from(values))


def blobs(seed: int, classes: int, size: tuple[int, int]) -> np.ndarray:
    """Return a label map of regions of all sizes, some of them ignored."""
    random = np.random.default_rng(seed)
    noise = random.random((classes, *size), np.float32)
    smooth = np.stack([cv2.GaussianBlur(n, (0, 0), 0.5 + 4 * random.random()) for n in noise])
    even = (smooth - smooth.mean(axis=(1, 2), keepdims=True)) / smooth.std(
        axis=(1, 2), keepdims=True
    )
    labels = even.argmax(axis=0).astype(np.uint8)
    labels[random.random(size) < 0.02] = 255
    return labels


@settings(deadline=None, max_examples=150)
@given(data=st.data(), shape=SHAPES)
def test_counts_equal_sets_of_pixels(data, shape):
    prediction = data.draw(maps(shape, [0, 1, 2]))
    labels = data.draw(maps(shape, [0, 1, 2, 255]))
    ours = SizeScores.count(prediction, labels, KNOWN, TINY)
    assert (ours.counts == oracles.size_counts(prediction, labels, 4, (2, 4, 9))).all()


@pytest.mark.parametrize("seed", range(4))
def test_counts_of_regions_equal_sets_of_pixels(seed):
    labels, prediction = (blobs(seed + 10 * i, 3, (40, 50)) for i in range(2))
    prediction = np.where(np.arange(50) < 30, labels, prediction) % 3
    ours = SizeScores.count(prediction, labels, KNOWN, Areas(5, 20, 100))
    assert (ours.counts == oracles.size_counts(prediction, labels, 4, (5, 20, 100))).all()
    assert (ours.components.sum(axis=0) > 0).all() and (ours.recall[:3] > 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_components_are_those_of_scipy(seed):
    labels = blobs(seed, 30, (300, 400))
    ours = SizeScores.count(np.zeros_like(labels), labels, COCO171)
    for c in range(31):
        components, _ = ndimage.label(labels == c, np.ones((3, 3)))
        areas = np.bincount(components.ravel())[1:]
        edges = [0, 16**2, 32**2, 96**2, np.inf]
        assert ours.components[c].tolist() == np.histogram(areas, edges)[0].tolist()
        assert ours.pixels[c].tolist() == np.histogram(areas, edges, weights=areas)[0].tolist()


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_scores_by_size_are_the_same_in_any_number_of_parts(parts):
    pictures = [
        SizeScores.count(blobs(2 * i, 4, (30, 40)) % 4, blobs(2 * i + 1, 4, (30, 40)), KNOWN, TINY)
        for i in range(11)
    ]
    whole = reduce(add, pictures)
    shards = [reduce(add, pictures[i::parts]) for i in range(parts)]
    merged = reduce(add, shards[::-1])
    assert (merged.counts == whole.counts).all() and merged.to_dict() == whole.to_dict()


@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_with_one_bin_it_is_the_usual_iou(data, shape):
    prediction = data.draw(maps(shape, [0, 1, 2]))
    labels = data.draw(maps(shape, [0, 1, 2, 255]))
    ours = SizeScores.count(prediction, labels, KNOWN, Areas(0, np.inf, np.inf))
    usual = Scores(confusion(prediction, labels, 4), KNOWN)
    np.testing.assert_array_equal(ours.iou[:, 0], usual.iou)
    np.testing.assert_array_equal(ours.pixel_recall[:, 0], usual.accuracy)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_what_is_predicted_over_ignored_pixels_changes_nothing(data, shape):
    first, second = (data.draw(maps(shape, [0, 1, 2])) for _ in range(2))
    labels = data.draw(maps(shape, [0, 1, 255]))
    second = np.where(labels == 255, second, first)
    counts = [SizeScores.count(one, labels, KNOWN, TINY).counts for one in (first, second)]
    assert (counts[0] == counts[1]).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_a_perfect_answer_finds_everything(data, shape):
    labels = data.draw(maps(shape, [0, 1, 2, 255]))
    ours = SizeScores.count(np.where(labels == 255, 3, labels), labels, KNOWN, TINY)
    present = ours.components[:, 1:] > 0
    for values in (ours.recall, ours.pixel_recall, ours.iou):
        assert (values[present] == 1).all() and np.isnan(values[~present]).all()


def picture(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a map of 0 with boxes (top, left, height, width) of 1."""
    mask = np.zeros((60, 120), np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = 1
    return mask


def test_one_blob_over_two_neighbours_finds_both():
    labels = picture((10, 10, 20, 20), (10, 32, 20, 20))
    blob = picture((10, 10, 20, 42))
    ours = SizeScores.count(blob, labels, KNOWN)
    assert ours.components[1].tolist() == [0, 2, 0, 0]
    assert ours.recall[1, 0] == 1  # the 40 pixels between are false, for both
    assert ours.iou[1, 0] == pytest.approx(800 / 840)


def test_an_object_in_pieces_and_one_divided_by_what_is_ignored_are_found():
    labels = picture((10, 10, 20, 40))
    pieces = picture((10, 10, 20, 18), (10, 32, 20, 18))
    ours = SizeScores.count(pieces, labels, KNOWN)
    assert ours.components[1].sum() == 1 and ours.recall[1, 0] == 1
    divided = labels.copy()
    divided[:, 28:32] = 255
    ours = SizeScores.count(labels, divided, KNOWN)
    assert ours.components[1].tolist() == [0, 2, 0, 0]
    assert ours.recall[1, 0] == ours.iou[1, 0] == 1


def test_half_is_enough_to_be_found():
    labels = picture((10, 10, 20, 40))
    recalls = [
        SizeScores.count(picture((10, 10, 20, width)), labels, KNOWN).recall[1, 0]
        for width in (19, 20)
    ]
    assert recalls == [0, 1]


def test_who_says_one_class_everywhere_scores_little_in_every_bin():
    labels = picture((0, 0, 17, 17), (0, 40, 34, 34))
    ours = SizeScores.count(np.ones_like(labels), labels, KNOWN)
    assert ours.pixel_recall[1, :2].tolist() == [1, 1]
    assert ours.recall[1, :2].tolist() == [0, 0]
    assert (ours.iou[1, :2] < 0.2).all() and np.isnan(ours.iou[1, 2])


def test_false_alarms_are_charged_to_the_bin_of_their_own_size():
    labels = np.zeros((60, 120), np.uint8)
    ours = SizeScores.count(picture((0, 0, 3, 3), (0, 40, 34, 34)), labels, KNOWN)
    assert np.isnan(ours.iou[1, 0]) and ours.iou[1, 1] == 0
    assert np.isnan(ours.recall[1]).all()


def test_speckle_is_counted_but_neither_scored_nor_a_place_to_hide():
    labels = picture((0, 0, 3, 3))
    ours = SizeScores.count(picture((0, 0, 40, 40)), labels, KNOWN)
    assert ours.components[1].tolist() == [1, 0, 0, 0]
    assert ours.iou[1, 1] == 0
    row = ours.to_dict()["classes"]["b"]["speckle"]
    assert row["components"] == 1 and row["recall"] is row["IoU"] is None
    least = SizeScores.count(labels, labels, KNOWN, Areas(small=9))
    assert least.components[1].tolist() == [0, 1, 0, 0]


def test_shares_of_the_picture_do_not_depend_on_its_size():
    labels = picture((0, 0, 3, 3), (20, 20, 5, 10), (30, 60, 20, 20))
    larger = labels.repeat(4, axis=0).repeat(4, axis=1)
    counts = [SizeScores.count(one, one, KNOWN, SHARES).components for one in (labels, larger)]
    assert (counts[0] == counts[1]).all()
    assert counts[0][1].tolist() == [0, 0, 2, 1]  # 0.125, 0.7 and 5.6 %


@pytest.mark.parametrize("share", [0.00025, 0.001, 0.01])
def test_a_bin_begins_at_its_very_area(share):
    place = SHARES.place(np.array([share * 40000 - 1, share * 40000]).round().astype(int), 40000)
    assert place[1] - place[0] == 1
    percents = replace(SHARES, small=0.07 / 100)  # times 10,000 a little more than 7
    assert percents.place(np.array([6, 7]), 10000).tolist() == [0, 1]


def test_everything_ignored_and_absent_classes_have_no_score_and_do_not_warn():
    labels = np.full((5, 5), 255, np.uint8)
    ours = SizeScores.count(np.zeros((5, 5), int), labels, KNOWN)
    assert not ours.counts.any()
    for row in ours.to_dict()["all"].values():
        assert set(row.values()) == {0, None}
    assert (
        "| all   | large   | 0          | –           | –      | –            | –   |"
        in ours.table()
    )


def test_a_table_has_a_row_a_class_and_bin():
    labels = picture((0, 0, 17, 17))
    ours = SizeScores.count(labels, labels, KNOWN)
    lines = ours.table(["b"]).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + 2 * len(BINS)
    assert lines[7].split()[1:] == "b | small | 1 | 100.0 | 100.0 | 100.0 | 100.0 |".split()
    assert "medium from 1024" in PIXELS.describe() and "from 0.1, large" in SHARES.describe()


def test_what_does_not_fit_gets_one_sentence():
    one = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match="labels must be below 4"):
        SizeScores.count(one, one + 9, KNOWN)
    with pytest.raises(InputError, match="must rise from 0 on, got small from 5000, medium"):
        Areas(small=5000)
    with pytest.raises(InputError, match="got small from 2, medium from 0.1, .* % of the picture"):
        Areas(0.02, 0.001, 0.01, relative=True)
    counted = SizeScores.count(one, one, KNOWN)
    with pytest.raises(InputError, match="of known and of coco171 do not add up"):
        counted + SizeScores.count(one, one, COCO171)
    with pytest.raises(InputError, match="the same areas"):
        counted + SizeScores.count(one, one, KNOWN, SHARES)
