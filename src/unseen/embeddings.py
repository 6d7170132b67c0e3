"""Text embeddings as files, which say what they are of; a cache of them."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unseen.errors import InputError
from unseen.vocabulary import Vocabulary
from unseen.writing import write_whole


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """One embedding a class, as ``Segmenter.embed`` makes them.

    Args:
        vocabulary: the classes and the templates they were put into.
        values: (C, D), unit rows up to rounding; used as they are.
        clip: fingerprint of the text encoder; empty where the file did not say.
    """

    vocabulary: Vocabulary
    values: Float[Tensor, "C D"]
    clip: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.vocabulary):
            raise InputError(
                f"{len(self.vocabulary)} labels need as many rows of text embeddings, "
                f"got {tuple(self.values.shape)}: the file is of another vocabulary"
            )

    @classmethod
    def load(cls, path: str | Path, vocabulary: Vocabulary | None = None) -> "TextEmbeddings":
        """Read a file written by ``save``, or a bare ``.npy`` of the authors.

        Args:
            path: the file.
            vocabulary: what the rows of a ``.npy`` are of; other files say it themselves.

        Raises:
            InputError: not such a file, or rows without names.
        """
        path = Path(path)
        try:
            if path.suffix == ".npy":
                if vocabulary is None:
                    raise InputError(
                        f"{path} holds rows without names: say which vocabulary they are of"
                    )
                return cls(vocabulary, torch.from_numpy(np.load(path, allow_pickle=False)))
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                if "vocabulary" not in facts:
                    raise InputError(f"{path} is not a file of text embeddings: it names no labels")
                stored = Vocabulary.from_dict(json.loads(facts["vocabulary"]))
                return cls(stored, file.get_tensor("text"), facts["clip"])
        except FileNotFoundError:
            raise InputError(f"there is no file of text embeddings at {path}") from None
        except InputError:
            raise
        except (SafetensorError, OSError, EOFError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{path} is not a file of text embeddings: expected one that "
                "TextEmbeddings.save wrote, or a .npy of rows"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the rows with their names, templates and CLIP.

        Raises:
            InputError: the file's name does not end in .safetensors, or it cannot be written.
        """
        if Path(path).suffix != ".safetensors":
            raise InputError(f"{path} must end in .safetensors, which is what is written")
        facts = {"vocabulary": json.dumps(asdict(self.vocabulary)), "clip": self.clip}
        rows = {"text": self.values.cpu().contiguous()}
        write_whole(Path(path), lambda part: save_file(rows, part, metadata=facts))

    def check(self, width: int, clip: str) -> None:
        """Refuse rows that another CLIP made, as far as can be told.

        Args:
            width: of the model's joint space.
            clip: fingerprint of the model's text encoder; empty if it has none.
        """
        if self.values.shape[1] != width:
            raise InputError(
                f"the text embeddings are {self.values.shape[1]} wide and this model's CLIP is "
                f"{width} wide: they are of another CLIP"
            )
        if self.clip and clip and self.clip != clip:
            raise InputError(
                f"the text embeddings were made by CLIP {self.clip}, this model has {clip}: "
                "make them again with this model"
            )

    def describe(self) -> str:
        """Say in a line where the rows come from."""
        origin = f"CLIP {self.clip}" if self.clip else "a CLIP the file does not name"
        templates = (
            f"{len(self.vocabulary.templates)} templates"
            if self.clip
            else "templates it does not say"
        )
        return f"{len(self.values)} text embeddings from {origin}, {templates}"


KEPT = 200
"""Files that the cache keeps: those that were used last."""


def cache_folder() -> Path:
    """Return where text embeddings are kept between runs.

    ``$UNSEEN_CACHE`` if that is set, else ``unseen`` in the user's folder of caches
    (``$XDG_CACHE_HOME``, by default ``~/.cache``).
    """
    if own := os.environ.get("UNSEEN_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unseen"
    except RuntimeError:  # a user without a home: nothing can be kept
        return Path(os.devnull)


def cached(
    vocabulary: Vocabulary, clip: str, make: Callable[[], Float[Tensor, "C D"]]
) -> TextEmbeddings:
    """Return the embeddings of labels, made only if the cache has none of them.

    They are the same for the same CLIP, templates, names and version of this library. What cannot
    be read from the cache is made anew, and what cannot be written to it is not: it may be lost at
    any time.

    Args:
        vocabulary: the labels.
        clip: fingerprint of the text encoder.
        make: embeds them.
    """
    key = json.dumps([version("unseen"), clip, vocabulary.templates, vocabulary.names])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_folder() / "text" / f"{name}.safetensors"
    try:
        found = TextEmbeddings.load(path)
        stored = found.clip, found.vocabulary.templates, found.vocabulary.names
        if stored == (clip, vocabulary.templates, vocabulary.names):
            os.utime(path)
            return TextEmbeddings(vocabulary, found.values, clip)
    except (InputError, OSError):
        pass
    made = TextEmbeddings(vocabulary, make(), clip)
    try:
        made.save(path)
        for old in sorted(path.parent.glob("*.safetensors"), key=_used, reverse=True)[KEPT:]:
            old.unlink(missing_ok=True)
    except (InputError, OSError):
        pass
    return made


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0
