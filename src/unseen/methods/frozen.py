"""Segmentation without training: CLIP's own patches, compared with text.

MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", arXiv 2112.01071): in the last block,
queries and keys are removed and every patch keeps its own value.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip import model as clip_model
from unseen.clip.model import Block, ImageEncoder
from unseen.model import Encoder, ImageFeatures, Prediction, SegmentationModel


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
        return ImageFeatures(
            cls=F.normalize(cls, dim=-1),
            patches=F.normalize(patches, dim=-1).transpose(1, 2).unflatten(2, grid),
        )


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


def maskclip(clip: ImageEncoder, *, temperature: float = 0.01) -> SegmentationModel:
    """Build MaskCLIP on a CLIP image encoder, with the pixel statistics CLIP was trained with."""
    return SegmentationModel(
        ValueEncoder(clip),
        TextSimilarity(temperature),
        mean=clip_model.MEAN,
        std=clip_model.STD,
    )
