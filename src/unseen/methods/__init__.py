"""The published methods: each a function from a CLIP image encoder to a segmentation model."""

from collections.abc import Callable

from unseen.methods.frozen import maskclip
from unseen.methods.zegclip import zegclip
from unseen.model import SegmentationModel

METHODS: dict[str, Callable[..., SegmentationModel]] = {"zegclip": zegclip, "maskclip": maskclip}

__all__ = ["METHODS", "maskclip", "zegclip"]
