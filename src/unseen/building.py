"""From a recipe to what a training begins with: the data, the model, its text encoder."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unseen.catalogue import find_dataset, open_dataset
from unseen.checkpoints import ModelConfig, StoredText, load_pretrained
from unseen.clip import ImageEncoder, TextEncoder, load_clip
from unseen.data.batches import AUGMENTATIONS
from unseen.data.datasets import Dataset
from unseen.errors import InputError, did_you_mean
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.recipes import RECIPES, Recipe, Source
from unseen.settings import find_setting
from unseen.shipped import shipped_clip

LOSSES = ("masks", "softmax")


class Beginning(NamedTuple):
    """What a training begins with.

    Args:
        model: fresh, or with the weights of another.
        text: the text encoder of its CLIP.
        recipe: with the CLIP of that model.
        start: what the other model says of itself, if there is one.
    """

    model: SegmentationModel
    text: TextEncoder
    recipe: Recipe
    start: ModelConfig | None


def build(recipe: Recipe, start: str | Path | None) -> Beginning:
    """Make the model a training begins with: fresh on its CLIP, or the weights of another.

    Raises:
        InputError: a method or option that is not known, a recipe that goes on from another without
            a start, or a start of another method.
    """
    check(recipe)
    if start is None:
        if recipe.setting in ("transductive", "self-training"):
            example = recipe.starts_from or recipe.name
            raise InputError(
                f"{recipe.setting} training goes on from an inductive model, half trained as in "
                f"the papers: give --from, such as runs/{example}/halfway"
            )
        clip = load_clip(shipped_clip() if recipe.clip == "miniature" else recipe.clip)
        _check_window(recipe, clip.image)
        return Beginning(_make(recipe, clip.image), clip.text, recipe, None)
    model, text, config = load_pretrained(start)
    if config.method != recipe.method:
        raise InputError(f"{start} is a {config.method}, the recipe trains a {recipe.method}")
    _check_start(recipe, start, config, model.encoder.clip.config.layers)
    _check_window(recipe, model.encoder.clip)
    encoder = text.load() if isinstance(text, StoredText) else text
    return Beginning(model, encoder, replace(recipe, clip=config.clip), config)


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
    if isinstance(heads, int) and width % heads:
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
    for what, name, names in (
        ("loss", recipe.loss, LOSSES),
        ("augmentation", recipe.augmentation, AUGMENTATIONS),
        ("method", recipe.method, METHODS),
    ):
        if name not in names:
            hint = did_you_mean(name, names)
            raise InputError(f"no {what} is called {name!r}{hint} (known: {', '.join(names)})")
    parameters = inspect.signature(METHODS[recipe.method]).parameters
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [name for name, one in list(parameters.items())[1:] if one.kind in kinds]  # after CLIP
    for name, value in recipe.options.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"{recipe.method} has no option {name!r}{hint} (it has: {', '.join(known)})"
            )
        whole = parameters[name].annotation in (int, int | None)
        default = parameters[name].default
        least = 0 if name == "depth" else min(1, default) if isinstance(default, int) else 1
        if whole and value is not None and (type(value) is not int or value < least):
            raise InputError(f"options.{name} must be a whole number from {least}, got {value!r}")


def open_source(recipe: Recipe) -> Dataset:
    """Open what a recipe trains on.

    Raises:
        InputError: as ``open_dataset``, or the recipe does not say where the data set lies.
    """
    source = recipe.data
    if not isinstance(source, Source):
        raise InputError(
            f"a recipe's data is a Source, such as Source('mine.yaml'); got {source!r}"
        )
    known = find_dataset(source.name)
    if source.root is None and known is not None and known.read is not None:
        raise InputError(
            f"the data set {source.name} lies on disk: say in which folder with data.root=FOLDER"
        )
    return open_dataset(source.name, "train", root=source.root)
