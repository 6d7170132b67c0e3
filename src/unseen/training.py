"""Training: the methods' shared schedule, step and loop. The only file that knows Lightning."""

import difflib
import inspect
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from unseen.catalogue import find_dataset, open_dataset
from unseen.checkpoints import (
    ModelConfig,
    StoredText,
    load_pretrained,
    save_pretrained,
    shipped_clip,
)
from unseen.clip import ImageEncoder, TextEncoder, load_clip
from unseen.data.datasets import Dataset, Sample
from unseen.data.transforms import photographic, random_crop
from unseen.errors import InputError, require
from unseen.losses import criterion, exclusive
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.progress import track
from unseen.recipes import RECIPES, Recipe
from unseen.segmenter import Segmenter, resolve_device
from unseen.settings import SELF_TRAINING, TRANSDUCTIVE, Setting, find_setting
from unseen.vocabulary import Vocabulary
from unseen.writing import write_text

MIN_RATE = 1e-6
LOSSES = ("masks", "softmax")


def learning_rate(step: int, *, total: int, base: float, warmup: int) -> float:
    """Return the rate of a step: polynomial decay of power 0.9, after a linear warm-up.

    As mmcv's "poly" policy with ``min_lr`` 1e-6 and ``warmup_ratio`` 1e-6: the warm-up multiplies
    the decaying rate, from a millionth to one.
    """
    rate = (base - MIN_RATE) * (1 - step / total) ** 0.9 + MIN_RATE
    if step < warmup:
        rate *= 1 - (1 - step / warmup) * (1 - 1e-6)
    return rate


def make_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Optimise everything trainable alike.

    The authors' configurations mean to spare norms from decay and to have two rates, but the first
    key that matches a name wins there, and every trained parameter gets the same.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)


def compute_loss(
    model: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    labels: Integer[Tensor, "B H W"],
    text: Float[Tensor, "C D"],
    *,
    setting: Setting,
    vocabulary: Vocabulary,
    loss: str = "masks",
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
    auxiliary_weight: float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """Run the model on a batch and return every term of its loss.

    Args:
        model: the model.
        images: RGB in [0, 1].
        labels: positions in the vocabulary, or ``IGNORE``.
        text: embeddings of the classes that the setting shows.
        setting: what becomes of unseen pixels.
        vocabulary: what labels mean.
        loss: ``masks`` or ``softmax``, as in a recipe.
        focal_weight: factor of the focal term.
        dice_weight: factor of the dice term.
        auxiliary_weight: factor of every term that the head itself returns.
    """
    prediction = model(images, text)
    target = setting.target(labels, prediction.logits.detach(), vocabulary)
    if loss == "softmax":
        losses = {"cross_entropy": exclusive(prediction.logits, target)}
    else:
        losses = criterion(
            prediction.logits, target, focal_weight=focal_weight, dice_weight=dice_weight
        )
    auxiliary = {name: auxiliary_weight * term for name, term in prediction.auxiliary.items()}
    return {**losses, **auxiliary}


def build(
    recipe: Recipe, start: str | Path | None
) -> tuple[SegmentationModel, TextEncoder, Recipe]:
    """Make the model a training begins with: fresh on its CLIP, or the weights of another.

    Returns:
        The model, its text encoder, and the recipe with the CLIP of that model.

    Raises:
        InputError: a method or option that is not known, a recipe that goes on from another without
            a start, or a start of another method.
    """
    check(recipe)
    if start is None:
        if recipe.setting in ("transductive", "self-training"):
            example = recipe.starts_from or f"{recipe.method}-{recipe.data.name}-inductive"
            raise InputError(
                f"{recipe.setting} training goes on from an inductive model, half trained as in "
                f"the papers: give --from, such as runs/{example}/halfway"
            )
        clip = load_clip(shipped_clip() if recipe.clip == "miniature" else recipe.clip)
        _check_window(recipe, clip.image)
        return _make(recipe, clip.image), clip.text, recipe
    model, text, config = load_pretrained(start)
    if config.method != recipe.method:
        raise InputError(f"{start} is a {config.method}, the recipe trains a {recipe.method}")
    _check_start(recipe, start, config, model.encoder.clip.config.layers)
    _check_window(recipe, model.encoder.clip)
    encoder = text.load() if isinstance(text, StoredText) else text
    return model, encoder, replace(recipe, clip=config.clip)


def _check_start(recipe: Recipe, start: str | Path, config: ModelConfig, layers: int) -> None:
    """Refuse a recipe that asks for another model than the one it is to go on from."""
    row = RECIPES.get(recipe.name)
    if row and recipe.clip not in (row.clip, config.clip):
        raise InputError(f"{start} brings its own CLIP, {config.clip}: leave clip out")
    parameters = inspect.signature(METHODS[recipe.method]).parameters

    def value(options: dict[str, Any], name: str) -> Any:
        given = options.get(name, parameters[name].default)
        return layers - 1 if name == "depth" and given is None else given

    for name in {**config.options, **recipe.options}:
        theirs, ours = value(config.options, name), value(recipe.options, name)
        if json.dumps(theirs) != json.dumps(ours):  # tuples and lists are the same there
            raise InputError(
                f"{start} was built with {name} {theirs}, and the recipe asks for {ours}: "
                f"add options.{name}={json.dumps(theirs).replace(' ', '')}, or start from another"
            )


def _check_window(recipe: Recipe, image: ImageEncoder) -> None:
    patch = image.config.patch_size
    if min(recipe.window, recipe.short_side) < patch:
        raise InputError(
            f"window and short_side must be at least one patch of {patch} pixels, "
            f"got {recipe.window} and {recipe.short_side}"
        )


def _make(recipe: Recipe, image: ImageEncoder) -> SegmentationModel:
    parameters = inspect.signature(METHODS[recipe.method]).parameters
    default = parameters["heads"].default if "heads" in parameters else 1
    heads, width = recipe.options.get("heads", default), image.config.embed_dim
    if width % heads:
        raise InputError(f"options.heads must divide this CLIP's width of {width}, got {heads}")
    try:
        return METHODS[recipe.method](image, **recipe.options)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{recipe.method} cannot be built on this CLIP with options {recipe.options}: {error}"
        ) from None


def check(recipe: Recipe) -> None:
    """Refuse what can be seen to be wrong before anything is read or built.

    Raises:
        InputError: a method, setting, data set, augmentation or option that does not exist.
    """
    find_setting(recipe.setting)
    find_dataset(recipe.data.name)
    if recipe.loss not in LOSSES:
        raise InputError(f"no loss is called {recipe.loss!r}; known are {', '.join(LOSSES)}")
    if recipe.augmentation not in AUGMENTATIONS:
        raise InputError(
            f"no augmentation is called {recipe.augmentation!r}; "
            f"known are {', '.join(AUGMENTATIONS)}"
        )
    if recipe.method not in METHODS:
        raise InputError(
            f"no method is called {recipe.method!r}; known are {', '.join(sorted(METHODS))}"
        )
    parameters = inspect.signature(METHODS[recipe.method]).parameters
    known = [name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name, value in recipe.options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{recipe.method} has no option {name!r}{hint} (it has: {', '.join(known)})"
            )
        whole = parameters[name].annotation in (int, int | None)
        least = 0 if name == "depth" else 1
        if whole and value is not None and (type(value) is not int or value < least):
            raise InputError(f"options.{name} must be a whole number from {least}, got {value!r}")


Augmentation = Callable[[Sample, int], tuple[np.ndarray, np.ndarray]]


def _cropped(seed: int) -> Augmentation:
    random = np.random.default_rng(seed)
    return lambda sample, window: random_crop(sample.image, sample.labels, window, random)


def _photographic(seed: int) -> Augmentation:
    random = np.random.RandomState(seed)
    return lambda sample, window: photographic(sample.image, sample.labels, window, random)


AUGMENTATIONS = {"photographic": _photographic, "crop": _cropped}
"""From a seed to a function of samples and the side of a crop."""


def open_source(recipe: Recipe) -> Dataset:
    """Open what a recipe trains on.

    Raises:
        InputError: as ``open_dataset``, or the recipe does not say where the data set lies.
    """
    source = recipe.data
    known = find_dataset(source.name)
    if source.root is None and known is not None and known.read is not None:
        raise InputError(
            f"the data set {source.name} lies on disk: say in which folder with data.root=FOLDER"
        )
    return open_dataset(source.name, "train", root=source.root)


def batches(dataset: Dataset, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches without end.

    Images are (B, 3, y, x) in 0..255, uint8 or float32, labels (B, y, x) uint8.

    Raises:
        InputError: the data set does not fill a single batch.
    """
    if len(dataset) < recipe.batch_size:
        raise InputError(
            f"the data set has {len(dataset)} pictures, fewer than a batch of {recipe.batch_size}"
        )
    augment = AUGMENTATIONS[recipe.augmentation](recipe.seed)

    def collate(samples: list[Sample]) -> tuple[Tensor, Tensor]:
        crops = [augment(sample, recipe.window) for sample in samples]
        images, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True))
        return images.permute(0, 3, 1, 2), labels

    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=recipe.batch_size,
        sampler=RandomSampler(dataset, generator=torch.Generator().manual_seed(recipe.seed)),
        collate_fn=collate,
        drop_last=True,
    )
    while True:
        yield from loader


def _clear(folder: Path) -> None:
    """Remove what an earlier training left, lest a stopped one leave a mixture of both."""
    try:
        shutil.rmtree(folder / "halfway", ignore_errors=True)
        for name in ("config.json", "model.safetensors", "log.jsonl"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from None


class StepResult(NamedTuple):
    """What a training step reports."""

    step: int
    rate: float
    losses: dict[str, Float[Tensor, ""]]


def steps(
    fabric: Any, model: nn.Module, text: Float[Tensor, "C D"], dataset: Dataset, recipe: Recipe
) -> Iterator[StepResult]:
    """Take the recipe's optimiser steps one by one; ``model`` is changed in place."""
    optimizer = make_optimizer(
        model, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    model, optimizer = fabric.setup(model, optimizer)
    text = fabric.to_device(text)
    stream = batches(dataset, recipe)
    model.train()
    for step in range(recipe.steps):
        rate = learning_rate(
            step, total=recipe.steps, base=recipe.learning_rate, warmup=recipe.warmup
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = fabric.to_device(next(stream))
        optimizer.zero_grad()  # before the forward pass, which needs the memory
        losses = compute_loss(
            model,
            images.float() / 255,
            labels,
            text,
            setting=find_setting(recipe.setting),
            vocabulary=dataset.vocabulary,
            loss=recipe.loss,
            focal_weight=recipe.focal_weight,
            dice_weight=recipe.dice_weight,
            auxiliary_weight=recipe.auxiliary_weight,
        )
        fabric.backward(sum(losses.values()))
        optimizer.step()
        yield StepResult(step, rate, losses)


def fit(
    recipe: Recipe,
    *,
    out: str | Path,
    start: str | Path | None = None,
    device: str = "auto",
) -> Segmenter:
    """Train a recipe; its folder then holds the model, the model half-way, and a log.

    Args:
        recipe: what to train.
        out: folder for ``config.json``, ``model.safetensors``, ``halfway/`` and ``log.jsonl``.
        start: folder or name of a model whose weights to start from (``--from``).
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: a recipe that cannot be followed, a start that does not fit, a folder that
            cannot be written, a loss that is no number any more, or several processes.
        MissingExtra: the extra ``train`` is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "training runs on one device: start one process; batch_size counts all its pictures"
        )
    fabric = require("lightning_fabric", extra="train").Fabric(
        accelerator=resolve_device(device).type, devices=1
    )
    out = Path(out)
    if (
        start is not None
        and Path(start).exists()
        and out.resolve() in (Path(start).resolve(), *Path(start).resolve().parents)
    ):
        raise InputError(f"{start} lies in {out}, which is to be replaced: name another --out")
    torch.manual_seed(recipe.seed)
    setting = find_setting(recipe.setting)
    dataset = open_source(recipe)
    vocabulary = dataset.vocabulary
    if not vocabulary.seen:
        raise InputError(
            f"every name of {vocabulary.name} is unseen: training needs masks of some classes"
        )
    if not vocabulary.unseen and setting in (TRANSDUCTIVE, SELF_TRAINING):
        raise InputError(
            f"{setting.name} training finds pixels of unseen classes, and {vocabulary.name} names "
            "none: train it inductive or supervised"
        )
    model, text_encoder, recipe = build(recipe, start)
    shown = [vocabulary.names[i] for i in setting.shown(vocabulary)]
    text = text_encoder.embed(shown, vocabulary.templates)
    config = ModelConfig(
        method=recipe.method,
        options=recipe.options,
        vocabulary=vocabulary,
        setting=setting.name,
        calibration=setting.calibration,
        short_side=recipe.short_side,
        window=recipe.window,
        stride=recipe.stride,
        clip=recipe.clip,
        recipe=recipe.record(),
    )
    log: list[str] = []
    began = time.monotonic()
    results = steps(fabric, model, text, dataset, recipe)
    for step, rate, losses in track(results, f"training {recipe.name}", total=recipe.steps):
        if (step + 1) % 20 == 0 or step + 1 in (1, recipe.steps):
            terms = {name: round(value.item(), 4) for name, value in losses.items()}
            seconds = round(time.monotonic() - began, 1)
            if not all(math.isfinite(value) for value in terms.values()):
                raise InputError(
                    f"the loss is no longer a number at step {step + 1} ({terms}): take a lower "
                    "learning_rate or a longer warmup"
                )
            if step == 0:  # nothing that was there is lost to a training that cannot begin
                _clear(out)
            log.append(json.dumps({"step": step + 1, "seconds": seconds, "rate": rate, **terms}))
            write_text(out / "log.jsonl", "\n".join(log) + "\n")
        if step + 1 == max(1, recipe.steps // 2):
            half = replace(config, recipe=recipe.record() | {"stopped_at": step + 1})
            save_pretrained(out / "halfway", model, text_encoder, half)
    save_pretrained(out, model, text_encoder, config)
    return Segmenter(model, text_encoder, config, device=device)
