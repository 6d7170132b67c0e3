"""Sizes, resizing and crops of pictures. Normalising belongs to the model."""

import cv2
import numpy as np
from jaxtyping import UInt8


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
