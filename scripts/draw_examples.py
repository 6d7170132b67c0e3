"""Draw the example pictures: scenes of the miniature world, larger than the model was trained on.

python scripts/draw_examples.py examples
"""

import argparse
from pathlib import Path

from PIL import Image

from unseen.miniature.scenes import EXAMPLES, draw_example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        Image.fromarray(draw_example(name)).save(out / f"{name}.png")


if __name__ == "__main__":
    main()
