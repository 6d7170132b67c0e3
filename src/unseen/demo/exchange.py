"""What goes between browser and segmenters: uploads, labels, masks for page.js, downloads."""

import base64
import io
import json
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from unseen.data.images import UPLOAD_FORMATS, decode_image
from unseen.drawing import overlay, palette
from unseen.errors import InputError
from unseen.segmentation import Segmentation, save_image
from unseen.segmenter import Segmenter
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

OPACITY = 0.55
_OTHER = (40, 40, 40)


def read_upload(path: str, name: str, folder: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, reduced where it is longer than ``LONGEST_SIDE``.

    Args:
        path: the file.
        name: what its owner calls it.
        folder: where uploads are; a request may name any other file of this machine.

    Raises:
        InputError: no picture, a broken or a huge one, or one that is not in the folder.
    """
    file = Path(path).resolve()
    if not (file.is_relative_to(folder.resolve()) and file.is_file()):
        raise InputError(f"{name} is no longer here: drop it once more")
    content = file.read_bytes()
    width, height = 0, 0
    header = io.BytesIO(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            with Image.open(header, formats=UPLOAD_FORMATS) as opened:
                width, height = opened.size
    except UnidentifiedImageError:
        kinds = ", ".join(UPLOAD_FORMATS)
        raise InputError(f"{name} is no picture that this page takes: {kinds}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # decoding it says what is wrong
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{name} has {width} × {height} pixels, more than the {MOST_PIXELS // 10**6} million "
            "that this page takes: make it smaller"
        )
    image = decode_image(content, name, formats=UPLOAD_FORMATS)
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
            f"{len(labels)} labels are more than the {MOST_LABELS} that this page takes: "
            "remove some"
        )
    for label in labels:
        if len(label) > LONGEST_LABEL:
            raise InputError(f"a label has at most {LONGEST_LABEL} letters, not {label[:20]!r}…")
    return list(labels)


def describe(results: Mapping[str, Segmentation], details: Sequence[str]) -> dict[str, Any]:
    """Pack what models found in one picture for page.js, in maps of at most ``SHOWN_SIDE``.

    Args:
        results: by the model's title.
        details: of each model, what stands beside the title.
    """
    first = next(iter(results.values()))
    step = -(-max(first.mask.shape) // SHOWN_SIDE)
    height, width = first.mask[::step, ::step].shape

    def pack(values: np.ndarray) -> str:
        return base64.b64encode(zlib.compress(values[::step, ::step].tobytes())).decode()

    def pack_numbers(values: Float[np.ndarray, "H W"] | None) -> str | None:  # in -1..1
        return None if values is None else pack(np.rint((values + 1) * 32767.5).astype("<u2"))

    return {
        "picture": data_url(Image.fromarray(first.image).resize((width, height))),
        "size": f"{first.mask.shape[1]} × {first.mask.shape[0]} pixels",
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


def find(
    models: Mapping[str, Segmenter],
    image: UInt8[np.ndarray, "H W 3"],
    name: str,
    labels: Sequence[str],
    gamma: float,
) -> dict[str, Segmentation]:
    """Segment a picture with one model, or with two to compare.

    Args:
        models: by title.
        image: the picture.
        name: what its owner calls it.
        labels: what to look for.
        gamma: γ, subtracted from the scores of classes seen in training.

    Raises:
        InputError: labels that cannot be used, or no or too many models.
    """
    if not 1 <= len(models) <= 2:
        raise InputError("choose one model, or two to compare")
    words = check_labels(labels)
    return {
        title: replace(segmenter(image, words, calibration=gamma), source=name)
        for title, segmenter in models.items()
    }


def describe_model(segmenter: Segmenter, gamma: float) -> str:
    """Say in a few words what a model is and which γ it was asked with."""
    config = segmenter.config
    taught = f"{config.setting}, γ {gamma:.2f}" if config.setting else "nothing trained"
    return f"{config.method}, {taught}"


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
