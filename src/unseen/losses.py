"""Focal and dice loss over independent per-class masks (ZegCLIP's "non-mutually exclusive loss"),
and the exclusive one it is compared with.

Every class is its own yes-or-no question: sigmoids, no softmax. As in the authors' code, pixels
marked ``IGNORE`` are *not* left out: they answer "no" for every class, in focal and in dice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

ALPHA = 0.25
"""Weight in the focal loss of pixels inside a mask; outside it is the rest to 1."""

_GROUP = {"cpu": 2**18, "cuda": 2**26}  # pixels of maps at a time: what caches hold, what fills


def enlarging(size: int, to: int, like: Tensor) -> Float[Tensor, "to size"]:
    """Return the matrix that resizes one side bilinearly, corners not aligned."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], to, mode="linear", align_corners=False)[0].T


def focal(
    t: Float[Tensor, "N H W"], alpha: float | Float[Tensor, "N H W"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "N H W"]]:
    """Sum -α_t (1 - p_t)² log p_t with p_t = σ(t) (arXiv 1708.02002, Eq. 5); also d/dt of it.

    Args:
        t: logits inside a mask, logits turned around outside.
        alpha: α_t.
    """
    q = torch.sigmoid(-t)  # 1 - p_t
    surprise = F.softplus(-t)  # -log p_t
    weight = q * q * alpha
    return (weight * surprise).sum(), -weight * (2 * (1 - q) * surprise + q)


def dice(
    z: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "N H W"]]:
    """Sum 1 - (2 Σpm + 1) / (Σp + Σm + 1) with p = σ(z) (arXiv 1606.04797, smoothed); also d/dz."""
    p = z.sigmoid()
    overlap = 2 * (p * masks).sum(dim=(1, 2), keepdim=True) + 1
    both = p.sum(dim=(1, 2), keepdim=True) + masks.sum(dim=(1, 2), keepdim=True) + 1
    gradient = p * (1 - p) * (overlap / both - 2 * masks.to(p.dtype)) / both
    return (1 - overlap / both).sum(), gradient


class MaskLosses(torch.autograd.Function):
    """Focal and dice over all maps of a batch, with gradients on the patch grid.

    Maps are enlarged and judged a few at a time, and their gradient goes back to the grid at once:
    neither logits nor masks of all classes exist at pixel resolution. Most classes are nowhere in a
    picture; their maps need no mask.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "B C h w"],
        target: Integer[Tensor, "B H W"],
        present: Bool[Tensor, "B C"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the sum over maps of the mean focal loss, and of dice over the present ones."""
        classes, size = logits.shape[1], target.shape[1] * target.shape[2]
        maps = logits.detach().flatten(0, 1)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        down = enlarging(maps.shape[1], target.shape[1], maps)
        across = enlarging(maps.shape[2], target.shape[2], maps)
        by_focal, by_dice = torch.zeros_like(maps), torch.zeros_like(maps)
        focal_sum, dice_sum = maps.new_zeros(()), maps.new_zeros(())
        step = max(1, _GROUP.get(maps.device.type, 2**22) // size)

        def shrink(gradient: Tensor) -> Tensor:
            return down.T @ gradient @ across

        for group in (~present).flatten().nonzero()[:, 0].split(step):
            total, gradient = focal(-(down @ maps[group] @ across.T), 1 - ALPHA)
            focal_sum += total / size
            by_focal[group] = shrink(gradient) / -size
        for group in present.flatten().nonzero()[:, 0].split(step):
            z = down @ maps[group] @ across.T
            masks = target[group // classes] == (group % classes)[:, None, None]
            sign = 2 * masks.to(z.dtype) - 1
            total, gradient = focal(sign * z, 0.5 + sign * (ALPHA - 0.5))
            focal_sum += total / size
            by_focal[group] = shrink(gradient * sign) / size
            total, gradient = dice(z, masks)
            dice_sum += total
            by_dice[group] = shrink(gradient)
        ctx.save_for_backward(
            *(one.view_as(logits).to(logits.dtype) for one in (by_focal, by_dice))
        )
        return focal_sum, dice_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *scales: Tensor) -> tuple[Tensor, None, None]:
        by_focal, by_dice = ctx.saved_tensors
        return scales[0] * by_focal + scales[1] * by_dice, None, None


def find_present(target: Integer[Tensor, "B H W"], num_classes: int) -> Bool[Tensor, "B C"]:
    """Return which classes each label map shows; labels from ``num_classes`` up are none."""
    labels = target.flatten(1).clamp(max=num_classes).long()
    found = torch.zeros(len(target), num_classes + 1, dtype=torch.bool, device=target.device)
    return found.scatter_(1, labels, True)[:, :num_classes]


def criterion(
    logits: Float[Tensor, "B C h w"],
    target: Integer[Tensor, "B H W"],
    *,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
    num_pairs: Float[Tensor, ""] | float | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the weighted loss terms of a batch.

    Args:
        logits: scores on the patch grid; enlarged bilinearly to the target.
        target: label map.
        focal_weight: factor of the focal term.
        dice_weight: factor of the dice term.
        num_pairs: what both terms are divided by: the (image, class) pairs present in the batch, at
            least 1. In a distributed run, pass the mean of the processes' counts.
    """
    present = find_present(target, logits.shape[1])
    pairs = torch.as_tensor(present.sum() if num_pairs is None else num_pairs).clamp(min=1)
    with torch.autocast(logits.device.type, enabled=False):  # sums over pictures need float32
        focal_sum, dice_sum = MaskLosses.apply(  # type: ignore[no-untyped-call]
            logits, target, present
        )
    return {"focal": focal_weight * focal_sum / pairs, "dice": dice_weight * dice_sum / pairs}


def exclusive(
    logits: Float[Tensor, "B C h w"],
    target: Integer[Tensor, "B H W"],
    *,
    num_pixels: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy over a softmax of the classes: the mean over labelled pixels.

    Pixels from ``C`` up, ``IGNORE`` among them, are left out; a batch of such pixels only is 0.
    In a distributed run, pass the mean of the processes' counts as ``num_pixels``.
    """
    enlarged = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    labelled = target < logits.shape[1]
    total = F.cross_entropy(enlarged, target.masked_fill(~labelled, -100).long(), reduction="sum")
    return total / (labelled.sum() if num_pixels is None else num_pixels).clamp(min=1)
