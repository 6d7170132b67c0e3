"""From official downloads to what the readers of ``unseen.data.published`` take.

Nothing in the source is changed. A label map that is there whole is not made again, so what was
interrupted is called again and goes on.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from unseen.data.datasets import NAMELESS, pair_up
from unseen.data.images import read_labels
from unseen.data.published import list_files, read_list
from unseen.errors import InputError, require
from unseen.progress import track
from unseen.vocabulary import COCO171, CONTEXT59
from unseen.writing import write_text, write_whole

OFFICIAL = {
    "voc": {"train-only": 1464, "aug": 9118, "val": 1449},
    "context": {"train": 4998, "val": 5105},
    "coco": {"train": 118287, "val": 5000},
}
"""Pictures by split."""

REMOVED = {
    11: "street sign",
    25: "hat",
    28: "shoe",
    29: "eye glasses",
    44: "plate",
    65: "mirror",
    67: "window",
    68: "desk",
    70: "door",
    82: "blender",
    90: "hair brush",
}
"""The 11 of COCO-Stuff's 182 ids that no picture has. A stored id is the one of its labels.txt less
one, and 255 is unlabelled."""

COCO_IDS = dict(
    zip((i for i in range(182) if i not in REMOVED), range(len(COCO171)), strict=True)
) | {255: 255}
"""Position in ``COCO171`` of each id in stuffthingmaps."""

_CONTEXT_CATEGORIES = (
    "2 9 18 19 22 23 25 31 33 34 44 45 46 59 65 68 72 80 85 98 104 105 113 115 144 158 159 162 187 "
    "189 207 220 232 258 259 260 284 295 296 308 324 326 347 349 354 355 360 366 368 397 415 416 "
    "420 424 427 440 445 454 458"
)
CONTEXT_IDS = dict(zip(map(int, _CONTEXT_CATEGORIES.split()), CONTEXT59.names, strict=True))
"""The names of the 59 among Context's 459 categories, both of which are in alphabetical order."""


@dataclass(frozen=True)
class Prepared:
    """What was prepared.

    Args:
        root: what ``open_dataset`` takes as root.
        made: label maps that were written now.
        kept: label maps that were there already.
        counts: pictures by split.
        warnings: sentences on what differs from the official data.
    """

    root: Path
    made: int
    kept: int
    counts: Mapping[str, int]
    warnings: tuple[str, ...]


def prepare(
    name: str, source: str | Path, target: str | Path, *, copy_pictures: bool = False
) -> Prepared:
    """Make a data set's label maps and lists, and put its pictures beside them.

    Args:
        name: ``voc``, ``context`` or ``coco``.
        source: folder of the unpacked downloads.
        target: folder for the result; several data sets may share one, and it may be ``source``.
        copy_pictures: copy pictures instead of linking to their folder. Where links are impossible
            they are copied anyway.

    Raises:
        InputError: the downloads are not there, or broken.
        MissingExtra: scipy (voc) or pycocotools (context) is not installed.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise InputError(f"there is no folder {source}: give the one with the unpacked downloads")
    makers = {"voc": _voc, "context": _context, "coco": _coco}
    made, kept, counts, warnings = makers[name](source, target, copy_pictures)
    official = OFFICIAL[name]
    if counts != official:
        warnings.append(
            f"the official data has {_counts(official)} pictures, this has {_counts(counts)}: "
            "scores on a part are not comparable with published ones"
        )
    return Prepared(target, made, kept, counts, tuple(warnings))


Made = tuple[int, int, dict[str, int], list[str]]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())


# PASCAL VOC with SBD -----------------------------------------------------------------------------


def _voc(source: Path, target: Path, copy: bool) -> Made:
    devkit = _find(
        source,
        ("VOCdevkit/VOC2012", "VOC2012", ""),
        "ImageSets/Segmentation/train.txt",
        "VOC2012 (VOCtrainval_11-May-2012.tar)",
    )
    sbd = _find(
        source,
        ("benchmark_RELEASE/dataset", "dataset", "VOCdevkit/VOCaug/dataset", "VOCaug/dataset", ""),
        "cls",
        "SBD (benchmark.tgz)",
    )
    place = _place(devkit, target, "VOCdevkit/VOC2012")
    lists = devkit / "ImageSets" / "Segmentation"
    official = {split: read_list(lists / f"{split}.txt") for split in ("train", "val")}
    listed = [name for part in ("train", "val") for name in read_list(sbd / f"{part}.txt")]
    known = {*official["train"], *official["val"]}
    wanted = [name for name in dict.fromkeys(listed) if name not in known]
    there = list_files(devkit / "JPEGImages", ".jpg").keys() & list_files(sbd / "cls", ".mat")
    names = [name for name in wanted if name in there]
    warnings = _left_out(len(wanted) - len(names), "SBD lists", "no picture or no .mat")
    if names:
        require("scipy.io", extra="data")
    for folder in ("JPEGImages", "SegmentationClass"):
        _bring(devkit / folder, place / folder, copy)
    for split in official:
        _bring_file(lists / f"{split}.txt", place / "ImageSets" / "Segmentation" / f"{split}.txt")
    files = {place / "SegmentationClassAug" / f"{n}.png": sbd / "cls" / f"{n}.mat" for n in names}
    made, kept = _make(files, _read_mat, "converting SBD")
    _write_list(place / "ImageSets" / "Segmentation" / "aug.txt", names)
    counts = {
        "train-only": len(official["train"]),
        "aug": len(names),
        "val": len(official["val"]),
    }
    return made, kept, counts, warnings


def _read_mat(path: Path) -> UInt8[np.ndarray, "H W"]:
    """Read a label map of SBD: 0 background, then VOC's classes in order."""
    loadmat = require("scipy.io", extra="data").loadmat
    try:
        found = loadmat(path, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
        return np.atleast_2d(np.asarray(found)).astype(np.uint8)
    except Exception as error:  # scipy raises all kinds on broken files
        raise InputError(
            f"{path} is not a label map of SBD ({type(error).__name__}): unpack benchmark.tgz again"
        ) from None


# PASCAL Context ----------------------------------------------------------------------------------


def _context(source: Path, target: Path, copy: bool) -> Made:
    devkit = _find(
        source,
        ("VOCdevkit/VOC2010", "VOC2010", ""),
        "JPEGImages",
        "VOC2010 (VOCtrainval_03-May-2010.tar)",
    )
    name = "trainval_merged.json"
    holder = _find(source, ("", "VOCdevkit/VOC2010", "VOC2010"), name, "Context's label maps")
    place = _place(devkit, target, "VOCdevkit/VOC2010")
    content = _read_json(holder / name)
    require("pycocotools.mask", extra="data")
    try:
        regions: dict[int, list[dict[str, Any]]] = {}
        for region in content["annos_segmentation"]:
            regions.setdefault(region["image_id"], []).append(region)
        images = {Path(image["file_name"]).stem: image for image in content["images"]}
        phases = {stem: image["phase"] for stem, image in images.items()}
    except (KeyError, TypeError):
        raise InputError(
            f"{holder / name} is not Context's file of regions: expected images and "
            "annos_segmentation as the Detail API has them"
        ) from None
    there = list_files(devkit / "JPEGImages", ".jpg")
    splits = {
        split: sorted(stem for stem, phase in phases.items() if phase == split and stem in there)
        for split in ("train", "val")
    }
    wanted = sum(phase in splits for phase in phases.values())
    names = splits["train"] + splits["val"]
    if not names:
        raise InputError(f"{devkit / 'JPEGImages'} holds no picture that {name} names")
    warnings = _left_out(wanted - len(names), f"{name} names", "no picture")
    _bring(devkit / "JPEGImages", place / "JPEGImages", copy)

    def paint(stem: str) -> UInt8[np.ndarray, "H W"]:
        try:
            return _paint(images[stem], regions.get(images[stem]["image_id"], []))
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(
                f"{holder / name} holds regions of {stem} that cannot be painted: download it again"
            ) from None

    files = {place / "SegmentationClassContext" / f"{stem}.png": stem for stem in names}
    made, kept = _make(files, paint, "painting Context")
    for split, stems in splits.items():
        _write_list(place / "ImageSets" / "SegmentationContext" / f"{split}.txt", stems)
    return made, kept, {split: len(stems) for split, stems in splits.items()}, warnings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not whole JSON ({error}): download it again") from None
    return content if isinstance(content, dict) else {}


def _paint(image: Mapping[str, Any], regions: Sequence[Any]) -> UInt8[np.ndarray, "H W"]:
    """Paint regions over each other in their order: 0 where none of the 59 classes is."""
    masks = require("pycocotools.mask", extra="data")
    height, width = image["height"], image["width"]
    labels = np.zeros((height, width), np.uint8)
    for region in regions:
        runs = region["segmentation"]
        if isinstance(runs["counts"], list):
            runs = masks.frPyObjects(runs, height, width)
        name = CONTEXT_IDS.get(region["category_id"])
        label = 0 if name is None else CONTEXT59.names.index(name) + 1
        labels[masks.decode(runs) > 0] = label
    return labels


# COCO-Stuff --------------------------------------------------------------------------------------


def _coco(source: Path, target: Path, copy: bool) -> Made:
    pictures_of, maps_of = {}, {}
    for split in OFFICIAL["coco"]:
        folder = f"{split}2017"
        for inside in ("images", "", "coco_stuff164k/images"):
            if list_files(source / inside / folder, ".jpg"):
                pictures_of[split] = source / inside / folder
                break
        for inside in (
            "stuffthingmaps_trainval2017",
            "stuffthingmaps",
            "annotations",
            "",
            "coco_stuff164k/annotations",
        ):
            if _originals(source / inside / folder):
                maps_of[split] = source / inside / folder
                break
    both = [split for split in pictures_of if split in maps_of]
    if not both:
        raise InputError(
            f"{source} does not hold COCO-Stuff: expected pictures in train2017 or val2017 "
            "(train2017.zip, val2017.zip) and label maps in stuffthingmaps_trainval2017 "
            "(stuffthingmaps_trainval2017.zip)"
        )
    place = _place(pictures_of[both[0]].parent.parent, target, "coco_stuff164k")
    files: dict[Path, Path] = {}
    counts, warnings = {}, []
    for split in both:
        pictures, maps = list_files(pictures_of[split], ".jpg"), _originals(maps_of[split])
        used = {name: path for name, path in maps.items() if name in pictures}
        warnings += _left_out(len(maps) - len(used), f"{maps_of[split]} has", "no picture")
        pair_up(pictures, used, str(pictures_of[split]))
        counts[split] = len(used)
        made_in = place / "annotations" / f"{split}2017"
        files |= {made_in / f"{name}_labelTrainIds.png": path for name, path in used.items()}
    for split in both:
        _bring(pictures_of[split], place / "images" / f"{split}2017", copy)
    made, kept = _make(files, _renumber, "converting COCO-Stuff")
    return made, kept, counts, warnings


def _originals(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder that are not results of this module."""
    found = list_files(folder, ".png")
    return {name: path for name, path in found.items() if not name.endswith("_labelTrainIds")}


_COCO_TABLE = np.full(256, NAMELESS, np.int16)
_COCO_TABLE[list(COCO_IDS)] = list(COCO_IDS.values())


def _renumber(path: Path) -> UInt8[np.ndarray, "H W"]:
    ids = read_labels(path)
    labels = _COCO_TABLE[ids]
    if labels.min() == NAMELESS:
        strange = int(ids[labels == NAMELESS].min())
        what = f"the removed class {REMOVED[strange]!r}" if strange in REMOVED else "no class"
        raise InputError(
            f"{path} holds the id {strange}, {what}: expected a label map of stuffthingmaps"
        )
    return labels.astype(np.uint8)


# Files -------------------------------------------------------------------------------------------


def _find(source: Path, places: Sequence[str], marker: str, what: str) -> Path:
    """Return the first place in a folder that holds ``marker``."""
    for inside in places:
        if (source / inside / marker).exists():
            return source / inside
    raise InputError(
        f"{source} does not hold {what}: expected {Path(places[0], marker).as_posix()} in it"
    )


def _place(folder: Path, target: Path, inside: str) -> Path:
    """Return where to write: ``target / inside``, or the source itself if the target is it."""
    for place in (target, target / Path(inside).name):
        if place.resolve() == folder.resolve():
            return folder
    return target / inside


def _left_out(count: int, whose: str, why: str) -> list[str]:
    return [f"{count} pictures that {whose} are left out: {why}"] if count else []


def _write_list(path: Path, names: Sequence[str]) -> None:
    write_text(path, "".join(f"{name}\n" for name in names))


def _write_bytes(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


def _bring_file(path: Path, place: Path) -> None:
    if place.exists() and place.samefile(path):
        return
    write_whole(place, lambda part: shutil.copyfile(path, part))


def _bring(folder: Path, place: Path, copy: bool) -> None:
    """Link a folder to a place, or copy what is not there yet."""
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: unpack what it is of again")
    if place.exists() and place.samefile(folder):
        itself = place.parent.samefile(folder.parent)
        if itself or not (copy and place.is_symlink()):
            return
        place.unlink()  # the link of a run without --copy
    if place.is_symlink():
        raise InputError(f"{place} links to {os.readlink(place)}, expected {folder}: remove it")
    if not copy and not place.exists():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(folder.resolve(), target_is_directory=True)
            return
        except NotImplementedError:
            pass
        except OSError as error:
            if place.parent.is_dir() and os.access(place.parent, os.W_OK):
                pass  # a file system without links
            else:
                raise InputError(f"{place} cannot be made: {error.strerror}") from None
    there = set(os.listdir(place)) if place.is_dir() else set()
    missing = sorted(path for path in folder.iterdir() if path.name not in there)
    for path in track(missing, f"copying {folder.name}"):
        _bring_file(path, place / path.name)


def _make(
    files: Mapping[Path, Any],
    make: Callable[[Any], Shaped[np.ndarray, "H W"]],
    description: str,
) -> tuple[int, int]:
    """Write label maps that are not there whole; return how many were written, and were there.

    Args:
        files: where each goes, and what it is made of.
        make: makes one; runs in threads.
        description: what is being done.
    """
    todo = [path for path in files if not _is_whole(path)]

    def encode(path: Path) -> bytes:
        buffer = BytesIO()
        Image.fromarray(make(files[path])).save(buffer, "PNG")
        return buffer.getvalue()

    def results() -> Iterator[tuple[Path, bytes]]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(todo), 128):  # what is in memory, or lost by an interruption
                batch = todo[start : start + 128]
                yield from zip(batch, threads.map(encode, batch), strict=True)

    for path, content in track(results(), description, total=len(todo)):
        # in one thread: write_whole sets the process's umask for a moment
        _write_bytes(path, content)
    return len(todo), len(files) - len(todo)


def _is_whole(path: Path) -> bool:
    """Tell whether a PNG is there to its last byte."""
    try:
        with path.open("rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read()[4:8] == b"IEND"
    except OSError:
        return False
