from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from unseen.catalogue import open_dataset
from unseen.data.batches import AUGMENTATIONS, Batch, Crops, Order, Place, load
from unseen.data.datasets import Dataset, Sample, Subset
from unseen.data.transforms import random_crop
from unseen.errors import InputError
from unseen.miniature.world import MICRO
from unseen.vocabulary import IGNORE


def first(order: Order, count: int) -> list[list[Place]]:
    return list(islice(iter(order), count))


def test_an_epoch_shows_every_picture_once_and_the_next_one_in_another_order():
    batches = first(Order(10, 3, seed=0), 6)
    for epoch, three in enumerate((batches[:3], batches[3:])):
        places = [place for batch in three for place in batch]
        assert {place.epoch for place in places} == {epoch}
        assert len({place.number for place in places}) == 9
    assert [p.number for p in batches[0]] != [p.number for p in batches[3]]
    assert first(Order(10, 3, seed=0), 6) == batches != first(Order(10, 3, seed=1), 6)


def test_an_order_taken_up_at_a_step_goes_on_as_it_would_have():
    whole = first(Order(10, 3, seed=5), 11)
    for step in range(1, 8):
        assert first(Order(10, 3, seed=5, step=step), 4) == whole[step : step + 4]


def test_processes_share_every_batch():
    whole = first(Order(13, 6, seed=2), 5)
    parts = [first(Order(13, 6, seed=2, share=(rank, 3)), 5) for rank in range(3)]
    assert [sum(shares, []) for shares in zip(*parts, strict=True)] == whole


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(
        InputError, match="has 3 pictures, fewer than a batch of 4: .* batch_size=N"
    ):
        Order(3, 4, seed=0)


def micro(count: int = 10) -> Dataset:
    return Subset(open_dataset("micro", "train"), count)


class Pictures(list[Sample]):
    """A data set of given samples."""

    vocabulary = MICRO


def stream(order: Order, dataset: Dataset | None = None, **options: object) -> Iterator[Batch]:
    workers, short_side = options.pop("workers", 0), options.pop("short_side", 48)
    crops = Crops(dataset or micro(), "crop", short_side, 32, seed=0, **options)
    return load(crops, order, workers=workers)


def same(one: Batch, other: Batch) -> bool:
    pixels = torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    return pixels and one.names == other.names


def test_crops_are_the_same_in_workers_in_shares_and_after_a_pause():
    whole = list(islice(stream(Order(10, 4, seed=0)), 4))
    assert whole[0].images.shape == (4, 3, 32, 32) and whole[0].images.dtype == torch.uint8
    ahead = list(islice(stream(Order(10, 4, seed=0), workers=2), 4))
    assert all(map(same, whole, ahead))
    later = next(stream(Order(10, 4, seed=0, step=3)))
    assert same(whole[3], later)
    half = next(stream(Order(10, 4, seed=0, share=(1, 2))))
    assert torch.equal(half.images, whole[0].images[2:])


def test_a_picture_is_cropped_anew_every_epoch():
    batches = list(islice(stream(Order(2, 2, seed=0), micro(2)), 2))
    images = [dict(zip(batch.names, batch.images, strict=True)) for batch in batches]
    name = batches[0].names[0]
    assert not torch.equal(images[0][name], images[1][name])


def test_pictures_smaller_than_the_window_are_padded():
    labels = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30) % 5
    small = Sample(np.full((40, 30, 3), 7, np.uint8), labels, "small")
    (batch,) = islice(stream(Order(1, 1, seed=0), Pictures([small]), short_side=30), 1)
    assert batch.images.shape == (1, 3, 32, 32) and (batch.images[0, :, :, :30] == 7).all()
    assert (batch.labels[0, :, 30:] == IGNORE).all() and (batch.labels[0, :, :30] < 5).all()


def test_crops_are_cut_from_pictures_as_the_model_is_shown_them():
    dataset = micro()
    image, labels, name = dataset[1]
    larger = Sample(
        image.repeat(3, axis=0).repeat(3, axis=1), labels.repeat(3, 0).repeat(3, 1), name
    )
    for sample in (dataset[1], larger):
        seed = np.random.default_rng(np.random.SeedSequence((0, 0, 0)))
        crop = Crops(Pictures([sample]), "crop", 48, 32, seed=0)[Place(0, 0)]
        expected, its_labels = random_crop(image, labels, 32, seed)
        assert crop.image.dtype == np.uint8 and (crop.image == expected).all()
        assert (crop.labels == its_labels).all()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_picture_of_one_row_makes_a_crop(augmentation: str):
    row = Sample(np.zeros((1, 3000, 3), np.uint8), np.zeros((1, 3000), np.uint8), "row")
    crop = Crops(Pictures([row]), augmentation, 48, 32, seed=0)[Place(0, 0)]
    assert crop.image.shape == (32, 32, 3)
    assert (crop.labels[1:] == (0 if augmentation == "crop" else IGNORE)).all()


class Broken:
    """A data set some of whose pictures cannot be read."""

    vocabulary = MICRO

    def __init__(self, count: int, broken: set[int]) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"pictures/{index}.jpg is broken")
        random = np.random.default_rng(index)
        labels = random.integers(0, 2, (40, 40), dtype=np.uint8)
        return Sample(random.integers(0, 256, (40, 40, 3), np.uint8), labels, str(index))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_in_one_sentence(workers: int):
    batches = stream(Order(4, 4, seed=0), Broken(4, {2}), workers=workers)
    with pytest.raises(InputError, match="^pictures/2.jpg is broken$"):
        next(batches)


def test_broken_pictures_are_skipped_and_counted_up_to_a_share():
    dataset = Broken(40, {7, 8})
    with pytest.warns(UserWarning, match="another picture takes its place") as told:
        batches = list(islice(stream(Order(40, 10, seed=0), dataset, skip=True), 4))
    assert len(told) == 2
    names = [name for batch in batches for name in batch.names]
    assert "7" not in names and "8" not in names and names.count("9") == 3
    assert {index for batch in batches for index in batch.broken} == {7, 8}
    says = "3 of 40 pictures cannot be read, more than 5%, .*7.jpg"
    with pytest.warns(UserWarning), pytest.raises(InputError, match=says):
        list(islice(stream(Order(40, 10, seed=0), Broken(40, {7, 8, 9}), skip=True), 4))
    with pytest.raises(InputError, match="is broken"):
        next(stream(Order(2, 2, seed=0), Broken(2, {0, 1}), skip=True))
