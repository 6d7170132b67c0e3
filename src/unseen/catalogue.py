"""Data sets by the name that recipes and commands call them."""

from pathlib import Path

from unseen.data.datasets import Dataset, voc
from unseen.errors import InputError
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO


def open_dataset(name: str, split: str | None = None, *, root: str | Path | None = None) -> Dataset:
    """Open a data set.

    Args:
        name: ``miniature`` or ``micro``, which are drawn, or ``voc``, which lies in ``root``.
        split: part of it; by default the one that scores are reported on.
        root: folder of a data set that is on disk.

    Raises:
        InputError: no such data set, split or folder.
    """
    if root is not None and name != "voc":
        raise InputError(f"the data set {name} is drawn and has no folder: leave --root out")
    if name == "miniature":
        return Scenes(split or "test")
    if name == "micro":
        return Scenes(split or "test", vocabulary=MICRO, size=48)
    if name == "voc":
        if root is None:
            raise InputError("the data set voc lies on disk: give the VOC2012 folder with --root")
        return voc(root, split or "val")
    raise InputError(f"no data set is called {name!r}; known: miniature, micro, voc")
