"""The published data sets in the layouts of their makers.

A reader takes the data set's folder and a split. Split ``train`` is what the papers train on.
"""

from collections.abc import Sequence
from pathlib import Path

from unseen.data.colours import ColourTable
from unseen.data.datasets import MaskFolder, pair_up
from unseen.data.images import SUFFIXES
from unseen.errors import InputError
from unseen.vocabulary import (
    CAMVID,
    COCO171,
    CONTEXT59,
    IGNORE,
    UAVID,
    UAVID_FOREGROUND,
    UDD6,
    UDD6_FOREGROUND,
    VOC20,
    Vocabulary,
)

CAMVID_IDS = {label: label for label in range(len(CAMVID))} | {11: IGNORE}
"""SegNet's grey label maps: the 11 classes in order, then what is not labelled."""

CAMVID_STRANGE = 12
"""The id of what has no colour of CamVid's."""

CAMVID_COLOURS = ColourTable(
    {
        colour: CAMVID.names.index(name)
        for name, colours in {
            "Sky": [(128, 128, 128)],
            # bridge, building, wall, tunnel, archway
            "Building": [(0, 128, 64), (128, 0, 0), (64, 192, 0), (64, 0, 64), (192, 0, 128)],
            "Pole": [(192, 192, 128), (0, 0, 64)],  # column, traffic cone
            # road, lane markings to drive on and not to
            "Road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
            "Sidewalk": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],  # parking, road shoulder
            "Tree": [(128, 128, 0), (192, 192, 0)],  # other vegetation
            "SignSymbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],  # text, traffic light
            "Fence": [(64, 64, 128)],
            # car, pickup, truck or bus, train, other moving
            "Car": [
                (64, 0, 128),
                (64, 128, 192),
                (192, 128, 192),
                (192, 64, 128),
                (128, 64, 64),
            ],
            # pedestrian, child, pram, animal
            "Pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
            "Bicyclist": [(0, 128, 192), (192, 0, 192)],  # motorcyclist
        }.items()
        for colour in colours
    }
    | {(0, 0, 0): 11},
    other=CAMVID_STRANGE,
)
"""CamVid's 32 classes as the ids of 11; 11 is the void."""

UAVID_COLOURS = ColourTable(
    {
        (0, 0, 0): UAVID.names.index("Background"),
        (128, 0, 0): UAVID.names.index("Building"),
        (0, 128, 0): UAVID.names.index("Tree"),
        (64, 0, 128): UAVID.names.index("Moving Car"),
        (128, 64, 128): UAVID.names.index("Road"),
        (128, 128, 0): UAVID.names.index("Low Vegetation"),
        (192, 0, 192): UAVID.names.index("Static Car"),
        (64, 64, 0): UAVID.names.index("Human"),
    }
)
"""UAVid's colours as its makers give them. A published evaluation code swaps those of the two kinds
of cars, and those of low vegetation and humans."""


def voc(root: str | Path, split: str = "val") -> MaskFolder:
    """Read PASCAL VOC 2012, background ignored.

    Args:
        root: the VOC2012 folder, or the VOCdevkit around it.
        split: ``train``, which is ``train-only`` and ``aug`` (SBD) one after the other, as
            published; ``val``; or any other list in ``ImageSets/Segmentation``.

    Raises:
        InputError: the folder is laid out otherwise, or the list is empty or names what is not
            there.
    """
    root = _devkit(root, "VOC2012", "SegmentationClass", "Segmentation")
    lists = root / "ImageSets" / "Segmentation"
    parts = {
        "train": ("train", "aug"),
        "trainaug": ("train", "aug"),
        "train-only": ("train",),
    }.get(split, (split,))
    pairs: list[tuple[Path, Path]] = []
    for part in parts:
        if part == "aug" and not (lists / "aug.txt").is_file():
            raise InputError(
                f"there is no {lists / 'aug.txt'}, SBD's part of the split {split}: make it with "
                "unseen data prepare voc, or take the split train-only"
            )
        labels = "SegmentationClassAug" if part == "aug" else "SegmentationClass"
        pairs += _listed(lists / f"{part}.txt", root / "JPEGImages", root / labels)
    return MaskFolder(pairs, VOC20, reduce_zero=True)


def context(
    root: str | Path, split: str = "val", *, vocabulary: Vocabulary = CONTEXT59
) -> MaskFolder:
    """Read PASCAL Context with 59 classes, background ignored.

    Args:
        root: the VOC2010 folder, or the VOCdevkit around it.
        split: ``train`` or ``val``.
        vocabulary: one of the two that differ in the unseen names.

    Raises:
        InputError: as ``voc``.
    """
    root = _devkit(root, "VOC2010", "SegmentationClassContext", "SegmentationContext")
    listing = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    pairs = _listed(listing, root / "JPEGImages", root / "SegmentationClassContext")
    return MaskFolder(pairs, vocabulary, reduce_zero=True)


def coco(root: str | Path, split: str = "val") -> MaskFolder:
    """Read COCO-Stuff 164k with 171 classes.

    Args:
        root: the folder that holds ``images`` and ``annotations``.
        split: ``train`` or ``val``.

    Raises:
        InputError: the folder is laid out otherwise, or pictures and label maps are not the same.
    """
    root = _inside(root, "coco_stuff164k", "images")
    ending = "_labelTrainIds.png"
    where, labels = root / "images" / f"{split}2017", root / "annotations" / f"{split}2017"
    pictures, label_maps = list_files(where, ".jpg"), list_files(labels, ending)
    if pictures and not label_maps and list_files(labels, ".png"):
        raise InputError(
            f"{labels} holds label maps, but none that ends in {ending}: make them with "
            "unseen data prepare coco"
        )
    return MaskFolder(pair_up(pictures, label_maps, str(where)), COCO171)


def camvid(root: str | Path, split: str = "test") -> MaskFolder:
    """Read CamVid with 11 classes.

    Args:
        root: a folder in one of three layouts: SegNet's grey ids (``test``, ``testannot``); colours
            by split (``test``, ``test_labels``); or the makers' (``701_StillsRaw_full``,
            ``LabeledApproved_full``) with the lists of a split (``test.txt``) beside them.
        split: ``train``, ``val`` or ``test``.

    Raises:
        InputError: the folder is laid out otherwise, or pictures and label maps are not the same.
    """
    root = Path(root)
    pictures = list_files(root / split, *SUFFIXES)
    if (root / f"{split}annot").is_dir():
        label_maps = list_files(root / f"{split}annot", ".png")
        pairs = pair_up(pictures, label_maps, str(root / split))
        return MaskFolder(pairs, CAMVID, label_map=CAMVID_IDS)
    if (root / f"{split}_labels").is_dir():
        label_maps = list_files(root / f"{split}_labels", "_L.png", ".png")
        pairs = pair_up(pictures, label_maps, str(root / split))
    elif (root / f"{split}.txt").is_file():
        raw, labelled = root / "701_StillsRaw_full", root / "LabeledApproved_full"
        pairs = _listed(root / f"{split}.txt", raw, labelled, endings=(".png", "_L.png"))
    else:
        raise InputError(
            f"CamVid's split {split} is not in {root}: expected the folders {split} and "
            f"{split}annot (grey ids) or {split}_labels (colours), or {split}.txt beside "
            "701_StillsRaw_full and LabeledApproved_full"
        )
    ids = CAMVID_IDS | {CAMVID_STRANGE: IGNORE}
    return MaskFolder(pairs, CAMVID, label_map=ids, colours=CAMVID_COLOURS)


def uavid(root: str | Path, split: str = "val", *, background: bool = True) -> MaskFolder:
    """Read UAVid.

    Args:
        root: the folder that holds ``uavid_train`` and ``uavid_val``, or ``train`` and ``val``.
        split: ``train`` or ``val``; the makers keep the labels of the test part.
        background: count background clutter as a class; otherwise ignore it.

    Raises:
        InputError: the folder is laid out otherwise, or pictures and label maps are not the same.
    """
    folder = Path(root) / f"uavid_{split}"
    folder = folder if folder.is_dir() else Path(root) / split
    pictures, label_maps = (
        {f"{path.parent.parent.name}/{path.name}": path for path in folder.glob(f"seq*/{kind}/*")}
        for kind in ("Images", "Labels")
    )
    if not pictures and not label_maps:
        raise InputError(
            f"UAVid's split {split} is not in {root}: expected "
            f"uavid_{split}/seq*/Images/*.png and Labels/*.png"
        )
    pairs = pair_up(pictures, label_maps, str(folder))
    if background:
        return MaskFolder(pairs, UAVID, colours=UAVID_COLOURS)
    return MaskFolder(pairs, UAVID_FOREGROUND, colours=UAVID_COLOURS, reduce_zero=True)


def udd6(root: str | Path, split: str = "val", *, background: bool = True) -> MaskFolder:
    """Read UDD6.

    Args:
        root: the folder that holds ``train`` and ``val``.
        split: ``train`` or ``val``.
        background: count "Other" as a class; otherwise ignore it.

    Raises:
        InputError: the folder is laid out otherwise, or pictures and label maps are not the same.
    """
    folder = Path(root) / split
    pictures, label_maps = list_files(folder / "src", *SUFFIXES), list_files(folder / "gt", ".png")
    if not pictures and not label_maps:
        raise InputError(
            f"UDD6's split {split} is not in {root}: expected {split}/src/*.JPG and "
            f"{split}/gt/*.png"
        )
    pairs = pair_up(pictures, label_maps, str(folder))
    if background:
        return MaskFolder(pairs, UDD6)
    return MaskFolder(pairs, UDD6_FOREGROUND, reduce_zero=True)


def _devkit(root: str | Path, year: str, labels: str, lists: str) -> Path:
    """Return the folder of a year's VOC, given it or one above."""
    for inside in ("", year, f"VOCdevkit/{year}"):
        folder = Path(root) / inside
        if (folder / "ImageSets" / lists).is_dir():
            return folder
    raise InputError(
        f"{root} is not laid out as {year}: expected a folder that holds JPEGImages, {labels} and "
        f"ImageSets/{lists}"
    )


def _inside(root: str | Path, name: str, marker: str) -> Path:
    """Return the folder that holds ``marker``, given it or the one above."""
    for folder in (Path(root), Path(root) / name):
        if (folder / marker).is_dir():
            return folder
    raise InputError(f"{root} is not {name}: expected a folder that holds images and annotations")


def read_list(listing: Path) -> list[str]:
    """Return the names in a list of a split, one a line; of a line with more, the first.

    Raises:
        InputError: as ``read_lines``.
    """
    return [line.split()[0] for line in read_lines(listing)]


def read_lines(listing: Path) -> list[str]:
    """Return the lines of a list, without space around them and without empty ones.

    Raises:
        InputError: there is no such list, or it is empty.
    """
    if not listing.is_file():
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise InputError(
            f"there is no list {listing}: the splits listed there are {', '.join(there) or 'none'}"
        )
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{listing} is not a text file: expected a name a line") from None
    filled = [line.strip() for line in lines if line.strip()]
    if not filled:
        raise InputError(f"{listing} names no pictures: expected a name a line")
    return filled


def bare(name: str) -> str:
    """Return a picture's name without folders and without the suffix of a picture."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _listed(
    listing: Path, pictures: Path, label_maps: Path, endings: tuple[str, str] = (".jpg", ".png")
) -> list[tuple[Path, Path]]:
    """Return the pairs that a list names, in its order; all of them must be there."""
    names = [bare(name) for name in read_list(listing)]
    for folder, ending in zip((pictures, label_maps), endings, strict=True):
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        missing = [name for name in names if name + ending not in present]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"{listing} names {len(names)} pictures; missing in {folder}: {missing[0]}{ending}"
                f"{more}: add what is missing or shorten the list"
            )
    return [(pictures / f"{n}{endings[0]}", label_maps / f"{n}{endings[1]}") for n in names]


def list_files(folder: Path, *endings: str) -> dict[str, Path]:
    """Return the files of a folder by their names without the first ending that fits."""
    found: dict[str, Path] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        ending = _first(path.name, endings)
        if ending and not path.name.startswith("."):
            found[path.name[: -len(ending)]] = path
    return found


def _first(name: str, endings: Sequence[str]) -> str:
    return next((e for e in endings if name.lower().endswith(e.lower())), "")
