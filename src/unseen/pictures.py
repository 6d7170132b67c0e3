"""Pictures as people have them: files, addresses, PIL images, arrays, tensors."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unseen.data.images import blaming, decode_image, is_address, read_image, to_rgb
from unseen.errors import InputError

Picture = str | Path | Image.Image | np.ndarray | Tensor

MOST_BYTES = 2**26
"""Of a picture that is fetched from an address."""


def as_array(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture as 8-bit RGB.

    Args:
        picture: path, http or https address, PIL image, (H, W, 3) uint8 RGB array, or (3, H, W)
            tensor of uint8 or of floats in [0, 1].

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    if isinstance(picture, (str, Path)):
        return fetch(str(picture)) if is_address(picture) else read_image(picture)
    if isinstance(picture, Image.Image):
        with blaming(name(picture) or "this picture"):  # Pillow reads a file when it is looked at
            return to_rgb(picture)
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    if not isinstance(picture, np.ndarray):
        raise InputError(
            "expected a picture: a path, an address, a PIL image, an array or a tensor; got a "
            f"{type(picture).__name__}"
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(
            "an array must be a picture of (height, width, 3) and uint8, RGB; "
            f"got {picture.shape} and {picture.dtype}"
        )
    return picture


def name(picture: object) -> str:
    """Return what a picture is called: its path or address, or nothing."""
    if isinstance(picture, (str, Path)):
        return str(picture)
    return str(getattr(picture, "filename", "") or "")


def fetch(address: str) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture at an http or https address.

    Raises:
        InputError: nothing answers, or what does is too large or no picture.
    """
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "unseen"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
        reason = str(getattr(error, "reason", error)).strip()
        raise InputError(f"{address} cannot be fetched: {reason}") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{address} holds more than {MOST_BYTES // 2**20} MB: give a smaller file")
    return decode_image(content, address)


def _from_tensor(picture: Tensor) -> UInt8[np.ndarray, "H W 3"]:
    fits = picture.ndim == 3 and picture.shape[0] == 3 and picture.numel() > 0
    if not fits or not (picture.dtype == torch.uint8 or picture.is_floating_point()):
        raise InputError(
            "a tensor must be a picture of (3, height, width), uint8 or floats in [0, 1], RGB; "
            f"got {tuple(picture.shape)} and {picture.dtype}"
        )
    if picture.is_floating_point():
        if not 0 <= float(picture.min()) <= float(picture.max()) <= 1:
            raise InputError(
                "a tensor of floats must lie in [0, 1], as a picture does before it is normalised; "
                f"got {float(picture.min()):.3g} to {float(picture.max()):.3g}"
            )
        picture = (picture.detach().float() * 255).round().to(torch.uint8)
    return picture.detach().permute(1, 2, 0).contiguous().cpu().numpy()
