"""Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation
(arXiv 2406.00670): a decoder of its own for each group of CLIP's blocks; their masks are summed.

The paper prints the exponent of its neighbourhood Gaussian aggregation as d-l+1; its Table 16 and
its code have the distance d-l to the group's deepest block, and so has this.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip.model import ImageEncoder
from unseen.errors import InputError
from unseen.methods.cliprc import RegionHead
from unseen.methods.encoder import PromptedEncoder, Stages
from unseen.methods.frozen import FrozenEncoder
from unseen.methods.zegclip import ZegHead
from unseen.model import Encoder, ImageFeatures, Prediction, SegmentationModel

Groups = Sequence[Sequence[int]]
GROUPS = ((6, 7, 8), (9, 10, 11), (12,))
"""The published groups of blocks, counted from 1."""

AGGREGATIONS: dict[str, Callable[[int], Tensor]] = {
    "gaussian": lambda count: torch.exp(-(torch.arange(count).flip(0) ** 2) / 2),
    "sum": torch.ones,
    "mean": lambda count: torch.full((count,), 1 / count),
}
"""Weights within a group by the number of its blocks, shallow to deep. "gaussian" is the paper's
neighbourhood Gaussian aggregation with σ = 1: exp(-d²/2) at d blocks from the deepest."""


class Mix(nn.Module):
    """A weighted sum of a group's maps; the map itself where there is one only.

    Args:
        count: maps in the group.
        aggregation: what the weights start from, a key of ``AGGREGATIONS``.
        learned: train the weights. They are free: nothing keeps their sum.
    """

    weights: Tensor | None

    def __init__(self, count: int, *, aggregation: str = "gaussian", learned: bool = True) -> None:
        super().__init__()
        if aggregation not in AGGREGATIONS:
            raise InputError(f"aggregation must be {', '.join(AGGREGATIONS)}; got {aggregation!r}")
        start = AGGREGATIONS[aggregation](count)
        self.weights = nn.Parameter(start, requires_grad=learned) if count > 1 else None

    def forward(self, maps: Sequence[Float[Tensor, "B D h w"]]) -> Float[Tensor, "B D h w"]:
        if self.weights is None:
            return maps[0]
        total = self.weights[0] * maps[0]
        for weight, one in zip(self.weights[1:], maps[1:], strict=True):
            total = total + weight * one
        return total


class Cascade(nn.Module):
    """Any heads, each on its own group of blocks; their logits are summed on the patch grid.

    A cascade of one head on the last block alone is that head.

    Args:
        heads: one head a group.
        groups: numbers of the blocks whose maps each head reads, counted from 1: ``GROUPS`` is the
            published choice. Groups may overlap; the encoder must tap the blocks they name.
        aggregation: how the maps of a group are weighted, a key of ``AGGREGATIONS``.
        learned: train those weights.

    Raises:
        InputError: groups and heads do not fit together, or one with weights is there twice.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        groups: Groups,
        *,
        aggregation: str = "gaussian",
        learned: bool = True,
    ) -> None:
        super().__init__()
        if len(heads) != len(groups) or not all(groups):
            raise InputError(
                f"a cascade needs a group of blocks for each head: got {len(heads)} heads and the "
                f"groups {[list(group) for group in groups]}"
            )
        trained = [head for head in heads if head.state_dict()]
        if len({id(head) for head in trained}) < len(trained):
            raise InputError("each group of a cascade needs a head of its own: one is there twice")
        self.groups = tuple(tuple(group) for group in groups)
        self.blocks = tuple(sorted({block for group in groups for block in group}))
        self.heads = nn.ModuleList(heads)
        self.mixes = nn.ModuleList(
            Mix(len(group), aggregation=aggregation, learned=learned) for group in groups
        )

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        if len(features.stages) != len(self.blocks):
            raise InputError(
                f"the cascade reads the blocks {list(self.blocks)}, and the encoder taps "
                f"{len(features.stages)}: give it Stages of these blocks"
            )
        maps = dict(zip(self.blocks, features.stages, strict=True))
        predictions = []
        for head, group, mix in zip(self.heads, self.groups, self.mixes, strict=True):
            patches = mix([maps[block] for block in group])
            predictions.append(head(features._replace(patches=patches, stages=()), text))
        logits = predictions[0].logits
        auxiliary: dict[str, Tensor] = dict(predictions[0].auxiliary)
        for prediction in predictions[1:]:
            logits = logits + prediction.logits
            for name, value in prediction.auxiliary.items():
                auxiliary[name] = auxiliary[name] + value if name in auxiliary else value
        return Prediction(logits, auxiliary)


def cascade(
    clip: ImageEncoder,
    *,
    over: str = "zegclip",
    groups: Groups = GROUPS,
    prompts: int | None = None,
    depth: int | None = None,
    regions: int | None = None,
    layers: int = 3,
    heads: int = 8,
    aggregation: str = "gaussian",
    learned: bool = True,
    train_projections: bool = False,
) -> SegmentationModel:
    """Build a cascade on a CLIP image encoder; over ZegCLIP it is Cascade-CLIP.

    Args:
        clip: the image encoder.
        over: whose heads and encoder: ``zegclip``, ``cliprc``, or ``frozen`` (ZegCLIP's head on
            CLIP without prompts).
        groups: blocks of each head, counted from 1.
        prompts: tokens a block, by default 10; the paper takes 10 (VOC), 35 (Context), 50 (COCO).
        depth: prompted blocks after the first, by default all.
        regions: region tokens, over CLIP-RC only; by default 16.
        layers: decoder layers of each head.
        heads: attention heads of each decoder.
        aggregation: weights within a group, a key of ``AGGREGATIONS``.
        learned: train those weights.
        train_projections: train the norms and projections of the tapped blocks, which the authors'
            code leaves at random values.

    Raises:
        InputError: an unknown ``over``, groups of blocks that this CLIP does not have, or an option
            that has no effect over that method.
    """
    if over not in ("zegclip", "cliprc", "frozen"):
        raise InputError(f"a cascade goes over zegclip, cliprc or frozen; got {over!r}")
    idle = {"regions": regions} if over == "zegclip" else {}
    if over == "frozen":
        idle = {"prompts": prompts, "depth": depth, "regions": regions}
    for name, value in idle.items():
        if value is not None:
            raise InputError(f"{name} has no effect in a cascade over {over}: leave it out")
    blocks = sorted({block for group in groups for block in group})
    stages = Stages(clip.config, blocks, trained=train_projections)
    dim = clip.config.embed_dim
    encoder: Encoder
    if over == "frozen":
        encoder = FrozenEncoder(clip, stages=stages)
    else:
        count = 10 if prompts is None else prompts
        tokens = 0 if over == "zegclip" else 16 if regions is None else regions
        encoder = PromptedEncoder(clip, prompts=count, depth=depth, regions=tokens, stages=stages)
    head = RegionHead if over == "cliprc" else ZegHead
    decoders = [head(dim, layers=layers, heads=heads) for _ in groups]
    return SegmentationModel(
        encoder, Cascade(decoders, groups, aggregation=aggregation, learned=learned)
    )


def fusion(
    clip: ImageEncoder,
    *,
    blocks: Sequence[int] = (6, 7, 8, 9, 10, 11, 12),
    prompts: int = 10,
    depth: int | None = None,
    layers: int = 3,
    heads: int = 8,
) -> SegmentationModel:
    """Build the straightforward fusion that Cascade-CLIP's Table 1 warns of.

    One ZegCLIP head on the plain mean of the maps of several blocks. The paper does not say how it
    fuses; the mean keeps the scale of a single map.
    """
    return cascade(
        clip,
        groups=(blocks,),
        prompts=prompts,
        depth=depth,
        layers=layers,
        heads=heads,
        aggregation="mean",
        learned=False,
    )
