"""CLIP-RC: Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation (CVPR 2024).

Region tokens between the class token and the patches ("region-level bridge"), queries for every
region and class ("region alignment"), a decoder in which queries and patches read each other, and a
decoder that must recover its own inputs from them while training ("recovery decoder").
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unseen.clip.model import ImageEncoder
from unseen.methods.decoder import DecoderLayer
from unseen.methods.encoder import PromptedEncoder
from unseen.model import ImageFeatures, Prediction, SegmentationModel

_KEPT = 2**20
"""Up to how many numbers of queries and patches a layer keeps its insides for the backward pass."""


def read(
    layer: nn.Module, tokens: Float[Tensor, "B Q D"], memory: Float[Tensor, "B L D"]
) -> Float[Tensor, "B Q D"]:
    """Let tokens read a memory; where they are many, the backward pass runs the layer again.

    A layer keeps some twenty times its input: with COCO's queries, one of every class for every
    region, gigabytes.
    """
    if tokens.numel() + memory.numel() <= _KEPT or not torch.is_grad_enabled():
        read: Tensor = layer(tokens, memory)
    else:
        read = checkpoint(layer, tokens, memory, use_reentrant=False)
    return read


def align(
    text: Float[Tensor, "C D"], cls: Float[Tensor, "B D"], regions: Float[Tensor, "B R D"]
) -> Float[Tensor, "B R*C 2*D"]:
    """Relate every class to every region: (region + cls) ⊙ text, then the text; region by region.

    ZegCLIP's relationship descriptor with region + cls in place of cls.
    """
    product = (regions + cls[:, None])[:, :, None] * text  # (B, R, C, D)
    return torch.cat([product, text.expand_as(product)], dim=-1).flatten(1, 2)


class Recovered(NamedTuple):
    """What the recovery decoder makes of the decoder's outputs."""

    queries: Float[Tensor, "B Q 2*D"]
    patches: Float[Tensor, "B L D"]


class RecoveryDecoder(nn.Module):
    """Recover the decoder's inputs from its outputs; used in training alone.

    Args:
        dim: CLIP's joint width.
        heads: attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_in = nn.Linear(dim, dim)
        self.patch_in = nn.Linear(dim, dim)
        self.query_layer = DecoderLayer(dim, heads)
        self.patch_layer = DecoderLayer(dim, heads)
        self.query_out = nn.Linear(dim, 2 * dim)
        self.patch_out = nn.Linear(dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, queries: Float[Tensor, "B Q D"], patches: Float[Tensor, "B L D"]
    ) -> Recovered:
        queries, patches = self.query_in(queries), self.patch_in(patches)
        queries, patches = (
            read(self.query_layer, queries, patches),
            read(self.patch_layer, patches, queries),
        )
        return Recovered(self.query_out(queries), self.patch_out(patches))


class RegionHead(nn.Module):
    """From features with regions, and class text, to masks.

    Each of ``layers`` steps lets queries read patches and, from the same inputs, patches read
    queries. A mask is the plain product of final patches and queries, not scaled, averaged over
    regions. In training the head also returns the recovery loss, in two unweighted terms.

    Args:
        dim: CLIP's joint width.
        layers: layers of either decoder.
        heads: attention heads.
    """

    def __init__(self, dim: int, *, layers: int = 3, heads: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(2 * dim, dim)
        self.merge = nn.Linear(3 * dim, dim)
        # as published, all layers of a decoder start from the same weights
        query_layer, patch_layer = DecoderLayer(dim, heads), DecoderLayer(dim, heads)
        self.query_layers = nn.ModuleList(copy.deepcopy(query_layer) for _ in range(layers))
        self.patch_layers = nn.ModuleList(copy.deepcopy(patch_layer) for _ in range(layers))
        self.recovery = RecoveryDecoder(dim, heads)

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        assert features.regions is not None
        grid = features.patches.shape[2:]
        regions = features.regions.flatten(2).transpose(1, 2)  # (B, R, D)
        given = align(text, features.cls, regions)  # (B, R·C, 2D)
        queries = self.project(given)
        spread = F.interpolate(features.regions, grid, mode="bilinear", align_corners=False)
        cls = features.cls[:, :, None, None].expand_as(features.patches)
        seen = torch.cat([spread, cls, features.patches], dim=1).flatten(2).transpose(1, 2)
        patches = self.merge(seen)  # (B, h·w, D)
        for query_layer, patch_layer in zip(self.query_layers, self.patch_layers, strict=True):
            queries, patches = (
                read(query_layer, queries, patches),
                read(patch_layer, patches, queries),
            )
        # the mean over regions of products is the product with the mean
        mean = queries.unflatten(1, (-1, text.shape[0])).mean(dim=1)  # (B, C, D)
        logits = (mean @ patches.transpose(1, 2)).unflatten(2, grid)
        if not self.training:
            return Prediction(logits)
        recovered = self.recovery(queries, patches)
        dense = features.patches.flatten(2).transpose(1, 2)
        return Prediction(
            logits,
            {
                "recovery_queries": F.l1_loss(recovered.queries, given.detach()),
                "recovery_patches": F.l1_loss(recovered.patches, dense.detach()),
            },
        )


def cliprc(
    clip: ImageEncoder,
    *,
    prompts: int = 10,
    depth: int | None = None,
    regions: int = 16,
    layers: int = 3,
    heads: int = 8,
) -> SegmentationModel:
    """Build CLIP-RC on a CLIP image encoder; the authors take 10 prompts (VOC) or 100 (COCO)."""
    encoder = PromptedEncoder(clip, prompts=prompts, depth=depth, regions=regions)
    return SegmentationModel(encoder, RegionHead(clip.config.embed_dim, layers=layers, heads=heads))
