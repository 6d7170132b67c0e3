"""Label maps painted in colours: what each colour stands for, looked up for all pixels at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from unseen.data.images import open_picture
from unseen.errors import InputError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ColourTable:
    """What the colours of a label map mean.

    Args:
        labels: the id of each (red, green, blue).
        other: the id of all other colours; None makes them an error.
    """

    labels: Mapping[Colour, int]
    other: int | None = None

    def decode(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        """Turn colours into labels.

        Raises:
            InputError: a colour that the table does not have.
        """
        known = np.array(sorted(_code(np.array([colour]))[0] for colour in self.labels))
        by_code = {int(_code(np.array([c]))[0]): label for c, label in self.labels.items()}
        label_of = np.array([by_code[code] for code in known.tolist()], np.uint8)
        codes = _code(image)
        places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        labels = label_of[places]
        strange = known[places] != codes
        if strange.any():
            if self.other is None:
                red, green, blue = image[strange][0].tolist()
                raise InputError(
                    f"the colour ({red}, {green}, {blue}) of {strange.sum()} pixels stands for "
                    f"no class: expected one of {len(known)} colours, unblended; is this the "
                    "label map as published, saved without loss?"
                )
            labels[strange] = self.other
        return labels


def _code(image: np.ndarray) -> np.ndarray:
    """Pack colours (..., 3) into one number each."""
    red, green, blue = (image[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


def read_colours(path: str | Path, table: ColourTable) -> UInt8[np.ndarray, "H W"]:
    """Read a label map painted in colours.

    Raises:
        InputError: there is no whole picture at ``path``, or a colour stands for nothing.
    """
    with open_picture(Path(path)) as image:
        return table.decode(np.array(image.convert("RGB")))
