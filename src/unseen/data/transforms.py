"""Sizes, resizing, crops and distortion of pictures. Normalising belongs to the model.

``photographic`` is the training pipeline that all published configurations share (mmsegmentation
0.x), pixel for pixel and draw for draw: with the same ``RandomState`` it gives the same crops.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from unseen.vocabulary import IGNORE

MEAN_COLOUR = (123.675, 116.28, 103.53)
"""ImageNet's mean, RGB on 0..255: becomes 0 when the model normalises."""


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


def fit_within(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of the same ratio within (long, short) sides.

    As mmcv's ``rescale_size``, half a pixel rounds up; but no side is left without a pixel.
    """
    factor = min(scale[0] / max(size), scale[1] / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize_labels(
    labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2"]:
    """Resize to (height, width), each pixel the nearest one's label."""
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def random_resize(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    window: int,
    random: np.random.RandomState,
) -> tuple[UInt8[np.ndarray, "H2 W2 3"], UInt8[np.ndarray, "H2 W2"]]:
    """Resize by chance: half to twice what fits a short side of ``window``, a long one of four."""
    ratio = 1.5 * random.random_sample() + 0.5
    size = fit_within(labels.shape, (int(4 * window * ratio), int(window * ratio)))
    return resize_image(image, size), resize_labels(labels, size)


def varied_crop(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    window: int,
    random: np.random.RandomState,
    *,
    largest_share: float = 0.75,
) -> tuple[UInt8[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"]]:
    """Cut out a square with more than one class, none of which fills it; a short side stays whole.

    Args:
        image: the picture.
        labels: its labels.
        window: side of the square.
        random: draws the row, then the column of the corner.
        largest_share: a class that covers this share of what is labelled asks for another draw;
            after ten of them the last one is kept.
    """
    height, width = labels.shape
    for _ in range(11):
        top = random.randint(0, max(height - window, 0) + 1)
        left = random.randint(0, max(width - window, 0) + 1)
        place = slice(top, top + window), slice(left, left + window)
        # in 32-bit floats, which count windows of up to 4096² pixels exactly
        counts = cv2.calcHist([labels[place]], [0], None, [256], [0, 256]).ravel().astype(int)
        counts[IGNORE] = 0
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < largest_share:
            break
    return image[place], labels[place]


def distort(
    image: UInt8[np.ndarray, "H W 3"], random: np.random.RandomState
) -> UInt8[np.ndarray, "H W 3"]:
    """Change brightness, contrast, saturation and hue, each at even odds, rounding down each time.

    Contrast comes second or last, at even odds. A coin that says no draws no value.
    """

    def coin() -> bool:
        return bool(random.randint(2))

    def contrast(image: np.ndarray) -> np.ndarray:
        return _linear(image, factor=random.uniform(0.5, 1.5)) if coin() else image

    if coin():
        image = _linear(image, shift=random.uniform(-32, 32))
    early = coin()
    if early:
        image = contrast(image)
    if coin():
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _linear(hsv[..., 1], factor=random.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if coin():
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # 8-bit hue is in half degrees, 0..179
        turned = (np.arange(256) + random.randint(-18, 18)) % 180
        hsv[..., 0] = cv2.LUT(hsv[..., 0], turned.astype(np.uint8))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if early else contrast(image)


def _linear(values: np.ndarray, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    changed = np.arange(256, dtype=np.float32) * factor + shift
    return cv2.LUT(values, np.clip(changed, 0, 255).astype(np.uint8))


def pad(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    window: int,
    fill: tuple[float, float, float] = MEAN_COLOUR,
) -> tuple[Float32[np.ndarray, "H2 W2 3"], UInt8[np.ndarray, "H2 W2"]]:
    """Enlarge to ``window`` at the right and the bottom: a colour, and ``IGNORE``."""
    height, width = labels.shape
    pixels = np.empty((max(height, window), max(width, window), 3), np.float32)
    pixels[height:] = fill
    pixels[:height, width:] = fill
    pixels[:height, :width] = image
    target = np.full(pixels.shape[:2], IGNORE, np.uint8)
    target[:height, :width] = labels
    return pixels, target


def photographic(
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    window: int,
    random: np.random.RandomState,
    fill: tuple[float, float, float] = MEAN_COLOUR,
) -> tuple[Float32[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S"]]:
    """Make a training crop of a photo: resize, crop, flip, distort, pad.

    Args:
        image: 8-bit RGB.
        labels: its labels.
        window: side of the crop.
        random: drawn from in the order of the published pipeline, from numpy's global one there.
        fill: colour of the padding. The authors pad with 0 after normalising, which is the mean.

    Returns:
        RGB on 0..255 (whole numbers, but for the padding), and labels.
    """
    image, labels = random_resize(image, labels, window, random)
    image, labels = varied_crop(image, labels, window, random)
    if random.rand() < 0.5:
        image, labels = np.ascontiguousarray(image[:, ::-1]), labels[:, ::-1]
    return pad(distort(image, random), labels, window, fill)
