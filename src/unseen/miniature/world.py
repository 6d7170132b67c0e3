"""Scenes of the miniature world: drawn from a seed, with their masks and captions.

Things are pasted drawings, stuffs are procedural textures. A scene costs about a millisecond, so
nothing needs to be on disk and a seed is a data set.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from unseen.errors import InputError
from unseen.vocabulary import IGNORE, MINIATURE, MULTI_TEMPLATES, SINGLE_TEMPLATE, Vocabulary

_SPRITES = files("unseen.miniature") / "assets" / "sprites"

SYNONYMS = {
    "person": ("man", "woman"),
    "bicycle": ("bike",),
    "car": ("automobile",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane"),
    "truck": ("lorry",),
    "boat": ("ship",),
    "sheep": ("lamb",),
    "cow": ("bull",),
    "sea": ("ocean", "water"),
    "road": ("street",),
    "sand": ("beach",),
}
"""Other words that captions use, now and then, for the same class."""

_AIR = ("sky", "clouds")

EDITION = 2
"""Raised when the same seed comes to draw another scene: what was measured before is of another
world."""

MICRO = Vocabulary(
    name="micro",
    names=MINIATURE.names[:12] + ("sky", "grass", "sea", "road"),
    unseen=("train", "boat", "grass"),
    stuff=("sky", "grass", "sea", "road"),
)
"""The smallest world: for tests that ask whether the pipeline runs, never how well."""


def edition() -> str:
    """Return what tells this world from another: its rules' edition, a hash of its drawings."""
    drawings = hashlib.sha256()
    for name in MINIATURE.things:
        drawings.update(_sprite_file(_SPRITES, name).read_bytes())
    return f"{EDITION}-{drawings.hexdigest()[:12]}"


def _sprite_file(folder: Traversable, name: str) -> Traversable:
    return folder / f"{name.replace(' ', '-')}.webp"


class Scene(NamedTuple):
    """A drawn picture: ``image`` (H, W, 3) uint8 RGB, ``mask`` (H, W) uint8 labels, ``caption``."""

    image: np.ndarray
    mask: np.ndarray
    caption: str


class World:
    """A generator of scenes over a vocabulary of drawable names.

    Args:
        vocabulary: names with a drawing or a texture; labels are positions in it.
        size: (height, width) of a scene in pixels.
        scale: smallest and largest side of a thing, as a share of the scene's short side.
        things: fewest and most things in a scene.
        sprites: where the drawings are; the package's own by default.

    Raises:
        InputError: too few names for a scene, or one without a texture.
    """

    def __init__(
        self,
        vocabulary: Vocabulary = MINIATURE,
        size: tuple[int, int] = (128, 128),
        *,
        scale: tuple[float, float] = (0.12, 0.9),
        things: tuple[int, int] = (0, 4),
        sprites: Traversable | None = None,
    ) -> None:
        if unknown := [name for name in vocabulary.stuff if name not in TEXTURES]:
            raise InputError(
                f"there is no texture of {unknown[0]!r}: its stuff can be {', '.join(TEXTURES)}"
            )
        if len(vocabulary.stuff) < 2 or not set(vocabulary.stuff) - set(_AIR):
            raise InputError(
                "a world needs two kinds of stuff, not sky and clouds alone; got "
                f"{', '.join(vocabulary.stuff) or 'none'}"
            )
        if things[1] and not vocabulary.things:
            raise InputError("a world without names of things needs things=(0, 0)")
        self.vocabulary = vocabulary
        self.size = size
        self.scale = scale
        self.things = things
        self._folder = sprites or _SPRITES

    @cached_property
    def _sprites(self) -> dict[str, list[list[np.ndarray]]]:
        """Return, per thing, each drawing at full, half, quarter… size: (h, w, 4) premultiplied."""
        sprites = {}
        for name in self.vocabulary.things:
            with _sprite_file(self._folder, name).open("rb") as file:
                strip = np.asarray(Image.open(file).convert("RGBA"), dtype=np.float32)
            cells = np.split(strip, strip.shape[1] // strip.shape[0], axis=1)
            sprites[name] = [_halvings(cell) for cell in cells]
        return sprites

    def scene(self, *seed: int) -> Scene:
        """Draw the scene of a seed; the same seed is always the same scene."""
        random = np.random.default_rng(seed)
        height, width = self.size
        image, mask, stuffs = self._background(random)
        count = int(random.integers(self.things[0], self.things[1] + 1))
        drawable = self.vocabulary.things
        things = [drawable[i] for i in random.integers(max(1, len(drawable)), size=count)]
        smallest, largest = np.log(self.scale)
        sides = min(height, width) * np.exp(random.uniform(smallest, largest, count))
        sides[::-1].sort()  # what is small stands in front, or it would often not be seen at all
        for name, side in zip(things, sides.tolist(), strict=True):
            self._paste(random, image, mask, name, side)
        image *= random.uniform(0.7, 1.05) * random.uniform(0.92, 1.08, size=3).astype(np.float32)
        grain = random.standard_normal((height, width, 1), dtype=np.float32)
        image += random.uniform(0, 8) * grain
        labels = self.vocabulary.names
        visible = np.bincount(mask.ravel(), minlength=len(labels)) >= 0.003 * mask.size
        things = [name for name in dict.fromkeys(things) if visible[labels.index(name)]]
        caption = _caption(random, things, stuffs)
        self._void(random, mask)
        return Scene(np.clip(image, 0, 255).astype(np.uint8), mask, caption)

    def _background(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Paint one or two stuffs, divided by a wavy border."""
        height, width = self.size
        stuff = self.vocabulary.stuff
        above = [name for name in stuff if name in _AIR]
        below = [name for name in stuff if name not in above]
        if random.random() < 0.7 and above:  # as outdoors: something of the air over the ground
            names = [str(random.choice(above)), str(random.choice(below))]
        else:
            names = [str(name) for name in random.choice(stuff, 2, replace=False)]
        if random.random() < 0.3:
            names = [names[int(random.integers(2))]]
        image = TEXTURES[names[0]](random, height, width)
        mask = np.full((height, width), self.vocabulary.names.index(names[0]), np.uint8)
        if len(names) == 2:
            x = np.arange(width) / width
            wave = sum(
                random.uniform(0, 0.06 / k) * np.sin(2 * np.pi * (k * x + random.random()))
                for k in (1, 2, 3)
            )
            border = height * (random.uniform(0.25, 0.75) + wave)
            lower = np.arange(height)[:, None] >= border
            image[lower] = TEXTURES[names[1]](random, height, width)[lower]
            mask[lower] = self.vocabulary.names.index(names[1])
        return image, mask, names

    def _paste(
        self,
        random: np.random.Generator,
        image: np.ndarray,
        mask: np.ndarray,
        name: str,
        side: float,
    ) -> None:
        """Paint a drawing of ``side`` pixels over the scene, flipped, turned and recoloured."""
        height, width = mask.shape
        drawings = self._sprites[name]
        levels = drawings[int(random.integers(len(drawings)))]
        level = levels[0]
        for smaller in levels[1:]:
            if len(smaller) < 1.3 * side:
                break
            level = smaller
        zoom = side / len(level)
        angle = np.deg2rad(random.normal(0, 8))
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if random.random() < 0.5:
            turn[:, 0] *= -1
        margin = np.minimum(0.35 * side, (width / 2, height / 2))  # most of it is in the scene
        centre = random.uniform(margin, (width, height) - margin)
        reach = 0.75 * side + 1  # half the diagonal of the turned cell, and a little
        left, top = np.maximum(centre - reach, 0).astype(int)
        right, bottom = np.minimum(centre + reach + 1, (width, height)).astype(int)
        shift = centre - (left, top) - turn @ np.full(2, (len(level) - 1) / 2)
        sprite = cv2.warpAffine(
            level, np.column_stack([turn, shift]), (int(right - left), int(bottom - top))
        )
        colour, alpha = sprite[..., :3], sprite[..., 3:] / 255
        grey = cv2.transform(colour, np.full((1, 3), 1 / 3))[..., None]
        saturation = random.uniform(0.6, 1.25)
        tint = random.uniform(0.75, 1.15) * random.uniform(0.93, 1.07, size=3).astype(np.float32)
        colour = (grey + saturation * (colour - grey)) * tint
        area = image[top:bottom, left:right]
        area *= 1 - alpha
        area += np.clip(colour, 0, 255)
        label = self.vocabulary.names.index(name)
        mask[top:bottom, left:right][alpha[..., 0] > 0.5] = label

    def _void(self, random: np.random.Generator, mask: np.ndarray) -> None:
        """Leave a blotch of half the scenes unlabelled.

        Were only unseen pixels ever missing, a transductive run would be told where they are.
        """
        if random.random() < 0.5:
            height, width = mask.shape
            centre = (int(random.integers(width)), int(random.integers(height)))
            axes = (int(random.uniform(0.03, 0.2) * width), int(random.uniform(0.03, 0.2) * height))
            cv2.ellipse(mask, centre, axes, 0, 0, 360, IGNORE, -1)


def _halvings(cell: np.ndarray) -> list[np.ndarray]:
    """Premultiply alpha, then halve by area until 12 pixels: averages, so colours do not bleed."""
    cell = np.concatenate([cell[..., :3] * (cell[..., 3:] / 255), cell[..., 3:]], axis=2)
    levels = [np.ascontiguousarray(cell)]
    while len(levels[-1]) >= 24:
        side = len(levels[-1]) // 2
        levels.append(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA))
    return levels


def _caption(random: np.random.Generator, things: Sequence[str], stuffs: Sequence[str]) -> str:
    """Name what is in the scene, most things and some stuffs, in one of CLIP's templates."""

    def word(name: str) -> str:
        if name in SYNONYMS and random.random() < 0.15:
            return str(random.choice(SYNONYMS[name]))
        return name

    told = [word(name) for name in things if random.random() < 0.95]
    ground = [word(name) for name in stuffs if random.random() < 0.6]
    if not told and not ground:
        ground = [word(stuffs[0])]
    if told:
        phrase = " and a ".join(told) + (" with " + " and ".join(ground) if ground else "")
    else:
        phrase = " and ".join(ground)
    templates = SINGLE_TEMPLATE + MULTI_TEMPLATES
    return templates[int(random.integers(len(templates)))].format(phrase)


def caption_words(vocabulary: Vocabulary = MINIATURE) -> tuple[str, ...]:
    """Return every word that captions over a vocabulary can hold, sorted."""
    synonyms = [word for name in vocabulary.names for word in SYNONYMS.get(name, ())]
    sentences = [*SINGLE_TEMPLATE, *MULTI_TEMPLATES, *vocabulary.names, *synonyms, "and with"]
    text = " ".join(sentences).replace("{}", "").replace(".", "").lower()
    return tuple(sorted(set(text.split())))


# Textures: (random, height, width) → float32 RGB (height, width, 3) in 0..255 ------------------


def _noise(random: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Return smooth noise in -1..1 whose blobs are ``cell`` pixels wide, (height, width, 1)."""
    rows, columns = int(height / cell) + 2, int(width / cell) + 2
    coarse = random.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _tint(random: np.random.Generator, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Return a colour between two, one random share for all channels and a little for each."""
    share = np.clip(random.random() + random.normal(0, 0.08, 3), 0, 1)
    return (np.array(low) + share * (np.array(high) - np.array(low))).astype(np.float32)


def _unit(random: np.random.Generator, height: int, width: int) -> float:
    """Return the size of a texture's grain: 1 pixel on a scene of 128, more on larger ones."""
    return float(random.uniform(0.8, 1.5)) * max(1.0, min(height, width) / 128)


def _sky(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    top = _tint(random, (60, 120, 205), (110, 175, 245))
    bottom = top + _tint(random, (25, 20, 5), (90, 60, 15))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return (top + y * (bottom - top)) * np.ones((1, width, 1), np.float32)


def _clouds(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    puff = _noise(random, height, width, 22 * unit) + 0.6 * _noise(random, height, width, 9 * unit)
    puff += 0.3 * _noise(random, height, width, 4 * unit)
    return _tint(random, (165, 172, 185), (215, 218, 224)) + 38 * np.clip(puff, -1, 1)


def _grass(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    blades = cv2.resize(
        random.uniform(-1, 1, (int(height / (5 * unit)) + 2, int(width / unit) + 1)).astype(
            np.float32
        ),
        (width, height),
    )[..., None]
    patchy = _noise(random, height, width, 18 * unit)
    return _tint(random, (50, 120, 30), (115, 175, 55)) + 32 * blades + 14 * patchy


def _sand(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    grain = _noise(random, height, width, 1.5 * unit)
    dunes = _noise(random, height, width, 25 * unit)
    return _tint(random, (205, 175, 115), (240, 215, 155)) + 13 * grain + 12 * dunes


def _sea(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    y = np.arange(height, dtype=np.float32)[:, None, None]
    swell = _noise(random, height, width, 16 * unit)
    waves = np.sin(2 * np.pi * y / (7 * unit) + 3.5 * swell)
    return _tint(random, (10, 75, 120), (40, 135, 165)) + 22 * waves + 8 * swell


def _snow(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    drift = _noise(random, height, width, 28 * unit)
    glitter = (random.random((height, width, 1)) > 0.985).astype(np.float32)
    return _tint(random, (222, 230, 242), (243, 247, 252)) + 9 * drift + 25 * glitter


def _road(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    grain = _noise(random, height, width, 1.3 * unit)
    image = _tint(random, (62, 62, 66), (105, 105, 110)) + 11 * grain
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    line = x - width * random.uniform(0.1, 0.9) - (y - height / 2) * random.uniform(-0.6, 0.6)
    dashes = (np.abs(line) < 2.2 * unit) & ((y + random.uniform(0, 30)) % (26 * unit) < 15 * unit)
    image[dashes] = _tint(random, (225, 215, 170), (245, 245, 240))
    return image


def _bricks(
    random: np.random.Generator, height: int, width: int, rows: float, columns: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Lay bricks of that many pixels: a shade in -1..1 a brick, and (x, y) inside each."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    y += random.uniform(0, rows)
    row = (y // rows).astype(int)
    offsets = random.uniform(0, 1) + 0.5 * (np.arange(row.max() + 1) % 2)
    x += columns * offsets[row]
    column = (x // columns).astype(int)
    shade = random.uniform(-1, 1, (row.max() + 1, column.max() + 1)).astype(np.float32)
    return shade[row, column][..., None], (x % columns, y % rows)


def _brick_wall(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    shade, (x, y) = _bricks(random, height, width, 7 * unit, 15 * unit)
    image = _tint(random, (140, 60, 45), (190, 95, 70)) + 16 * shade
    image[(x < 1.4 * unit) | (y < 1.4 * unit)] = _tint(random, (180, 170, 160), (215, 208, 200))
    return image


def _wood_floor(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    shade, (x, y) = _bricks(random, height, width, 11 * unit, 60 * unit)
    grain = cv2.resize(
        random.uniform(-1, 1, (int(height / unit) + 1, int(width / (14 * unit)) + 2)).astype(
            np.float32
        ),
        (width, height),
    )[..., None]
    image = _tint(random, (150, 100, 55), (200, 145, 90)) + 15 * shade + 10 * grain
    image[(x < unit) | (y < unit)] *= 0.6
    return image


def _gravel(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = _unit(random, height, width)
    count = int(height * width / (22 * unit**2)) + 1
    elsewhere = np.ones((height, width), np.uint8)
    elsewhere[random.integers(height, size=count), random.integers(width, size=count)] = 0
    edge, pebble = cv2.distanceTransformWithLabels(
        elsewhere, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    shade = random.uniform(-38, 38, count + 1).astype(np.float32)[pebble]
    base = _tint(random, (120, 114, 106), (165, 160, 152))
    return base + (shade - 14 * np.minimum(edge / unit, 5))[..., None]


TEXTURES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "sky": _sky,
    "clouds": _clouds,
    "grass": _grass,
    "sand": _sand,
    "sea": _sea,
    "snow": _snow,
    "road": _road,
    "brick wall": _brick_wall,
    "wood floor": _wood_floor,
    "gravel": _gravel,
}
