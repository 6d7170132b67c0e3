"""The relationship descriptor and the decoder whose attention scores are the masks.

Both from ZegCLIP (arXiv 2212.03588): the decoder of its one-stage baseline, after SegViT's
"attention to mask" (arXiv 2210.05844), and its design 3, "Relationship Descriptor".
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.methods.attention import attend


def descriptor(text: Float[Tensor, "C D"], cls: Float[Tensor, "B D"]) -> Float[Tensor, "B C 2*D"]:
    """Relate every class to every image: the product text ⊙ cls, then the text itself."""
    product = text * cls[:, None]  # (B, C, D)
    return torch.cat([product, text.expand_as(product)], dim=-1)


DESCRIPTORS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "product+text": (2, descriptor),
    "product": (1, lambda text, cls: text * cls[:, None]),
    "text": (1, lambda text, cls: text.expand(cls.shape[0], -1, -1)),
}
"""What queries are made of: how many times the joint width, and how. "text" does without the
image's class token."""


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward, each with a residual and a layer norm after it.

    There is no self-attention among the queries. The authors' code builds one in every layer, saves
    it and never calls it.

    Args:
        dim: channels of queries and memory.
        heads: attention heads.
        dropout: applied to attention weights, inside the feed-forward, and before each residual.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def _heads(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B K L d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, queries: Float[Tensor, "B C D"], memory: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B C D"]:
        """Let every query read the memory."""
        attended = attend(
            self._heads(self.query(queries)),
            self._heads(self.key(memory)),
            self._heads(self.value(memory)),
            dropout=self.dropout.p if self.training else 0.0,
        )
        attended = self.out(attended.transpose(1, 2).flatten(2))
        queries = self.norm1(queries + self.dropout(attended))
        # dropped before the ReLU, which is the same, and one tensor less to keep
        hidden = F.relu(self.dropout(self.linear1(queries)))
        return self.norm2(queries + self.dropout(self.linear2(hidden)))


class Similarity(nn.Module):
    """The decoder's last step: attention scores before their softmax, averaged over heads.

    A mean over heads of scaled dot products is one dot product of full width, so no head is split
    off: with K heads of d = D/K channels, mean_k(q_k · v_k / √d) = q · v / (K √d).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.scale = 1 / (heads * (dim // heads) ** 0.5)

    def forward(
        self, queries: Float[Tensor, "B C D"], memory: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B C L"]:
        """Score every memory token for every query."""
        return self.scale * self.query(queries) @ self.key(memory).transpose(1, 2)
