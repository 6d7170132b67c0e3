"""Batches that depend on a seed and on where a training stands, and on nothing else.

Which pictures a step takes follows from (seed, step), how each is cropped from (seed, epoch,
picture): the same in any number of processes and of workers, and in a training that is resumed.
"""

import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Num, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from unseen.data.datasets import Dataset, Sample
from unseen.data.transforms import (
    fit_short_side,
    pad,
    photographic,
    random_crop,
    resize_image,
    resize_labels,
)
from unseen.errors import InputError
from unseen.interruption import SIGNALS

SKIPPED_SHARE = 0.05
"""Pictures that may be skipped because they cannot be read, as a share of a data set."""

Augmentation = Callable[[Sample, int, int, np.random.SeedSequence], tuple[np.ndarray, np.ndarray]]


def _cropped(
    sample: Sample, short_side: int, window: int, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    height, width = sample.labels.shape
    size = fit_short_side((height, width), short_side)  # as the trained model will be shown it
    image, labels = resize_image(sample.image, size), resize_labels(sample.labels, size)
    crop = random_crop(image, labels, window, np.random.default_rng(seed))
    return crop if min(crop[1].shape) == window else pad(*crop, window)


def _photographic(
    sample: Sample, short_side: int, window: int, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.RandomState(np.random.MT19937(seed))
    return photographic(sample.image, sample.labels, window, drawn)


AUGMENTATIONS: dict[str, Augmentation] = {"photographic": _photographic, "crop": _cropped}
"""From a sample, the short side of what the model is shown, the side of a crop and a seed to the
crop and its labels. The published pipeline draws sizes of its own."""


class Place(NamedTuple):
    """Where a picture stands in a training."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Order:
    """The order of pictures: every epoch another, the rest that fills no batch left out.

    Args:
        count: pictures of the data set.
        batch_size: pictures a step, of all processes together.
        seed: decides all.
        step: the first step.
        share: (which, of how many): the part of every batch that is taken here.

    Raises:
        InputError: the data set does not fill a single batch.
    """

    count: int
    batch_size: int
    seed: int
    step: int = 0
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.count < self.batch_size:
            raise InputError(
                f"the data set has {self.count} pictures, fewer than a batch of {self.batch_size}: "
                "take smaller batches, batch_size=N"
            )

    def __iter__(self) -> Iterator[list[Place]]:
        which, parts = self.share
        part = self.batch_size // parts
        epoch, batch = divmod(self.step, self.count // self.batch_size)
        while True:
            drawn = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            for at in range(batch, self.count // self.batch_size):
                first = at * self.batch_size + which * part
                yield [Place(epoch, int(number)) for number in drawn[first : first + part]]
            epoch, batch = epoch + 1, 0


class Crop(NamedTuple):
    """A training crop.

    Args:
        image: RGB on 0..255.
        labels: positions in the vocabulary, or ``IGNORE``.
        name: of the picture.
        broken: of the pictures that could not be read in its place, the reasons by number.
    """

    image: Num[np.ndarray, "S S 3"]
    labels: UInt8[np.ndarray, "S S"]
    name: str
    broken: dict[int, str]


@dataclass(frozen=True)
class Crops:
    """A data set's training crops by their place.

    Args:
        dataset: pictures with labels.
        augmentation: a key of ``AUGMENTATIONS``.
        short_side: of pictures as the model is shown them.
        window: side of a crop.
        seed: decides, with the place, how a picture is cropped.
        skip: take the next picture in place of one that cannot be read.
    """

    dataset: Dataset
    augmentation: str
    short_side: int
    window: int
    seed: int
    skip: bool = False

    def __getitem__(self, place: Place) -> Crop | InputError:
        """Return a crop; an error is returned too, as workers spoil those they raise."""
        epoch, number = place
        broken: dict[int, str] = {}
        while True:
            try:
                sample = self.dataset[number]
                break
            except InputError as error:
                broken[number] = str(error)
                number = (number + 1) % len(self.dataset)
                if not self.skip or len(broken) == len(self.dataset):
                    return error
        seed = np.random.SeedSequence((self.seed, epoch, number))
        crop = AUGMENTATIONS[self.augmentation](sample, self.short_side, self.window, seed)
        return Crop(*crop, sample.name, broken)


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Args:
        images: RGB on 0..255, uint8 or float32.
        labels: positions in the vocabulary, or ``IGNORE``.
        names: of the pictures.
        broken: the reasons why pictures were skipped, by number.
    """

    images: Num[Tensor, "B 3 H W"]
    labels: UInt8[Tensor, "B H W"]
    names: list[str]
    broken: dict[int, str] = field(default_factory=dict)

    def pin_memory(self) -> "Batch":
        """Copy to where a GPU can fetch from while it computes; called by ``DataLoader``."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.names, self.broken)


def collate(crops: list[Crop | InputError]) -> Batch | InputError:
    """Make a batch of crops, or return the first error among them."""
    whole: list[Crop] = []
    for crop in crops:
        if isinstance(crop, InputError):
            return crop
        whole.append(crop)
    images = torch.from_numpy(np.stack([crop.image for crop in whole])).permute(0, 3, 1, 2)
    broken = {number: why for crop in whole for number, why in crop.broken.items()}
    labels = torch.from_numpy(np.stack([crop.labels for crop in whole]))
    return Batch(images, labels, [crop.name for crop in whole], broken)


def load(crops: Crops, order: Order, *, workers: int = 0, pinned: bool = False) -> Generator[Batch]:
    """Yield batches without end.

    Args:
        crops: where they are cut from.
        order: which ones.
        workers: processes that read and crop ahead; 0 reads when a batch is due.
        pinned: hand them over in pinned memory.

    Raises:
        InputError: a picture that cannot be read; or, where these are skipped, more than
            ``SKIPPED_SHARE`` of the data set.
    """
    loader: DataLoader[Any] = DataLoader(
        crops,  # type: ignore[arg-type]
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
        worker_init_fn=_calm if workers else None,
        generator=torch.Generator().manual_seed(order.seed),
    )
    broken: dict[int, str] = {}
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            for number in batch.broken.keys() - broken.keys():
                warnings.warn(
                    f"{batch.broken[number]}: another picture takes its place", stacklevel=2
                )
            broken |= batch.broken
            if len(broken) > SKIPPED_SHARE * order.count:
                reasons = "; ".join(list(broken.values())[:3])
                raise InputError(
                    f"{len(broken)} of {order.count} pictures cannot be read, more than "
                    f"{SKIPPED_SHARE:.0%}, for instance: {reasons}"
                )
            yield batch
    finally:
        del batches  # ends the workers, whatever else keeps this frame alive


def _calm(worker: int) -> None:
    """Leave signals to the training, which stops its workers itself, and cores to other workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # a scheduler ends whole groups of processes: the training has this long to save its state
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(120))
    cv2.setNumThreads(0)
