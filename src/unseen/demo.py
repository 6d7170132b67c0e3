"""The web page: drop a picture, name what to look for, see where it is (Gradio).

The segmenters do the work. demo.js draws what they found, and draws it again for another opacity or
threshold without asking them. Nothing that the page loads comes from another machine.
"""

import base64
import html
import io
import json
import os
import re
import socket
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from unseen.data.images import decode_image
from unseen.drawing import overlay, palette
from unseen.errors import InputError, require
from unseen.miniature.scenes import EXAMPLES, draw_example
from unseen.segmenter import Segmentation, Segmenter, save_image
from unseen.vocabulary import MINIATURE
from unseen.writing import write_text

MOST_BYTES = 50_000_000
MOST_PIXELS = 100_000_000
"""Of an uploaded picture."""
LONGEST_SIDE = 2048
"""Pixels that are segmented: larger pictures are reduced, for the page to stay quick."""
SHOWN_SIDE = 1024
"""Pixels that the browser draws."""
MOST_LABELS = 200
LONGEST_LABEL = 80
SESSIONS = 4
"""Pages whose last result is kept for downloads."""

OPACITY = 0.55
_OTHER = (40, 40, 40)

LOOKED_FOR = {
    "wall": ("giraffe", "bear", "backpack", "traffic light", "sky", "brick wall"),
    "harbour": ("boat", "cow", "handbag", "sky", "sand", "sea"),
    "snow": ("giraffe", "stop sign", "bus", "snow", "wood floor"),
}
"""What to look for in each of the miniature's ``EXAMPLES``."""

DRAWN_SETS = {
    "Animals": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra"),
    "Traffic": ("car", "bus", "train", "truck", "bicycle", "traffic light", "stop sign", "road"),
    "Landscape": ("sky", "clouds", "grass", "sand", "sea", "snow"),
}
PHOTO_SETS = {
    "Street": ("road", "sidewalk", "building", "car", "person", "tree", "sky"),
    "Room": ("wall", "floor", "window", "table", "chair", "sofa", "lamp", "plant"),
    "Nature": ("sky", "clouds", "tree", "grass", "mountain", "water", "rock", "animal"),
}


def read_upload(path: str, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, reduced where it is longer than ``LONGEST_SIDE``.

    Args:
        path: the file.
        name: what its owner calls it.

    Raises:
        InputError: no picture, a broken or a huge one.
    """
    content = Path(path).read_bytes()
    with suppress(OSError, SyntaxError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with suppress(Image.DecompressionBombError), Image.open(io.BytesIO(content)) as header:
            if header.width * header.height > MOST_PIXELS:
                raise InputError(
                    f"{name} has {header.width} × {header.height} pixels, more than the "
                    f"{MOST_PIXELS // 10**6} million that this page takes: make it smaller"
                )
    image = decode_image(content, name)
    factor = LONGEST_SIDE / max(image.shape)
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return labels as they are given to a segmenter.

    Raises:
        InputError: none, too many, or too long ones.
    """
    if not labels:
        raise InputError("name at least one thing to look for")
    if len(labels) > MOST_LABELS:
        raise InputError(
            f"{len(labels)} labels are more than the {MOST_LABELS} that this page takes: remove some"
        )
    for label in labels:
        if len(label) > LONGEST_LABEL:
            raise InputError(f"a label has at most {LONGEST_LABEL} letters, not {label[:20]!r}…")
    return list(labels)


def describe(results: Mapping[str, Segmentation], details: Sequence[str]) -> dict[str, Any]:
    """Pack what models found in one picture for demo.js, in maps of at most ``SHOWN_SIDE``.

    Args:
        results: by the model's title.
        details: of each model, what stands beside the title.
    """
    first = next(iter(results.values()))
    step = -(-max(first.mask.shape) // SHOWN_SIDE)
    height, width = first.mask[::step, ::step].shape
    file = io.BytesIO()
    Image.fromarray(first.image).resize((width, height)).save(file, "WEBP", quality=90)

    def pack(values: np.ndarray) -> str:
        return base64.b64encode(zlib.compress(values[::step, ::step].tobytes())).decode()

    def pack_numbers(values: Float[np.ndarray, "H W"] | None) -> str | None:  # in -1..1
        return None if values is None else pack(np.rint((values + 1) * 32767.5).astype("<u2"))

    return {
        "picture": f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}",
        "width": width,
        "height": height,
        "other": {"name": _other(first), "unseen": False, "colour": list(_OTHER)},
        "results": [
            {
                "name": title,
                "detail": detail,
                "labels": [
                    {"name": label, "unseen": label in result.unseen, "colour": colour}
                    for label, colour in zip(
                        result.labels, palette(len(result.labels)).tolist(), strict=True
                    )
                ],
                "mask": pack(result.mask.astype(np.uint8)),
                "scores": pack_numbers(result.scores),
                "sure": pack_numbers(result.confidence),
            }
            for (title, result), detail in zip(results.items(), details, strict=True)
        ],
    }


def write_file(
    result: Segmentation,
    kind: str,
    folder: Path,
    *,
    title: str,
    opacity: float = OPACITY,
    threshold: float = 0.0,
) -> Path:
    """Write what is downloaded: ``mask`` or ``overlay``, PNGs, or ``coco``, JSON.

    Args:
        result: what was found.
        kind: which of the three.
        folder: where to.
        title: of the model, for the file's name.
        opacity: of the overlay's tint.
        threshold: pixels below it are labelled other.
    """
    shown = result.reject(threshold, _other(result)) if threshold else result
    name = "-".join(re.findall(r"\w+", f"{Path(result.source).stem} {title} {kind}"))
    if kind == "coco":
        path = folder / f"{name}.json"
        write_text(path, json.dumps(shown.to_coco()))
        return path
    if kind == "mask":
        image = shown.mask_image()
    else:
        colours = np.concatenate([palette(len(result.labels)), np.array([_OTHER], np.uint8)])
        image = overlay(
            shown.image,
            shown.mask,
            shown.labels,
            marked=shown.unseen,
            opacity=opacity,
            colours=colours[: len(shown.labels)],
        )
    path = folder / f"{name}.png"
    save_image(image, path)
    return path


def _other(result: Segmentation) -> str:
    return next(name for name in ("other", "none of these") if name not in result.labels)



class Desk:
    """What the page asks of the models.

    Args:
        models: by title, in the order in which the page offers them.
    """

    def __init__(self, models: Mapping[str, Segmenter]) -> None:
        self.models = models

    def segment(
        self, path: str, name: str, labels: Sequence[str], titles: Sequence[str], gamma: float
    ) -> tuple[dict[str, Segmentation], list[str], str]:
        pass
