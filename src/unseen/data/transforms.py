"""Sizes, resizing and crops of pictures. Normalising belongs to the model."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8


def fit_short_side(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return the (height, width) with the same ratio whose short side is exactly ``short_side``.

    As mmsegmentation's ``min_size``: half a pixel rounds up, and the long side has no limit.
    """
    height, width = size
    if height < width:
        return short_side, int(width * short_side / height + 0.5)
    return int(height * short_side / width + 0.5), short_side


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resize to (height, width), bilinear without antialiasing, as the published pipelines."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def random_crop(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    side: int,
    random: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"]]:
    """Cut a square somewhere out of a picture and its labels; a shorter side stays whole."""
    height, width = labels.shape
    top = random.integers(max(height - side, 0) + 1)
    left = random.integers(max(width - side, 0) + 1)
    place = slice(top, top + side), slice(left, left + side)
    return image[place], labels[place]


def photographic(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    window: int,
    random: np.random.RandomState,
) -> tuple[Float32[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"]]:
    """Crop, mirror and pad: a placeholder that the branch of data sets replaces."""
    height, width = labels.shape
    top = random.randint(max(height - window, 0) + 1)
    left = random.randint(max(width - window, 0) + 1)
    place = slice(top, top + window), slice(left, left + window)
    step = -1 if random.rand() < 0.5 else 1
    pixels = np.zeros((window, window, 3), np.float32)
    target = np.full((window, window), 255, np.uint8)
    cut = image[place][:, ::step]
    pixels[: cut.shape[0], : cut.shape[1]] = cut
    target[: cut.shape[0], : cut.shape[1]] = labels[place][:, ::step]
    return pixels, target
