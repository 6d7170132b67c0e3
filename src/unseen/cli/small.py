"""What ``unseen evaluate --small`` adds: scores by size, and a published protocol."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unseen.vocabulary import find_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unseen.evaluation import Judged
    from unseen.metrics import Scores
    from unseen.sizes import Areas, SizeScores
    from unseen.vocabulary import Vocabulary

PROTOCOL = "perceptual-2025 (arXiv 2504.09480)"
"""COCO-Stuff models on CamVid, UAVid and UDD6 without training there, classes named as they are."""

PROTOCOL_DATA = {
    "camvid": ("test", 233, "void ignored"),
    "uavid": ("val", None, "Background evaluated"),
    "uavid-foreground": ("val", None, "Background ignored"),
    "udd6": ("val", 45, "Other evaluated"),
    "udd6-foreground": ("val", 45, "Other ignored"),
}
"""Its data sets: the split, its pictures (None: sources disagree), and what becomes of pixels that
are nothing else."""

PUBLISHED_SIZES = (512, 512, 426)
"""Short side, window and stride of all published configurations."""


def read_areas(relative: bool, min_area: float | None) -> "Areas":
    """Return where bins begin, as --relative and --min-area say."""
    from unseen.sizes import PIXELS, SHARES

    areas = SHARES if relative else PIXELS
    if min_area is None:
        return areas
    return replace(areas, small=min_area / 100 if relative else min_area)


class SizeCounter:
    """Adds up scores by size while pictures are judged.

    Args:
        areas: where sizes begin.
        vocabulary: the classes.
    """

    def __init__(self, areas: "Areas", vocabulary: "Vocabulary") -> None:
        from unseen.sizes import SizeScores

        self.scores = SizeScores.none(vocabulary, areas)

    def look(self, one: "Judged") -> list[list[int]]:
        """Count a picture."""
        from unseen.metrics import to_sparse
        from unseen.sizes import SizeScores

        own = self.scores
        counted = SizeScores.count(one.prediction, one.sample.labels, own.vocabulary, own.areas)
        return to_sparse(counted.counts)

    def add(self, kept: list[list[int]]) -> None:
        """Take the counts of a picture."""
        from unseen.metrics import add_sparse

        add_sparse(self.scores.counts, kept)


def describe_protocol(
    about: dict[str, Any],
    models: dict[str, dict[str, Any]],
    names: "Sequence[str]",
    sentences: "Sequence[str]",
    *,
    partial: bool,
) -> dict[str, Any] | None:
    """Return the protocol as it was followed, or None for a data set it does not have.

    Args:
        about: what was evaluated on.
        models: what was evaluated, and how.
        names: the classes that were offered to the model.
        sentences: what they were put into; none if nobody knows.
        partial: not all pictures of the split were.
    """
    data = about["data"]
    if data not in PROTOCOL_DATA:
        return None
    split, whole, background = PROTOCOL_DATA[data]
    departures: dict[str, bool] = {}
    for model in models.values():
        shown = model["short_side"], model["window"], model["stride"]
        trained_on = model["trained_on"] or "nothing"
        departures |= {
            f"trained on {trained_on}, not coco171": trained_on != "coco171",
            f"γ = {model['calibration']:g}, not 0": model["calibration"] != 0,
            f"short side, window, stride {shown}, not {PUBLISHED_SIZES}": shown != PUBLISHED_SIZES,
        }
    departures |= {
        f"split {about['split']}, not {split}": about["split"] != split,
        f"{about['pictures']} of {whole or 'more'} pictures": (
            partial or about["pictures"] != (whole or about["pictures"])
        ),
        "classes that are not looked for": (
            set(names) != set(find_vocabulary(about["vocabulary"]).names)
        ),
        f"several views: {about['views']}": about["views"] != "one",
    }
    return {
        "name": PROTOCOL,
        "background": background,
        "sentences": list(sentences),
        "names": list(names),
        "departures": [what for what, departs in departures.items() if departs],
    }


@dataclass(frozen=True)
class SmallTargets:
    """What ``--small`` shows.

    Args:
        sizes: scores by size of each model.
        scores: the scores of each, of chance too.
        names: the classes of small things; none where the data set has no such list.
        protocol: as it was followed, None where there is none.
    """

    sizes: "dict[str, SizeScores]"
    scores: "dict[str, Scores]"
    names: tuple[str, ...]
    protocol: dict[str, Any] | None

    @property
    def means(self) -> dict[str, float]:
        """The mean IoU over the small classes, in percent."""
        return {title: 100 * one.mean(one.iou, self.names) for title, one in self.scores.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        from unseen.metrics import rounded

        return {
            "protocol": self.protocol,
            "small_classes": list(self.names),
            "small_class_miou": rounded(self.means) if self.names else None,
            "sizes": {title: one.to_dict() for title, one in self.sizes.items()},
        }

    def print(self) -> None:
        """Print tables by size, the mean over small classes, the protocol."""
        from unseen.metrics import show

        for title, one in self.sizes.items():
            print(f"\nlabelled components by size, {title}: {one.areas.describe()}\n")
            print(one.table(self.names))
        if self.names:
            means = ", ".join(f"{title} {show(value)}" for title, value in self.means.items())
            print(f"\nsmall-class mIoU ({', '.join(self.names)}): {means}")
        if self.protocol:
            print(f"\nprotocol {self.protocol['name']}, {self.protocol['background']}")
            sentences = "; ".join(self.protocol["sentences"])
            print(f"sentences: {sentences or 'the file of text embeddings does not say'}")
            print(f"names, as they are: {', '.join(self.protocol['names'])}")
            print(f"departures: {'; '.join(self.protocol['departures']) or 'none'}")
