"""The authors' checkpoints: where they are, which keys they have, and how they become our models.

A key table maps the beginnings of the authors' names to the beginnings of ours; the longest that
fits counts. None is for what is known and left out on purpose: self-attention and norms that no
layer calls, the parts of a last layer after its scores, a buffer of the loss.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from unseen.clip import TextEncoder
from unseen.clip.archives import State
from unseen.clip.weights import build_image_encoder, build_text_encoder, fill
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.vocabulary import VOCABULARIES, Vocabulary

Keys = dict[str, str | None]

TITLES = {"zegclip": "ZegCLIP", "cascade": "Cascade-CLIP", "cliprc": "CLIP-RC"}


# Files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint that its authors offer.

    Args:
        name: of the model it makes.
        url: where it, or the page that links to it, can be had.
        file: what it is called there, where that is known.
        licence: what its repository says.
    """

    name: str
    url: str
    file: str
    licence: str

    def advice(self) -> str:
        """Say how to get the model: where the file is, and the command that converts it."""
        _, data, setting = self.name.split("-")
        vocabulary = {"voc": "voc20", "coco": "coco171", "context": "context59-released"}[data]
        return (
            f"download the authors' file ({self.url}), then 'unseen convert {self.file} "
            f"--vocabulary {vocabulary} --setting {setting} --output {self.name}' makes it"
        )


_ZEGCLIP = "the README of https://github.com/ZiqinZhou66/ZegCLIP"
_DRIVE = "https://drive.google.com/file/d"
_BAIDU = "https://pan.baidu.com/s"
_MIT = "MIT"
_BOTH = "LICENSE file: MIT; README: CC BY-NC 4.0"
_NONE = "none stated"

PUBLISHED = {
    entry.name: entry
    for entry in (
        PublishedFile("zegclip-voc-inductive", _ZEGCLIP, "FILE.pth", _MIT),
        PublishedFile("zegclip-voc-transductive", _ZEGCLIP, "FILE.pth", _MIT),
        PublishedFile("zegclip-voc-supervised", _ZEGCLIP, "FILE.pth", _MIT),
        PublishedFile(
            "zegclip-coco-inductive",
            f"{_DRIVE}/12M6T97o9wyxbJKrR7zLfFMDsGVTiq4WY",
            "coco_inductive_512_vit_base.pth",
            _MIT,
        ),
        PublishedFile("zegclip-coco-transductive", _ZEGCLIP, "FILE.pth", _MIT),
        PublishedFile("zegclip-coco-supervised", _ZEGCLIP, "FILE.pth", _MIT),
        *(
            PublishedFile(f"cascade-{name}", f"{_BAIDU}/{place}", "FILE.pth", _BOTH)
            for name, place in (
                ("voc-inductive", "1HZyN-Q0PFLJyaofOJ6ePqw"),
                ("voc-transductive", "1igggSXPOF0PXEGmxsH7NQw"),
                ("context-inductive", "1iUTHAwDl4DROEzMQCy56Ug"),
                ("context-transductive", "17C9a7M1SUDxcL-ufX3PY4g"),
                ("coco-inductive", "1nuSO-Gjf3j9HaJA2eRpWlg"),
                ("coco-transductive", "1qyCfObgTnrVwgp-i-NYUxw"),
            )
        ),
        *(
            PublishedFile(f"cliprc-{name}", f"{_DRIVE}/{place}", "FILE.pth", _NONE)
            for name, place in (
                ("voc-inductive", "177NlvVKd8XBDPgORPlyW1Bhs4cX_xD7i"),
                ("voc-transductive", "1e42PVaURY1Ub0MRtiutnymcsL-PASfjk"),
                ("voc-supervised", "1nK7K_R5t3mbaWaamxUBNO5wYGdSbSW_i"),
                ("coco-inductive", "1wFntgORB1q_H0WGU1JIAKOOsgXoE94Pe"),
                ("coco-transductive", "1dD4wJNdLGJD-l-AdEYQ1dY9xousnbQLJ"),
                ("coco-supervised", "1-I859mSX9MblCXACcCc-2QlqmJHU7Jh1"),
            )
        ),
    )
}
"""The authors' files, by the names of the models they make."""


# Keys --------------------------------------------------------------------------------------------


_BACKBONE: Keys = {
    "backbone.": "encoder.clip.",
    "backbone.prompt_embeddings": "encoder.prompts.shallow",
    "backbone.deep_prompt_embeddings": "encoder.prompts.deep",
    "backbone.prompt_proj.": "encoder.prompts.project.",
    "backbone.prompt_norm.": "encoder.prompts.norm.",
    "text_encoder.": "text.",
    "decode_head.loss_decode.": None,
}


def _layer(theirs: str, ours: str) -> Keys:
    """Map a decoder layer; its self-attention and first norm are never called."""
    return {
        f"{theirs}self_attn.": None,
        f"{theirs}norm1.": None,
        f"{theirs}multihead_attn.q.": f"{ours}query.",
        f"{theirs}multihead_attn.k.": f"{ours}key.",
        f"{theirs}multihead_attn.v.": f"{ours}value.",
        f"{theirs}multihead_attn.proj.": f"{ours}out.",
        f"{theirs}linear1.": f"{ours}linear1.",
        f"{theirs}linear2.": f"{ours}linear2.",
        f"{theirs}norm2.": f"{ours}norm1.",
        f"{theirs}norm3.": f"{ours}norm2.",
    }


def _zeg_head(theirs: str, ours: str, layers: int) -> Keys:
    """Map a decoder whose last layer gives its scores, and nothing after them is used."""
    table: Keys = {}
    for i in range(layers - 1):
        table |= _layer(f"{theirs}layers.{i}.", f"{ours}layers.{i}.")
    last = f"{theirs}layers.{layers - 1}."
    return table | {
        last: None,
        f"{last}multihead_attn.q.": f"{ours}similarity.query.",
        f"{last}multihead_attn.k.": f"{ours}similarity.key.",
    }


def zegclip_keys(layers: int = 3) -> Keys:
    """Return the key table of the authors' ZegCLIP with a decoder of some layers."""
    return {
        **_BACKBONE,
        "decode_head.q_proj.": "head.project.",
        **_zeg_head("decode_head.decoder_1.", "head.", layers),
    }


def cascade_keys(layers: int = 3, decoders: int = 3) -> Keys:
    """Return the key table of the authors' Cascade-CLIP; the last decoder has no weights to mix."""
    table: Keys = {
        **_BACKBONE,
        "backbone.proj_layers": "encoder.stages.proj",
        "backbone.ln_layers.": "encoder.stages.norms.",
    }
    for i in range(decoders):
        if i < decoders - 1:
            table[f"decode_head.weights_s{i + 1}"] = f"head.mixes.{i}.weights"
        table[f"decode_head.q_projs.{i}."] = f"head.heads.{i}.project."
        table |= _zeg_head(f"decode_head.cascade_decoders.{i}.", f"head.heads.{i}.", layers)
    return table


def cliprc_keys(layers: int = 3) -> Keys:
    """Return the key table of the authors' CLIP-RC."""
    table: Keys = {
        **_BACKBONE,
        "backbone.region_level_bridge": "encoder.regions",
        "decode_head.q_proj.": "head.project.",
        "decode_head.lateral_proj.": "head.merge.",
    }
    for i in range(layers):
        table |= _layer(f"decode_head.decoder_q.layers.{i}.", f"head.query_layers.{i}.")
        table |= _layer(f"decode_head.decoder_v.layers.{i}.", f"head.patch_layers.{i}.")
    start = "decode_head.recovery_decoder."
    return {
        **table,
        f"{start}linear_q_in.": "head.recovery.query_in.",
        f"{start}linear_k_in.": "head.recovery.patch_in.",
        f"{start}linear_q_out.": "head.recovery.query_out.",
        f"{start}linear_k_out.": "head.recovery.patch_out.",
        **_layer(f"{start}decouple_q.0.", "head.recovery.query_layer."),
        **_layer(f"{start}decouple_v.0.", "head.recovery.patch_layer."),
    }


def translate(key: str, table: Keys) -> str | None:
    """Rename a key by the longest beginning a table knows; None if that is to be left out.

    Raises:
        KeyError: the table knows no beginning of it.
    """
    start = max((start for start in table if key.startswith(start)), key=len, default=None)
    if start is None:
        raise KeyError(key)
    renamed = table[start]
    return None if renamed is None else renamed + key.removeprefix(start)


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


# Conversion --------------------------------------------------------------------------------------


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
    buffer = state.get("decode_head.loss_decode.criterion.empty_weight")
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
