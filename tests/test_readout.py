from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unseen.errors import InputError
from unseen.readout import (
    View,
    Windows,
    find_best,
    find_likeliest,
    score_map,
    view_sides,
)


def enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]


def read_out_slowly(view: View) -> Tensor:
    """Score every class at every pixel shown, window by window, as the authors do."""
    height, width = view.windows.crop
    fine = (view.side, view.side) if height == width else (height, width)
    total = torch.zeros(len(view.bias), *view.windows.size)
    count = torch.zeros(view.windows.size)
    for logits, (top, left) in zip(view.logits, view.windows.corners, strict=True):
        scores = enlarge(logits, fine).sigmoid() - view.bias.view(-1, 1, 1)
        place = slice(top, top + height), slice(left, left + width)
        total[:, *place] += enlarge(scores, (height, width))
        count[place] += 1
    return total / count


def make_view(
    size: tuple[int, int], *, classes: int = 5, grid: int = 4, window: int = 32, stride: int = 20
) -> View:
    windows = Windows(size, window, stride)
    logits = 3 * torch.randn(len(windows.corners), classes, grid, grid)
    return View(logits, windows, 0.3 * torch.rand(classes), window)


@pytest.mark.parametrize(
    ("length", "starts"),
    [(512, [0]), (513, [0, 1]), (683, [0, 171]), (938, [0, 426]), (939, [0, 426, 427]), (300, [0])],
)
def test_windows_start_where_the_authors_start_them(length, starts):
    windows = Windows((4, length), 512, 426)
    assert windows.corners == [(0, start) for start in starts]
    image = torch.arange(length).float().expand(3, 4, length)
    assert windows.cut(image)[:, 0, 0, 0].tolist() == starts


def test_overlapping_windows_are_averaged():
    windows = Windows((4, 7), 4, 2)
    logits = torch.logit(torch.tensor([0.1, 0.3, 0.5]))[:, None, None, None].expand(3, 1, 2, 2)
    scores = score_map(View(logits, windows, torch.zeros(1), 4))
    expected = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.4, 0.4, 0.5])
    assert torch.allclose(scores[0, 0], expected)


def test_windows_must_not_leave_pixels_out():
    with pytest.raises(InputError, match="from 1 to the window of 8, got 9"):
        Windows((20, 20), 8, 9)


@pytest.mark.parametrize("size", [(32, 32), (20, 20), (16, 40), (70, 45), (33, 90)])
def test_scores_of_a_rectangle_are_those_of_the_slow_loop(size):
    torch.manual_seed(0)
    view = make_view(size)
    slow = read_out_slowly(view)
    assert torch.allclose(score_map(view), slow, atol=1e-6)
    part = view.scores((3, 15), (5, 19), torch.tensor([3, 1])).permute(2, 0, 1)
    assert torch.allclose(part, slow[[3, 1], 3:15, 5:19], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 40),
    st.integers(0, 10),
)
def test_the_best_class_of_every_pixel_is_that_of_the_slow_loop(shown, size, classes, seed):
    torch.manual_seed(seed)
    view = make_view(shown, classes=classes)
    slow = enlarge(read_out_slowly(view), size).numpy()
    mask, best = find_best(view, size)
    assert np.allclose(best, slow.max(axis=0), atol=1e-5)
    # where two classes are equal but for rounding, either may win
    assert np.allclose(np.take_along_axis(slow, mask[None], axis=0)[0], best, atol=1e-5)


def test_classes_that_cannot_win_are_not_read_out():
    view = make_view((64, 64), classes=50)
    view.logits.clamp_(-2, 2)[:, 7] += 5
    view.bias[7] = 0
    assert view.rivals((0, 32), (0, 32)).tolist() == [7]
    assert (find_best(view, (64, 64))[0] == 7).all()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_wins_somewhere_in_a_rectangle_is_among_its_rivals(seed):
    torch.manual_seed(seed)
    view = make_view((50, 70), classes=12)
    view.logits.mul_(0.02).add_(torch.logit(0.4 + view.bias).view(12, 1, 1))  # noise decides
    view.bias[::2] += 0.1
    winners = read_out_slowly(view).argmax(dim=0)
    for rows, columns in [((0, 50), (0, 70)), ((3, 15), (5, 19)), ((40, 50), (60, 70))]:
        rivals = set(view.rivals(rows, columns).tolist())
        assert set(winners[slice(*rows), slice(*columns)].flatten().tolist()) <= rivals
        assert rivals <= set(range(1, 12, 2))


@pytest.mark.parametrize("scores", [2**19, 2**12])
@pytest.mark.parametrize("size", [(400, 470), (41, 1000)])
def test_pictures_much_larger_than_shown_are_read_out_as_the_slow_loop_does(
    size, scores, monkeypatch
):
    monkeypatch.setattr("unseen.readout._SCORES", {"cpu": scores})
    view = make_view((40, 50), classes=12)
    slow = enlarge(read_out_slowly(view), size)
    mask, best = find_best(view, size)
    first, second = slow.topk(2, dim=0).values
    assert np.allclose(best, first, atol=1e-5)
    assert (
        torch.equal(torch.from_numpy(mask), slow.argmax(dim=0))
        or ((first - second)[torch.from_numpy(mask) != slow.argmax(dim=0)] < 1e-5).all()
    )
    assert len(np.unique(mask)) == 12


@pytest.mark.parametrize("size", [(3, 3), (30, 40)])
@pytest.mark.parametrize("scores", [2**19, 4])
def test_equal_scores_go_to_the_first_label_also_of_several_groups(size, scores, monkeypatch):
    monkeypatch.setattr("unseen.readout._SCORES", {"cpu": scores})
    windows = Windows((3, 3), 4, 4)
    mask, _ = find_best(View(torch.ones(1, 4, 2, 2), windows, torch.zeros(4), 4), size)
    assert (mask == 0).all()


def test_views_are_those_of_the_authors_whose_small_ratios_are_held_from_below():
    assert view_sides(512) == {512: 3, 640: 1, 768: 1, 896: 1}
    assert sum(view_sides(50).values()) == 6 and set(view_sides(50)) == {50, 62, 75, 87}


def test_views_are_averaged_as_probabilities_turned_back_and_weighted():
    torch.manual_seed(0)
    a, b = make_view((40, 60)), make_view((50, 75))
    size = (44, 66)
    fine = [enlarge(read_out_slowly(view), size).softmax(dim=0) for view in (a, b)]
    expected = (3 * fine[0] + fine[1].flip(2)) / 4
    mask, best = find_likeliest(
        [
            replace(a, weight=3),
            replace(b, flipped=True),
        ],
        size,
    )
    assert np.allclose(best, expected.amax(dim=0), atol=1e-6)
    assert (mask == expected.argmax(dim=0).numpy()).mean() > 0.999
