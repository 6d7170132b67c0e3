"""What a training step is: the methods' shared schedule, loss and optimiser."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from unseen.data.batches import Batch
from unseen.errors import InputError
from unseen.losses import criterion, exclusive, find_present
from unseen.model import SegmentationModel
from unseen.recipes import Recipe
from unseen.runs import check_loggers
from unseen.settings import Setting, find_setting
from unseen.vocabulary import Vocabulary

MIN_RATE = 1e-6


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

    Raises:
        InputError: nothing is trainable.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("there is nothing to train in this model: all of its weights are frozen")
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
    average: Callable[[Tensor], Tensor] = lambda count: count,
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
        average: from what the terms are divided by (present pairs, or labelled pixels) to its mean
            over all parts of the batch, where this is one of several.

    Raises:
        InputError: the head answers something else than it should, or calls a loss as another one.
    """
    prediction = model(images, text)
    check_prediction(prediction, len(images), len(text))
    target = setting.target(labels, prediction.logits.detach(), vocabulary)
    count = average(weigh(target, len(text), loss))
    if loss == "softmax":
        losses = {"cross_entropy": exclusive(prediction.logits, target, num_pixels=count)}
    else:
        losses = criterion(
            prediction.logits,
            target,
            focal_weight=focal_weight,
            dice_weight=dice_weight,
            num_pairs=count,
        )
    for name, term in prediction.auxiliary.items():
        if name in losses or not isinstance(term, Tensor) or term.ndim:
            raise InputError(
                f"the head's own loss {name!r} must be a tensor of no axes, and none of "
                f"{', '.join(losses)}, which the recipe's loss is called; see docs/own-method.md"
            )
        losses[name] = auxiliary_weight * term
    return losses


def check_prediction(prediction: object, images: int, classes: int) -> None:
    """Refuse what a new head may get wrong; it would train, and show far from here.

    Raises:
        InputError: no ``Prediction``, or logits whose axes are not those of pictures and classes.
    """
    logits = getattr(prediction, "logits", None)
    if logits is None or logits.ndim != 4 or logits.shape[:2] != (images, classes):
        got = type(prediction).__name__ if logits is None else f"logits {tuple(logits.shape)}"
        raise InputError(
            f"the head must return a Prediction with logits (B, C, h, w), here ({images}, "
            f"{classes}, h, w); got {got}: put classes second, and see docs/own-method.md"
        )


def weigh(target: Integer[Tensor, "B H W"], classes: int, loss: str) -> Float[Tensor, ""]:
    """Count what the terms of a loss are divided by."""
    if loss == "softmax":
        return (target < classes).sum().float()
    return find_present(target, classes).sum().float()


PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Engine:
    """How a recipe is followed: what depends on the machine, not on the method.

    Args:
        precision: of matrix products: ``fp32``, ``bf16`` or ``fp16``.
        accumulate: parts that a process takes its pictures in, one after the other, to save memory.
        workers: processes that read pictures ahead, for each that trains; None for as many as pay.
        save_every: steps between states; None for a twentieth of the training.
        keep: newest states that stay.
        skip_broken: take other pictures in place of those that cannot be read.
        need_states: end the training if a state cannot be saved, in place of a warning.
        validate_every: steps between scores on the split ``val``, of which the best model is kept
            in ``best``; None for never.
        validate_on: how many of its pictures.
        loggers: trackers beside the log: ``tensorboard``, ``trackio``, ``wandb``.
    """

    precision: str = "fp32"
    accumulate: int = 1
    workers: int | None = None
    save_every: int | None = None
    keep: int = 2
    skip_broken: bool = False
    need_states: bool = False
    validate_every: int | None = None
    validate_on: int = 100
    loggers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(
                f"no precision is called {self.precision!r}; known are {', '.join(PRECISIONS)}"
            )
        for name in ("accumulate", "save_every", "keep", "validate_every", "validate_on"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        check_loggers(self.loggers)


_CLIP = "encoder.clip."


class Learner:
    """A model, its optimiser, and what a step makes of them.

    Processes take equal parts of a batch. Every loss term is divided by what the whole batch
    counts, gradients are averaged: any number of processes, and any number of parts of a process,
    take the step that one would.

    Args:
        fabric: Lightning's, launched.
        model: changed in place.
        text: embeddings of the classes that the setting shows.
        vocabulary: what labels mean.
        recipe: what is learned.
        engine: how.

    Raises:
        InputError: a batch that cannot be parted equally.
    """

    def __init__(
        self,
        fabric: Any,
        model: SegmentationModel,
        text: Float[Tensor, "C D"],
        vocabulary: Vocabulary,
        recipe: Recipe,
        engine: Engine,
    ) -> None:
        parts = fabric.world_size * engine.accumulate
        if recipe.batch_size % parts:
            raise InputError(
                f"batch_size counts the pictures of all processes together: {recipe.batch_size} "
                f"cannot be shared by {fabric.world_size} processes in {engine.accumulate} parts "
                "each"
            )
        optimizer = make_optimizer(
            model, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.bare, self._fabric, self._recipe, self._engine = model, fabric, recipe, engine
        self._model, self.optimizer = fabric.setup(model, optimizer)
        self._text = fabric.to_device(text)
        self._setting, self.vocabulary = find_setting(recipe.setting), vocabulary

    def step(self, number: int, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Take an optimiser step.

        Args:
            number: of the step, from 0.
            batch: this process's pictures.

        Returns:
            Every loss term, of this process's pictures.

        Raises:
            FloatingPointError: the loss is no number; the model is as it was.
        """
        recipe, engine = self._recipe, self._engine
        self._model.train()
        rate = learning_rate(
            number, total=recipe.steps, base=recipe.learning_rate, warmup=recipe.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = self._fabric.to_device((batch.images, batch.labels))
        parts = list(
            zip(images.chunk(engine.accumulate), labels.chunk(engine.accumulate), strict=True)
        )
        average = self.average if len(parts) == 1 else self._count_before(number, parts)
        self.optimizer.zero_grad()  # before the forward pass, which needs the memory
        totals: dict[str, Tensor] = {}
        for part, (some, their) in enumerate(parts):
            with self._fabric.no_backward_sync(self._model, enabled=part + 1 < len(parts)):
                self._seed(number, part)
                losses = compute_loss(
                    self._model,
                    some.to(self._text.dtype) / 255,
                    their,
                    self._text,
                    setting=self._setting,
                    vocabulary=self.vocabulary,
                    loss=recipe.loss,
                    focal_weight=recipe.focal_weight,
                    dice_weight=recipe.dice_weight,
                    auxiliary_weight=recipe.auxiliary_weight,
                    average=average,
                )
                total = torch.stack(list(losses.values())).sum()
                if not math.isfinite(float(total.detach())):
                    terms = ", ".join(f"{key} {value:.4g}" for key, value in losses.items())
                    raise FloatingPointError(terms)
                self._fabric.backward(total / len(parts))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(parts)
        if recipe.clip_norm:
            self._fabric.clip_gradients(self._model, self.optimizer, max_norm=recipe.clip_norm)
        self.optimizer.step()
        return totals

    def _seed(self, number: int, part: int) -> None:
        """Let dropout depend on nothing but the step and the place of the pictures."""
        place = (self._recipe.seed, number, self._fabric.global_rank, part)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def average(self, count: Tensor) -> Tensor:
        """Return the mean of the processes' numbers."""
        mean: Tensor = self._fabric.all_reduce(count, reduce_op="mean")
        return mean

    def _count_before(
        self, number: int, parts: Sequence[tuple[Tensor, Tensor]]
    ) -> Callable[[Tensor], Tensor]:
        """Count over all parts before any is learned from; where labels are guessed, guess first.

        The guesses are those of the step: the same weights and the same dropout.
        """
        total = torch.zeros((), device=self._text.device)
        for part, (images, labels) in enumerate(parts):
            logits = torch.zeros(len(labels), len(self._text), 1, 1, device=total.device)
            if self._setting.guesses:
                self._seed(number, part)
                with torch.no_grad():
                    logits = self._model(images.to(self._text.dtype) / 255, self._text).logits
            target = self._setting.target(labels, logits, self.vocabulary)
            total += weigh(target, len(self._text), self._recipe.loss)
        mean = self.average(total / len(parts))
        return lambda count: mean

    def state(self) -> dict[str, Any]:
        """Return all that the steps so far have changed."""
        trained = {name for name, value in self.bare.named_parameters() if value.requires_grad}
        learned = {
            name: value.detach().cpu()
            for name, value in self.bare.state_dict().items()
            if name in trained or not name.startswith(_CLIP)
        }
        return {
            "model": learned,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        _, strange = self.bare.load_state_dict(state["model"], strict=False)
        assert not strange
        self.optimizer.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["scaler"])

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means over processes of what they report."""
        return {name: round(self.average(value).item(), 4) for name, value in values.items()}

    def any(self, flag: int) -> int:
        """Return the highest of the processes' numbers: all hear of what one was told."""
        if self._fabric.world_size == 1:
            return flag
        told = torch.tensor(flag, device=self._text.device)
        return int(self._fabric.all_reduce(told, reduce_op="max").item())
