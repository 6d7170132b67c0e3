"""Trainings and evaluations as data: one row each, everything that decides the result.

The published rows say what the authors' configurations say, checked against all of them. Expected
scores are the authors' own where they print them; where sources disagree, ``note`` says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from unseen.errors import InputError, did_you_mean
from unseen.vocabulary import Vocabulary, find_vocabulary

VOCABULARY_OF = {
    "miniature": "miniature",
    "voc": "voc20",
    "coco": "coco171",
    "context": "context59",
    "context-released": "context59-released",
}
"""The vocabulary of each data set that a row here uses."""


@dataclass(frozen=True)
class Source:
    """A data set.

    Args:
        name: what ``open_dataset`` knows it as.
        root: its folder, if it lies on disk.
    """

    name: str
    root: str | None = None


@dataclass(frozen=True)
class Expected:
    """Scores in percent that somebody got; None where they were not told.

    Args:
        pacc: pixel accuracy.
        seen: mIoU(S).
        unseen: mIoU(U).
        hiou: 2·S·U / (S + U); the printed number, where there is one, may come of finer ones.
        miou: mean IoU over all classes.
        seen_spread: ± of mIoU(S) over several runs.
        unseen_spread: ± of mIoU(U) over several runs.
        note: who says so, and what to know of it.
    """

    pacc: float | None = None
    seen: float | None = None
    unseen: float | None = None
    hiou: float | None = None
    miou: float | None = None
    seen_spread: float | None = None
    unseen_spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """A training.

    Args:
        name: method-data-setting, also the name of the model it makes.
        method: a key of ``METHODS``.
        clip: the CLIP to adapt: ``miniature``, or what ``load_clip`` takes.
        data: the data set.
        setting: ``inductive``, ``transductive``, ``self-training`` or ``supervised``.
        steps: optimiser steps.
        options: keyword arguments of the method's builder.
        batch_size: pictures a step.
        learning_rate: of all trained parameters.
        weight_decay: of all trained parameters, norms and biases too.
        warmup: steps over which the rate rises from nearly nothing.
        clip_norm: gradients are scaled down to this norm where theirs is above; 0 for never, as
            published.
        loss: ``masks``, focal and dice over independent masks, or ``softmax``, cross-entropy over
            exclusive classes.
        focal_weight: factor of the focal loss.
        dice_weight: factor of the dice loss.
        auxiliary_weight: factor of every loss term that the head itself returns.
        augmentation: what happens to training pictures: ``photographic``, as published, or
            ``crop``, squares cut out of them at ``short_side``.
        short_side: pixels of a picture's short side at test.
        window: side of the crops in training and of the windows at test.
        stride: step between windows at test.
        seed: of initial weights, sampling, augmentation and dropout.
        starts_from: the recipe whose half-trained model this one goes on from; empty for none.
        expected: the scores to get; what is saved with a model leaves them out.
    """

    name: str
    method: str
    clip: str
    data: Source
    setting: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: int = 1500
    clip_norm: float = 0.0
    loss: str = "masks"
    focal_weight: float = 100.0
    dice_weight: float = 1.0
    auxiliary_weight: float = 1.0
    augmentation: str = "photographic"
    short_side: int = 512
    window: int = 512
    stride: int = 426
    seed: int = 0
    starts_from: str = ""
    expected: Expected | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, (int, float)):
                continue
            least = 0 if isinstance(value, float) or item.name in ("warmup", "seed") else 1
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"{item.name} must be at least {least}, got {value}")
        if self.stride > self.window:
            raise InputError(
                f"stride must be at most the window of {self.window}, got {self.stride}: "
                "windows would leave pixels out"
            )

    def record(self) -> dict[str, Any]:
        """Return what decides the result, as JSON takes it."""
        return {key: value for key, value in asdict(self).items() if key != "expected"}


@dataclass(frozen=True)
class Evaluation:
    """A model scored on a data set it was not trained on.

    There every class counts as seen, none has a γ subtracted, and names are put into the sentences
    of the data set that is scored.

    Args:
        name: method-trained on-to-scored on.
        model: the recipe whose model is judged.
        data: the data set.
        expected: the scores to get.
        calibration: γ.
    """

    name: str
    model: str
    data: Source
    expected: Expected
    calibration: float = 0.0


# Published trainings -----------------------------------------------------------------------------

OPENAI_CLIP = "openai/clip-vit-base-patch16"

_ZEGCLIP = "README of ZegCLIP: averages over several models"
_CASCADE = (
    "README of Cascade-CLIP: averages over several runs; pAcc is not told, hIoU is that of S and U"
)
_CLIPRC = "README of CLIP-RC"
_SPLIT = (
    "which split these are of is uncertain: this row holds out the classes of the released "
    "configuration, the paper's Table 11 lists ten others (data set 'context')"
)
_GPUS = "2 pictures a GPU; how many GPUs is not told, 8 are assumed"


def _published(
    method: str,
    data: str,
    setting: str,
    steps: int,
    prompts: int,
    expected: Expected,
    **rest: Any,
) -> Recipe:
    own: dict[str, dict[str, Any]] = {
        "zegclip": {},
        "cascade": {"groups": [[6, 7, 8], [9, 10, 11], [12]]},
        "cliprc": {"regions": 16},
    }
    place = data.removesuffix("-released")
    return Recipe(
        name=f"{method}-{place}-{setting}",
        method=method,
        clip=OPENAI_CLIP,
        data=Source(data),
        setting=setting,
        steps=steps,
        options={"prompts": prompts, **own[method]},
        starts_from=f"{method}-{place}-inductive" if setting == "transductive" else "",
        expected=expected,
        **rest,
    )


def _miniature(
    method: str,
    setting: str,
    steps: int,
    expected: Expected | None = None,
    *,
    learning_rate: float = 2e-3,
    clip_norm: float = 0.0,
    **options: Any,
) -> Recipe:
    return Recipe(
        name=f"{method}-miniature-{setting}",
        method=method,
        clip="miniature",
        data=Source("miniature"),
        setting=setting,
        steps=steps,
        options={"prompts": 10, "heads": 2, **options},
        learning_rate=learning_rate,
        warmup=50,
        clip_norm=clip_norm,
        dice_weight=60.0,  # things are small here; see docs/log.md
        augmentation="crop",
        short_side=128,
        window=64,
        stride=32,
        starts_from=f"{method}-miniature-inductive" if setting == "transductive" else "",
        expected=expected,
    )


_CLIPRC_COCO = {"focal_weight": 200.0, "dice_weight": 3.0, "auxiliary_weight": 50.0}

_ROWS = (
    _published(
        "zegclip", "voc", "inductive", 20000, 10, Expected(94.6, 91.9, 77.8, 84.3, note=_ZEGCLIP)
    ),
    _published(
        "zegclip", "voc", "transductive", 10000, 10, Expected(96.2, 92.3, 89.9, 91.1, note=_ZEGCLIP)
    ),
    _published(
        "zegclip", "voc", "supervised", 20000, 10, Expected(96.3, 92.4, 90.9, 91.6, note=_ZEGCLIP)
    ),
    _published(
        "zegclip",
        "coco",
        "inductive",
        80000,
        100,
        Expected(
            62.0,
            40.2,
            41.4,
            40.8,
            note="paper; the README prints U 41.1, which does not give its own hIoU of 40.8",
        ),
    ),
    _published(
        "zegclip",
        "coco",
        "transductive",
        40000,
        100,
        Expected(69.2, 40.7, 59.9, 48.5, note=_ZEGCLIP),
    ),
    _published(
        "zegclip", "coco", "supervised", 80000, 100, Expected(69.9, 40.7, 63.2, 49.6, note=_ZEGCLIP)
    ),
    _published(
        "cascade",
        "voc",
        "inductive",
        20000,
        10,
        Expected(
            None,
            92.5,
            83.0,
            87.5,
            seen_spread=1.0,
            unseen_spread=1.0,
            note=f"{_CASCADE}; the paper has 92.7, 83.1, 87.7",
        ),
    ),
    _published(
        "cascade",
        "voc",
        "transductive",
        10000,
        10,
        Expected(
            None,
            93.6,
            93.2,
            93.4,
            seen_spread=0.5,
            unseen_spread=1.0,
            note=f"{_CASCADE}; the paper has 93.3, 93.4, 93.4",
        ),
        batch_size=32,
    ),
    _published(
        "cascade",
        "context-released",
        "inductive",
        40000,
        35,
        Expected(
            None,
            55.9,
            47.2,
            51.2,
            seen_spread=0.5,
            unseen_spread=1.0,
            note=f"{_CASCADE}; {_SPLIT}",
        ),
    ),
    _published(
        "cascade",
        "context-released",
        "transductive",
        20000,
        35,
        Expected(
            None,
            56.4,
            55.0,
            55.7,
            seen_spread=0.5,
            unseen_spread=1.0,
            note=f"{_CASCADE}; {_SPLIT}",
        ),
    ),
    _published(
        "cascade",
        "coco",
        "inductive",
        80000,
        50,
        Expected(
            None,
            41.2,
            43.4,
            42.3,
            seen_spread=0.5,
            unseen_spread=1.0,
            note=f"{_CASCADE}; the paper has 41.1, 43.4, 42.2",
        ),
    ),
    _published(
        "cascade",
        "coco",
        "transductive",
        40000,
        50,
        Expected(None, 41.7, 62.5, 50.0, seen_spread=0.5, unseen_spread=1.0, note=_CASCADE),
    ),
    _published(
        "cliprc",
        "voc",
        "inductive",
        40000,
        10,
        Expected(
            95.8,
            92.8,
            84.4,
            88.4,
            note=f"{_CLIPRC}, with twice ZegCLIP's steps; OC-ZSS quotes U 80.7, hIoU 85.8",
        ),
        auxiliary_weight=2.0,
    ),
    _published(
        "cliprc",
        "voc",
        "transductive",
        20000,
        10,
        Expected(97.0, 93.9, 92.2, 93.0, note=f"{_CLIPRC}, with twice ZegCLIP's steps"),
        auxiliary_weight=2.0,
    ),
    _published(
        "cliprc",
        "voc",
        "supervised",
        40000,
        10,
        Expected(97.1, 94.1, 93.4, 93.7, note=f"{_CLIPRC}, with twice ZegCLIP's steps"),
        auxiliary_weight=0.0,
    ),
    _published(
        "cliprc",
        "coco",
        "inductive",
        80000,
        100,
        Expected(63.1, 40.9, 41.6, 41.2, note=f"{_CLIPRC}; {_GPUS}"),
        **_CLIPRC_COCO,
    ),
    _published(
        "cliprc",
        "coco",
        "transductive",
        40000,
        100,
        Expected(69.9, 42.0, 60.8, 49.7, note=f"{_CLIPRC}; {_GPUS}"),
        **_CLIPRC_COCO,
    ),
    _published(
        "cliprc",
        "coco",
        "supervised",
        80000,
        100,
        Expected(70.8, 42.9, 64.1, 51.4, note=f"{_CLIPRC}; {_GPUS}"),
        dice_weight=1.5,
        auxiliary_weight=1.0,
    ),
    _miniature(
        "zegclip",
        "inductive",
        800,
        Expected(84.8, 53.4, 40.8, 46.3, 50.8, note="the shipped model, seed 0, 500 test scenes"),
    ),
    _miniature("zegclip", "transductive", 400),
    _miniature("zegclip", "supervised", 800),
    _miniature("cascade", "inductive", 800, groups=[[2, 3], [4, 5], [6]]),
    _miniature("cascade", "transductive", 400, groups=[[2, 3], [4, 5], [6]]),
    _miniature("cascade", "supervised", 800, groups=[[2, 3], [4, 5], [6]]),
    # its first gradients are a thousand times the later ones, and AdamW remembers: see docs/log.md
    _miniature("cliprc", "inductive", 800, learning_rate=1e-3, clip_norm=1.0, regions=4),
    _miniature("cliprc", "transductive", 400, learning_rate=1e-3, clip_norm=1.0, regions=4),
    _miniature("cliprc", "supervised", 800, learning_rate=1e-3, clip_norm=1.0, regions=4),
)

RECIPES = {recipe.name: recipe for recipe in _ROWS}

_SELF_TRAINING = {
    "zegclip-voc-transductive": Expected(
        95.1, 91.8, 82.2, 86.7, note="ZegCLIP's plain self-training, as later papers quote it"
    ),
    "zegclip-coco-transductive": Expected(
        68.8, 40.6, 54.8, 46.6, note="ZegCLIP's plain self-training, as later papers quote it"
    ),
}
"""What a transductive row should reach with ``setting=self-training``."""

EVALUATIONS = {
    evaluation.name: evaluation
    for evaluation in (
        Evaluation(
            "zegclip-coco-to-voc",
            "zegclip-coco-inductive",
            Source("voc"),
            Expected(miou=93.6, note="Cascade-CLIP's Table 13; a listing elsewhere has 94.2"),
        ),
        Evaluation(
            "zegclip-coco-to-context",
            "zegclip-coco-inductive",
            Source("context"),
            Expected(
                miou=47.5,
                note="Cascade-CLIP's Table 13; comparisons of training-free methods have 41.2. "
                "The authors' file wants 60 classes and data that was never published; "
                "these are the 59",
            ),
        ),
        Evaluation(
            "cascade-coco-to-voc",
            "cascade-coco-inductive",
            Source("voc"),
            Expected(miou=93.8, note="Cascade-CLIP's Table 13"),
        ),
        Evaluation(
            "cascade-coco-to-context",
            "cascade-coco-inductive",
            Source("context"),
            Expected(miou=48.4, note="Cascade-CLIP's Table 13"),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return a training by its name, or say which there are."""
    row = find_row(name)
    if isinstance(row, Evaluation):
        raise InputError(
            f"{name} is an evaluation, not a training: unseen evaluate MODEL --recipe {name}"
        )
    return row


def find_row(name: str) -> Recipe | Evaluation:
    """Return a training or an evaluation by its name, or say which there are."""
    rows: dict[str, Recipe | Evaluation] = {**RECIPES, **EVALUATIONS}
    if name not in rows:
        if name.lower().endswith((".yaml", ".yml")):
            raise InputError(
                f"{name} describes a data set: name a recipe, and {name} with data={name}, such as "
                f"zegclip-miniature-inductive data={name}"
            )
        raise InputError(
            f"no recipe is called {name!r}{did_you_mean(name, rows)}; 'unseen recipes' lists them"
        )
    return rows[name]


def describe(row: Recipe | Evaluation) -> dict[str, Any]:
    """Return all there is to know of a row, as YAML and JSON take it; None is left out.

    The names of seen and unseen classes are spelt out: an index or a count says nothing.
    """
    known = _vocabulary(row.data.name)
    facts = asdict(row)
    expected = facts.pop("expected") or {}
    facts["expected"] = {key: value for key, value in expected.items() if value is not None}
    if known:
        every = isinstance(row, Evaluation)  # there all classes count as seen
        facts["templates"] = list(known.templates)
        facts["seen"] = list(known.names if every else known.seen)
        facts["unseen"] = [] if every else list(known.unseen)
    return facts


def table() -> str:
    """Write all rows as two Markdown tables: the trainings, then the evaluations."""
    from unseen.metrics import markdown  # late: names of recipes need no numpy

    trainings = [
        [
            recipe.name,
            recipe.data.name,
            recipe.setting,
            str(recipe.steps),
            str(recipe.batch_size),
            *cells(recipe.expected or Expected()),
        ]
        for recipe in RECIPES.values()
    ]
    evaluations = [
        [row.name, row.model, row.data.name, _show(row.expected.miou)]
        for row in EVALUATIONS.values()
    ]
    header = ["training", "data", "setting", "steps", "batch", "pAcc", "S", "U", "hIoU"]
    return "\n\n".join(
        (
            markdown(header, trainings),
            markdown(["evaluation", "of the model of", "data", "mIoU"], evaluations),
        )
    )


def cells(expected: Expected) -> list[str]:
    """Return pAcc, mIoU(S), mIoU(U) and hIoU as a table shows them."""
    return [
        _show(expected.pacc),
        _show(expected.seen, expected.seen_spread),
        _show(expected.unseen, expected.unseen_spread),
        _show(expected.hiou),
    ]


def _show(value: float | None, spread: float | None = None) -> str:
    return "–" if value is None else f"{value:.1f}" + (f" ± {spread:.1f}" if spread else "")


def to_yaml(facts: Mapping[str, Any]) -> str:
    """Write facts as YAML, short lists on a line."""
    text: str = yaml.safe_dump(
        dict(facts), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    return text


def _vocabulary(data: str) -> Vocabulary | None:
    return find_vocabulary(VOCABULARY_OF[data]) if data in VOCABULARY_OF else None


# Overrides ---------------------------------------------------------------------------------------

_SAME_RESULT = {"data.root", "seed"}


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Change fields of a recipe by dotted keys.

    Expected scores are dropped, since they are of the row as it was, unless only the seed or a
    place changed; plain self-training has its own. Another method starts from no options: those of
    the row are not its own.

    Args:
        recipe: the row.
        changes: values by key, such as ``steps``, ``data.root``, ``options.prompts``; an option
            that is None is taken out.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    types = _types()
    changed: dict[str, Any] = {}
    if changes.get("method", recipe.method) != recipe.method:
        changed["options"] = {}
    for key, value in changes.items():
        key = "data.name" if key == "data" else key
        top, _, rest = key.partition(".")
        if top == "options" and rest:
            options = changed.get("options", recipe.options) | {rest: value}
            changed["options"] = {k: v for k, v in options.items() if v is not None}
        elif key in types:
            value = _typed(key, value, types[key])
            if rest:
                value = replace(changed.get(top, getattr(recipe, top)), **{rest: value})
            changed[top] = value
        else:
            raise InputError(
                f"a recipe has no {key!r}{did_you_mean(key, [*types, 'options.prompts'])}"
            )
    result = replace(recipe, **changed)
    changed_keys = set(differing(recipe, result.record()))
    if not changed_keys:
        return result
    plain = result.setting == "self-training" and changed_keys == {"setting"}
    return replace(result, expected=_SELF_TRAINING.get(recipe.name) if plain else None)


def differing(recipe: Recipe, record: Mapping[str, Any]) -> list[str]:
    """Return what decides the result and is other in a record than in a row, by dotted keys.

    The seed and where the data lies are left out. What a record of an older version does not know
    yet was as it is by default.

    Args:
        recipe: the row.
        record: what ``Recipe.record`` returns, of another or the same.
    """
    defaults = {one.name: one.default for one in fields(Recipe) if one.default is not MISSING}
    known = {key: value for key, value in defaults.items() if key not in (*record, "expected")}
    ours, theirs = (_flat(one) for one in (recipe.record(), {**record, **known}))
    keys = [key for key in {**ours, **theirs} if key not in _SAME_RESULT]
    return [key for key in keys if ours.get(key) != theirs.get(key)]


def kind_of(row: Recipe) -> tuple[str, str, str]:
    """Return the method, the vocabulary and the setting of a row's model."""
    return row.method, VOCABULARY_OF[row.data.name], row.setting


def expectation(
    row: Recipe | Evaluation, record: Mapping[str, Any], kind: tuple[str, str, str]
) -> tuple[Expected | None, str]:
    """Return what a row promises; or None, and what of the model is otherwise than the row says.

    Args:
        row: what the model is scored as.
        record: how it was trained; empty for a converted model, which does not say.
        kind: the model's method, vocabulary and setting.
    """
    plan = find_recipe(row.model) if isinstance(row, Evaluation) else row
    if not record and kind != kind_of(plan):
        told = " ".join(part for part in kind if part)
        return None, f"the model is of another kind, {told}"
    changed = differing(plan, record) if record else []
    if plan is row and changed == ["setting"]:  # plain self-training has scores of its own
        own = override(plan, {"setting": record["setting"]}).expected
        if own:
            return own, ""
    if not changed or row.expected is None:
        return row.expected, ""
    if "name" in changed:
        return None, f"the model was trained by {record['name']}"
    if "stopped_at" in changed:
        return None, f"the model is half-trained, stopped after step {record['stopped_at']}"
    return None, f"the model was trained with other {', '.join(changed)}"


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        flat |= {f"{key}.{rest}" if rest else key: one for rest, one in inner}
    return flat


def read_assignments(words: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words, values as YAML; where a text belongs, it is taken as it stands.

    Raises:
        InputError: a word without ``=``, or a value that is no YAML.
    """
    changes: dict[str, Any] = {}
    types = _types() | {"data": str}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"expected KEY=VALUE, such as steps=100, got {word!r}")
        changes[key] = text if str in _kinds(types.get(key)) else _load_yaml(text, word)
    return changes


def read_overrides(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of changes, nested or with dotted keys.

    Raises:
        InputError: no such file, or it is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"there is no readable YAML file at {path}") from None
    content = _load_yaml(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping, such as 'steps: 100'")
    return _flat({str(key): value for key, value in content.items()})


def _load_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{where!r} is not YAML: put text with special signs in quotes") from None


def _types() -> dict[str, Any]:
    """Return the type of every key that may be changed."""
    hints = get_type_hints(Recipe)
    del hints["expected"], hints["options"]
    nested = {k: hints.pop(k) for k, kind in list(hints.items()) if is_dataclass(kind)}
    inner = {f"{k}.{n}": t for k, kind in nested.items() for n, t in get_type_hints(kind).items()}
    return hints | inner


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or (hint,)


def _typed(key: str, value: Any, hint: Any) -> Any:
    """Return a value as its field takes it, or refuse it."""
    kinds = _kinds(hint)
    if float in kinds and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 2e-4 as text
        except (TypeError, ValueError):
            pass
    elif type(value) in kinds:
        return value
    words = {int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
    wanted = " or ".join(words[kind] for kind in kinds)
    raise InputError(f"{key} must be {wanted}, got {value!r}")
