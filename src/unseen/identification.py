"""What a file is: an authors' checkpoint, a model of ours, CLIP's weights, or text embeddings."""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from unseen.checkpoints import (
    ModelConfig,
    describing,
    read_config,
    read_description,
    refuse_exported,
)
from unseen.clip import ImageEncoder, TextConfig, TextEncoder, VisionConfig, load_clip
from unseen.clip.archives import Archive, read_archive
from unseen.conversion import compare_keys, read_sizes, recognise
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.published import KNOWN_SHA256, LOSS_BUFFER, TITLES
from unseen.shipped import SHIPPED_CLIP, shipped_clip, shipped_model, shipped_models

NOTHING_KNOWN = (
    "expected a checkpoint of ZegCLIP's, Cascade-CLIP's or CLIP-RC's authors, a model's folder, "
    "weights of CLIP, or text embeddings"
)


@dataclass(frozen=True)
class Identity:
    """What was found.

    Args:
        path: what was looked at.
        kind: what it is.
        facts: what it says of itself, by name.
        problems: what keeps it from working; none if it is whole.
        advice: what to do next.
        sha256: of the file, or of a folder's weights.
        known: what the file is by its SHA-256; empty if that is not known.
    """

    path: Path
    kind: str
    facts: dict[str, Any]
    problems: tuple[str, ...]
    advice: str
    sha256: str
    known: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {**vars(self), "path": str(self.path), "problems": list(self.problems)}

    def describe(self) -> str:
        """Return everything, a line each."""
        lines = [f"{self.path}: {self.kind}"]
        for name, value in self.facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            shown = f"{value:,}" if isinstance(value, int) else shown
            lines.append(f"  {name}: {'none' if shown == '' else shown}")
        lines.append(f"  SHA-256: {self.sha256}" + (f" ({self.known})" if self.known else ""))
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join([*lines, f"next: {self.advice}"])


def identify(path: str | Path) -> Identity:
    """Say what a file or folder is.

    Args:
        path: of it, or the name of a shipped model.

    Raises:
        InputError: nothing there, nothing known, or a broken file.
    """
    shipped = str(path) in shipped_models() and not Path(path).exists()
    path = shipped_model(str(path)) if shipped else Path(path)
    if path.is_dir():
        return _model(path) if (path / "config.json").is_file() and _is_ours(path) else _clip(path)
    if not path.is_file():
        raise InputError(f"there is no file or folder {path}")
    if path.name == "config.json" and path.with_name("model.safetensors").is_file():
        raise InputError(f"{path} belongs to a folder: give {path.parent}")
    if path.suffix == ".npy" or _metadata(path):
        return _embeddings(path)
    archive = read_archive(path)
    keys = [key.removeprefix("module.") for key in archive.state]
    if any(key.startswith("decode_head.") for key in keys):
        return _published(path, archive)
    if any(key.startswith(("visual.", "vision_model.")) for key in keys):
        return _clip(path)
    raise InputError(f"{path} is none of what is known here: {NOTHING_KNOWN}")


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(
    path: Path,
    kind: str,
    facts: dict[str, Any],
    advice: str,
    *,
    problems: tuple[str, ...] = (),
    file: Path | None = None,
) -> Identity:
    sha256 = digest(file or path)
    known = KNOWN_SHA256.get(sha256, "")
    return Identity(path, kind, facts, problems, advice, sha256, known)


# An authors' checkpoint --------------------------------------------------------------------------


def _published(path: Path, archive: Archive) -> Identity:
    state = {key.removeprefix("module."): value for key, value in archive.state.items()}
    says = recognise(state, archive.meta)
    sizes = read_sizes(state)
    report = compare_keys(state, sizes)
    vision, text, meta = sizes.vision, sizes.text, archive.meta
    vocabulary = says.vocabulary
    classes = meta.get("CLASSES")
    classes = classes if isinstance(classes, (list, tuple)) else ()
    facts: dict[str, Any] = {
        "method": TITLES[sizes.method],
        "prompts": sizes.prompts,
        "prompted blocks": sizes.depth + 1,
        "decoders": len(sizes.groups) + 1 if sizes.method == "cascade" else 1,
        "layers of a decoder": sizes.layers,
    }
    if sizes.method == "cliprc":
        facts["decoders"] = 2
        facts["region tokens"] = sizes.regions
    facts |= {
        "image encoder": _vision(vision),
        "text encoder": _text(text) if text else "not inside",
        "parameters": sum(v.numel() for k, v in state.items() if k != LOSS_BUFFER),
        "vocabulary": vocabulary.name if vocabulary else f"{len(classes)} names" if classes else "",
        "possible settings": list(says.settings),
        "iteration": meta.get("iter", ""),
        "mmcv": meta.get("mmcv_version", ""),
        "keys missing": report.missing,
        "keys missing that nothing reads": len(report.unused),
        "keys unknown": report.unknown,
        "keys misshapen": report.misshapen,
    }
    problems = [
        f"{len(keys)} keys are {what}"
        for keys, what in (
            (report.missing, "missing"),
            (report.unknown, "unknown"),
            (report.misshapen, "misshapen"),
        )
        if keys
    ]
    try:
        recognise(state, meta, vocabulary)
    except InputError as error:
        problems.append(str(error))
    command, choices = f"unseen convert {path} --output FOLDER", ""
    if text is None:
        command += " --adapter-only"
    if vocabulary is None:
        command += " --vocabulary NAME"
        choices += "; NAME is voc20, coco171 or context59-released"
    if len(says.settings) > 1:
        command += " --setting SETTING"
        choices += f"; SETTING is {' or '.join(says.settings)}"
    advice = command + choices
    if problems:
        advice = f"get the file again; a whole one converts with: {advice}"
    return _identity(path, "a checkpoint of the authors", facts, advice, problems=tuple(problems))


def _vision(config: VisionConfig) -> str:
    return (
        f"{config.layers} blocks of width {config.width}, patches of {config.patch_size}, "
        f"positions for {config.image_size}×{config.image_size}, joint width {config.embed_dim}"
    )


def _text(config: TextConfig) -> str:
    return (
        f"{config.layers} blocks of width {config.width}, {config.vocab_size} tokens, "
        f"{config.context_length} at once"
    )


# A model of ours ---------------------------------------------------------------------------------


def _is_ours(folder: Path) -> bool:
    """Tell a model's folder from a Hugging Face one, which has a config.json too."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return True  # which is then told by the reader
    return isinstance(content, dict) and content.get("format") == "unseen-model"


def _model(folder: Path) -> Identity:
    description = read_description(folder)
    refuse_exported(folder, description)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{folder} has no model.safetensors: restore it from where it came")
    with describing(folder):
        config = read_config(description)
        adapter_only = description["adapter_only"]
        expected = _expected(config, description)
    vocabulary = config.vocabulary
    found = _shapes(weights)
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected.keys())
    misshapen = [
        f"{key} is {found[key]}, expected {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    facts: dict[str, Any] = {
        "method": config.method,
        "options": json.dumps(config.options),
        "setting": config.setting or "training-free",
        "vocabulary": f"{vocabulary.name}, {len(vocabulary)} classes",
        "held out": list(vocabulary.unseen),
        "calibration": config.calibration,
        "shown at": f"short side {config.short_side}, windows of {config.window} every "
        f"{config.stride}",
        "holds": "the adapter only" if adapter_only else "everything, CLIP too",
        "CLIP": config.clip or "inside",
        "numbers stored": sum(int(np.prod(shape)) for shape in found.values()),
        "recipe": config.recipe.get("name", ""),
        "versions": ", ".join(f"{k} {v}" for k, v in config.versions.items()),
        "keys missing": missing,
        "keys unknown": unknown,
        "keys misshapen": misshapen,
    }
    lists = (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
    problems = tuple(f"{len(keys)} keys are {what}" for what, keys in lists if keys)
    advice = f"unseen segment PICTURE --model {folder} --labels 'cat, grass'"
    if problems:
        advice = "get the folder again from where it came"
    return _identity(folder, "a model of unseen", facts, advice, problems=problems, file=weights)


def _expected(config: ModelConfig, description: dict[str, Any]) -> dict[str, list[int]]:
    """Return the shapes that a model's file must hold; needs no weights."""
    encoders = description["encoders"]
    with torch.device("meta"):
        model = METHODS[config.method](
            ImageEncoder(VisionConfig(**encoders["vision"])), **config.options
        )
        state = model.state_dict()
        if description["adapter_only"]:
            state = {k: v for k, v in state.items() if not k.startswith("encoder.clip.")}
        else:
            text = TextEncoder(TextConfig(**encoders["text"]))
            state |= {f"text.{k}": v for k, v in text.state_dict().items()}
    return {key: list(value.shape) for key, value in state.items()}


def _shapes(path: Path) -> dict[str, list[int]]:
    """Read the names and shapes of a safetensors file, not its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None


# CLIP --------------------------------------------------------------------------------------------


def _clip(path: Path) -> Identity:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            clip = load_clip(path)
        except InputError as error:
            if path.is_dir() and "no CLIP weights in" in str(error):
                raise InputError(f"{path} is none of what is known here: {NOTHING_KNOWN}") from None
            raise
    weights = path
    if path.is_dir():
        names = ("clip.safetensors", "open_clip_model.safetensors", "model.safetensors")
        weights = next((path / n for n in names if (path / n).is_file()), None) or next(
            path.glob("*.bin")
        )
    facts = {
        "image encoder": _vision(clip.image.config),
        "text encoder": _text(clip.text.config),
        "heads": f"{clip.image.config.heads} and {clip.text.config.heads}",
        "activation": clip.image.config.activation,
        "parameters": sum(p.numel() for p in clip.parameters()),
    }
    if said:
        facts["note"] = str(said[0].message)
    source = SHIPPED_CLIP if path.resolve() == shipped_clip().resolve() else path
    advice = f"unseen segment PICTURE --clip {source} --labels 'cat, grass'"
    return _identity(path, "weights of CLIP", facts, advice, file=weights)


# Text embeddings ---------------------------------------------------------------------------------


def _metadata(path: Path) -> bool:
    """Tell whether a file is safetensors that name the labels of their rows."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "vocabulary" in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None


def _embeddings(path: Path) -> Identity:
    from unseen.embeddings import TextEmbeddings

    if path.suffix != ".npy":
        stored = TextEmbeddings.load(path)
        vocabulary = stored.vocabulary
        facts: dict[str, Any] = {
            "rows": f"{len(stored.values)} of width {stored.values.shape[1]}",
            "names": list(vocabulary.names),
            "vocabulary": vocabulary.name,
            "held out": list(vocabulary.unseen),
            "templates": list(vocabulary.templates),
            "CLIP": stored.clip,
        }
        advice = f"unseen segment PICTURE --model MODEL --text {path}"
        return _identity(path, "text embeddings", facts, advice)
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        raise InputError(f"{path} is not a whole .npy file of numbers") from None
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
        raise InputError(
            f"{path} holds {rows.dtype} of shape {list(rows.shape)}: text embeddings are rows of "
            "floats, one a class"
        )
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    facts = {
        "rows": f"{rows.shape[0]} of width {rows.shape[1]}",
        "dtype": str(rows.dtype),
        "lengths of rows": f"{lengths.min():.4f} to {lengths.max():.4f}",
        "names": "not in the file: rows are in the order of a vocabulary",
    }
    advice = f"unseen segment PICTURE --model MODEL --text {path} --labels VOCABULARY"
    return _identity(path, "text embeddings without names", facts, advice)
