"""An evaluation as a page to look at: one file of HTML that asks for nothing outside, and its JSON.

Pictures are judged one by one and forgotten; of each stay three counts a class and its prediction
at thumbnail size, compressed: some 10 KB a picture. Which pictures are shown is known at the end.
"""

import base64
import json
import os
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8

from unseen.bootstrap import tally
from unseen.data.datasets import Dataset
from unseen.errors import InputError
from unseen.evaluation import Judged
from unseen.metrics import Scores, defined, divide
from unseen.segmenter import Segmenter
from unseen.sizes import SizeScores

FORMAT = "unseen-report"
"""Stands in a report's JSON, so that nothing else is taken for one and replaced."""

LONGEST = 320
"""Longest side of the pictures on the page, in pixels."""


class Record:
    """What a report remembers of one model's pictures: give it to ``evaluate`` as ``keep``."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._counts: list[np.ndarray] = []
        self._masks: list[tuple[tuple[int, int], bytes]] = []

    def look(self, one: Judged) -> list[Any]:
        """Return the name, the counts and the thumbnail of a picture, as JSON takes them."""
        small = shrink(one.prediction.astype(np.uint8))
        packed = base64.b64encode(zlib.compress(small.tobytes())).decode()
        return [one.sample.name, tally(one.scores).tolist(), list(small.shape), packed]

    def add(self, kept: list[Any]) -> None:
        """Take what was kept of a picture."""
        name, counts, (height, width), packed = kept
        self.names.append(name)
        self._counts.append(np.array(counts, np.int64))
        self._masks.append(((height, width), base64.b64decode(packed)))

    @property
    def counts(self) -> Integer[np.ndarray, "N 3 C"]:
        """Pixels right, labelled and predicted, by picture and class."""
        return np.stack(self._counts)

    def count(self, index: int) -> Integer[np.ndarray, "3 C"]:
        """Return a picture's pixels right, labelled and predicted, by class."""
        return self._counts[index]

    def mask(self, index: int) -> UInt8[np.ndarray, "y x"]:
        """Return a picture's prediction at thumbnail size."""
        size, packed = self._masks[index]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(size)

    def iou(self, index: int) -> Float[np.ndarray, " C"]:
        """Return a picture's IoU by class; NaN where it has no such label."""
        right, labelled, predicted = self._counts[index]
        union = labelled + predicted - right
        return np.where(labelled > 0, divide(right, union), np.nan)

    def score(self, index: int) -> float:
        """Return a picture's mean IoU over the classes it is labelled with; NaN without labels.

        A class that is given but not labelled takes pixels from these, and has no IoU of its own.
        """
        iou = self.iou(index)
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows.

    Args:
        facts: what ``unseen evaluate --json`` prints: conditions of all models, scores, and for
            several models their differences.
        dataset: the pictures.
        scores: of every row of the table, with baselines and chance.
        records: of the models, whose names are among the scores'; the first is what the others are
            compared with.
        conditions: of each model, what was evaluated and how.
        sizes: of each model, its scores by the size of what is labelled.
    """

    facts: Mapping[str, Any]
    dataset: Dataset
    scores: Mapping[str, Scores]
    records: Mapping[str, Record]
    conditions: Mapping[str, Mapping[str, str]]
    sizes: Mapping[str, SizeScores]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts with what is behind the page's charts, as JSON takes it."""
        return {
            "format": FORMAT,
            **self.facts,
            "conditions": {name: dict(rows) for name, rows in self.conditions.items()},
            "labels": list(self.dataset.vocabulary.names),
            "confusion": {name: self.scores[name].matrix.tolist() for name in self.records},
            "reliability": {
                name: None if bins is None else [[defined(v) for v in row] for row in bins.tolist()]
                for name in self.records
                for bins in [self.scores[name].reliability_by_bin]
            },
            "sizes": {name: one.to_dict() for name, one in self.sizes.items()},
            "by_picture": {
                name: {
                    picture: defined(100 * record.score(i))
                    for i, picture in enumerate(record.names)
                }
                for name, record in self.records.items()
            },
        }

    @property
    def keys(self) -> dict[str, str]:
        """The letter that stands for each model; none for a single one."""
        if len(self.records) == 1:
            return dict.fromkeys(self.records, "")
        letters = (chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(len(self.records)))
        return dict(zip(self.records, letters, strict=True))


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse, before anything is computed, a folder that a report cannot be written to.

    Args:
        folder: where to.
        force: it may be there already, if it is empty or holds a report and nothing else.

    Raises:
        InputError: it is there, holds something else, or cannot be made.
    """
    folder = folder.resolve()
    try:
        if folder.exists() or folder.is_symlink():
            if not folder.is_dir():
                raise InputError(f"{folder} is a file: name a folder for the report")
            if not force:
                raise InputError(f"{folder} is there already: name another folder, or --force")
            strangers = sorted(
                path.name for path in folder.iterdir() if path.name not in _PARTS or path.is_dir()
            )
            if strangers:
                raise InputError(
                    f"{folder} also holds {strangers[0]}, which is no part of a report: it is not "
                    "replaced; name another folder"
                )
            if any(folder.iterdir()) and not _is_report(folder / "report.json"):
                raise InputError(
                    f"{folder} holds no report of unseen: it is not replaced; name another folder"
                )
        above = next(path for path in folder.parents if path.exists())
        writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    if not writable:
        raise InputError(f"{folder} cannot be written: no folder can be made in {above}")


_PARTS = ("index.html", "report.json")


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def describe(
    segmenter: Segmenter,
    name: str,
    dataset: Dataset,
    *,
    source: str,
    split: str,
    calibration: float,
    tta: bool,
) -> dict[str, str]:
    """Return the conditions of an evaluation, in words for a reader.

    Args:
        segmenter: the model.
        name: what it was called.
        dataset: what it is scored on.
        source: what that is called.
        split: part of it.
        calibration: γ.
        tta: whether several views were averaged.
    """
    config, backend = segmenter.config, segmenter.backend
    recipe, clip = config.recipe, backend.vision
    trained = [str(recipe["name"])] if "name" in recipe else []
    trained += [f"{field} {recipe[field]}" for field in ("steps", "seed") if field in recipe]
    known_as = config.clip or "its own"
    device = str(segmenter.device)
    if segmenter.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(segmenter.device)})"
    return {
        "model": name,
        "method": config.method,
        "setting": config.setting or "training-free",
        "training": ", ".join(trained) or "not recorded",
        "CLIP": f"{known_as}, {clip.layers} layers of {clip.width}, patches of {clip.patch_size}"
        + (f", text encoder {segmenter.fingerprint}" if segmenter.fingerprint else ""),
        "data": f"{source}, {split or 'default split'}, {len(dataset):,} pictures",
        "held out": ", ".join(dataset.vocabulary.unseen) or "none",
        "γ": f"{calibration:g}",
        "shown": f"short side {config.short_side}, windows of {config.window} every "
        f"{config.stride} pixels" + (", several scales and mirrored" if tta else ""),
        "device": f"{device}, {torch.get_num_threads()} CPU threads, "
        f"{backend.name}, {backend.precision}",
        "versions": f"unseen {version('unseen')}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def shrink(labels: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "y x"]:
    size = thumbnail_size(labels.shape)
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def thumbnail_size(shape: Sequence[int]) -> tuple[int, int]:
    """Return (width, height) of a picture on the page; it is never enlarged."""
    factor = min(1, LONGEST / max(shape[:2]))
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))
