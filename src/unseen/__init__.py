"""Zero-shot semantic segmentation with CLIP: ZegCLIP, Cascade-CLIP and CLIP-RC.

Letters in shapes, here and in every module: B batch, C classes, D CLIP's joint width, M transformer
width, L tokens, K heads, P prompts, R = r×r regions, S stages, h×w patch grid, H×W pixels.
Sizes are (height, width).

Public names are loaded when they are first used, so that ``unseen --help`` need not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unseen.catalogue import open_dataset as open_dataset
    from unseen.clip import load_clip as load_clip
    from unseen.embeddings import TextEmbeddings as TextEmbeddings
    from unseen.errors import InputError as InputError
    from unseen.errors import MissingExtra as MissingExtra
    from unseen.evaluation import evaluate as evaluate
    from unseen.export import export_model as export_model
    from unseen.methods import METHODS as METHODS
    from unseen.metrics import Scores as Scores
    from unseen.miniature.scenes import Scenes as Scenes
    from unseen.model import ImageFeatures as ImageFeatures
    from unseen.model import Prediction as Prediction
    from unseen.model import SegmentationModel as SegmentationModel
    from unseen.recipes import EVALUATIONS as EVALUATIONS
    from unseen.recipes import RECIPES as RECIPES
    from unseen.recipes import Recipe as Recipe
    from unseen.recipes import Source as Source
    from unseen.segmentation import Segmentation as Segmentation
    from unseen.segmenter import Segmenter as Segmenter
    from unseen.training import fit as fit
    from unseen.vocabulary import VOCABULARIES as VOCABULARIES
    from unseen.vocabulary import Vocabulary as Vocabulary

_HOMES = {
    "ImageFeatures": "model",
    "InputError": "errors",
    "METHODS": "methods",
    "MissingExtra": "errors",
    "Prediction": "model",
    "EVALUATIONS": "recipes",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "Source": "recipes",
    "Scenes": "miniature.scenes",
    "Scores": "metrics",
    "Segmentation": "segmentation",
    "SegmentationModel": "model",
    "Segmenter": "segmenter",
    "TextEmbeddings": "embeddings",
    "VOCABULARIES": "vocabulary",
    "Vocabulary": "vocabulary",
    "evaluate": "evaluation",
    "export_model": "export",
    "fit": "training",
    "load_clip": "clip",
    "open_dataset": "catalogue",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unseen' has no attribute {name!r}")
    return getattr(import_module(f"unseen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
