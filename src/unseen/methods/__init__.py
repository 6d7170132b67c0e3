"""The published methods: each a function from a CLIP image encoder to a segmentation model."""

from collections.abc import Callable

from unseen.methods.cascade import cascade, fusion
from unseen.methods.cliprc import cliprc
from unseen.methods.frozen import frozen, maskclip, plain
from unseen.methods.zegclip import zegclip
from unseen.model import SegmentationModel

METHODS: dict[str, Callable[..., SegmentationModel]] = {
    "zegclip": zegclip,
    "cascade": cascade,
    "cliprc": cliprc,
    "fusion": fusion,
    "frozen": frozen,
    "maskclip": maskclip,
    "plain": plain,
}

__all__ = ["METHODS", "cascade", "cliprc", "frozen", "fusion", "maskclip", "plain", "zegclip"]
