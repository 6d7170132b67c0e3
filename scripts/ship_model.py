"""Put a trained miniature model into the package: the adapter in half precision, CLIP left out.

python scripts/ship_model.py runs/zegclip-miniature-inductive
"""

import argparse
import hashlib
from pathlib import Path

import torch

from unseen import Segmenter

PACKAGE = Path(__file__).parent.parent / "src" / "unseen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that 'unseen train' made")
    run = parser.parse_args().run
    segmenter = Segmenter.from_pretrained(run)
    folder = PACKAGE / "miniature" / "assets" / segmenter.config.recipe["name"]
    segmenter.save_pretrained(folder, adapter_only=True, dtype=torch.float16)
    weights = folder / "model.safetensors"
    name, sha256 = str(weights.relative_to(PACKAGE)), hashlib.sha256(weights.read_bytes())
    lines = (PACKAGE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    lines = [f"{sha256.hexdigest()}  {name}" if one.endswith(name) else one for one in lines]
    (PACKAGE / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
