import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen import bootstrap
from unseen.bootstrap import MEASURES, compare_paired, headlines, tally
from unseen.errors import InputError
from unseen.metrics import Scores
from unseen.vocabulary import Vocabulary

KNOWN = Vocabulary("known", ("a", "b", "c", "d"), unseen=("b", "d"))


def draw(seed: int, count: int, skill: float, vocabulary: Vocabulary = KNOWN) -> list[Scores]:
    """Return scores of small random pictures, most of which lack some of the classes."""
    generator, size = np.random.default_rng(seed), len(vocabulary)
    pictures = []
    for _ in range(count):
        there = generator.choice(size, size=generator.integers(1, size), replace=False)
        labels = generator.choice(there, size=(6, 7)).astype(np.uint8)
        guess = generator.integers(0, size, labels.shape)
        pictures.append(np.where(generator.random(labels.shape) < skill, labels, guess))
        pictures[-1] = Scores.count(pictures[-1], labels, vocabulary)
    return pictures


def slow(first: list[Scores], second: list[Scores], resamples: int, seed: int) -> dict:
    """Draw pictures, add up their whole matrices one by one, score them with ``Scores``."""
    generator, number = np.random.default_rng(seed), len(first)
    gains: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(resamples):
        (times,) = generator.multinomial(number, np.full(number, 1 / number), size=1)
        both = []
        for model in (first, second):
            matrix = np.zeros_like(model[0].matrix)
            for picture, often in zip(model, times, strict=True):
                for _ in range(often):
                    matrix = matrix + picture.matrix
            both.append(Scores(matrix, model[0].vocabulary).summary())
        for name in MEASURES:
            gains[name].append(both[1][name] - both[0][name])
    return {name: np.nanpercentile(values, (2.5, 97.5)) for name, values in gains.items()}


@pytest.mark.parametrize("chunk", [2**23, 40])
def test_intervals_equal_a_loop_over_resamples_and_pictures(chunk, monkeypatch):
    monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
    first, second = draw(0, 9, 0.3), draw(0, 9, 0.6)
    ours = compare_paired(
        np.stack([tally(one) for one in first]),
        np.stack([tally(one) for one in second]),
        KNOWN,
        resamples=50,
        seed=3,
    )
    theirs = slow(first, second, 50, 3)
    whole = [sum(model[1:], model[0]).summary() for model in (first, second)]
    for name in MEASURES:
        assert ours[name].value == pytest.approx(whole[1][name] - whole[0][name])
        np.testing.assert_allclose(ours[name][1:], theirs[name])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), split=st.sampled_from([("b", "d"), (), ("a", "b", "c", "d")]))
def test_headlines_are_those_of_scores(seed, split):
    vocabulary = Vocabulary("other", KNOWN.names, unseen=split)
    (picture,) = draw(seed, 1, 0.5, vocabulary)
    (ours,) = headlines(tally(picture)[None].astype(np.float64), vocabulary)
    theirs = picture.summary()
    np.testing.assert_allclose(ours, [theirs[name] for name in MEASURES])


def test_a_model_does_not_differ_from_itself_and_a_better_one_does():
    tallies = [np.stack([tally(one) for one in draw(0, 40, skill)]) for skill in (0.2, 0.7)]
    assert all(found == (0, 0, 0) for found in compare_paired(*tallies[:1] * 2, KNOWN).values())
    gained = compare_paired(*tallies, KNOWN)
    assert all(found.low > 0 for found in gained.values())
    assert all(found.low < found.value < found.high for found in gained.values())
    assert compare_paired(*tallies, KNOWN) == gained


def test_a_score_that_is_undefined_has_no_interval():
    plain = Vocabulary("plain", KNOWN.names)
    tallies = np.stack([tally(one) for one in draw(0, 3, 0.5, plain)])
    found = compare_paired(tallies, tallies, plain)
    assert np.isnan(found["mIoU(U)"]).all() and np.isnan(found["hIoU"]).all()
    assert found["mIoU"] == (0, 0, 0)


def test_one_picture_gives_no_interval():
    tallies = np.stack([tally(one) for one in draw(0, 2, 0.5)])
    with pytest.raises(InputError, match="two or more of them, got 1"):
        compare_paired(tallies[:1], tallies[:1], KNOWN)
