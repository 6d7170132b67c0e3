"""The contract every method meets, and the join of its two halves.

Letters in shapes: B batch, C classes, D CLIP's joint width, M transformer width, L tokens, K heads,
P prompts, R = r×r regions, S stages, h×w patch grid, H×W pixels.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip.model import ImageEncoder
from unseen.errors import InputError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class ImageFeatures(NamedTuple):
    """What an encoder tells of images; every embedding has unit length over D.

    ``stages`` holds a map for each block that the encoder was told to tap, in order; ``regions``
    one embedding for each cell of a coarse grid, where the encoder has such tokens.
    """

    cls: Float[Tensor, "B D"]
    patches: Float[Tensor, "B D h w"]
    stages: tuple[Float[Tensor, "B D h w"], ...] = ()
    regions: Float[Tensor, "B D r r"] | None = None

    def part(self, images: slice) -> "ImageFeatures":
        """Return what is told of some of the images."""
        stages = tuple(stage[images] for stage in self.stages)
        regions = None if self.regions is None else self.regions[images]
        return ImageFeatures(self.cls[images], self.patches[images], stages, regions)


class Encoder(nn.Module):
    """What turns normalised images (B, 3, H, W) into ``ImageFeatures``; its CLIP is frozen."""

    clip: ImageEncoder

    @property
    def blocks(self) -> tuple[int, ...]:
        """The numbers of the blocks whose maps are ``ImageFeatures.stages``, in order."""
        stages: Any = getattr(self, "stages", None)
        return tuple(stages.blocks) if stages else ()


class Prediction(NamedTuple):
    """What a head answers: per-class logits on the patch grid, and scalars to add to the loss."""

    logits: Float[Tensor, "B C h w"]
    auxiliary: Mapping[str, Float[Tensor, ""]] = MappingProxyType({})


@runtime_checkable
class Head(Protocol):
    """Any module from features and class text to a prediction."""

    def __call__(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction: ...


class SegmentationModel(nn.Module):
    """An encoder and a head, with the pixel statistics the encoder expects.

    Args:
        encoder: module from normalised images (B, 3, H, W) to ``ImageFeatures``.
        head: module from ``ImageFeatures`` and text (C, D) to ``Prediction``.
        mean: per-channel mean to subtract, published on the 0..255 scale. All three methods use
            ImageNet's statistics, although the CLIP inside was trained with its own.
        std: per-channel deviation to divide by, on the same scale.

    Raises:
        InputError: the head reads other blocks than the encoder taps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        read = tuple(getattr(head, "blocks", ()))
        tapped = tuple(getattr(encoder, "blocks", ()))
        if read and tapped and read != tapped:
            raise InputError(
                f"the head reads the blocks {list(read)}, and the encoder taps {list(tapped)}: "
                "give it Stages of the head's blocks"
            )
        self.encoder = encoder
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) / 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) / 255)

    def forward(self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]) -> Prediction:
        """Score every class at every patch.

        Args:
            image: RGB in [0, 1].
            text: one embedding a class; used as given, not normalised again.
        """
        prediction: Prediction = self.head(self.encode(image), text.to(image.dtype))
        return prediction

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Return what the encoder tells of images, which is the same whatever is looked for.

        Args:
            image: RGB in [0, 1].
        """
        features: ImageFeatures = self.encoder((image - self.mean) / self.std)
        return features
