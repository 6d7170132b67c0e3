"""Focal and dice loss over independent per-class masks (ZegCLIP's "non-mutually exclusive loss"),
and the exclusive one it is compared with.

Every class is its own yes-or-no question: sigmoids, no softmax. As in the authors' code, pixels
marked ``IGNORE`` are *not* left out: they answer "no" for every class, in focal and in dice.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class MaskTargets(NamedTuple):
    """A label map as masks, and which of them are there."""

    masks: Bool[Tensor, "B C H W"]
    present: Bool[Tensor, "B C"]


def mask_targets(target: Integer[Tensor, "B H W"], num_classes: int) -> MaskTargets:
    """Divide a label map into a mask a class; labels from ``num_classes`` up have none."""
    masks = target[:, None] == torch.arange(num_classes, device=target.device).view(-1, 1, 1)
    return MaskTargets(masks, masks.flatten(2).any(dim=2))


def focal(
    logits: Float[Tensor, "B C H W"],
    masks: Bool[Tensor, "B C H W"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, ""]:
    """Sum over all maps the mean over pixels of -α_t (1 - p_t)^γ log p_t (arXiv 1708.02002, Eq. 5).

    Inside a mask p_t = σ(z) and α_t = ``alpha``; outside p_t = σ(-z) and α_t = 1 - ``alpha``.
    """
    z = torch.where(masks, logits, -logits)  # p_t = σ(z), whatever the side
    alpha_t = torch.where(masks, alpha, 1 - alpha)
    return (alpha_t * (-z).sigmoid() ** gamma * F.softplus(-z)).mean(dim=(2, 3)).sum()


def dice(
    logits: Float[Tensor, "B C H W"],
    masks: Bool[Tensor, "B C H W"],
    present: Bool[Tensor, "B C"],
) -> Float[Tensor, ""]:
    """Sum over the present maps 1 - (2 Σpm + 1) / (Σp + Σm + 1) (arXiv 1606.04797, smoothed)."""
    p, m = logits[present].sigmoid(), masks[present]  # (pairs, H, W)
    overlap = 2 * (p * m).sum(dim=(1, 2))
    total = p.sum(dim=(1, 2)) + m.sum(dim=(1, 2))
    return (1 - (overlap + 1) / (total + 1)).sum()


def criterion(
    logits: Float[Tensor, "B C h w"],
    target: Integer[Tensor, "B H W"],
    *,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
    num_pairs: float | None = None,
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
    enlarged = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    masks, present = mask_targets(target, logits.shape[1])
    pairs = max(present.sum().item() if num_pairs is None else num_pairs, 1.0)
    return {
        "focal": focal_weight * focal(enlarged, masks) / pairs,
        "dice": dice_weight * dice(enlarged, masks, present) / pairs,
    }


def exclusive(
    logits: Float[Tensor, "B C h w"], target: Integer[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy over a softmax of the classes: the mean over labelled pixels.

    Pixels from ``C`` up, ``IGNORE`` among them, are left out; a batch of such pixels only is 0.
    """
    enlarged = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    labelled = target < logits.shape[1]
    total = F.cross_entropy(enlarged, target.masked_fill(~labelled, -100).long(), reduction="sum")
    return total / labelled.sum().clamp(min=1)
