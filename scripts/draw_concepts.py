"""Draw the pictures of docs/concepts.md with the miniature world and the shipped model.

python scripts/draw_concepts.py docs/pictures
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from unseen import Segmenter
from unseen.data.transforms import resize_image
from unseen.drawing import contact_sheet, overlay, palette
from unseen.methods.encoder import region_mask
from unseen.miniature.world import World
from unseen.settings import SETTINGS
from unseen.vocabulary import IGNORE, MINIATURE

SCENE, OTHER = 559, 603
"""Two of the seeds of scripts/draw_examples.py: wall.png and harbour.png."""
PRESENT = ("brick wall", "sky", "traffic light", "backpack", "bear", "giraffe")
SIZE = (288, 384)
FONT = ImageFont.load_default(size=13)


def make_panel(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Paint labels of the miniature over a picture; what has none is black."""
    present = MINIATURE.positions(PRESENT)
    colours = np.zeros((len(MINIATURE) + 1, 3), np.uint8)
    colours[: len(MINIATURE)] = palette(len(MINIATURE))[::-1]
    colours[list(present)] = palette(len(present))
    positions = np.where(mask == IGNORE, len(MINIATURE), mask)
    names = (*MINIATURE.names, "not shown")
    return overlay(image, positions, names, marked=MINIATURE.unseen, colours=colours)


def make_heat(values: torch.Tensor, mark: tuple[int, int]) -> Image.Image:
    """Paint a map (h, w), dark blue for its least value and yellow for its largest."""
    grey = ((values - values.min()) / (values.max() - values.min())).numpy()[..., None]
    low, high = np.array([20, 30, 80]), np.array([250, 220, 60])
    image = Image.fromarray((low + grey * (high - low)).astype(np.uint8))
    image = image.resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST)
    h, w = SIZE[0] / values.shape[0], SIZE[1] / values.shape[1]
    y, x = mark
    box = (x * w, y * h, (x + 1) * w - 1, (y + 1) * h - 1)
    ImageDraw.Draw(image).rectangle(box, outline="red", width=3)
    return image


def to_pixels(segmenter: Segmenter, image: np.ndarray) -> torch.Tensor:
    """Return a picture as the encoder takes it, the whole of it at the side it is shown at."""
    side = segmenter.config.short_side
    shown = resize_image(image, (side, side * SIZE[1] // SIZE[0] // 8 * 8))
    pixels = torch.tensor(shown).permute(2, 0, 1)[None] / 255
    return (pixels - segmenter.model.mean) / segmenter.model.std


def draw_words(segmenter: Segmenter, image: np.ndarray, count: int = 8) -> Image.Image:
    """Draw a bar a word: the cosine of the picture's class token with it."""
    with torch.inference_mode():
        cls = segmenter.model.encoder(to_pixels(segmenter, image)).cls[0]
    cosines = segmenter.embed(MINIATURE).values @ cls
    canvas = Image.new("RGB", (SIZE[1], SIZE[0]), "white")
    pen = ImageDraw.Draw(canvas)
    for row, i in enumerate(cosines.argsort(descending=True)[:count].tolist()):
        top, value = 8 + row * 34, float(cosines[i])
        pen.text((0, top + 2), MINIATURE.names[i], fill="black", font=FONT)
        pen.rectangle((95, top, 95 + 600 * value, top + 20), fill=tuple(palette(2)[1].tolist()))
        pen.text((102 + 600 * value, top + 2), f"{value:.2f}", fill="black", font=FONT)
    return canvas


def draw(segmenter: Segmenter) -> dict[str, Image.Image]:
    """Return the pictures by name."""
    world = World(size=SIZE, things=(2, 4))
    scene, other = world.scene(7, SCENE), world.scene(7, OTHER)
    names, unseen = MINIATURE.names, MINIATURE.positions(MINIATURE.unseen)
    shown = np.where(np.isin(scene.mask, unseen), IGNORE, scene.mask)
    result = segmenter(scene.image, names)
    pictures = {}

    pictures["seen"] = contact_sheet(
        [
            ("the picture", Image.fromarray(scene.image)),
            ("what training shows of it", make_panel(scene.image, shown)),
            ("what the model answers", make_panel(scene.image, result.mask)),
        ]
    )

    labels = torch.tensor(scene.mask)[None]
    logits = segmenter.score_map(scene.image, names, calibration=0.0).logit(eps=1e-6)[None]
    tiles = []
    for name in ("inductive", "transductive", "supervised"):
        setting = SETTINGS[name]
        positions = setting.shown(MINIATURE)
        target = setting.target(labels, logits[:, positions], MINIATURE)[0].numpy()
        table = np.full(256, IGNORE)
        table[: len(positions)] = positions
        tiles.append((name, make_panel(scene.image, table[target])))
    pictures["settings"] = contact_sheet(tiles)

    pictures["descriptor"] = contact_sheet(
        [
            ("the picture", Image.fromarray(scene.image)),
            ("its class token · words", draw_words(segmenter, scene.image)),
            ("another picture", Image.fromarray(other.image)),
            ("its class token · words", draw_words(segmenter, other.image)),
        ],
        columns=2,
    )

    clip = segmenter.model.encoder.clip
    point = (12, 2)
    with torch.inference_mode():
        tokens, grid = clip.embed(to_pixels(segmenter, scene.image))
        tiles = []
        for number, block in enumerate(clip.transformer.resblocks, start=1):
            tokens = block(tokens)
            if number in (2, 4, 6):
                patches = F.normalize(tokens[0, 1:], dim=-1).unflatten(0, grid)
                heat = make_heat(patches @ patches[point], point)
                tiles.append((f"like the marked patch, block {number}", heat))
    pictures["cascade"] = contact_sheet(tiles)

    pictures["regions"] = contact_sheet(
        [("four regions of a picture", draw_regions(scene.image)), ("who sees whom", draw_mask())]
    )
    pictures["prompts"] = draw_prompts()
    return pictures


def draw_regions(image: np.ndarray) -> Image.Image:
    """Tint the cells of a 2×2 grid of regions, and draw 4×4 patches."""
    rows, columns = (np.arange(n) * 2 // n for n in SIZE)
    tinted = 0.6 * image + 0.4 * palette(4)[rows[:, None] * 2 + columns]
    tinted[:: SIZE[0] // 4] = tinted[:, :: SIZE[1] // 4] = 255
    return Image.fromarray(tinted.astype(np.uint8))


def draw_mask(side: int = 10, margin: int = 90) -> Image.Image:
    """Draw CLIP-RC's attention mask for 4×4 patches, a square a pair of tokens."""
    allowed = (region_mask((4, 4), 2) == 0).numpy()
    count, first = len(allowed), 1 + 16
    image = Image.new("RGB", (margin + side * count, margin // 3 + side * count), "white")
    pen = ImageDraw.Draw(image)
    for row, column in np.argwhere(allowed).tolist():
        region = max(row, column) - first
        colour = (190, 190, 190) if region < 0 else tuple(palette(4)[region].tolist())
        x, y = margin + column * side, margin // 3 + row * side
        pen.rectangle((x, y, x + side - 2, y + side - 2), fill=colour)
    for title, at in (("class token", 0), ("patches", 8), ("regions", first + 1)):
        pen.text((0, margin // 3 - 2 + at * side), title, fill="black", font=FONT)
    pen.text((margin, 0), "sees: class token, patches, regions", fill="black", font=FONT)
    return image


def draw_prompts(side: int = 16, blocks: int = 3) -> Image.Image:
    """Draw the tokens on their way through blocks: each block meets prompts of its own."""
    kinds = {"class token": (1, 0), "prompts, trained": (3, 2), "patches": (8, 1)}
    height, width = (sum(n for n, _ in kinds.values()) + 2) * side, 190
    image = Image.new("RGB", (width * (blocks + 1) - 60, height + 50), "white")
    pen = ImageDraw.Draw(image)
    for column in range(blocks + 1):
        y = 25
        for title, (count, colour) in kinds.items():
            for _ in range(count):
                x = 20 + column * width
                if title != "prompts, trained" or column < blocks:
                    fill = tuple(palette(3)[colour].tolist())
                    pen.rectangle((x, y, x + side - 3, y + side - 3), fill=fill)
                    if column < blocks:
                        end = 85 if title == "prompts, trained" else width - 4
                        pen.line((x + side, y + 6, x + end, y + 6), fill=(170, 170, 170))
                y += side
            y += side // 2
        if column < blocks:
            x = 75 + column * width
            pen.rectangle((x, 15, x + 70, height + 15), outline="black", fill=(245, 245, 245))
            pen.text((x + 12, height // 2), f"block {column + 1}", fill="black", font=FONT)
    x = 20
    for title, (_, colour) in kinds.items():
        fill = tuple(palette(3)[colour].tolist())
        pen.rectangle((x, height + 26, x + 12, height + 38), fill=fill)
        pen.text((x + 18, height + 23), title, fill="black", font=FONT)
        x += 150
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_pretrained("zegclip-miniature-inductive", device="cpu")
    for name, picture in draw(segmenter).items():
        picture.save(out / f"{name}.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
