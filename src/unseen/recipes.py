"""Trainings as data: one row each, everything that decides the result."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from unseen.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """A training.

    Args:
        name: method-data-setting, also the name of the model it makes.
        method: a key of ``METHODS``.
        options: keyword arguments of the method's builder.
        clip: the CLIP to adapt: ``miniature``, or what ``load_clip`` takes.
        data: the data set.
        setting: ``inductive``, ``transductive`` or ``supervised``.
        steps: optimiser steps.
        batch_size: pictures a step, over all processes.
        learning_rate: of all trained parameters.
        weight_decay: of all trained parameters, norms and biases too.
        warmup: steps over which the rate rises from nearly nothing.
        focal_weight: factor of the focal loss.
        dice_weight: factor of the dice loss.
        short_side: pixels of a picture's short side at test.
        window: side of the crops in training and of the windows at test.
        stride: step between windows at test.
        seed: of initial weights, sampling and dropout.
    """

    name: str
    method: str
    clip: str
    data: str
    setting: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: int = 1500
    focal_weight: float = 100.0
    dice_weight: float = 1.0
    short_side: int = 512
    window: int = 512
    stride: int = 426
    seed: int = 0


def _miniature(setting: str, steps: int) -> Recipe:
    return Recipe(
        name=f"zegclip-miniature-{setting}",
        method="zegclip",
        options={"prompts": 10, "heads": 2},
        clip="miniature",
        data="miniature",
        setting=setting,
        steps=steps,
        learning_rate=2e-3,
        warmup=50,
        dice_weight=20.0,  # things are small here; see docs/log.md
        short_side=128,
        window=64,
        stride=53,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _miniature("inductive", 2000),
        _miniature("transductive", 1000),
        _miniature("supervised", 2000),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or say which there are."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"no recipe is called {name!r}{hint} (known: {', '.join(RECIPES)})")
    return RECIPES[name]
