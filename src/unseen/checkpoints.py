"""Models as files: our own folders (safetensors + JSON), and the authors' checkpoints.

A folder holds ``config.json``, which says all that is needed to build the model again and what it
was trained for, and ``model.safetensors``. No file is ever executed.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unseen.clip import ImageEncoder, TextEncoder, load_clip
from unseen.clip.archives import State, read_state
from unseen.clip.weights import (
    build_from_config,
    build_image_encoder,
    build_text_encoder,
    clip_config,
    fill,
)
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.methods.encoder import PromptedEncoder
from unseen.methods.zegclip import ZegHead
from unseen.model import SegmentationModel
from unseen.vocabulary import Vocabulary
from unseen.writing import write_text, write_whole

SHIPPED_CLIP = "miniature"


@dataclass(frozen=True)
class ModelConfig:
    """What a saved model is, beside its weights.

    Args:
        method: a key of ``METHODS``.
        options: keyword arguments of the method's builder.
        vocabulary: the names it was trained with, seen and unseen.
        setting: a key of ``SETTINGS``; empty for training-free methods.
        calibration: γ, what is subtracted from the scores of seen classes.
        short_side: pixels of a picture's short side when it is shown to the model.
        window: side of the square windows a picture is cut into.
        stride: step from one window to the next.
        clip: where the CLIP comes from that an adapter-only folder leaves out.
        recipe: how it was trained.
        versions: of unseen and torch, when it was saved.
    """

    method: str
    options: dict[str, Any]
    vocabulary: Vocabulary
    setting: str
    calibration: float = 0.0
    short_side: int = 512
    window: int = 512
    stride: int = 426
    clip: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def taught(self) -> tuple[str, ...]:
        """The names whose masks training showed."""
        if not self.setting:
            return ()
        return self.vocabulary.names if self.setting == "supervised" else self.vocabulary.seen


def save_pretrained(
    folder: str | Path,
    model: SegmentationModel,
    text: TextEncoder,
    config: ModelConfig,
    *,
    adapter_only: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model's folder; each of its files appears whole or not at all.

    Args:
        folder: where to; replaced if it holds a model already.
        model: the model.
        text: the text encoder of its CLIP.
        config: what it is.
        adapter_only: leave CLIP out; loading then needs the one that ``config.clip`` names.
        dtype: of the stored weights.

    Raises:
        InputError: the folder cannot be written, or nothing says which CLIP was left out.
    """
    if adapter_only and not config.clip:
        raise InputError("a model saved without its CLIP must say which it needs: config.clip")
    folder = Path(folder)
    state = {**model.state_dict(), **{f"text.{k}": v for k, v in text.state_dict().items()}}
    if adapter_only:
        state = {k: v for k, v in state.items() if not k.startswith(("encoder.clip.", "text."))}
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in state.items()}
    versions = {"unseen": version("unseen"), "torch": torch.__version__}
    description = {
        "format": "unseen-model",
        "adapter_only": adapter_only,
        "encoders": clip_config(model.encoder.clip, text),
        **asdict(replace(config, versions=versions)),
    }
    write_whole(folder / "model.safetensors", lambda path: save_file(state, path))
    write_text(folder / "config.json", json.dumps(description, indent=1) + "\n")


def load_pretrained(
    source: str | Path, *, clip: str | Path | None = None
) -> tuple[SegmentationModel, TextEncoder, ModelConfig]:
    """Load a model's folder, or a model that ships with the package by its name.

    Args:
        source: folder or name.
        clip: the CLIP of an adapter-only folder, if not where its configuration says.

    Raises:
        InputError: no such model, or a file that is broken, lacks a key or has one too many.
    """
    folder = Path(source)
    if not os.path.exists(folder):  # which is quiet about names too long for a path
        if str(source) not in shipped_models():
            raise InputError(_whereabouts(str(source)))
        with as_file(files("unseen.miniature") / "assets" / str(source)) as path:
            return _load_folder(path, clip)
    return _load_folder(folder, clip)


def shipped_models() -> list[str]:
    """Return the names of the models inside the package."""
    assets = files("unseen.miniature") / "assets"
    return sorted(
        entry.name
        for entry in assets.iterdir()
        if entry.is_dir() and (entry / "config.json").is_file()
    )


def shipped_clip() -> Path:
    """Return the folder of the miniature's CLIP."""
    with as_file(files("unseen.miniature") / "assets" / "clip") as path:
        return path


def _load_folder(
    folder: Path, clip: str | Path | None
) -> tuple[SegmentationModel, TextEncoder, ModelConfig]:
    description = _read_description(folder)
    known = {item.name for item in fields(ModelConfig)}
    try:
        config = ModelConfig(
            **{key: value for key, value in description.items() if key in known - {"vocabulary"}},
            vocabulary=Vocabulary.from_dict(description["vocabulary"]),
        )
        state = read_state(folder / "model.safetensors")
        if description["adapter_only"]:
            source = clip or config.clip
            encoders = load_clip(shipped_clip() if source == SHIPPED_CLIP else source)
            image, text = encoders.image, encoders.text
        else:
            image, text = build_from_config(description["encoders"])
        model = METHODS[config.method](image, **config.options)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}/config.json does not describe a model this version knows ({error}); "
            "was it written by a newer unseen, or edited?"
        ) from None
    if description["adapter_only"]:
        given = {f"encoder.clip.{k}": v for k, v in image.state_dict().items()}
        state = {**given, **state}
    else:
        prefix = "text."
        text_state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        fill(text, text_state, f"the text encoder of {folder}")
        state = {k: v for k, v in state.items() if not k.startswith(prefix)}
    fill(model, state, f"the {config.method} of {folder}")
    return model.eval(), text.eval(), config


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        hint = f"; {folder} is a file" if folder.is_file() else ""
        raise InputError(
            f"{folder} is not a model's folder: it has no config.json{hint}. "
            "Checkpoints of the authors are turned into one by 'unseen convert'"
        )
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path} is not whole JSON: restore it from where it came") from None
    if description.get("format") != "unseen-model":
        raise InputError(f"{path} does not describe a model of unseen")
    return description


# The authors' checkpoints ------------------------------------------------------------------------

_DRIVE = "https://drive.google.com/file/d/12M6T97o9wyxbJKrR7zLfFMDsGVTiq4WY"
_README = "the README of https://github.com/ZiqinZhou66/ZegCLIP"
PUBLISHED = {
    "zegclip-coco-inductive": (_DRIVE, "coco_inductive_512_vit_base.pth"),
    **{
        f"zegclip-{data}-{setting}": (_README, "FILE.pth")
        for data, setting in (
            ("coco", "transductive"),
            ("coco", "supervised"),
            ("voc", "inductive"),
            ("voc", "transductive"),
            ("voc", "supervised"),
        )
    },
}
"""Where the authors' own files are, by the names of the models they make."""


def _whereabouts(name: str) -> str:
    """Say where a model that is not here can be had."""
    if name in PUBLISHED:
        place, file = PUBLISHED[name]
        _, data, setting = name.split("-")
        vocabulary = {"voc": "voc20", "coco": "coco171"}[data]
        return (
            f"{name} does not ship with unseen: download the authors' file ({place}), then "
            f"'unseen convert {file} --vocabulary {vocabulary} --setting {setting} "
            f"--output {name}' makes it"
        )
    return (
        f"there is no model {name!r}: give the folder of one, or a shipped name "
        f"({', '.join(shipped_models())}); published ones that can be converted: "
        f"{', '.join(sorted(PUBLISHED))}"
    )


def zegclip_keys(num_layers: int) -> dict[str, str | None]:
    """Return the key table of the authors' ZegCLIP: beginnings of their names → of ours.

    The longest beginning that fits counts. None is for what is known and left out on purpose:
    self-attention that no layer calls, the parts of the last layer after its scores, and a buffer
    of the loss.
    """
    table: dict[str, str | None] = {
        "backbone.": "encoder.clip.",
        "backbone.prompt_embeddings": "encoder.prompts.shallow",
        "backbone.deep_prompt_embeddings": "encoder.prompts.deep",
        "backbone.prompt_proj.": "encoder.prompts.project.",
        "backbone.prompt_norm.": "encoder.prompts.norm.",
        "text_encoder.": "text.",
        "decode_head.q_proj.": "head.project.",
        "decode_head.loss_decode.": None,
    }
    for i in range(num_layers):
        theirs, ours = f"decode_head.decoder_1.layers.{i}.", f"head.layers.{i}."
        table |= {f"{theirs}self_attn.": None, f"{theirs}norm1.": None}
        if i == num_layers - 1:
            table |= {
                theirs: None,
                f"{theirs}multihead_attn.q.": "head.similarity.query.",
                f"{theirs}multihead_attn.k.": "head.similarity.key.",
            }
            continue
        table |= {
            f"{theirs}multihead_attn.q.": f"{ours}query.",
            f"{theirs}multihead_attn.k.": f"{ours}key.",
            f"{theirs}multihead_attn.v.": f"{ours}value.",
            f"{theirs}multihead_attn.proj.": f"{ours}out.",
            f"{theirs}linear1.": f"{ours}linear1.",
            f"{theirs}linear2.": f"{ours}linear2.",
            f"{theirs}norm2.": f"{ours}norm1.",
            f"{theirs}norm3.": f"{ours}norm2.",
        }
    return table


def translate(key: str, table: dict[str, str | None]) -> str | None:
    """Rename a key by the longest beginning a table knows; None if that is to be left out.

    Raises:
        KeyError: the table knows no beginning of it.
    """
    start = max((start for start in table if key.startswith(start)), key=len, default=None)
    if start is None:
        raise KeyError(key)
    renamed = table[start]
    return None if renamed is None else renamed + key.removeprefix(start)


def rename(state: State, table: dict[str, str | None]) -> State:
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
        raise InputError(f"the checkpoint has keys that ZegCLIP does not: {', '.join(unknown[:5])}")
    return ours


def convert(
    state: dict[str, Tensor],
    *,
    heads: int | None = None,
    text_heads: int | None = None,
    decoder_heads: int = 8,
) -> tuple[SegmentationModel, TextEncoder | None, dict[str, Any]]:
    """Turn a checkpoint of the authors into a model; sizes are read off its shapes.

    Args:
        state: tensors under the authors' names.
        heads: attention heads of the image encoder, by default one per 64 channels.
        text_heads: the same for the text encoder.
        decoder_heads: attention heads of the decoder.

    Returns:
        The model, its text encoder if the checkpoint holds one, and the options of its method's
        builder.

    Raises:
        InputError: another method's checkpoint, or one with a missing or unknown key.
    """
    state = {key.removeprefix("module."): value.float() for key, value in state.items()}
    if not any(key.startswith("decode_head.decoder_1.") for key in state):
        others = {"cascade_decoders": "a Cascade-CLIP", "decoder_q": "a CLIP-RC"}
        found = next((name for part, name in others.items() if any(part in k for k in state)), "")
        clue = (
            f"this is {found} checkpoint, which cannot be converted yet"
            if found
            else "this has no decoder; weights of CLIP alone need no conversion: use --clip"
        )
        raise InputError(f"expected a checkpoint of the authors' ZegCLIP; {clue}")
    num_layers = len({k.split(".")[3] for k in state if k.startswith("decode_head.decoder_1.")})
    ours = rename(state, zegclip_keys(num_layers))

    def part(prefix: str) -> State:
        return {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)}

    try:
        image: ImageEncoder = build_image_encoder(part("encoder.clip."), heads=heads)
        text = build_text_encoder(part("text."), heads=text_heads) if part("text.") else None
        options = {
            "prompts": ours["encoder.prompts.shallow"].shape[1],
            "depth": len(ours["encoder.prompts.deep"]),
            "layers": num_layers,
            "heads": decoder_heads,
        }
    except KeyError as error:
        raise InputError(f"the checkpoint lacks {error}: is the file whole?") from None
    model = SegmentationModel(
        PromptedEncoder(image, prompts=options["prompts"], depth=options["depth"]),
        ZegHead(image.config.embed_dim, layers=num_layers, heads=decoder_heads),
    )
    fill(model.encoder, part("encoder."), "ZegCLIP's encoder")
    fill(model.head, part("head."), "ZegCLIP's decoder")
    return model.eval(), text.eval() if text else None, options
