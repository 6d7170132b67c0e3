"""CLIP as published (Radford et al., arXiv 2103.00020); knows nothing of segmentation."""

from unseen.clip.model import CLIP, ImageEncoder, TextConfig, TextEncoder, VisionConfig
from unseen.clip.tokenizer import BytePairTokenizer, Tokenizer, WordTokenizer
from unseen.clip.weights import fingerprint, load_clip

__all__ = [
    "CLIP",
    "BytePairTokenizer",
    "ImageEncoder",
    "TextConfig",
    "TextEncoder",
    "Tokenizer",
    "VisionConfig",
    "WordTokenizer",
    "fingerprint",
    "load_clip",
]
