"""Checkpoints of the authors become our models: recognised, checked key by key, renamed."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unseen.clip import TextEncoder
from unseen.clip.archives import State
from unseen.clip.model import TextConfig, VisionConfig
from unseen.clip.weights import build_image_encoder, build_text_encoder, fill
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.methods.cascade import GROUPS
from unseen.model import SegmentationModel
from unseen.published import (
    LOSS_BUFFER,
    TITLES,
    Keys,
    Sizes,
    cascade_keys,
    cliprc_keys,
    invert,
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


def recognise(
    state: State, meta: Mapping[str, Any], vocabulary: Vocabulary | None = None
) -> Recognised:
    """Tell whose checkpoint this is, and what it was trained on.

    Args:
        state: tensors under the authors' names.
        meta: what mmcv stored beside them.
        vocabulary: what it is said to be trained on, where that is known from elsewhere.

    Raises:
        InputError: it is none of the three methods', or contradicts the vocabulary given.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    method = next((m for m, s in _SIGNS.items() if any(key.startswith(s) for key in state)), None)
    if method is None:
        raise InputError(
            "expected a checkpoint of the authors' ZegCLIP, Cascade-CLIP or CLIP-RC; this has no "
            "decoder of theirs. Weights of CLIP alone need no conversion: use --clip"
        )
    classes = meta.get("CLASSES")
    names = tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()
    matches = [v for v in VOCABULARIES.values() if v.names == names]
    # the released configuration of Context holds out other classes than the paper names
    found = next((v for v in matches if v.name.endswith("-released")), None)
    found = found or (matches[0] if matches else None)
    if vocabulary is not None and names and names != vocabulary.names:
        known = found.name if found else f"{len(names)} classes, {', '.join(names[:3])}, …"
        raise InputError(f"the checkpoint was trained on {known}, not on {vocabulary.name}")
    known_as = vocabulary or found
    allowed = ["inductive", "transductive", "supervised"]
    buffer = state.get(LOSS_BUFFER)
    if known_as is not None and buffer is not None and method != "cliprc":
        count = len(buffer) - 1
        if count == len(known_as):  # VOC's transductive configurations count all classes too
            allowed = ["transductive", "supervised"]
        elif count == len(known_as.seen):
            allowed = ["inductive", "transductive"]
        elif vocabulary is not None:
            raise InputError(
                f"the checkpoint's loss is of {count} classes, and {known_as.name} has "
                f"{len(known_as)}, {len(known_as.seen)} of them seen: it was trained on another "
                "vocabulary, or another split of it"
            )
    config = str(meta.get("config", ""))
    said = re.search(r"self_training\s*=\s*(True|False)", config)
    if said:
        self_trained = said[1] == "True"
        allowed = [name for name in allowed if (name == "transductive") == self_trained]
    return Recognised(method, known_as, tuple(allowed))


def read_sizes(state: State) -> Sizes:
    """Read the sizes of an authors' model off the shapes of its tensors.

    Attention heads are in no shape: they are told as one per 64 channels.

    Raises:
        InputError: no checkpoint of theirs, or one that lacks a tensor that sizes are read off.
    """
    method = recognise(state, {}).method
    sign = _SIGNS[method]
    numbers = [key.removeprefix(sign).split(".") for key in state if key.startswith(sign)]
    # layers.{layer}.…; Cascade-CLIP's have the decoder's number before
    layers = len({parts[2 if method == "cascade" else 1] for parts in numbers})
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
    except (ValueError, IndexError):
        raise InputError(
            "a tensor of the checkpoint has another number of dimensions than the authors': is it "
            "their file, unchanged?"
        ) from None
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
    table = key_table(sizes.method, sizes.layers, len(sizes.groups) + 1)
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


def key_table(method: str, layers: int, decoders: int) -> Keys:
    """Return from which beginnings of the authors' keys to which of ours.

    Args:
        method: ``zegclip``, ``cascade`` or ``cliprc``.
        layers: of each decoder.
        decoders: of Cascade-CLIP.
    """
    if method == "cascade":
        return cascade_keys(layers, decoders)
    return (zegclip_keys if method == "zegclip" else cliprc_keys)(layers)


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
    sizes = read_sizes(state)
    method, title = sizes.method, TITLES[sizes.method]
    _refuse(compare_keys(state, sizes), title)
    table = key_table(method, sizes.layers, len(sizes.groups) + 1)
    named = {translate(key, table): value for key, value in state.items()}

    def part(prefix: str) -> State:
        return {k.removeprefix(prefix): v for k, v in named.items() if k and k.startswith(prefix)}

    image = build_image_encoder(part("encoder.clip."), heads=heads)
    text = build_text_encoder(part("text."), heads=text_heads) if sizes.text else None
    options: dict[str, Any] = {
        "prompts": sizes.prompts,
        "depth": sizes.depth,
        "layers": sizes.layers,
        "heads": decoder_heads,
    }
    if method == "cascade":
        options["groups"] = _groups(sizes.groups, image.config.layers)
    if method == "cliprc":
        options["regions"] = sizes.regions
    model = METHODS[method](image, **options)
    fill(model.encoder, part("encoder."), f"{title}'s encoder")
    fill(model.head, part("head."), f"{title}'s decoder")
    return Converted(model.eval(), text.eval() if text else None, method, options)


def _refuse(report: KeyReport, title: str) -> None:
    """Refuse a checkpoint whose keys are not the authors', naming some."""
    lists = {
        "lacks": report.missing,
        "has unknown": report.unknown,
        "misshapen:": report.misshapen,
    }
    problems = [
        f"{what} {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        for what, keys in lists.items()
        if keys
    ]
    if problems:
        raise InputError(
            f"this is no whole checkpoint of {title}: {'; '.join(problems)}. "
            "'unseen doctor checkpoint' lists all"
        )


def to_published(converted: Converted) -> State:
    """Return a model's weights under the authors' names: the way back from ``convert``.

    What nothing reads, and their loss's buffer, is not there. The position grid is the model's own;
    theirs has that of the window.

    Args:
        converted: a model of one of the three methods, whether it was converted or trained here.

    Raises:
        InputError: a method that the authors' code does not have.
    """
    model, text, method, options = converted
    if method not in TITLES or options.get("over", "zegclip") != "zegclip":
        raise InputError(f"the authors published no {method} with options {options}")
    layers, groups = options.get("layers", 3), options.get("groups", GROUPS)
    table = invert(key_table(method, layers, len(groups)))
    state = {k: v for k, v in model.state_dict().items() if k.startswith(("encoder.", "head."))}
    if text is not None:
        state |= {f"text.{key}": value for key, value in text.state_dict().items()}
    return {str(translate(key, table)): value for key, value in state.items()}


def _groups(sizes: Sequence[int], last: int) -> list[list[int]]:
    """Number the blocks of the stages: those right before the last, then the last alone."""
    first = last - sum(sizes)
    groups = []
    for size in sizes:
        groups.append(list(range(first, first + size)))
        first += size
    return [*groups, [last]]
