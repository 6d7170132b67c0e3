"""Models as files: folders of safetensors and JSON.

A folder holds ``config.json``, which says all that is needed to build the model again and what it
was trained for, and ``model.safetensors``. No file is ever executed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from unseen.clip import ImageEncoder, TextConfig, TextEncoder, VisionConfig, fingerprint, load_clip
from unseen.clip.archives import read_state
from unseen.clip.weights import build_text_from_config, clip_config, fill
from unseen.confidence import Confidence
from unseen.errors import InputError, did_you_mean
from unseen.hub import fetch, is_repository
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.published import PUBLISHED
from unseen.settings import SETTINGS
from unseen.shipped import SHIPPED_CLIP, shipped_clip, shipped_model, shipped_models
from unseen.vocabulary import Vocabulary
from unseen.writing import refuse_foreign, write_text, write_whole

_KINDS: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "options": dict,
    "setting": str,
    "calibration": (int, float),
    "short_side": int,
    "window": int,
    "stride": int,
    "clip": str,
    "recipe": dict,
    "start": str,
}

_TEXT = "text."  # before the names of the text encoder's weights


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
        start: the model whose weights it was trained from; empty for none.
        shown_before: the names whose masks that one's training, or one before it, showed.
        confidence: how likely labels are right, where ``unseen calibrate`` measured it.
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
    start: str = ""
    shown_before: tuple[str, ...] = ()
    confidence: Confidence | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def taught(self) -> tuple[str, ...]:
        """The names whose masks training showed, to this model or to the one it started from."""
        if not self.setting:
            return ()
        every = self.setting == "supervised"
        shown = self.vocabulary.names if every else self.vocabulary.seen
        return tuple(dict.fromkeys((*shown, *self.shown_before)))


@dataclass(frozen=True)
class StoredText:
    """A text encoder whose weights stay on disk until words are to be embedded.

    Args:
        path: the file with its weights.
        encoders: sizes of both encoders, and the tokenizer.
        fingerprint: as ``unseen.clip.fingerprint`` gives it.
        prefix: of its weights' names in the file.
    """

    path: Path
    encoders: dict[str, Any]
    fingerprint: str
    prefix: str = ""

    @property
    def config(self) -> TextConfig:
        """Its sizes."""
        return TextConfig(**self.encoders["text"])

    def load(self) -> TextEncoder:
        """Read the weights.

        Raises:
            InputError: a broken file, or one of another encoder.
        """
        with describing(self.path.parent):
            text = build_text_from_config(self.encoders)
        state = read_state(self.path, wanted=lambda name: name.startswith(self.prefix))
        own = {name.removeprefix(self.prefix): value for name, value in state.items()}
        fill(text, own, f"the text encoder of {self.path.parent}", mapped=True)
        return text.eval()


def save_pretrained(
    folder: str | Path,
    model: SegmentationModel,
    text: TextEncoder | None,
    config: ModelConfig,
    *,
    adapter_only: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model's folder; each of its files appears whole or not at all.

    Args:
        folder: where to; replaced if it holds a model already.
        model: the model.
        text: the text encoder of its CLIP; only an adapter can be without.
        config: what it is.
        adapter_only: leave CLIP out; loading then needs the one that ``config.clip`` names.
        dtype: of the stored weights.

    Raises:
        InputError: the folder cannot be written or holds something else's ``config.json``, or
            nothing says which CLIP was left out.
    """
    if adapter_only and not config.clip:
        raise InputError("a model saved without its CLIP must say which it needs: config.clip")
    if adapter_only and any(p.requires_grad for p in model.encoder.clip.parameters()):
        raise InputError("a model whose CLIP was trained too is saved whole, not adapter_only")
    folder = Path(folder)
    state = model.state_dict()
    if adapter_only:
        state = {k: v for k, v in state.items() if not k.startswith("encoder.clip.")}
    elif text is None:
        raise InputError("a model is saved with its text encoder, or adapter_only without CLIP")
    else:
        state |= {f"{_TEXT}{k}": v for k, v in text.state_dict().items()}
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in state.items()}
    versions = {"unseen": version("unseen"), "torch": torch.__version__}
    kept = torch.float32 if adapter_only else dtype  # a CLIP that is left out is not rounded
    description = {
        "format": "unseen-model",
        "adapter_only": adapter_only,
        "fingerprint": fingerprint(model.encoder.clip, kept),
        "text_fingerprint": fingerprint(text, kept) if text else "",
        "encoders": clip_config(model.encoder.clip, text),
        **asdict(replace(config, versions=versions)),
    }
    content = json.dumps(description, indent=1) + "\n"
    refuse_foreign(folder)
    try:  # without it the folder is no model's while weights and description are not of one
        (folder / "config.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    write_whole(folder / "model.safetensors", lambda path: save_file(state, path))
    write_text(folder / "config.json", content)


def clip_place(source: str | Path) -> str:
    """Return what a model calls its CLIP: a file or a folder by its whole path, to be found from
    everywhere and not to be taken for a hub name."""
    return str(Path(source).resolve() if os.path.exists(source) else source)


def load_pretrained(
    source: str | Path, *, clip: str | Path | None = None
) -> tuple[SegmentationModel, TextEncoder | StoredText, ModelConfig]:
    """Load a model's folder, or a model by its name: a shipped one, or ``owner/name`` of the hub.

    Weights are mapped from the file, so they are read where they are used. The file is only ever
    replaced, not written into, so a model that was loaded keeps its own.

    Args:
        source: folder or name.
        clip: the CLIP of an adapter-only folder, if not where its configuration says.

    Raises:
        InputError: no such model, or a file that is broken, lacks a key or has one too many.
    """
    return _load_folder(find_model(source), clip)


def find_model(source: str | Path) -> Path:
    """Return a model's folder by its name, from the package, the hub's cache or the network.

    Raises:
        InputError: no such model.
    """
    if os.path.exists(source):  # which is quiet about names too long for a path
        return Path(source)
    if is_repository(str(source)):
        return _fetch_model(str(source))
    if str(source) not in shipped_models():
        raise InputError(_whereabouts(str(source)))
    return shipped_model(str(source))


def _fetch_model(repository: str) -> Path:
    """Return the folder of a hub repository's model, from the local cache or the network."""
    config = fetch(repository, "config.json")
    if config:
        read_description(config.parent)  # before weights of something else are downloaded
    weights = fetch(repository, "model.safetensors") if config else None
    if weights is None:
        raise InputError(
            f"the hub's {repository} holds no model of unseen: expected config.json and "
            "model.safetensors"
        )
    return weights.parent


def _load_folder(
    folder: Path, clip: str | Path | None
) -> tuple[SegmentationModel, TextEncoder | StoredText, ModelConfig]:
    description = read_description(folder)
    refuse_exported(folder, description)
    path = folder / "model.safetensors"
    text: TextEncoder | StoredText
    with describing(folder):
        config = read_config(description)
        state = read_state(path, wanted=lambda name: not name.startswith(_TEXT))
        if description["adapter_only"]:
            source = clip or config.clip
            encoders = load_clip(shipped_clip() if source == SHIPPED_CLIP else source)
            image, text = encoders.image, encoders.text
            if description["fingerprint"] != fingerprint(image):
                raise InputError(
                    f"{folder} leaves its CLIP out, and {source} is another than it was trained "
                    "on: give its own, from_pretrained(..., clip=...)"
                )
            state |= {f"encoder.clip.{k}": v for k, v in image.state_dict().items()}
        else:
            sizes = description["encoders"]
            text = StoredText(path, sizes, description["text_fingerprint"], _TEXT)
            image = ImageEncoder(VisionConfig(**sizes["vision"]))
        if config.method not in METHODS:
            raise InputError(
                f"{folder} is of the method {config.method!r}, which is none of "
                f"{', '.join(METHODS)}: import the file that adds it to METHODS first "
                "(docs/own-method.md)"
            )
        model = METHODS[config.method](image, **config.options)
    fill(model, state, f"the {config.method} of {folder}", mapped=True)
    return model.eval(), text, config


@contextmanager
def describing(folder: Path) -> Iterator[None]:
    """Say in one sentence that a configuration lacks what is looked for within."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}/config.json does not describe a model this version knows ({error}); "
            "was it written by a newer unseen, or edited?"
        ) from None


def read_config(description: dict[str, Any]) -> ModelConfig:
    """Return the configuration that a model's folder holds among other facts."""
    special = {"vocabulary", "confidence", "shown_before"}
    known = {item.name for item in fields(ModelConfig)} - special
    measured = description.get("confidence")
    if measured:  # older ones do not say at which γ, which was the model's own
        measured = {"calibration": description.get("calibration", 0.0), **measured}
    _check_kinds(description)
    return ModelConfig(
        **{key: value for key, value in description.items() if key in known},
        vocabulary=Vocabulary.from_dict(description["vocabulary"]),
        shown_before=tuple(description.get("shown_before", ())),
        confidence=Confidence.from_dict(measured) if measured else None,
    )


def _check_kinds(description: dict[str, Any]) -> None:
    """Raise a TypeError of the first value that cannot be what it should."""
    for key, kind in _KINDS.items():
        value: Any = description.get(key)
        wrong = not isinstance(value, kind)
        if kind is int and not wrong:
            wrong = value < 1
        if key in description and wrong:
            raise TypeError(f"its {key} is {value!r}")
    if description["setting"] not in ("", *SETTINGS):
        raise TypeError(f"its setting is {description['setting']!r}")
    source = description.get("recipe", {}).get("data")
    if isinstance(source, dict) and not {"name"} <= source.keys() <= {"name", "root"}:
        raise TypeError(f"the data of its recipe are {source!r}")


def refuse_exported(folder: Path, description: dict[str, Any]) -> None:
    """Refuse a folder that holds an exported file in place of weights."""
    if "exported" in description:
        raise InputError(
            f"{folder} holds an exported model, which can segment and be scored only: "
            "give the model it was made of"
        )


def read_description(folder: Path) -> dict[str, Any]:
    """Read what a model's folder says of itself.

    Raises:
        InputError: no model's folder.
    """
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
    if not isinstance(description, dict) or description.get("format") != "unseen-model":
        raise InputError(f"{path} does not describe a model of unseen")
    return description


def _whereabouts(name: str) -> str:
    """Say where a model that is not here can be had."""
    if name in PUBLISHED:
        return f"{name} does not ship with unseen: {PUBLISHED[name].advice()}"
    hint = did_you_mean(name, [*shipped_models(), *PUBLISHED])
    return (
        f"there is no model {name!r}{hint} (give the folder of one, or a shipped name: "
        f"{', '.join(shipped_models())}; 'unseen recipes' lists those that can be trained)"
    )
