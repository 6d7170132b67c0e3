"""Pictures and label maps from files, whatever their kind."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from unseen.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")

_JPEG = (b"\xff\xd8\xff", b"\xff\xd9")  # how a JPEG begins and ends


UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Pillow's names of what pictures of strangers may be. It reads many more; the fewer decoders meet
such files, the better, and one of them starts another program."""


@contextmanager
def blaming(name: str | Path) -> Iterator[None]:
    """Make one sentence of whatever is wrong with a picture that is opened and decoded within."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"there is no picture at {name}: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder, expected a picture") from None
    except PermissionError:
        raise InputError(f"{name} may not be read: check its permissions") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is no picture, whatever its name says: its content is none of "
            f"{', '.join(SUFFIXES)}"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{name} has too many pixels to be opened safely: make it smaller"
        ) from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:  # what decoders raise on broken files
        raise InputError(f"{name} is a broken picture: {error}; restore or remove it") from None


@contextmanager
def open_picture(
    path: str | Path, content: bytes | None = None, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """Open and decode a picture; whatever is wrong with it becomes one sentence.

    Args:
        path: the file, or only what to call it.
        content: the file's content, if it is in memory.
        formats: Pillow's names of those to be tried; by default all.
    """
    with blaming(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        file = path if content is None else io.BytesIO(content)
        with Image.open(file, formats=formats) as image:
            image.load()
            yield image


def is_address(picture: str | Path) -> bool:
    """Tell an address from a path."""
    return str(picture).startswith(("http://", "https://"))


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture as 8-bit RGB, the right way up.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent pixels are put on white.

    Raises:
        InputError: there is no whole picture at ``path``.
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        content = None  # the next line says what is wrong
    if content is not None and content.startswith(_JPEG[0]):
        return decode_image(content, str(path))
    with open_picture(Path(path)) as image:
        return to_rgb(image)


def decode_image(
    content: bytes, name: str, *, formats: tuple[str, ...] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode the content of a picture's file, as ``read_image`` does; errors call it ``name``.

    Args:
        content: the file's.
        name: what to call it.
        formats: Pillow's names of those to be tried; by default all.

    Raises:
        InputError: it is no whole picture.
    """
    plain = _decode_plain_jpeg(content)
    if plain is not None:
        return plain
    with open_picture(name, content, formats) as image:
        return to_rgb(image)


def _decode_plain_jpeg(content: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a JPEG by OpenCV, several times sooner than Pillow and to the same pixels.

    Anything that is not plain is left to Pillow, which says what is wrong: OpenCV makes do with
    files that end too early.
    """
    if not (content.startswith(_JPEG[0]) and content.endswith(_JPEG[1])):
        return None
    try:
        with Image.open(io.BytesIO(content)) as header:
            upright = header.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if header.format != "JPEG" or header.mode != "RGB" or not upright:
                return None
            width, height = header.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning):
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None or pixels.shape != (height, width, 3):
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Convert a decoded picture to 8-bit RGB, turned as its EXIF says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip instead of scale
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("pictures of 32-bit pixels have no agreed range: save as 8 bits")
        image = Image.fromarray((values // 257).astype(np.uint8))
    elif image.mode == "F":
        raise InputError("pictures of floating-point pixels have no agreed range: save as 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def read_labels(path: str | Path) -> UInt8[np.ndarray, "H W"]:
    """Read a label map: a palette or grey PNG, its index values unchanged.

    Raises:
        InputError: there is no whole picture at ``path``, or it has colour channels.
    """
    with open_picture(Path(path)) as image:
        if image.mode not in ("L", "P", "1"):
            raise InputError(
                f"a label map has one palette or grey channel, this picture has mode {image.mode}"
            )
        ids = np.array(image, np.uint8)
        if image.format == "PNG" and image.mode == "L":
            with open(path, "rb") as file:
                bits = file.read(25)[24]
            ids //= 255 // (2**bits - 1)  # Pillow stretches 2 and 4 bits over 0..255
        return ids
