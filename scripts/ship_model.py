"""Put a trained miniature model into the package: the adapter in half precision, CLIP left out.

python scripts/ship_model.py runs/zegclip-miniature-inductive
"""

import argparse
from pathlib import Path

import torch

from unseen.checkpoints import load_pretrained, save_pretrained

ASSETS = Path(__file__).parent.parent / "src" / "unseen" / "miniature" / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that 'unseen train' made")
    run = parser.parse_args().run
    model, text, config = load_pretrained(run)
    folder = ASSETS / config.recipe["name"]
    save_pretrained(folder, model, text, config, adapter_only=True, dtype=torch.float16)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size:,} bytes")


if __name__ == "__main__":
    main()
