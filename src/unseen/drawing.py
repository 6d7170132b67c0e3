"""Masks made visible: a palette, label PNGs, overlays with a legend."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, which colour-blind readers can tell apart
_FIRST = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (120, 120, 120),
)  # fmt: skip


def palette(count: int) -> UInt8[np.ndarray, "C 3"]:
    """Return a colour a class: eight for colour-blind readers, then hues a golden angle apart."""
    colours = list(_FIRST[:count])
    for i in range(count - len(colours)):
        lightness, saturation = (0.45, 0.62, 0.75)[i % 3], (0.85, 0.6)[i // 3 % 2]
        rgb = colorsys.hls_to_rgb((0.11 + i * 0.618034) % 1, lightness, saturation)
        colours.append(tuple(round(255 * channel) for channel in rgb))  # type: ignore[arg-type]
    return np.array(colours, dtype=np.uint8).reshape(count, 3)


def mask_image(mask: Integer[np.ndarray, "H W"], num_classes: int) -> Image.Image:
    """Make a label PNG: a palette image whose index is the label; grey 16-bit above 255 classes."""
    if num_classes > 255:
        return Image.fromarray(mask.astype(np.uint16))
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette(num_classes).tobytes())
    return image


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    mask: Integer[np.ndarray, "H W"],
    labels: Sequence[str],
    *,
    marked: Sequence[str] = (),
    opacity: float = 0.55,
    colours: UInt8[np.ndarray, "C 3"] | None = None,
) -> Image.Image:
    """Tint a picture by its mask, outline the regions, and list the labels present below it.

    Args:
        image: 8-bit RGB.
        mask: positions in ``labels``.
        labels: the names.
        marked: names that get a star in the legend: those that were unseen in training.
        opacity: share of the tint, 0 to 1.
        colours: one for each label; by default the palette's.
    """
    colours = palette(len(labels)) if colours is None else colours
    # small pictures are enlarged, or their legend would be larger than they are
    factor = max(1, round(480 / max(mask.shape)))
    image, mask = (np.repeat(np.repeat(a, factor, 0), factor, 1) for a in (image, mask))
    picture = Image.fromarray(tint(image, mask, colours, opacity=opacity))
    shares = np.bincount(mask.ravel(), minlength=len(labels)) / mask.size
    entries = []
    for i in np.argsort(-shares).tolist():
        if shares[i] > 0:
            star = "*" if labels[i] in marked else ""
            # as the region looks, not as the palette says: what is tinted is another colour
            ground = image[mask == i].mean(axis=0)
            colour = opacity * colours[i] + (1 - opacity) * ground
            shown = tuple(np.rint(colour).astype(int).tolist())
            entries.append((shown, f"{labels[i]}{star} {shares[i]:.0%}"))
    if any(labels[i] in marked for i in np.flatnonzero(shares).tolist()):
        entries.append(((255, 255, 255), "* unseen in training"))
    return add_legend(picture, entries)


def tint(
    image: UInt8[np.ndarray, "H W 3"],
    mask: Integer[np.ndarray, "H W"],
    colours: UInt8[np.ndarray, "C 3"],
    *,
    opacity: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Tint a picture by its mask, and outline the regions."""
    tinted = cv2.addWeighted(image, 1 - opacity, colours[mask], opacity, 0)
    edges = np.zeros(mask.shape, bool)
    edges[:-1] |= mask[:-1] != mask[1:]
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    tinted[edges] = 255
    return tinted


def add_legend(picture: Image.Image, entries: Sequence[tuple[tuple[int, ...], str]]) -> Image.Image:
    """Put coloured names under a picture, in as many lines as its width asks for."""
    font = ImageFont.load_default(size=15)
    line, pad, swatch = 24, 10, 14
    width = max(picture.width, 160)
    places, x, y = [], pad, 0
    for colour, text in entries:
        length = swatch + 6 + int(font.getlength(text)) + 16
        if x > pad and x + length > width:
            x, y = pad, y + line
        places.append((x, y, colour, text))
        x += length
    canvas = Image.new("RGB", (width, picture.height + y + line + pad), "white")
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for x, y, colour, text in places:
        top = picture.height + y + 8
        draw.rectangle((x, top, x + swatch, top + swatch), fill=colour)
        draw.text((x + swatch + 6, top - 2), text, fill="black", font=font)
    return canvas


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]], columns: int = 3) -> Image.Image:
    """Put pictures with their titles in rows onto one.

    Args:
        tiles: (title, picture).
        columns: how many stand side by side at most.
    """
    font = ImageFont.load_default(size=13)
    pad, head = 12, 22
    width = max(picture.width for _, picture in tiles) + pad
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(picture.height for _, picture in row) + head + pad for row in rows]
    sheet = Image.new("RGB", (width * min(columns, len(tiles)) + pad, sum(heights) + pad), "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        top = pad + sum(heights[:i])
        for j, (title, picture) in enumerate(row):
            draw.text((pad + j * width, top), title, fill="black", font=font)
            sheet.paste(picture, (pad + j * width, top + head))
    return sheet
