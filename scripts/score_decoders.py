"""Score a cascade with only some of its decoders added up, on validation scenes of the miniature.

python scripts/score_decoders.py runs/reproduction/models/cascade-inductive-0-halfway
"""

import argparse
from itertools import combinations
from pathlib import Path

from torch import Tensor, nn

from unseen import Scenes, Segmenter, evaluate
from unseen.errors import InputError
from unseen.methods.cascade import Cascade
from unseen.metrics import compare
from unseen.model import ImageFeatures, Prediction

COLUMNS = ("mIoU(S)", "mIoU(U)", "things(S)", "things(U)", "stuff(S)", "stuff(U)")


class Blind(nn.Module):
    """A head to which patches, or regions, look alike all over a window: their mean."""

    def __init__(self, head: nn.Module, what: str) -> None:
        super().__init__()
        self.head, self.what = head, what

    def forward(self, features: ImageFeatures, text: Tensor) -> Prediction:
        maps = getattr(features, self.what)
        mean = maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)
        prediction: Prediction = self.head(features._replace(**{self.what: mean}), text)
        return prediction


def take(whole: Cascade, kept: tuple[int, ...]) -> Cascade:
    """Return a cascade of some of the decoders; all of its blocks are still tapped."""
    part = Cascade([whole.heads[i] for i in kept], [whole.groups[i] for i in kept])
    part.mixes = nn.ModuleList(whole.mixes[i] for i in kept)
    part.blocks = whole.blocks
    return part.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--blind", choices=("patches", "regions"), help="to what decoders are")
    options = parser.parse_args()
    segmenter = Segmenter.from_pretrained(options.model)
    whole = segmenter.model.head
    if not isinstance(whole, Cascade):
        raise InputError(f"{options.model} is no cascade")
    if options.blind:
        whole.heads = nn.ModuleList(Blind(head, options.blind) for head in whole.heads)
    rows = {}
    for size in range(len(whole.heads), 0, -1):
        for kept in combinations(range(len(whole.heads)), size):
            segmenter.model.head = take(whole, kept)
            scores = evaluate(segmenter, Scenes("val", count=options.count)).summary()
            blocks = (" ".join(map(str, whole.groups[i])) for i in kept)
            rows["".join(f"{{{one}}}" for one in blocks)] = {c: scores[c] for c in COLUMNS}
    print(compare(rows, corner="decoders"))


if __name__ == "__main__":
    main()
