"""What the authors published: where their checkpoints are, which keys and shapes these hold.

A key table maps the beginnings of the authors' names to the beginnings of ours; the longest that
fits counts. None is for what is known and left out on purpose: self-attention and norms that no
layer calls, the parts of a last layer after its scores, a buffer of the loss.
"""

from dataclasses import dataclass
from typing import NamedTuple

from unseen.clip.model import TextConfig, VisionConfig
from unseen.metrics import markdown
from unseen.recipes import RECIPES, VOCABULARY_OF, Expected, Recipe, cells
from unseen.vocabulary import VOC20, Vocabulary

Keys = dict[str, str | None]

TITLES = {"zegclip": "ZegCLIP", "cascade": "Cascade-CLIP", "cliprc": "CLIP-RC"}

LOSS_BUFFER = "decode_head.loss_decode.criterion.empty_weight"
"""A buffer of the authors' loss that nothing reads: one number a class, and one more."""


# Files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint that its authors offer; the recipe of the same name tells the rest.

    Args:
        name: of the model it makes, and of the recipe that trains it.
        url: where it, or the page that links to it, can be had.
        licence: what its repository says.
        file: what it is called there, where that is known.
        hours: of training on four RTX 3090, where the README gives them.
    """

    name: str
    url: str
    licence: str
    file: str = "FILE.pth"
    hours: float | None = None

    @property
    def recipe(self) -> Recipe:
        """The training that made it."""
        return RECIPES[self.name]

    def command(self) -> str:
        """Return the command that turns the file into the model."""
        vocabulary = VOCABULARY_OF[self.recipe.data.name]
        return (
            f"unseen convert {self.file} --vocabulary {vocabulary} "
            f"--setting {self.recipe.setting} --output {self.name}"
        )

    def advice(self) -> str:
        """Say how to get the model: where the file is, and the command that converts it."""
        return f"download the authors' file ({self.url}), then '{self.command()}' makes it"


_DRIVE = "https://drive.google.com/file/d"
_BAIDU = "https://pan.baidu.com/s"
_MIT = "MIT"
_BOTH = "LICENSE file: MIT; README: CC BY-NC 4.0"
_ZEGCLIP = "the README of https://github.com/ZiqinZhou66/ZegCLIP"

PUBLISHED = {
    entry.name: entry
    for entry in (
        PublishedFile("zegclip-voc-inductive", _ZEGCLIP, _MIT),
        PublishedFile("zegclip-voc-transductive", _ZEGCLIP, _MIT),
        PublishedFile("zegclip-voc-supervised", _ZEGCLIP, _MIT),
        PublishedFile(
            "zegclip-coco-inductive",
            f"{_DRIVE}/12M6T97o9wyxbJKrR7zLfFMDsGVTiq4WY",
            _MIT,
            "coco_inductive_512_vit_base.pth",
        ),
        PublishedFile("zegclip-coco-transductive", _ZEGCLIP, _MIT),
        PublishedFile("zegclip-coco-supervised", _ZEGCLIP, _MIT),
        *(
            PublishedFile(f"cascade-{name}", f"{_BAIDU}/{place}", _BOTH, hours=hours)
            for name, place, hours in (
                ("voc-inductive", "1HZyN-Q0PFLJyaofOJ6ePqw", 3),
                ("voc-transductive", "1igggSXPOF0PXEGmxsH7NQw", 1.5),
                ("context-inductive", "1iUTHAwDl4DROEzMQCy56Ug", 8),
                ("context-transductive", "17C9a7M1SUDxcL-ufX3PY4g", 4),
                ("coco-inductive", "1nuSO-Gjf3j9HaJA2eRpWlg", 20),
                ("coco-transductive", "1qyCfObgTnrVwgp-i-NYUxw", 10),
            )
        ),
        *(
            PublishedFile(f"cliprc-{name}", f"{_DRIVE}/{place}", "none stated")
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


def list_files() -> str:
    """Return the authors' files as a Markdown table, with the scores of their recipes."""
    rows = [
        [
            f"`{entry.name}`",
            *cells(entry.recipe.expected or Expected()),
            "–" if entry.hours is None else f"{entry.hours:g}",
            f"[file]({entry.url})" if entry.url.startswith("https") else "their README",
            entry.licence,
        ]
        for entry in PUBLISHED.values()
    ]
    heading = ["model", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "hours", "from", "licence"]
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


def invert(table: Keys) -> Keys:
    """Return the table from our keys to the authors'."""
    return {ours: theirs for theirs, ours in table.items() if ours is not None}


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


def loss_classes(method: str, vocabulary: Vocabulary, setting: str) -> int:
    """Return the classes that the loss of an authors' configuration counts; 0 without a buffer."""
    if method == "cliprc":
        return 0
    # VOC's transductive configurations count all, the others' the seen
    everything = setting == "supervised" or (setting == "transductive" and vocabulary == VOC20)
    return len(vocabulary if everything else vocabulary.seen)


def is_trained(key: str) -> bool:
    """Tell whether the authors train a tensor: the head, and what has "prompt" in its name."""
    if key.startswith("decode_head."):
        return key != LOSS_BUFFER
    return key.startswith("backbone.") and "prompt" in key
