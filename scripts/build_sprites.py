"""Render the miniature world's sprites from four open emoji sets into package assets.

    npm install --prefix build/icons @iconify-json/noto @iconify-json/fluent-emoji \
        @iconify-json/fluent-emoji-flat @iconify-json/twemoji
    python scripts/build_sprites.py build/icons/node_modules src/unseen/miniature/assets/sprites

Three drawings a class at most, in each style: the tiny CLIP learns drawings one by one, and of a
class with many it hardly gets to know any. Every class becomes one lossless WebP: its drawings side
by side, each in a square cell. Licences of the sets: see NOTICE. Drawings that contain another
class (boats on water, trains in a station) are left out.
"""

import argparse
import io
import json
from pathlib import Path

import resvg_py
from PIL import Image

STYLES = ("noto", "fluent-emoji", "fluent-emoji-flat", "twemoji")
DRAWINGS = {
    "person": "person-standing woman-walking man-running",
    "bicycle": "bicycle",
    "car": "automobile taxi sport-utility-vehicle",
    "motorcycle": "motorcycle motor-scooter",
    "airplane": "airplane small-airplane",
    "bus": "bus oncoming-bus",
    "train": "train locomotive high-speed-train",
    "truck": "delivery-truck articulated-lorry fire-engine",
    "boat": "sailboat speedboat passenger-ship ship",
    "traffic light": "horizontal-traffic-light vertical-traffic-light",
    "stop sign": "stop-sign",
    "bird": "bird duck eagle",
    "cat": "cat cat-face",
    "dog": "dog dog-face",
    "horse": "horse horse-face",
    "sheep": "ewe ram",
    "cow": "cow cow-face",
    "elephant": "elephant",
    "bear": "bear panda",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack",
    "umbrella": "umbrella closed-umbrella",
    "handbag": "handbag purse",
}
ONLY_STYLES = {"boat": ("noto",)}  # the other sets draw boats with the water under them


def read_svg(icons: dict, name: str) -> str:
    """Return a stand-alone SVG of one icon of an Iconify collection."""
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">'
        f"{icon['body']}</svg>"
    )


def render(svg: str, size: int) -> Image.Image:
    """Rasterise to ``size`` and trim to what is painted, centred in the same square cell."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    icon = Image.open(io.BytesIO(png)).convert("RGBA")
    painted = icon.crop(icon.getchannel("A").getbbox())
    cell = Image.new("RGBA", (size, size))
    cell.paste(painted, ((size - painted.width) // 2, (size - painted.height) // 2))
    return cell


def save_strip(cells: list[Image.Image], path: Path) -> None:
    """Put square cells of one size side by side into a file."""
    side = cells[0].height
    strip = Image.new("RGBA", (side * len(cells), side))
    for i, cell in enumerate(cells):
        strip.paste(cell, (i * side, 0))
    strip.save(path, lossless=True, quality=100, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node_modules", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=96, help="cell side in pixels")
    args = parser.parse_args()

    collections = {
        style: json.loads((args.node_modules / "@iconify-json" / style / "icons.json").read_text())
        for style in STYLES
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, drawings in DRAWINGS.items():
        cells = [
            render(read_svg(collections[style], drawing), args.size)
            for style in ONLY_STYLES.get(name, STYLES)
            for drawing in drawings.split()
        ]
        path = args.out / f"{name.replace(' ', '-')}.webp"
        save_strip(cells, path)
        print(f"{path}: {len(cells)} drawings, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
