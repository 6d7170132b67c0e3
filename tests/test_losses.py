import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import dice as slow_dice
from oracles import focal as slow_focal

from unseen import losses
from unseen.losses import criterion, exclusive, find_present


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2, 6, 7))
    target[0, :2] = 255
    return 2 * torch.randn(2, 5, 6, 7), target  # class 4 is nowhere


def test_both_losses_are_the_papers_formulas_pixel_by_pixel(batch):
    logits, target = batch
    assert not find_present(target, 5)[:, 4].any()
    terms = criterion(logits, target, focal_weight=1.0, num_pairs=1.0)
    assert terms["focal"].item() == pytest.approx(slow_focal(logits, target), rel=1e-5)
    assert terms["dice"].item() == pytest.approx(slow_dice(logits, target), rel=1e-5)


def test_logits_on_the_grid_are_enlarged_first(batch):
    _, target = batch
    logits = 2 * torch.randn(2, 5, 3, 4)
    enlarged = F.interpolate(logits, (6, 7), mode="bilinear", align_corners=False)
    coarse, fine = criterion(logits, target), criterion(enlarged, target)
    for name in ("focal", "dice"):
        assert coarse[name].item() == pytest.approx(fine[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", ["focal", "dice"])
def test_gradients_are_those_of_finite_differences(batch, name, monkeypatch):
    _, target = batch
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: criterion(z, target)[name], logits)
    whole = torch.autograd.grad(criterion(logits, target)[name], logits)[0]
    monkeypatch.setitem(losses._GROUP, "cpu", 1)  # one map at a time
    torch.testing.assert_close(
        torch.autograd.grad(criterion(logits, target)[name], logits)[0], whole
    )


def test_ignored_pixels_are_negatives_for_every_class():
    logits = torch.full((1, 2, 4, 4), 3.0)
    everything_ignored = torch.full((1, 4, 4), 255)
    terms = criterion(logits, everything_ignored)
    assert terms["dice"] == 0
    assert terms["focal"].item() == pytest.approx(
        100 * slow_focal(logits, everything_ignored), rel=1e-5
    )


def test_both_terms_are_divided_by_the_pairs_present(batch):
    logits, target = batch
    pairs = sum(len(set(t.flatten().tolist()) - {255}) for t in target)
    alone = criterion(logits, target, num_pairs=1.0)
    shared = criterion(logits, target)
    for name in ("focal", "dice"):
        assert shared[name].item() == pytest.approx(alone[name].item() / pairs)


def test_extreme_logits_give_finite_losses_and_gradients():
    logits = torch.tensor([[[[90.0, -90.0]], [[-90.0, 90.0]]]], requires_grad=True)
    loss = sum(criterion(logits, torch.tensor([[[1, 1]]])).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_exclusive_loss_is_the_mean_surprise_at_labelled_pixels(batch):
    logits, target = batch
    total, count = 0.0, 0
    for b, y, x in np.ndindex(*target.shape):
        if target[b, y, x] != 255:
            total -= math.log(logits[b, :, y, x].softmax(0)[target[b, y, x]])
            count += 1
    assert exclusive(logits, target).item() == pytest.approx(total / count, rel=1e-5)
    assert exclusive(logits, torch.full_like(target, 255)) == 0
