"""The authors' checkpoints: where they are, which keys they have, and how they become our models.

A key table maps the beginnings of the authors' names to the beginnings of ours; the longest that
fits counts. None is for what is known and left out on purpose: self-attention and norms that no
layer calls, the parts of a last layer after its scores, a buffer of the loss.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from unseen.clip import TextEncoder
from unseen.clip.archives import State
from unseen.clip.model import TextConfig, VisionConfig
from unseen.clip.weights import build_image_encoder, build_text_encoder, fill
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.metrics import markdown
from unseen.model import SegmentationModel
from unseen.vocabulary import VOCABULARIES, Vocabulary

Keys = dict[str, str | None]

TITLES = {"zegclip": "ZegCLIP", "cascade": "Cascade-CLIP", "cliprc": "CLIP-RC"}

LOSS_BUFFER = "decode_head.loss_decode.criterion.empty_weight"
"""A buffer of the authors' loss that nothing reads: one number a class, and one more."""


# Files -------------------------------------------------------------------------------------------


VOCABULARY_OF = {"voc": "voc20", "coco": "coco171", "context": "context59-released"}
"""The vocabulary of each data set of the authors."""


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint that its authors offer.

    Args:
        name: of the model it makes: method, data set, setting.
        url: where it, or the page that links to it, can be had.
        file: what it is called there, where that is known.
        licence: what its repository says.
        prompts: tokens a block, from the authors' configuration.
        readme: (pAcc, mIoU(S), mIoU(U), hIoU) in percent as the authors' README prints them; None
            where it does not.
        spread: ± of mIoU(S) and mIoU(U) over several runs, where the README gives it.
        hours: of training on four RTX 3090, where the README gives them.
    """

    name: str
    url: str
    file: str
    licence: str
    prompts: int
    readme: tuple[float | None, float, float, float | None]
    spread: tuple[float, float] | None = None
    hours: float | None = None

    @property
    def method(self) -> str:
        """A key of ``METHODS``."""
        return self.name.split("-")[0]

    @property
    def data(self) -> str:
        """The data set: a key of ``VOCABULARY_OF``."""
        return self.name.split("-")[1]

    @property
    def setting(self) -> str:
        """``inductive``, ``transductive`` or ``supervised``."""
        return self.name.split("-")[2]

    def command(self) -> str:
        """Return the command that turns the file into the model."""
        return (
            f"unseen convert {self.file} --vocabulary {VOCABULARY_OF[self.data]} "
            f"--setting {self.setting} --output {self.name}"
        )

    def advice(self) -> str:
        """Say how to get the model: where the file is, and the command that converts it."""
        return f"download the authors' file ({self.url}), then '{self.command()}' makes it"


_DRIVE = "https://drive.google.com/file/d"
_BAIDU = "https://pan.baidu.com/s"


def _zegclip(
    name: str,
    prompts: int,
    readme: tuple[float, float, float, float],
    url: str = "",
    file: str = "",
) -> PublishedFile:
    url = url or "the README of https://github.com/ZiqinZhou66/ZegCLIP"
    return PublishedFile(f"zegclip-{name}", url, file or "FILE.pth", "MIT", prompts, readme)


def _cascade(
    name: str,
    place: str,
    prompts: int,
    scores: tuple[float, float],
    spread: tuple[float, float],
    hours: float,
) -> PublishedFile:
    return PublishedFile(
        f"cascade-{name}",
        f"{_BAIDU}/{place}",
        "FILE.pth",
        "LICENSE file: MIT; README: CC BY-NC 4.0",
        prompts,
        (None, *scores, None),
        spread,
        hours,
    )


def _cliprc(
    name: str, place: str, prompts: int, readme: tuple[float, float, float, float]
) -> PublishedFile:
    url = f"{_DRIVE}/{place}"
    return PublishedFile(f"cliprc-{name}", url, "FILE.pth", "none stated", prompts, readme)


PUBLISHED = {
    entry.name: entry
    for entry in (
        _zegclip("voc-inductive", 10, (94.6, 91.9, 77.8, 84.3)),
        _zegclip("voc-transductive", 10, (96.2, 92.3, 89.9, 91.1)),
        _zegclip("voc-supervised", 10, (96.3, 92.4, 90.9, 91.6)),
        _zegclip(
            "coco-inductive",
            100,
            (62.0, 40.2, 41.1, 40.8),
            f"{_DRIVE}/12M6T97o9wyxbJKrR7zLfFMDsGVTiq4WY",
            "coco_inductive_512_vit_base.pth",
        ),
        _zegclip("coco-transductive", 100, (69.2, 40.7, 59.9, 48.5)),
        _zegclip("coco-supervised", 100, (69.9, 40.7, 63.2, 49.6)),
        _cascade("voc-inductive", "1HZyN-Q0PFLJyaofOJ6ePqw", 10, (92.5, 83.0), (1.0, 1.0), 3),
        _cascade("voc-transductive", "1igggSXPOF0PXEGmxsH7NQw", 10, (93.6, 93.2), (0.5, 1.0), 1.5),
        _cascade("context-inductive", "1iUTHAwDl4DROEzMQCy56Ug", 35, (55.9, 47.2), (0.5, 1.0), 8),
        _cascade(
            "context-transductive", "17C9a7M1SUDxcL-ufX3PY4g", 35, (56.4, 55.0), (0.5, 1.0), 4
        ),
        _cascade("coco-inductive", "1nuSO-Gjf3j9HaJA2eRpWlg", 50, (41.2, 43.4), (0.5, 1.0), 20),
        _cascade("coco-transductive", "1qyCfObgTnrVwgp-i-NYUxw", 50, (41.7, 62.5), (0.5, 1.0), 10),
        _cliprc("voc-inductive", "177NlvVKd8XBDPgORPlyW1Bhs4cX_xD7i", 10, (95.8, 92.8, 84.4, 88.4)),
        _cliprc(
            "voc-transductive", "1e42PVaURY1Ub0MRtiutnymcsL-PASfjk", 10, (97.0, 93.9, 92.2, 93.0)
        ),
        _cliprc(
            "voc-supervised", "1nK7K_R5t3mbaWaamxUBNO5wYGdSbSW_i", 10, (97.1, 94.1, 93.4, 93.7)
        ),
        _cliprc(
            "coco-inductive", "1wFntgORB1q_H0WGU1JIAKOOsgXoE94Pe", 100, (63.1, 40.9, 41.6, 41.2)
        ),
        _cliprc(
            "coco-transductive", "1dD4wJNdLGJD-l-AdEYQ1dY9xousnbQLJ", 100, (69.9, 42.0, 60.8, 49.7)
        ),
        _cliprc(
            "coco-supervised", "1-I859mSX9MblCXACcCc-2QlqmJHU7Jh1", 100, (70.8, 42.9, 64.1, 51.4)
        ),
    )
}
"""The authors' files, by the names of the models they make."""

_DATA = {"voc": "PASCAL VOC 2012", "context": "PASCAL Context", "coco": "COCO-Stuff 164k"}


def list_files() -> str:
    """Return the authors' files as a Markdown table."""
    rows = []
    for entry in PUBLISHED.values():
        pacc, seen, unseen, harmonic = entry.readme
        spread = [f" ± {value}" for value in entry.spread] if entry.spread else ["", ""]
        linked = entry.url.startswith("https")
        rows.append(
            [
                f"`{entry.name}`",
                _DATA[entry.data],
                "–" if pacc is None else f"{pacc}",
                f"{seen}{spread[0]}",
                f"{unseen}{spread[1]}",
                "–" if harmonic is None else f"{harmonic}",
                "–" if entry.hours is None else f"{entry.hours:g}",
                f"[file]({entry.url})" if linked else "their README",
            ]
        )
    heading = ["model", "data set", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "hours", "from"]
    return markdown(heading, rows)


OPENAI_VIT_B_16 = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
KNOWN_SHA256 = {OPENAI_VIT_B_16.split("/")[-2]: "OpenAI's CLIP ViT-B/16, ViT-B-16.pt"}
"""What a file is, by its SHA-256; nobody publishes those of the authors' files."""


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


# Shapes ------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """The sizes of an authors' model.

    ``vision.image_size`` is that of its position grid: 512 in all published configurations.
    ``groups`` counts the maps of Cascade-CLIP's groups before the last, ``regions`` CLIP-RC's
    region tokens, ``loss_classes`` the classes of its loss (0 if the state has no such buffer).
    """

    method: str
    vision: VisionConfig
    text: TextConfig | None
    prompts: int = 10
    depth: int = 11
    layers: int = 3
    groups: tuple[int, ...] = (3, 3)
    regions: int = 16
    loss_classes: int = 0


Shapes = dict[str, tuple[int, ...]]


def published_shapes(sizes: Sizes) -> Shapes:
    """Return every tensor of an authors' checkpoint and its shape, unused ones included."""
    vision, text = sizes.vision, sizes.text
    width, dim = vision.width, vision.embed_dim
    shapes: Shapes = {
        "backbone.class_embedding": (width,),
        "backbone.positional_embedding": (
            (vision.image_size // vision.patch_size) ** 2 + 1,
            width,
        ),
        "backbone.conv1.weight": (width, 3, vision.patch_size, vision.patch_size),
        "backbone.proj": (width, dim),
        **_norm("backbone.ln_pre", width),
        **_norm("backbone.ln_post", width),
        **_blocks("backbone.", width, vision.layers),
        "backbone.prompt_embeddings": (1, sizes.prompts, width),
        "backbone.deep_prompt_embeddings": (sizes.depth, sizes.prompts, width),
        **_linear("backbone.prompt_proj", width, width),
        **_norm("backbone.prompt_norm", width),
    }
    if text:
        shapes |= {
            "text_encoder.positional_embedding": (text.context_length, text.width),
            "text_encoder.token_embedding.weight": (text.vocab_size, text.width),
            "text_encoder.text_projection": (text.width, text.embed_dim),
            **_norm("text_encoder.ln_final", text.width),
            **_blocks("text_encoder.", text.width, text.layers),
        }
    if sizes.loss_classes:
        shapes[LOSS_BUFFER] = (sizes.loss_classes + 1,)
    return shapes | _head(sizes, dim, width)


def _head(sizes: Sizes, dim: int, width: int) -> Shapes:
    shapes: Shapes = {}
    start = "decode_head."
    if sizes.method == "zegclip":
        shapes |= _linear(f"{start}q_proj", 2 * dim, dim)
        return shapes | _decoder(f"{start}decoder_1.layers", dim, sizes.layers)
    if sizes.method == "cascade":
        inner = sum(sizes.groups)
        shapes["backbone.proj_layers"] = (inner, width, dim)
        for i in range(inner):
            shapes |= _norm(f"backbone.ln_layers.{i}", width)
        for i, count in enumerate(sizes.groups, start=1):
            shapes[f"{start}weights_s{i}"] = (count,)
        for i in range(len(sizes.groups) + 1):
            shapes |= _linear(f"{start}q_projs.{i}", 2 * dim, dim)
            shapes |= _decoder(f"{start}cascade_decoders.{i}.layers", dim, sizes.layers)
        return shapes
    shapes["backbone.region_level_bridge"] = (sizes.regions, width)
    shapes |= _linear(f"{start}q_proj", 2 * dim, dim)
    shapes |= _linear(f"{start}lateral_proj", 3 * dim, dim)
    recovery = f"{start}recovery_decoder."
    for side in "qv":
        shapes |= _decoder(f"{start}decoder_{side}.layers", dim, sizes.layers)
        shapes |= _decoder(f"{recovery}decouple_{side}", dim, 1)
    return {
        **shapes,
        **_linear(f"{recovery}linear_q_in", dim, dim),
        **_linear(f"{recovery}linear_k_in", dim, dim),
        **_linear(f"{recovery}linear_q_out", dim, 2 * dim),
        **_linear(f"{recovery}linear_k_out", dim, dim),
    }


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int) -> Shapes:
    return {
        f"{name}.in_proj_weight": (3 * width, width),
        f"{name}.in_proj_bias": (3 * width,),
        **_linear(f"{name}.out_proj", width, width),
    }


def _blocks(prefix: str, width: int, count: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(count):
        start = f"{prefix}transformer.resblocks.{i}."
        shapes |= _attention(f"{start}attn", width)
        shapes |= _norm(f"{start}ln_1", width) | _norm(f"{start}ln_2", width)
        shapes |= _linear(f"{start}mlp.c_fc", width, 4 * width)
        shapes |= _linear(f"{start}mlp.c_proj", 4 * width, width)
    return shapes


def _decoder(prefix: str, dim: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(layers):
        start = f"{prefix}.{i}."
        shapes |= _attention(f"{start}self_attn", dim)
        for part in ("q", "k", "v", "proj"):
            shapes |= _linear(f"{start}multihead_attn.{part}", dim, dim)
        shapes |= _linear(f"{start}linear1", dim, 4 * dim)
        shapes |= _linear(f"{start}linear2", 4 * dim, dim)
        for norm in (1, 2, 3):
            shapes |= _norm(f"{start}norm{norm}", dim)
    return shapes


def is_trained(key: str) -> bool:
    """Tell whether the authors train a tensor: the head, and what has "prompt" in its name."""
    if key.startswith("decode_head."):
        return key != LOSS_BUFFER
    return key.startswith("backbone.") and "prompt" in key


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
