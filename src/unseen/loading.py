"""What pictures cost before a model learns from them: read, resized, cropped, distorted."""

import cProfile
import math
import os
import pstats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from PIL import Image

from unseen.building import open_source
from unseen.catalogue import find_dataset
from unseen.data.batches import Crops, Order, load
from unseen.data.datasets import Dataset, MaskFolder
from unseen.metrics import markdown
from unseen.recipes import VOCABULARY_OF, Recipe
from unseen.vocabulary import find_vocabulary

PARTS = {
    "read_image": "decode the picture",
    "read_ids": "decode its labels",
    "random_resize": "resize",
    "varied_crop": "crop with more than one class",
    "random_crop": "crop",
    "distort": "distort colours",
    "pad": "pad, to 32-bit floats",
}
"""The functions that a picture goes through, and what they do."""

WANTED = 600
"""Pictures a second that a fast training takes."""


@dataclass(frozen=True)
class Loading:
    """What a recipe's pictures cost on this machine.

    Args:
        recipe: whose.
        pictures: what they are.
        parts: milliseconds a picture, of one core, by what is done.
        alone: pictures a second of one core.
        together: pictures a second of all workers.
        workers: how many.
    """

    recipe: str
    pictures: str
    parts: dict[str, float]
    alone: float
    together: float
    workers: int

    @property
    def cores(self) -> int:
        """Cores that ``WANTED`` pictures a second take."""
        return math.ceil(WANTED / self.alone)

    def __str__(self) -> str:
        total = 1000 / self.alone
        parts = {**self.parts, "the rest": total - sum(self.parts.values()), "all": total}
        rows = [[name, f"{value:.2f}", f"{value / total:.0%}"] for name, value in parts.items()]
        return (
            f"{markdown([f'{self.recipe}, {self.pictures}', 'ms', 'share'], rows)}\n\n"
            f"{self.alone:.0f} pictures/s on one core, {self.together:.0f} with {self.workers} "
            f"workers; {WANTED} pictures/s take {self.cores} such cores"
        )


def measure_loading(recipe: Recipe, *, count: int = 256, workers: int | None = None) -> Loading:
    """Read and crop pictures as a training does, with no model.

    Where the recipe does not say in which folder its data set lies, photos of 640×480 are made up.

    Args:
        recipe: whose data set and augmentation.
        count: pictures that are timed.
        workers: processes that read side by side; by default one a core.

    Raises:
        InputError: the data set cannot be read.
    """
    workers = workers or os.cpu_count() or 1
    with _open(recipe) as (dataset, pictures):
        crops = Crops(dataset, recipe.augmentation, recipe.short_side, recipe.window, recipe.seed)
        order = Order(len(dataset), min(16, len(dataset)), recipe.seed)
        batches = math.ceil(count / order.batch_size)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(0)  # as in the workers of a training
        try:
            alone = _time(crops, order, batches, 0)
            parts = _profile(crops, order, batches)
        finally:
            cv2.setNumThreads(threads)
        together = _time(crops, order, batches * workers, workers)
    seconds = 1 / alone
    scale = min(1.0, seconds / max(sum(parts.values()), 1e-12))  # the profiler's own time
    milliseconds = {PARTS[name]: 1000 * value * scale for name, value in parts.items()}
    return Loading(recipe.name, pictures, milliseconds, alone, together, workers)


def _time(crops: Crops, order: Order, batches: int, workers: int) -> float:
    """Return pictures a second, once the first batches are there."""
    stream = load(crops, order, workers=workers)
    for _ in range(2 * workers + 1):
        next(stream)
    began = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    seconds = time.perf_counter() - began
    stream.close()
    return batches * order.batch_size / seconds


def _profile(crops: Crops, order: Order, batches: int) -> dict[str, float]:
    """Return seconds a picture by function."""
    stream = load(crops, order)
    next(stream)
    profile = cProfile.Profile()
    profile.enable()
    for _ in islice(stream, batches):
        pass
    profile.disable()
    spent = {
        name: times[3]
        for (_, _, name), times in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    pictures = batches * order.batch_size
    return {name: spent[name] / pictures for name in PARTS if name in spent}


@contextmanager
def _open(recipe: Recipe) -> Iterator[tuple[Dataset, str]]:
    """Open what a recipe trains on, or photos made up for it."""
    known = find_dataset(recipe.data.name)
    if recipe.data.root is not None or known is None or known.read is None:
        dataset = open_source(recipe)
        height, width = dataset[0].labels.shape
        yield dataset, f"its pictures (the first: {width}×{height})"
        return
    with TemporaryDirectory() as folder:
        yield make_photos(Path(folder), VOCABULARY_OF[recipe.data.name]), "made-up 640×480 JPEG"


def make_photos(folder: Path, vocabulary: str, count: int = 32) -> MaskFolder:
    """Write pictures that are as costly to decode as photos: noise of all scales, 100 to 200 kB."""
    names, random, pairs = find_vocabulary(vocabulary), np.random.default_rng(0), []
    for number in range(count):
        pixels = np.zeros((480, 640, 3))
        for scale in (1, 2, 4, 16, 64):
            size = (640 // scale, 480 // scale)
            noise = random.normal(0, 6 * scale**0.5, (size[1], size[0], 3))
            pixels += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_LINEAR)
        labels = random.integers(0, len(names), (6, 8), dtype=np.uint8)
        pair = folder / f"{number}.jpg", folder / f"{number}.png"
        Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(pair[0], quality=90)
        Image.fromarray(labels.repeat(80, 0).repeat(80, 1)).save(pair[1])
        pairs.append(pair)
    return MaskFolder(pairs, names)
