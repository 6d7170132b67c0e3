"""CLIP as it is: what the methods are measured against.

Two baselines train nothing: CLIP's own patches compared with text, and MaskCLIP (Zhou et al.,
"Extract Free Dense Labels from CLIP", arXiv 2112.01071), in whose last block queries and keys are
removed and every patch keeps its own value. The third trains ZegCLIP's head on CLIP without
prompts: the "frozen CLIP" row of Cascade-CLIP's Table 10.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip import model as clip_model
from unseen.clip.model import Block, ImageEncoder
from unseen.methods.encoder import Stages, as_map
from unseen.methods.zegclip import ZegHead
from unseen.model import Encoder, ImageFeatures, Prediction, SegmentationModel


class FrozenEncoder(Encoder):
    """CLIP's image encoder as it was trained, read at every patch.

    Args:
        clip: the encoder; its parameters stop requiring gradients.
        stages: what to tap on the way; nothing by default.
    """

    def __init__(self, clip: ImageEncoder, *, stages: Stages | None = None) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.stages = stages

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Encode normalised images of any size from one patch up."""
        tokens, grid = self.clip.embed(image)
        tapped = {}
        for number, block in enumerate(self.clip.transformer.resblocks, start=1):
            tokens = block(tokens)
            if self.stages and number in self.stages.blocks:
                tapped[number] = tokens[:, 1:]
        embedded = self.clip.project(tokens)
        dense = as_map(embedded[:, 1:], grid)
        return ImageFeatures(
            cls=F.normalize(embedded[:, 0], dim=-1),
            patches=dense,
            stages=self.stages(tapped, dense) if self.stages else (),
        )


class ValueEncoder(Encoder):
    """CLIP's image encoder, frozen, with MaskCLIP's value path in its last block."""

    def __init__(self, clip: ImageEncoder) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Encode normalised images of any size from one patch up."""
        tokens, grid = self.clip.embed(image)
        blocks = self.clip.transformer.resblocks
        for block in blocks[:-1]:
            tokens = block(tokens)
        last = cast(Block, blocks[-1])
        cls = self.clip.project(last(tokens)[:, 0])
        patches = self.clip.project(last.value_path(tokens[:, 1:]))
        return ImageFeatures(cls=F.normalize(cls, dim=-1), patches=as_map(patches, grid))


class TextSimilarity(nn.Module):
    """Name every patch by its cosine with the text; nothing is trained.

    Logits are the log-softmax over classes of cosine / ``temperature``: cosines alone are so large
    under CLIP's temperature that a sigmoid could not tell them apart.
    """

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        cosine = torch.einsum("bdhw,cd->bchw", features.patches, text)
        return Prediction((cosine / self.temperature).log_softmax(dim=1))


def plain(clip: ImageEncoder, *, temperature: float = 0.01) -> SegmentationModel:
    """Compare CLIP's patches with text, with the pixel statistics CLIP was trained with."""
    return SegmentationModel(
        FrozenEncoder(clip), TextSimilarity(temperature), mean=clip_model.MEAN, std=clip_model.STD
    )


def maskclip(clip: ImageEncoder, *, temperature: float = 0.01) -> SegmentationModel:
    """Build MaskCLIP on a CLIP image encoder, with the pixel statistics CLIP was trained with."""
    return SegmentationModel(
        ValueEncoder(clip), TextSimilarity(temperature), mean=clip_model.MEAN, std=clip_model.STD
    )


def frozen(clip: ImageEncoder, *, layers: int = 3, heads: int = 8) -> SegmentationModel:
    """Build ZegCLIP's head on CLIP without prompts: only the head is trained."""
    head = ZegHead(clip.config.embed_dim, layers=layers, heads=heads)
    return SegmentationModel(FrozenEncoder(clip), head)
