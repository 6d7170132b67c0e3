"""Scores of a segmenter on a data set."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Integer

from unseen.checkpoints import ModelConfig
from unseen.confidence import Confidence, fit_curve
from unseen.data.datasets import Dataset, Sample
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError, did_you_mean
from unseen.journal import Journal
from unseen.methods import METHODS, maskclip
from unseen.metrics import BINS, UNIT, Scores, add_sparse, check_maps, count_reliability, to_sparse
from unseen.processes import ALONE, Processes
from unseen.readout import find_best
from unseen.recipes import VOCABULARY_OF, Source
from unseen.segmentation import Segmentation
from unseen.segmenter import Segmenter
from unseen.vocabulary import IGNORE, Vocabulary, list_groups

GAMMAS = tuple(i / 20 for i in range(21))
"""The values of γ that are tried to choose one; 0.1, the published one, is among them."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A picture of a data set and what a segmenter makes of it.

    Args:
        sample: the picture with its labels.
        result: the segmentation, in the labels that were offered to the model.
        prediction: its mask in the labels of the data set.
        scores: what is counted of it.
    """

    sample: Sample
    result: Segmentation
    prediction: Integer[np.ndarray, "H W"]
    scores: Scores


@runtime_checkable
class Keeper(Protocol):
    """What remembers something of every picture: give it to ``evaluate`` as ``keep``."""

    def look(self, one: Judged) -> Any:
        """Return what is to be kept of a picture, as JSON takes it."""

    def add(self, kept: Any) -> None:
        """Take what was kept of a picture; all pictures come, in order."""


def put_into_words(
    vocabulary: Vocabulary, words: Mapping[str, Sequence[str]]
) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return the words to look for, and the name that each of them stands for.

    Args:
        vocabulary: the names; those without words stand for themselves.
        words: of a name, as ``{"background": ["sky", "wall"]}``.

    Raises:
        InputError: words of a name that is not there, no words of a name, or a word twice.
    """
    words = list_groups(words)
    for name in words:
        if name not in vocabulary.names:
            hint = did_you_mean(name, vocabulary.names)
            raise InputError(f"{name!r} is no label of the data set{hint}")
    pairs = [(word, name) for name in vocabulary.names for word in words.get(name, (name,))]
    spelt, names = zip(*pairs, strict=True)
    return replace(vocabulary, names=spelt, unseen=(), stuff=()), names


def _offer(
    segmenter: Segmenter,
    dataset: Dataset,
    labels: Vocabulary | TextEmbeddings | None,
    words: Mapping[str, Sequence[str]] | None = None,
) -> tuple[TextEmbeddings, tuple[str, ...]]:
    """Return the words offered to the model, embedded, and which label each of them stands for."""
    offered = dataset.vocabulary if labels is None else labels
    names = offered.vocabulary.names if isinstance(offered, TextEmbeddings) else offered.names
    if words:
        if isinstance(offered, TextEmbeddings):
            raise InputError("words are for labels to be read: these embeddings are read already")
        offered, names = put_into_words(offered, words)
    strangers = [name for name in names if name not in dataset.vocabulary.names]
    if strangers:
        raise InputError(
            f"the data set {dataset.vocabulary.name!r} has no labels {', '.join(strangers[:3])}"
        )
    if len(dataset) == 0:
        raise InputError("there is no picture to evaluate on")
    return segmenter.embed(offered), names


def _over(
    dataset: Dataset,
    look: Callable[[Sample], Any],
    processes: Processes,
    journal: Journal | None,
    asked: Sequence[Any],
) -> Iterator[Any]:
    """Yield what is made of every picture, in order, in all processes alike.

    ``asked`` is all that it depends on beside the journal's conditions and the picture.
    """
    kind = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def make(index: int) -> Any:
        sample = dataset[index]
        if journal is None:
            return look(sample)
        pixels = hashlib.sha256(repr(sample.image.shape).encode())
        pixels.update(sample.image.tobytes() + sample.labels.tobytes())
        return journal.recall(
            f"{sample.name} {pixels.hexdigest()[:32]} {kind}", lambda: look(sample)
        )

    return processes.share(len(dataset), make, "evaluating")


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    labels: Vocabulary | TextEmbeddings | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    calibration: float | None = None,
    tta: bool = False,
    watch: Sequence[Callable[[Judged], object]] = (),
    keep: Sequence[Keeper] = (),
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> Scores:
    """Segment every picture of a data set and score all of it, in every process alike.

    Args:
        segmenter: what is judged.
        dataset: pictures with label maps.
        labels: the names offered to the model, all of the data set's by default.
        words: of some of these names, what is looked for in their place: a pixel that any of
            ``{"background": ["sky", "wall"]}`` fits best is background. They count as seen if
            training showed the name or one of them.
        calibration: γ; by default the model's own, or 0 on a vocabulary it was not trained with.
        tta: average over scales and mirror images, as the authors' ``--aug-test``.
        watch: called with every picture that this process segments: what draws.
        keep: what counts something else; it is told of all pictures.
        processes: those that share the pictures.
        journal: what is written there is not segmented again.

    Raises:
        InputError: a name that the data set does not have, or a label map that does not fit.
    """
    embeddings, stood_for = _offer(segmenter, dataset, labels, words)
    names = tuple(dict.fromkeys(stood_for))
    positions = np.array(dataset.vocabulary.positions(names))
    if calibration is None:
        calibration = default_calibration(segmenter, names)

    def look(sample: Sample) -> list[Any]:
        result = segmenter(
            sample.image, embeddings, merge=words, calibration=calibration, limit=None, tta=tta
        )
        prediction = positions[result.mask]
        sure = result.scores if result.confidence is None else result.confidence
        scores = Scores.count(prediction, sample.labels, dataset.vocabulary, sure)
        one = Judged(sample, result, prediction, scores)
        for see in watch:
            see(one)
        return [scores.pack(), *(keeper.look(one) for keeper in keep)]

    kinds = [type(keeper).__qualname__ for keeper in keep]
    asked = ["scores", names, words and list_groups(words), float(calibration), tta, kinds]
    total: Scores | None = None
    for packed, *kept in _over(dataset, look, processes, journal, asked):
        scores = Scores.unpack(packed, dataset.vocabulary)
        total = scores if total is None else total + scores
        for keeper, one in zip(keep, kept, strict=True):
            keeper.add(one)
    assert total is not None
    return total


def calibration_curve(
    segmenter: Segmenter,
    dataset: Dataset,
    gammas: Sequence[float],
    *,
    labels: Vocabulary | TextEmbeddings | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> dict[float, Scores]:
    """Score a data set at many γ in one pass, on pictures that no result is reported on.

    At each pixel the best seen and the best unseen class are found once: γ only decides between
    the two. Seen are, as everywhere, the classes that the model's training showed masks of.

    Args:
        segmenter: what is judged.
        dataset: pictures with label maps.
        gammas: values of γ.
        labels: the names offered to the model, all of the data set's by default.
        words: as in ``evaluate``.
        processes: as in ``evaluate``.
        journal: as in ``evaluate``.

    Raises:
        InputError: as ``evaluate``; or the labels are all seen or all unseen.
    """
    embeddings, names = _offer(segmenter, dataset, labels, words)
    positions = np.array(dataset.vocabulary.positions(names))
    taught = torch.tensor(segmenter.is_taught(embeddings.vocabulary.names, words))
    groups = [taught.nonzero()[:, 0], (~taught).nonzero()[:, 0]]
    if not all(map(len, groups)):
        raise InputError(
            "γ decides between seen and unseen classes: the model was trained on "
            f"{'all' if taught.all() else 'none'} of these {len(taught)}"
        )
    order = np.sort(np.asarray(gammas, dtype=np.float64))
    count = len(dataset.vocabulary)
    # pixels by how many γ leave them to the seen class, label, and best class of either group
    cells = np.zeros((2, len(order) + 1, count**2), np.int64)

    def look(sample: Sample) -> list[list[int]]:
        found = np.zeros_like(cells)
        check_maps(np.zeros(sample.image.shape[:2], np.uint8), sample.labels, count)
        view = segmenter.views(sample.image, embeddings, calibration=0.0, limit=None)[0]
        size = (sample.labels.shape[0], sample.labels.shape[1])
        best = [find_best(view.of(group.to(segmenter.device)), size) for group in groups]
        margin = best[0][1].astype(np.float64) - best[1][1]
        place = np.searchsorted(order, margin, side="right")
        valid = sample.labels != IGNORE
        for cell, group, (winners, _) in zip(found, groups, best, strict=True):
            predicted = positions[group.numpy()[winners]]
            pairs = count * sample.labels.astype(np.int64) + predicted
            flat = place[valid] * count**2 + pairs[valid]
            cell += np.bincount(flat, minlength=cell.size).reshape(cell.shape)
        return to_sparse(found)

    asked = ["curve", names, words and list_groups(words), order.tolist()]
    for found in _over(dataset, look, processes, journal, asked):
        add_sparse(cells, found)
    # γ number k is below the margin of all pixels that lie in a place after k
    seen = cells[0][::-1].cumsum(axis=0)[::-1][1:]
    unseen = cells[1].cumsum(axis=0)[:-1]
    matrices = (seen + unseen).reshape(-1, count, count)
    return {
        float(gamma): Scores(matrix, dataset.vocabulary)
        for gamma, matrix in zip(order, matrices, strict=True)
    }


def best_calibration(curve: Mapping[float, Scores]) -> float | None:
    """Return the γ of the best hIoU; None if none has one, as seen or unseen classes are absent."""
    known = {gamma: scores.hiou for gamma, scores in curve.items() if not np.isnan(scores.hiou)}
    return max(known, key=lambda gamma: known[gamma]) if known else None


class _Bins:
    """Counts, by bins of the score, how often names that training showed, or did not, are right."""

    def __init__(self, taught: Sequence[bool]) -> None:
        self._taught = np.array(taught)
        self.counts = np.zeros((2, 3, BINS), np.int64)

    def look(self, one: Judged) -> list[list[list[int]]]:
        valid = one.sample.labels != IGNORE
        right = one.prediction == one.sample.labels
        taught = self._taught[one.result.mask]
        return [
            count_reliability(right[here], one.result.scores[here]).tolist()
            for here in (valid & taught, valid & ~taught)
        ]

    def add(self, kept: list[list[list[int]]]) -> None:
        self.counts += np.array(kept)


def measure_confidence(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    labels: Vocabulary | TextEmbeddings | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> Confidence:
    """Measure how often labels of a score are right, on pictures that no result is reported on.

    By bins of the score, made to rise with it.

    Args:
        segmenter: what is judged.
        dataset: pictures with label maps.
        labels: the names offered to the model, all of the data set's by default.
        processes: as in ``evaluate``.
        journal: as in ``evaluate``.

    Raises:
        InputError: as ``evaluate``; or no pixel is labelled.
    """
    embeddings, names = _offer(segmenter, dataset, labels)
    bins = _Bins(segmenter.is_taught(embeddings.vocabulary.names))
    evaluate(
        segmenter, dataset, labels=embeddings, keep=[bins], processes=processes, journal=journal
    )
    if not bins.counts.any():
        raise InputError("no pixel of these pictures is labelled: there is nothing to measure on")
    seen, unseen = (fit_curve(counts, UNIT) for counts in bins.counts)
    return Confidence(seen, unseen, default_calibration(segmenter, names))


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


BASELINES = ("untrained head", "CLIP alone (MaskCLIP)")
"""What ``make_baselines`` calls them."""


def make_baselines(segmenter: Segmenter) -> dict[str, Segmenter]:
    """Return what a trained model should beat: its own head untrained, and its CLIP alone."""
    image = segmenter.model.encoder.clip
    config = replace(segmenter.config, confidence=None)  # measured on the trained model alone
    torch.manual_seed(0)
    untrained = METHODS[config.method](image, **config.options)
    device = str(segmenter.device)
    head, alone = BASELINES
    return {
        head: Segmenter(untrained, segmenter.text, config, device=device),
        alone: Segmenter(
            maskclip(image),
            segmenter.text,
            replace(config, method="maskclip", options={}, setting="", calibration=0.0),
            device=device,
        ),
    }
