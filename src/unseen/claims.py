"""What is compared in the miniature world: methods, their variants, and the papers' claims on them.

Differences that papers print are in points, read from their tables; docs/reproduction.md has what
became of them here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

SETTINGS = ("inductive", "transductive", "supervised")


@dataclass(frozen=True)
class Contender:
    """A method, or one with something of it changed, as one line of a table.

    Args:
        title: what the line is called.
        base: the method whose miniature recipes it follows; empty if nothing is trained.
        changes: what is other than in those recipes, by dotted keys.
    """

    title: str
    base: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


def _decoders(*groups: Sequence[int]) -> dict[str, Any]:
    return {"options.groups": [list(group) for group in groups]}


TABLE = {
    "plain": Contender("CLIP alone, plain"),
    "maskclip": Contender("CLIP alone, MaskCLIP"),
    "fusion": Contender(
        "naive fusion",
        "zegclip",
        {
            "method": "fusion",
            "options.blocks": [2, 3, 4, 5, 6],
            "options.prompts": 10,
            "options.heads": 2,
        },
    ),
    "zegclip": Contender("ZegCLIP", "zegclip"),  # focal : dice is 100 : 60 in its recipe
    "cascade": Contender("Cascade-CLIP", "cascade"),
    "cascade-cliprc": Contender(
        "Cascade over CLIP-RC",
        "cliprc",
        {
            "method": "cascade",
            "options.over": "cliprc",
            "options.prompts": 10,
            "options.heads": 2,
            "options.regions": 4,
            **_decoders([2, 3], [4, 5], [6]),
        },
    ),
    "cliprc": Contender("CLIP-RC", "cliprc"),
}
"""The lines of the table, each in every setting."""

_FROZEN = {"method": "frozen", "options.heads": 2}

VARIANTS = {
    "zegclip-text": Contender(
        "ZegCLIP, queries of text alone", "zegclip", {"options.descriptor": "text"}
    ),
    "zegclip-product": Contender(
        "ZegCLIP, queries of the product alone", "zegclip", {"options.descriptor": "product"}
    ),
    "zegclip-shallow": Contender(
        "ZegCLIP, prompts in the first block only", "zegclip", {"options.depth": 0}
    ),
    "frozen": Contender("ZegCLIP's head on CLIP without prompts", "zegclip", _FROZEN),
    "zegclip-softmax": Contender("ZegCLIP, softmax cross-entropy", "zegclip", {"loss": "softmax"}),
    "zegclip-dice1": Contender(
        "ZegCLIP, focal : dice 100 : 1, as published", "zegclip", {"dice_weight": 1.0}
    ),
    "zegclip-dice300": Contender(
        "ZegCLIP, focal : dice 100 : 300", "zegclip", {"dice_weight": 300.0}
    ),
    "cascade-two": Contender("two decoders {4 5} {6}", "cascade", _decoders([4, 5], [6])),
    "cascade-four": Contender(
        "four decoders {1} {2 3} {4 5} {6}", "cascade", _decoders([1], [2, 3], [4, 5], [6])
    ),
    "cascade-single": Contender(
        "one block a decoder {4} {5} {6}", "cascade", _decoders([4], [5], [6])
    ),
    "cascade-even": Contender(
        "the last block not alone {1 2} {3 4} {5 6}", "cascade", _decoders([1, 2], [3, 4], [5, 6])
    ),
    "cascade-last": Contender(
        "three decoders on the last block", "cascade", _decoders([6], [6], [6])
    ),
    "cascade-fused": Contender(
        "three decoders on the mean of blocks 2 to 6",
        "cascade",
        {
            **_decoders(*3 * [[2, 3, 4, 5, 6]]),
            "options.aggregation": "mean",
            "options.learned": False,
        },
    ),
    "cascade-fixed": Contender("Gaussian weights, fixed", "cascade", {"options.learned": False}),
    "cascade-sum": Contender("sum, learned", "cascade", {"options.aggregation": "sum"}),
    "cascade-projections": Contender(
        "stage projections trained", "cascade", {"options.train_projections": True}
    ),
    "cascade-frozen": Contender(
        "Cascade over frozen CLIP",
        "cascade",
        {"options.over": "frozen", "options.prompts": None},
    ),
    "cliprc-unrecovered": Contender(
        "CLIP-RC without recovery loss", "cliprc", {"auxiliary_weight": 0.0}
    ),
    "cliprc-one": Contender("CLIP-RC, one region token", "cliprc", {"options.regions": 1}),
    "cliprc-sixteen": Contender("CLIP-RC, 16 region tokens", "cliprc", {"options.regions": 16}),
}
"""What claims need beside the table; inductive only."""

CONTENDERS = {**TABLE, **VARIANTS}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: whose score, and at which γ.

    Args:
        contender: a key of ``CONTENDERS``.
        setting: of the training.
        gamma: ``published``, ``none`` (0) or ``chosen``, the best hIoU on validation scenes.
    """

    contender: str
    setting: str = "inductive"
    gamma: str = "published"


@dataclass(frozen=True)
class Claim:
    """That one side scores above another.

    Args:
        topic: what claims are grouped by, and ``--only`` names.
        better: the side that the claim says is above.
        worse: the other one.
        column: the score, a column of ``Scores.summary``.
        paper: what was published, in the units of its benchmark; empty for no such number.
        over: methods whose differences are averaged, seed by seed, in place of the sides' own.
    """

    topic: str
    better: Side
    worse: Side
    column: str
    paper: str = ""
    over: tuple[str, ...] = ()

    @property
    def parts(self) -> "list[Claim]":
        """The claims whose differences it averages; itself if there are none."""
        return [
            replace(
                self,
                better=replace(self.better, contender=name),
                worse=replace(self.worse, contender=name),
                over=(),
            )
            for name in self.over
        ] or [self]

    @property
    def statement(self) -> str:
        """Say what is claimed."""
        ours, theirs = (CONTENDERS[side.contender].title for side in (self.better, self.worse))
        if ours != theirs:
            return f"{ours} > {theirs}"
        if self.better.setting != self.worse.setting:
            if self.over:
                ours = f"mean of these {len(self.over)} methods"
            return f"{ours}: {self.better.setting} > {self.worse.setting}"
        names = {"published": "γ = 0.1", "none": "γ = 0", "chosen": "γ chosen on validation"}
        return f"{ours}: {names[self.better.gamma]} > {names[self.worse.gamma]}"


def _settings() -> Iterator[Claim]:
    papers = {
        "fusion": ("", ""),
        "zegclip": ("VOC +12.1, COCO +18.5", "VOC +1.0, COCO +3.3"),
        "cascade": ("VOC +10.3, COCO +19.1", "VOC +1.2, COCO +1.5"),
        "cliprc": ("VOC +7.8, COCO +19.2", "VOC +1.2, COCO +3.3"),
        "cascade-cliprc": ("", ""),
    }
    for name, (first, second) in papers.items():
        sides = [Side(name, setting) for setting in SETTINGS]
        yield Claim("settings", sides[1], sides[0], "mIoU(U)", first)
        yield Claim("settings", sides[2], sides[1], "mIoU(U)", second)
    for worse, better in pairwise(SETTINGS):
        ours, theirs = Side("zegclip", better), Side("zegclip", worse)
        yield Claim("settings", ours, theirs, "mIoU(U)", over=tuple(papers))


def _pair(topic: str, better: str, worse: str, columns: Mapping[str, str]) -> Iterator[Claim]:
    for column, paper in columns.items():
        yield Claim(topic, Side(better), Side(worse), column, paper)


CLAIMS: tuple[Claim, ...] = (
    *_settings(),
    *_pair("maskclip", "maskclip", "plain", {"mIoU": ""}),
    *_pair("training", "zegclip", "maskclip", {"mIoU(S)": "", "mIoU(U)": ""}),
    *_pair("cascade", "zegclip", "fusion", {"hIoU": "COCO +1.4, VOC +1.7"}),
    *_pair("cascade", "cascade", "fusion", {"hIoU": "COCO +3.8, VOC +5.4"}),
    *_pair(
        "cascade",
        "cascade",
        "zegclip",
        {"mIoU(S)": "COCO +1.0", "mIoU(U)": "COCO +3.9", "hIoU": "COCO +2.4"},
    ),
    *_pair("equal parameters", "cascade", "cascade-last", {"hIoU": "COCO +1.7"}),
    *_pair("equal parameters", "cascade", "cascade-fused", {"hIoU": "COCO +4.5"}),
    *_pair("plug-in", "cascade-frozen", "frozen", {"mIoU(S)": "COCO +4.0", "mIoU(U)": "COCO +2.8"}),
    *_pair("plug-in", "cascade-cliprc", "cliprc", {"mIoU(S)": "", "mIoU(U)": ""}),
    *_pair("decoders", "cascade", "cascade-two", {"hIoU": "COCO +2.0"}),
    *_pair("decoders", "cascade", "cascade-four", {"hIoU": "COCO +0.5"}),
    *_pair("groups", "cascade", "cascade-single", {"hIoU": "COCO +1.2 (3 blocks against 2)"}),
    *_pair("groups", "cascade", "cascade-even", {"hIoU": "COCO +0.7"}),
    *_pair("aggregation", "cascade", "cascade-fixed", {"hIoU": "COCO +0.3"}),
    *_pair("aggregation", "cascade", "cascade-sum", {"hIoU": "COCO +1.7"}),
    *_pair("projections", "cascade-projections", "cascade", {"hIoU": ""}),
    *_pair("descriptor", "zegclip", "zegclip-text", {"mIoU(S)": "", "mIoU(U)": ""}),
    *_pair("descriptor", "zegclip", "zegclip-product", {"mIoU(S)": "", "mIoU(U)": ""}),
    *_pair("prompts", "zegclip", "frozen", {"mIoU(S)": "COCO +7.9", "mIoU(U)": "COCO +8.9"}),
    *_pair("prompts", "zegclip", "zegclip-shallow", {"mIoU(S)": "", "mIoU(U)": ""}),
    Claim("loss", Side("zegclip"), Side("zegclip-softmax", gamma="none"), "mIoU(U)"),
    Claim("loss", Side("zegclip", gamma="chosen"), Side("zegclip-softmax", gamma="chosen"), "hIoU"),
    *_pair("loss weights", "zegclip-dice1", "zegclip", {"hIoU": "Cascade, VOC +8.4 over 10 : 1"}),
    *_pair("loss weights", "zegclip", "zegclip-dice300", {"hIoU": ""}),
    *_pair(
        "regions",
        "cliprc",
        "zegclip",
        {"mIoU(S)": "VOC +0.9, COCO +0.7", "mIoU(U)": "VOC +6.6, COCO +0.2 (VOC: twice the steps)"},
    ),
    *_pair("recovery", "cliprc", "cliprc-unrecovered", {"hIoU": ""}),
    *_pair("regions", "cliprc", "cliprc-one", {"hIoU": ""}),
    *_pair("regions", "cliprc", "cliprc-sixteen", {"hIoU": ""}),
    Claim("γ", Side("zegclip"), Side("zegclip", gamma="none"), "hIoU"),
    Claim("γ", Side("zegclip", gamma="chosen"), Side("zegclip"), "hIoU"),
    Claim("γ", Side("cascade", gamma="chosen"), Side("cascade"), "hIoU"),
)
"""Every claim that is tested, with what was published on PASCAL VOC and COCO-Stuff."""

TOPICS = tuple(dict.fromkeys(claim.topic for claim in CLAIMS))
