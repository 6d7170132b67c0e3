"""CLIP weights from files: OpenAI's archives, Hugging Face's and open_clip's safetensors, our own.

Each reader ends at OpenAI's names; sizes are then read off the shapes. No file is ever executed.
"""

import hashlib
import json
import math
import os
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unseen.clip.archives import State, is_torchscript, read_state
from unseen.clip.model import CLIP, ImageEncoder, TextConfig, TextEncoder, VisionConfig
from unseen.clip.tokenizer import BytePairTokenizer, WordTokenizer
from unseen.errors import InputError
from unseen.hub import fetch, find_cached, is_repository
from unseen.writing import write_text, write_whole

# Known and left out on purpose: sizes that OpenAI's archive stores as tensors, index buffers.
_NOT_WEIGHTS = re.compile(
    r"(input_resolution|context_length|vocab_size|attn_mask|(.*\.)?position_ids|(.*\.)?attn_mask)$"
)


def load_clip(
    source: str | Path,
    *,
    heads: int | None = None,
    text_heads: int | None = None,
    activation: str | None = None,
) -> CLIP:
    """Read CLIP weights in any of the published formats.

    Args:
        source: OpenAI's ``.pt`` archive, a ``.safetensors`` file, a folder that holds one beside
            its configuration, or the hub name of such a folder (``openai/clip-vit-base-patch16``).
        heads: attention heads of the image encoder, which no shape tells; by default what the
            configuration says, else one per 64 channels.
        text_heads: the same for the text encoder.
        activation: ``quick_gelu`` (OpenAI's weights) or ``gelu``; by default what the configuration
            says, else ``quick_gelu``.

    Raises:
        InputError: there is nothing at ``source``, or what is there is not a CLIP of vision and
            text transformers.
    """
    path, config_path = _locate(source)
    config = _read_config(config_path)
    if config.get("format") == "unseen-clip":
        if heads or text_heads or activation:
            raise InputError(f"{config_path} says its own heads and activation: leave them out")
        return _read_own(path, config)
    state = read_state(path)
    if any(key.startswith("vision_model.") for key in state):
        state = _from_hugging_face(state)
    else:
        # open_clip's newer models keep the text encoder under its own prefix
        state = {key.removeprefix("text."): value for key, value in state.items()}
    image, text, scale = _split(state, path)
    hints = _hints(config)
    if activation is None and not config and not is_torchscript(path):  # which is OpenAI's
        warnings.warn(
            f"no configuration beside {path}: taking OpenAI's activation, quick_gelu; weights "
            "trained by others mostly need gelu: put open_clip_config.json or config.json there",
            stacklevel=2,
        )
    clip = CLIP(
        build_image_encoder(
            image,
            heads=heads or hints.get("heads"),
            activation=activation or hints.get("activation", "quick_gelu"),
        ),
        build_text_encoder(
            text,
            heads=text_heads or hints.get("text_heads"),
            activation=activation or hints.get("activation", "quick_gelu"),
        ),
    )
    clip.logit_scale.data.copy_(scale)
    return clip


def build_image_encoder(
    state: State, *, heads: int | None = None, activation: str = "quick_gelu"
) -> ImageEncoder:
    """Make an image encoder of the sizes of a state dict in OpenAI's names, and fill it.

    ``heads`` defaults to one per 64 channels.
    """
    width, _, _, patch = state["conv1.weight"].shape
    side = math.isqrt(len(state["positional_embedding"]) - 1)
    config = VisionConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=_count_blocks(state),
        heads=heads or max(width // 64, 1),
        embed_dim=state["proj"].shape[1],
        activation=activation,
    )
    encoder = ImageEncoder(config)
    fill(encoder, state, "the image encoder")
    return encoder


def build_text_encoder(
    state: State, *, heads: int | None = None, activation: str = "quick_gelu"
) -> TextEncoder:
    """Make a text encoder of the sizes of a state dict in OpenAI's names, and fill it.

    ``heads`` defaults to one per 64 channels.
    """
    vocab_size, width = state["token_embedding.weight"].shape
    config = TextConfig(
        vocab_size=vocab_size,
        context_length=len(state["positional_embedding"]),
        width=width,
        layers=_count_blocks(state),
        heads=heads or max(width // 64, 1),
        embed_dim=state["text_projection"].shape[1],
        activation=activation,
    )
    encoder = TextEncoder(config)
    fill(encoder, state, "the text encoder")
    return encoder


def fill(module: torch.nn.Module, state: State, what: str, *, mapped: bool = False) -> None:
    """Load a state dict strictly; say which keys are missing, unknown or misshapen.

    Args:
        module: what to load into.
        state: its weights.
        what: to call it.
        mapped: make the tensors themselves its weights, which may still lie on disk; no copies.
    """
    expected = module.state_dict()
    problems = []
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    for title, keys in (("lacks", missing), ("has unknown", unknown), ("misshapen:", shapes)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{title} {', '.join(keys[:3])}{more}")
    if problems:
        raise InputError(
            f"these weights do not fit {what}: {'; '.join(problems)}. "
            "Check that the file is whole and of this model"
        )
    values = {key: value.to(expected[key].dtype) for key, value in state.items()}
    module.load_state_dict(values, assign=mapped)


def _count_blocks(state: State) -> int:
    return len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})


def fingerprint(encoder: ImageEncoder | TextEncoder, dtype: torch.dtype = torch.float32) -> str:
    """Return a hash of an encoder's weights, in half precision: which CLIP it is of.

    An image encoder's positions are left out: the authors keep them resampled to another grid. What
    no weight tells goes in where it is not as in OpenAI's models.

    Args:
        encoder: the encoder.
        dtype: what its weights will be rounded to before they are read again.
    """
    digest = hashlib.sha256()
    config = encoder.config
    read_as = config.activation, config.heads
    if read_as != ("quick_gelu", max(config.width // 64, 1)):
        digest.update(repr(read_as).encode())
    for key, value in sorted(encoder.state_dict().items()):
        if isinstance(encoder, ImageEncoder) and key == "positional_embedding":
            continue
        digest.update(key.encode())
        digest.update(value.detach().to(dtype).half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# Files ------------------------------------------------------------------------------------------

_FOLDER_FILES = (
    ("clip.safetensors", "clip.json"),
    ("open_clip_model.safetensors", "open_clip_config.json"),
    ("model.safetensors", "config.json"),
    ("pytorch_model.bin", "config.json"),
    ("open_clip_pytorch_model.bin", "open_clip_config.json"),
)


def _locate(source: str | Path) -> tuple[Path, Path | None]:
    """Return the weights file and its configuration, if it has one."""
    path = Path(source)
    if os.path.isfile(path):  # which is quiet about names too long for a path
        known = [path.with_name(config) for name, config in _FOLDER_FILES if name == path.name]
        return path, next((config for config in known if config.is_file()), None)
    if os.path.isdir(path):
        for weights, config in _FOLDER_FILES:
            if (path / weights).is_file():
                return path / weights, path / config if (path / config).is_file() else None
        names = ", ".join(name for name, _ in _FOLDER_FILES)
        raise InputError(f"no CLIP weights in {path}: expected one of {names}")
    if is_repository(str(source)):
        for weights, config in _FOLDER_FILES[1:]:
            cached = [find_cached(str(source), file) for file in (weights, config)]
            if cached[0] and cached[1]:
                return cached[0], cached[1]
        for weights, config in _FOLDER_FILES[1:]:
            config_file = fetch(str(source), config)
            weights_file = fetch(str(source), weights) if config_file else None
            if weights_file:
                return weights_file, config_file
        raise InputError(f"the hub's {source} holds no CLIP weights that can be read")
    raise InputError(
        f"no CLIP weights at {source}: give OpenAI's .pt file, a .safetensors file, a folder with "
        "one, or a hub name such as openai/clip-vit-base-patch16"
    )


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
    except ValueError:
        pass
    raise InputError(f"{path} is not a JSON configuration: restore it, or remove it")


def _hints(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a published configuration says that shapes do not."""
    if "model_cfg" in config:  # open_clip
        model = config["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        return {
            "heads": vision["width"] // vision.get("head_width", 64),
            "text_heads": text.get("heads", 8),
            "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        }
    if "vision_config" in config:  # Hugging Face; what equals its defaults may be left out
        vision, text = config["vision_config"], config.get("text_config", {})
        return {
            "heads": vision.get("num_attention_heads", 12),
            "text_heads": text.get("num_attention_heads", 8),
            "activation": vision.get("hidden_act", "quick_gelu"),
        }
    return {}


# Names ------------------------------------------------------------------------------------------


def _split(state: State, path: Path) -> tuple[State, State, Tensor]:
    """Divide a state dict in OpenAI's names into image encoder, text encoder, logit scale."""
    state = {key: value for key, value in state.items() if not _NOT_WEIGHTS.match(key)}
    scale = state.pop("logit_scale", torch.tensor(math.log(100.0)))
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    text = {k: v for k, v in state.items() if not k.startswith("visual.")}
    for part, needed in (
        (image, ("conv1.weight", "positional_embedding", "proj")),
        (text, ("token_embedding.weight", "positional_embedding", "text_projection")),
    ):
        lacking = [key for key in needed if key not in part]
        if lacking:
            raise InputError(
                f"{path} is not a CLIP with a vision transformer: it lacks {', '.join(lacking)}"
            )
    return image, text, scale.reshape(())


_HUGGING_FACE = [
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"text_projection\.weight", "text_projection"),
]
_HUGGING_FACE_BLOCK = [
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def _from_hugging_face(state: State) -> State:
    """Rename to OpenAI's names, join query, key and value, transpose the two projections."""
    renamed: State = {}
    for old, value in state.items():
        key = old
        for pattern, name in _HUGGING_FACE:
            key = re.sub(f"^{pattern}", name, key)
        for pattern, name in _HUGGING_FACE_BLOCK:
            key = re.sub(pattern, name, key)
        renamed[key] = value.T if key in ("visual.proj", "text_projection") else value
    for key in [key for key in renamed if ".self_attn.q_proj." in key]:
        parts = [renamed.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        block, kind = key.split(".self_attn.q_proj.")
        renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    return renamed


# Our own format ---------------------------------------------------------------------------------


def clip_config(image: ImageEncoder, text: TextEncoder | None = None) -> dict[str, Any]:
    """Describe encoders so that ``build_from_config`` makes them again."""
    config: dict[str, Any] = {"vision": asdict(image.config)}
    if text is not None:
        config["text"] = asdict(text.config)
        tokenizer = text.tokenizer
        if isinstance(tokenizer, WordTokenizer):
            config["words"] = {"words": list(tokenizer.words), "note": tokenizer.note}
    return config


def build_from_config(config: dict[str, Any]) -> tuple[ImageEncoder, TextEncoder]:
    """Make empty encoders of a description."""
    return ImageEncoder(VisionConfig(**config["vision"])), build_text_from_config(config)


def build_text_from_config(config: dict[str, Any]) -> TextEncoder:
    """Make an empty text encoder of a description."""
    text = TextConfig(**config["text"])
    if "words" in config:
        words = config["words"]
        return TextEncoder(
            text, WordTokenizer(words["words"], text.context_length, note=words["note"])
        )
    return TextEncoder(text, BytePairTokenizer(text.context_length))


def save_clip(
    clip: CLIP, folder: Path, *, dtype: torch.dtype = torch.float32, **facts: Any
) -> None:
    """Write ``clip.safetensors`` and ``clip.json``; ``facts`` are kept beside the sizes."""
    state = {key: value.to(dtype).contiguous() for key, value in clip.state_dict().items()}
    write_whole(folder / "clip.safetensors", lambda path: save_file(state, path))
    config = {"format": "unseen-clip", **clip_config(clip.image, clip.text), **facts}
    write_text(folder / "clip.json", json.dumps(config, indent=1) + "\n")


def _read_own(path: Path, config: dict[str, Any]) -> CLIP:
    try:
        clip = CLIP(*build_from_config(config))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path.parent}/clip.json does not describe a CLIP ({error})") from None
    fill(clip, read_state(path), "the CLIP that clip.json describes")
    return clip
