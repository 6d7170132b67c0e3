"""Attention with dropout whose weights are never held all at once, on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_WEIGHTS = 2**20
"""Attention weights that are held at a time."""


def attend(
    query: Float[Tensor, "B K C d"],
    key: Float[Tensor, "B K L d"],
    value: Float[Tensor, "B K L d"],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "B K C d"]:
    """Attend, head by head.

    Args:
        query: what reads.
        key: what it is compared with.
        value: what is read.
        dropout: share of attention weights that are dropped, the others enlarged to make up for it.
    """
    if not dropout or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    # torch's own would write all weights out, and keep them three times for the backward pass
    heads = (one.flatten(0, 1) for one in (query, key, value))
    attended: Tensor = Dropped.apply(*heads, dropout)  # type: ignore[no-untyped-call]
    return attended.unflatten(0, query.shape[:2])


def _weigh(
    query: Float[Tensor, "N C d"],
    key: Float[Tensor, "N L d"],
    dropout: float,
    random: torch.Generator,
) -> tuple[Float[Tensor, "N C L"], Float[Tensor, "N C L"]]:
    """Return attention weights, and the factor of each: 0 where it is dropped."""
    weights = torch.bmm(query, key.transpose(1, 2)).mul_(query.shape[2] ** -0.5).softmax(dim=-1)
    kept = torch.empty_like(weights).bernoulli_(1 - dropout, generator=random)
    return weights, kept.div_(1 - dropout)


class Dropped(torch.autograd.Function):
    """Attention with dropout, some heads at a time; weights are computed again for the gradient.

    What is dropped follows from a seed, which comes from torch's own generator.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        query: Float[Tensor, "N C d"],
        key: Float[Tensor, "N L d"],
        value: Float[Tensor, "N L d"],
        dropout: float,
    ) -> Float[Tensor, "N C d"]:
        ctx.save_for_backward(query, key, value)
        ctx.dropout, ctx.seed = dropout, int(torch.randint(2**62, ()))
        ctx.step = max(1, _WEIGHTS // (query.shape[1] * key.shape[1]))
        random = torch.Generator().manual_seed(ctx.seed)
        attended = torch.empty_like(query)
        parts = (one.split(ctx.step) for one in (query, key, value, attended))
        for q, k, v, out in zip(*parts, strict=True):
            weights, kept = _weigh(q, k, dropout, random)
            torch.bmm(weights.mul_(kept), v, out=out)
        return attended

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Float[Tensor, "N C d"]
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: a checkpoint computes it again each time
        random = torch.Generator().manual_seed(ctx.seed)
        found = [torch.empty_like(one) for one in saved]
        parts = (one.split(ctx.step) for one in (*saved, *gradients, *found))
        for q, k, v, g, by_query, by_key, by_value in zip(*parts, strict=True):
            weights, kept = _weigh(q, k, ctx.dropout, random)
            by_weight = torch.bmm(g, v.transpose(1, 2)).mul_(kept)
            torch.bmm(kept.mul_(weights).transpose(1, 2), g, out=by_value)
            # through the softmax: w (∂w - Σ w ∂w)
            by_score = by_weight.sub_((by_weight * weights).sum(dim=-1, keepdim=True)).mul_(weights)
            by_score.mul_(q.shape[2] ** -0.5)
            torch.bmm(by_score, k, out=by_query)
            torch.bmm(by_score.transpose(1, 2), q, out=by_key)
        return (*found, None)
