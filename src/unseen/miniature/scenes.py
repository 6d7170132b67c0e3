"""The miniature world as data sets: a split is a seed, a sample is drawn when asked for."""

from importlib.resources.abc import Traversable

import numpy as np
from jaxtyping import UInt8

from unseen.data.datasets import Sample
from unseen.errors import InputError
from unseen.miniature.world import World
from unseen.vocabulary import MINIATURE, Vocabulary

SPLITS = {"train": (0, 100_000), "val": (1, 300), "test": (2, 500)}
"""The first number of the scenes' seeds, and how many scenes the split has."""

EXAMPLES = {"wall": 559, "harbour": 603, "snow": 328}
"""Pictures to try things on: last numbers of seeds whose first no split has. Chosen among 700
because the shipped model does well on them."""


class Scenes:
    """Scenes of one split.

    Args:
        split: ``train``, ``val`` or ``test``.
        vocabulary: what may be drawn.
        size: side of the square scenes in pixels.
        count: how many scenes, by default the split's own number.
        sprites: where the drawings are; the package's own by default.
    """

    def __init__(
        self,
        split: str = "test",
        *,
        vocabulary: Vocabulary = MINIATURE,
        size: int = 128,
        count: int | None = None,
        sprites: Traversable | None = None,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"the miniature has the splits {', '.join(SPLITS)}; got {split!r}")
        self.vocabulary = vocabulary
        self.split = split
        self._seed, length = SPLITS[split]
        self._count = length if count is None else count
        self._world = World(vocabulary, (size, size), sprites=sprites)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        scene = self._world.scene(self._seed, index)
        return Sample(np.ascontiguousarray(scene.image), scene.mask, f"{self.split}-{index:05d}")


def draw_example(name: str) -> UInt8[np.ndarray, "384 512 3"]:
    """Draw one of ``EXAMPLES``, larger than what models of the miniature are trained on."""
    return World(size=(384, 512), things=(2, 4)).scene(7, EXAMPLES[name]).image
