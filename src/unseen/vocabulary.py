"""Vocabularies: the names a picture may be divided into, which of them stay unseen in training,
and the sentences a name is put into before CLIP reads it.

A split is a list of *names*, never of indices: an index means nothing without the order of a file,
and that is how splits go wrong.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unseen.errors import InputError, did_you_mean

IGNORE = 255
"""The label of pixels that count for no class: void, padding, PASCAL VOC's background."""

SINGLE_TEMPLATE = ("a photo of a {}",)
"""The one sentence of the published VOC embeddings (no full stop)."""

MULTI_TEMPLATES = (
    "a photo of a {}.",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "a {} in the scene.",
    "a photo of a {} in the scene.",
    "There is a {} in the scene.",
    "There is the {} in the scene.",
    "This is a {} in the scene.",
    "This is the {} in the scene.",
    "This is one {} in the scene.",
)
"""The 15 sentences of the published COCO-Stuff and Context embeddings."""

TEMPLATES = {"single": SINGLE_TEMPLATE, "multi": MULTI_TEMPLATES}


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of class names; a label map holds positions in it.

    Args:
        name: what the vocabulary is called in results and files.
        names: the classes, in label order.
        unseen: the classes whose pixels are never labelled in training.
        stuff: the classes without countable instances (sky, road); the rest are things.
        templates: the sentences a name is put into, ``{}`` standing for the name.
    """

    name: str
    names: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    templates: tuple[str, ...] = SINGLE_TEMPLATE

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("no labels were given: name at least one thing to look for")
        if any(not name.strip() for name in self.names):
            raise InputError(f"labels must be words, got an empty one among {list(self.names)!r}")
        counts = Counter(name.casefold() for name in self.names)  # CLIP reads lower case only
        repeated = sorted({name for name in self.names if counts[name.casefold()] > 1})
        if repeated:
            raise InputError(f"each label must be given once, but these repeat: {_list(repeated)}")
        for field, listed in (("unseen", self.unseen), ("stuff", self.stuff)):
            strangers = [name for name in listed if name not in self.names]
            if strangers:
                raise InputError(
                    f"{field} names {_list(strangers)}, not among the labels of {self.name!r}; "
                    f"write them as there: {_list(self.names[:8])}…"
                )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Vocabulary":
        """Make one of its fields as JSON keeps them: lists for tuples."""
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**cast(dict[str, Any], tuples))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def seen(self) -> tuple[str, ...]:
        """The names that are not unseen, in label order."""
        return tuple(name for name in self.names if name not in self.unseen)

    @property
    def things(self) -> tuple[str, ...]:
        """The names that are not stuff, in label order."""
        return tuple(name for name in self.names if name not in self.stuff)

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the label of each name."""
        return tuple(self.names.index(name) for name in names)


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def list_words(words: str | Sequence[str]) -> tuple[str, ...]:
    """Return words as people write them, with single spaces within and none around.

    Args:
        words: a list, or a text with commas or line ends between them, whose lines that start with
            # are left out.

    Raises:
        InputError: something in the list is no word.
    """
    if isinstance(words, str):
        lines = [line for line in words.splitlines() if not line.lstrip().startswith("#")]
        words = [word for word in ",".join(lines).split(",") if word.strip()]
    if strangers := [word for word in words if not isinstance(word, str)]:
        raise InputError(f"labels must be words, got {strangers[0]!r}")
    return tuple(" ".join(word.split()) for word in words)


def list_groups(groups: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return names with the words that each stands for.

    Raises:
        InputError: a name that stands for none.
    """
    listed = {name: list_words(words) for name, words in groups.items()}
    for name, words in listed.items():
        if not words:
            raise InputError(f"{name!r} is given no words: give it one, or leave it out")
    return listed


VOC20 = Vocabulary(
    name="voc20",
    names=list_words(
        "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, "
        "horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
    ),
    unseen=list_words("pottedplant, sheep, sofa, train, tvmonitor"),
)
"""PASCAL VOC 2012 without background, in its label order minus one."""

_COCO_THINGS = list_words(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
    "zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports "
    "ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine "
    "glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot "
    "dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
_COCO_STUFF = list_words(
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, "
    "ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, "
    "flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, "
    "leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, "
    "pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, "
    "roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, "
    "straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, "
    "waterdrops, window-blind, window-other, wood"
)
COCO171 = Vocabulary(
    name="coco171",
    names=_COCO_THINGS + _COCO_STUFF,
    unseen=list_words(
        "cow, giraffe, suitcase, frisbee, skateboard, carrot, scissors, cardboard, clouds, grass, "
        "playingfield, river, road, tree, wall-concrete"
    ),
    stuff=_COCO_STUFF,
    templates=MULTI_TEMPLATES,
)
"""COCO-Stuff 164k, in the order of its ``labelTrainIds``."""

_CONTEXT = list_words(
    "aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, "
    "cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, "
    "floor, flower, food, grass, ground, horse, keyboard, light, motorbike, mountain, mouse, "
    "person, plate, platform, pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, "
    "sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood"
)
CONTEXT59 = Vocabulary(
    name="context59",
    names=_CONTEXT,
    unseen=list_words(
        "cow, motorbike, sofa, cat, boat, fence, bird, tvmonitor, keyboard, aeroplane"
    ),
    templates=MULTI_TEMPLATES,
)
"""PASCAL Context in its label order minus one, with the unseen classes that Cascade-CLIP's paper
lists (Table 11). Which of the classes are stuff nobody has agreed on: all count as things."""

CONTEXT59_RELEASED = Vocabulary(
    name="context59-released",
    names=_CONTEXT,
    unseen=list_words("aeroplane, bed, bedclothes, boat, bottle, car, cloth, cow, keyboard, plate"),
    templates=MULTI_TEMPLATES,
)
"""PASCAL Context with the unseen classes that Cascade-CLIP's released configuration really holds
out: its indices are those of Table 11 in another order of the names."""

CAMVID = Vocabulary(
    name="camvid",
    names=list_words(
        "Sky, Building, Pole, Road, Sidewalk, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist"
    ),
)
"""CamVid's 11 classes; void is no class."""
CAMVID_SMALL = list_words("Pole, SignSymbol, Pedestrian, Bicyclist")

UAVID = Vocabulary(
    name="uavid",
    names=list_words(
        "Background, Building, Tree, Moving Car, Road, Low Vegetation, Static Car, Human"
    ),
)
"""UAVid, its background clutter a class like the others; ``uavid-foreground`` ignores it."""
UAVID_SMALL = list_words("Human, Moving Car, Static Car")

UDD6 = Vocabulary(name="udd6", names=list_words("Other, Facade, Road, Vegetation, Vehicle, Roof"))
"""UDD6 in label order, its "Other" a class like the rest; ``udd6-foreground`` ignores it."""
UDD6_SMALL = list_words("Vehicle")

UAVID_FOREGROUND = Vocabulary(name="uavid-foreground", names=UAVID.names[1:])
UDD6_FOREGROUND = Vocabulary(name="udd6-foreground", names=UDD6.names[1:])

MINIATURE = Vocabulary(
    name="miniature",
    names=list_words(
        "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
        "stop sign, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, "
        "umbrella, handbag, sky, clouds, grass, sand, sea, snow, road, brick wall, wood floor, "
        "gravel"
    ),
    unseen=list_words("train, sheep, cow, giraffe, clouds, grass, road"),
    stuff=list_words("sky, clouds, grass, sand, sea, snow, road, brick wall, wood floor, gravel"),
    templates=MULTI_TEMPLATES,
)
"""The embedded world of drawings: 24 things and 10 stuffs; unseen are names that PASCAL VOC or
COCO-Stuff holds out too."""

VOCABULARIES = {
    vocabulary.name: vocabulary
    for vocabulary in (
        VOC20,
        COCO171,
        MINIATURE,
        CONTEXT59,
        CONTEXT59_RELEASED,
        CAMVID,
        UAVID,
        UAVID_FOREGROUND,
        UDD6,
        UDD6_FOREGROUND,
    )
}


def read_vocabulary(
    labels: str | Sequence[str] | Vocabulary,
    *,
    templates: tuple[str, ...] = SINGLE_TEMPLATE,
) -> Vocabulary:
    """Make a vocabulary from what a user writes.

    Args:
        labels: names ("cat, grass", one a line, or a list), a file with one name a line or
            separated by commas (lines that start with # are left out), the name of a vocabulary
            (``voc20``, ``coco171``, ``miniature``), or one ready made.
        templates: the sentences for plain names; vocabularies have their own.

    Raises:
        InputError: no names, an empty or repeated one, or a misspelt vocabulary.
    """
    if isinstance(labels, Vocabulary):
        return labels
    if not isinstance(labels, str):
        return Vocabulary("labels", list_words(labels), templates=templates)
    if labels in VOCABULARIES:
        return VOCABULARIES[labels]
    path = Path(labels)
    if "," not in labels and os.path.isfile(labels):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{labels} is not a text file: give one label a line") from None
        except OSError as error:
            raise InputError(f"{labels} cannot be read: {error.strerror}") from None
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        _refuse_groups(lines, labels)
        names = list_words(text)
        if not names:
            raise InputError(f"{labels} holds no labels: give one a line")
        return Vocabulary(path.stem, names, templates=templates)
    names = list_words(labels)
    if len(names) == 1 and "," not in labels:
        _refuse_misspelt(names[0])
    _refuse_groups(names, "the list of labels")
    return Vocabulary("labels", names, templates=templates)


def _refuse_groups(lines: Sequence[str], where: str) -> None:
    """Refuse a line as ``--merge`` and ``--words`` take it."""
    if group := next((line for line in lines if ":" in line), ""):
        raise InputError(
            f"{where} holds {group.strip()!r}, which is no label: write the words alone, and "
            "say which are one with --merge, or in Python with a mapping"
        )


def _refuse_misspelt(label: str) -> None:
    """Refuse a lone word that looks like a file or a vocabulary's name but is neither."""
    if label.endswith((".txt", ".csv")) or "/" in label:
        raise InputError(
            f"there is no file of labels at {label}; as a plain label, write '{label},'"
        )
    if hint := did_you_mean(label.lower(), VOCABULARIES, cutoff=0.7):
        raise InputError(
            f"no vocabulary is called {label!r}{hint} "
            f"(known: {', '.join(VOCABULARIES)}; as a plain label, write '{label},')"
        )


def find_vocabulary(name: str) -> Vocabulary:
    """Return a vocabulary by its name, or say which there are."""
    if name not in VOCABULARIES:
        hint = did_you_mean(name, VOCABULARIES)
        raise InputError(
            f"no vocabulary is called {name!r}{hint} (known: {', '.join(VOCABULARIES)})"
        )
    return VOCABULARIES[name]
