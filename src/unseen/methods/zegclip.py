"""ZegCLIP: Towards Adapting CLIP for Zero-shot Semantic Segmentation (arXiv 2212.03588).

Deep visual prompts, the relationship descriptor, a decoder whose attention scores are the masks.
"""

import copy

from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip.model import ImageEncoder
from unseen.errors import InputError
from unseen.methods.decoder import DESCRIPTORS, DecoderLayer, Similarity
from unseen.methods.encoder import PromptedEncoder
from unseen.model import ImageFeatures, Prediction, SegmentationModel


class ZegHead(nn.Module):
    """From features and class text to masks.

    The paper's decoder has ``layers`` layers. Masks are the attention scores of the last one, of
    which only queries and keys exist here.

    Args:
        dim: CLIP's joint width.
        layers: decoder layers, the last one being ``similarity``.
        heads: attention heads.
        descriptor: what queries are made of, a key of ``DESCRIPTORS``.
    """

    def __init__(
        self, dim: int, *, layers: int = 3, heads: int = 8, descriptor: str = "product+text"
    ) -> None:
        super().__init__()
        if descriptor not in DESCRIPTORS:
            raise InputError(f"descriptor must be {', '.join(DESCRIPTORS)}; got {descriptor!r}")
        width, self.describe = DESCRIPTORS[descriptor]
        self.project = nn.Linear(width * dim, dim)
        # as published, all layers start from the same weights
        first = DecoderLayer(dim, heads)
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(layers - 1))
        self.similarity = Similarity(dim, heads)
        self.similarity.query.load_state_dict(first.query.state_dict())
        self.similarity.key.load_state_dict(first.key.state_dict())

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        memory = features.patches.flatten(2).transpose(1, 2)  # (B, h·w, D)
        queries = self.project(self.describe(text, features.cls))  # (B, C, D)
        for layer in self.layers:
            queries = layer(queries, memory)
        scores = self.similarity(queries, memory)  # (B, C, h·w)
        return Prediction(scores.unflatten(2, features.patches.shape[2:]))


def zegclip(
    clip: ImageEncoder,
    *,
    prompts: int = 10,
    depth: int | None = None,
    layers: int = 3,
    heads: int = 8,
    descriptor: str = "product+text",
) -> SegmentationModel:
    """Build ZegCLIP on a CLIP image encoder; the paper takes 10 prompts (VOC) or 100 (COCO)."""
    encoder = PromptedEncoder(clip, prompts=prompts, depth=depth)
    dim = clip.config.embed_dim
    return SegmentationModel(
        encoder, ZegHead(dim, layers=layers, heads=heads, descriptor=descriptor)
    )
