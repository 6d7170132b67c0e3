"""Data sets by the name that recipes and commands call them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unseen.data.datasets import Dataset
from unseen.data.own import SUFFIXES, default_split, own
from unseen.data.published import camvid, coco, context, uavid, udd6, voc
from unseen.errors import InputError, did_you_mean
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO
from unseen.vocabulary import CAMVID_SMALL, CONTEXT59_RELEASED, UAVID_SMALL, UDD6_SMALL


@dataclass(frozen=True)
class Entry:
    """A data set that has a name.

    Args:
        about: what it is, in a few words.
        splits: its parts; ``train`` is what the papers train on.
        scored: the split that scores are reported on.
        read: opens a split of what lies in a folder.
        draw: opens a split of what is drawn; either this or ``read``.
        small: the classes of small things, where a protocol for them uses this data set.
    """

    about: str
    splits: tuple[str, ...]
    scored: str
    read: Callable[[str | Path, str], Dataset] | None = None
    draw: Callable[[str], Dataset] | None = None
    small: tuple[str, ...] = ()


_DRAWN = ("train", "val", "test")
_BOTH = ("train", "val")
DATASETS = {
    "miniature": Entry("drawn scenes, in the package", _DRAWN, "test", draw=Scenes),
    "micro": Entry(
        "tiny drawn scenes, for tests",
        _DRAWN,
        "test",
        draw=partial(Scenes, vocabulary=MICRO, size=48),
    ),
    "voc": Entry(
        "PASCAL VOC 2012 with SBD, 20 classes",
        ("train", "train-only", "aug", "val"),
        "val",
        voc,
    ),
    "context": Entry("PASCAL Context, 59 classes, unseen as in the paper", _BOTH, "val", context),
    "context-released": Entry(
        "PASCAL Context, unseen as in Cascade-CLIP's released configuration",
        _BOTH,
        "val",
        partial(context, vocabulary=CONTEXT59_RELEASED),
    ),
    "coco": Entry("COCO-Stuff 164k, 171 classes", _BOTH, "val", coco),
    "camvid": Entry(
        "CamVid, 11 classes of a street",
        ("train", "val", "test"),
        "test",
        camvid,
        small=CAMVID_SMALL,
    ),
    "uavid": Entry("UAVid, 8 classes from the air", _BOTH, "val", uavid, small=UAVID_SMALL),
    "uavid-foreground": Entry(
        "UAVid, its background ignored",
        _BOTH,
        "val",
        partial(uavid, background=False),
        small=UAVID_SMALL,
    ),
    "udd6": Entry("UDD6, 6 classes from the air", _BOTH, "val", udd6, small=UDD6_SMALL),
    "udd6-foreground": Entry(
        "UDD6, its Other ignored",
        _BOTH,
        "val",
        partial(udd6, background=False),
        small=UDD6_SMALL,
    ),
}


def find_dataset(name: str) -> Entry | None:
    """Return a data set by its name, None for a YAML file, or say which there are."""
    if name.lower().endswith(SUFFIXES):
        return None
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS)
        raise InputError(
            f"no data set is called {name!r}{hint} (known: {', '.join(DATASETS)}, or a YAML file)"
        )
    return DATASETS[name]


def scored_split(name: str | Path) -> str | None:
    """Return which part of a data set is opened where none is named; None where one must be."""
    entry = find_dataset(str(name))
    return entry.scored if entry else default_split(name)


def open_dataset(
    name: str | Path, split: str | None = None, *, root: str | Path | None = None
) -> Dataset:
    """Open a data set.

    Args:
        name: one of ``DATASETS``, or a YAML file that describes one (docs/data.md).
        split: part of it; by default the one that scores are reported on. ``train`` is always what
            the papers train on.
        root: folder of a data set that is on disk; instead of what a YAML file says.

    Raises:
        InputError: no such data set, split or folder, or one that is laid out otherwise.
    """
    entry = find_dataset(str(name))
    if entry is None:
        return own(name, split, root=root)
    if entry.draw is not None:
        if root is not None:
            raise InputError(f"the data set {name} is drawn and has no folder: leave --root out")
        return entry.draw(split or entry.scored)
    assert entry.read is not None
    if root is None:
        raise InputError(f"the data set {name} lies on disk: give its folder with --root")
    return entry.read(root, split or entry.scored)
