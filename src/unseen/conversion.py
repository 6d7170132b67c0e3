"""Checkpoints of the authors become our models: recognised, checked key by key, renamed."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from unseen.clip import TextEncoder
from unseen.clip.archives import State
from unseen.clip.model import TextConfig, VisionConfig
from unseen.clip.weights import build_image_encoder, build_text_encoder, fill
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.published import (
    LOSS_BUFFER,
    TITLES,
    Keys,
    Sizes,
    cascade_keys,
    cliprc_keys,
    published_shapes,
    translate,
    zegclip_keys,
)
from unseen.vocabulary import VOCABULARIES, Vocabulary

_SIGNS = {
    "zegclip": "decode_head.decoder_1.",
    "cascade": "decode_head.cascade_decoders.",
    "cliprc": "decode_head.decoder_q.",
}


class Recognised(NamedTuple):
    """What a checkpoint of the authors says of itself; None where it does not say.

    ``settings`` are those that its loss buffer and its configuration allow.
    """

    method: str
    vocabulary: Vocabulary | None
    settings: tuple[str, ...]


def recognise(state: State, meta: Mapping[str, Any]) -> Recognised:
    """Tell whose checkpoint this is, and what it was trained on.

    Args:
        state: tensors under the authors' names.
        meta: what mmcv stored beside them.

    Raises:
        InputError: it is none of the three methods'.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    method = next((m for m, s in _SIGNS.items() if any(key.startswith(s) for key in state)), None)
    if method is None:
        raise InputError(
            "expected a checkpoint of the authors' ZegCLIP, Cascade-CLIP or CLIP-RC; this has no "
            "decoder of theirs. Weights of CLIP alone need no conversion: use --clip"
        )
    names = tuple(str(name) for name in meta.get("CLASSES") or ())
    matches = [v for v in VOCABULARIES.values() if v.names == names]
    # the released configuration of Context holds out other classes than the paper names
    vocabulary = next((v for v in matches if v.name.endswith("-released")), None)
    vocabulary = vocabulary or (matches[0] if matches else None)
    allowed = ["inductive", "transductive", "supervised"]
    buffer = state.get(LOSS_BUFFER)
    if vocabulary is not None and buffer is not None and method != "cliprc":
        count = len(buffer) - 1
        if count == len(vocabulary):  # VOC's transductive configurations count all classes too
            allowed = ["transductive", "supervised"]
        elif count == len(vocabulary.seen):
            allowed = ["inductive", "transductive"]
    config = str(meta.get("config", ""))
    said = re.search(r"self_training\s*=\s*(True|False)", config)
    if said:
        self_trained = said[1] == "True"
        allowed = [name for name in allowed if (name == "transductive") == self_trained]
    return Recognised(method, vocabulary, tuple(allowed))


def read_sizes(state: State) -> Sizes:
    """Read the sizes of an authors' model off the shapes of its tensors.

    Attention heads are in no shape: they are told as one per 64 channels.

    Raises:
        InputError: no checkpoint of theirs, or one that lacks a tensor that sizes are read off.
    """
    method = recognise(state, {}).method
    _, layers = _key_table(state, method)
    try:
        width, _, _, patch = state["backbone.conv1.weight"].shape
        side = math.isqrt(len(state["backbone.positional_embedding"]) - 1)
        dim = state["backbone.proj"].shape[1]
        depth, prompts, _ = state["backbone.deep_prompt_embeddings"].shape
        text = None
        if any(key.startswith("text_encoder.") for key in state):
            rows, text_width = state["text_encoder.token_embedding.weight"].shape
            length = len(state["text_encoder.positional_embedding"])
            count = _count(state, r"text_encoder\.transformer\.resblocks\.(\d+)\.")
            text = TextConfig(rows, length, text_width, count, max(text_width // 64, 1), dim)
        regions = len(state["backbone.region_level_bridge"]) if method == "cliprc" else 0
    except KeyError as error:
        raise InputError(f"the checkpoint lacks {error}: is the file whole?") from None
    blocks = _count(state, r"backbone\.transformer\.resblocks\.(\d+)\.")
    mixes = sorted(key for key in state if key.startswith("decode_head.weights_s"))
    return Sizes(
        method,
        VisionConfig(side * patch, patch, width, blocks, max(width // 64, 1), dim),
        text,
        prompts,
        depth,
        layers,
        tuple(len(state[key]) for key in mixes),
        regions,
        len(state[LOSS_BUFFER]) - 1 if LOSS_BUFFER in state else 0,
    )


def _count(state: State, pattern: str) -> int:
    return len({found[1] for key in state if (found := re.match(pattern, key))})


class KeyReport(NamedTuple):
    """How a checkpoint's keys differ from the authors'.

    ``unused`` are lacking too, but nothing reads them.
    """

    missing: list[str]
    unused: list[str]
    unknown: list[str]
    misshapen: list[str]


def compare_keys(state: State, sizes: Sizes) -> KeyReport:
    """Compare a checkpoint with the keys and shapes that one of its sizes has."""
    expected = published_shapes(sizes)
    table, _ = _key_table(state, sizes.method)
    lacking = sorted(expected.keys() - state.keys())
    misshapen = [
        f"{key} is {list(state[key].shape)}, expected {list(expected[key])}"
        for key in sorted(expected.keys() & state.keys())
        if tuple(state[key].shape) != expected[key]
    ]
    return KeyReport(
        missing=[key for key in lacking if translate(key, table) is not None],
        unused=[key for key in lacking if translate(key, table) is None],
        unknown=sorted(state.keys() - expected.keys()),
        misshapen=misshapen,
    )


def rename(state: State, table: Keys, title: str) -> State:
    """Translate a state dict; refuse it if the table does not know all of its keys."""
    ours: State = {}
    unknown = []
    for key, value in state.items():
        try:
            renamed = translate(key, table)
        except KeyError:
            unknown.append(key)
            continue
        if renamed is not None:
            ours[renamed] = value
    if unknown:
        raise InputError(f"the checkpoint has keys that {title} does not: {', '.join(unknown[:5])}")
    return ours


class Converted(NamedTuple):
    """A model made of a checkpoint; its text encoder, if that was inside; how it is built."""

    model: SegmentationModel
    text: TextEncoder | None
    method: str
    options: dict[str, Any]


def convert(
    state: State,
    *,
    heads: int | None = None,
    text_heads: int | None = None,
    decoder_heads: int = 8,
) -> Converted:
    """Turn a checkpoint of the authors into a model; method and sizes are read off it.

    A Cascade-CLIP checkpoint does not say which blocks its stages are of: they are taken as those
    right before the last, as in every published configuration.

    Args:
        state: tensors under the authors' names.
        heads: attention heads of the image encoder, by default one per 64 channels.
        text_heads: the same for the text encoder.
        decoder_heads: attention heads of the decoders.

    Raises:
        InputError: no checkpoint of theirs, or one with a missing or unknown key.
    """
    state = {key.removeprefix("module."): value.float() for key, value in state.items()}
    method = recognise(state, {}).method
    title = TITLES[method]
    table, layers = _key_table(state, method)
    ours = rename(state, table, title)

    def part(prefix: str) -> State:
        return {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)}

    try:
        image = build_image_encoder(part("encoder.clip."), heads=heads)
        text = build_text_encoder(part("text."), heads=text_heads) if part("text.") else None
        options: dict[str, Any] = {
            "prompts": ours["encoder.prompts.shallow"].shape[1],
            "depth": len(ours["encoder.prompts.deep"]),
            "layers": layers,
            "heads": decoder_heads,
        }
        if method == "cascade":
            options["groups"] = _groups(ours, image.config.layers)
        if method == "cliprc":
            options["regions"] = len(ours["encoder.regions"])
    except KeyError as error:
        raise InputError(f"the checkpoint lacks {error}: is the file whole?") from None
    model = METHODS[method](image, **options)
    fill(model.encoder, part("encoder."), f"{title}'s encoder")
    fill(model.head, part("head."), f"{title}'s decoder")
    return Converted(model.eval(), text.eval() if text else None, method, options)


def _key_table(state: State, method: str) -> tuple[Keys, int]:
    """Return the key table for a checkpoint, and the number of its decoder layers."""
    sign = _SIGNS[method]
    numbers = [key.removeprefix(sign).split(".") for key in state if key.startswith(sign)]
    if method == "cascade":  # {decoder}.layers.{layer}.…
        decoders = len({parts[0] for parts in numbers})
        layers = len({parts[2] for parts in numbers})
        return cascade_keys(layers, decoders), layers
    layers = len({parts[1] for parts in numbers})  # layers.{layer}.…
    return (zegclip_keys if method == "zegclip" else cliprc_keys)(layers), layers


def _groups(ours: State, last: int) -> list[list[int]]:
    """Number the blocks of the stages: those right before the last, then the last alone."""
    sizes = [len(ours[f"head.mixes.{i}.weights"]) for i in range(_count_mixes(ours))]
    first = last - sum(sizes)
    groups = []
    for size in sizes:
        groups.append(list(range(first, first + size)))
        first += size
    return [*groups, [last]]


def _count_mixes(ours: State) -> int:
    return sum(bool(re.fullmatch(r"head\.mixes\.\d+\.weights", key)) for key in ours)
