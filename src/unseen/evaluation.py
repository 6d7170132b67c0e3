"""Scores of a segmenter on a data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from unseen.checkpoints import ModelConfig
from unseen.data.datasets import Dataset
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError
from unseen.methods import METHODS, maskclip
from unseen.metrics import Scores
from unseen.progress import track
from unseen.recipes import VOCABULARY_OF, Source
from unseen.segmenter import Segmenter
from unseen.vocabulary import Vocabulary


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    labels: Vocabulary | TextEmbeddings | None = None,
    calibration: float | None = None,
    show_dir: str | Path | None = None,
    tta: bool = False,
) -> Scores:
    """Segment every picture of a data set and count its pixels against the labels.

    Args:
        segmenter: what is judged.
        dataset: pictures with label maps.
        labels: the names offered to the model, all of the data set's by default.
        calibration: γ; by default the model's own, or 0 on a vocabulary it was not trained with.
        show_dir: a folder for an overlay of every prediction.
        tta: average over scales and mirror images, as the authors' ``--aug-test``.

    Raises:
        InputError: a name that the data set does not have, or a label map that does not fit.
    """
    offered = dataset.vocabulary if labels is None else labels
    names = offered.vocabulary.names if isinstance(offered, TextEmbeddings) else offered.names
    strangers = [name for name in names if name not in dataset.vocabulary.names]
    if strangers:
        raise InputError(
            f"the data set {dataset.vocabulary.name!r} has no labels {', '.join(strangers[:3])}"
        )
    if calibration is None:
        calibration = default_calibration(segmenter, names)
    embeddings = segmenter.embed(offered)
    positions = np.array(dataset.vocabulary.positions(names))
    total: Scores | None = None
    for index in track(range(len(dataset)), "evaluating"):
        sample = dataset[index]
        result = segmenter(sample.image, embeddings, calibration=calibration, limit=None, tta=tta)
        one = Scores.count(positions[result.mask], sample.labels, dataset.vocabulary, result.scores)
        total = one if total is None else total + one
        if show_dir is not None:
            result.save(Path(show_dir) / f"{sample.name}.png")
    if total is None:
        raise InputError("there is no picture to evaluate on")
    return total


def default_source(config: ModelConfig) -> Source:
    """Return the data set a model is scored on if none is named: the one it was trained on.

    A converted model does not record it; there its vocabulary tells.
    """
    if not config.setting:
        return Source("miniature")
    trained_on = config.recipe.get("data")
    if isinstance(trained_on, dict):
        return Source(**trained_on)
    known = (data for data, name in VOCABULARY_OF.items() if name == config.vocabulary.name)
    return Source(next(known, "miniature"))


def default_calibration(segmenter: Segmenter, names: tuple[str, ...]) -> float:
    """Return γ for an evaluation: 0, as published, if the names are not those of the training."""
    same = names == segmenter.config.vocabulary.names
    return segmenter.config.calibration if same else 0.0


def make_baselines(segmenter: Segmenter) -> dict[str, Segmenter]:
    """Return what a trained model should beat: its own head untrained, and its CLIP alone."""
    image, config = segmenter.model.encoder.clip, segmenter.config
    torch.manual_seed(0)
    untrained = METHODS[config.method](image, **config.options)
    device = str(segmenter.device)
    return {
        "untrained head": Segmenter(untrained, segmenter.text, config, device=device),
        "CLIP alone (MaskCLIP)": Segmenter(
            maskclip(image),
            segmenter.text,
            replace(config, method="maskclip", options={}, setting="", calibration=0.0),
            device=device,
        ),
    }
