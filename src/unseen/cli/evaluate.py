"""``unseen evaluate``."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unseen.cli.options import (
    DEFAULT_MODEL,
    Calibration,
    Clip,
    Device,
    Json,
    Model,
    TextFile,
    Tta,
    load_segmenter,
    say,
)
from unseen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unseen.evaluation import Judged
    from unseen.metrics import Scores
    from unseen.recipes import Evaluation, Expected, Recipe

NOT_HELD_OUT = {
    "transductive": "their names and which pixels show one of them were known in training",
    "self-training": "their names were known in training, and any pixel without a seen label could "
    "be given one of them",
    "supervised": "their masks were shown in training like all others",
    "training-free": "no masks were shown at all",
}

GAMMAS = [i / 20 for i in range(21)]
"""The values of γ that ``--curve`` tries."""

PROMISED = {
    "pAcc": "pacc",
    "mIoU": "miou",
    "mIoU(S)": "seen",
    "mIoU(U)": "unseen",
    "hIoU": "hiou",
}
"""Columns of scores and the field of ``Expected`` for each."""


def evaluate(
    scored: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.")
    ] = None,
    model: Model = None,
    clip: Clip = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Which data set: miniature, voc, coco, context, …, or a YAML file. "
            "[default: what the model was trained on]",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Score as this recipe says and print what it promises."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of a data set that is on disk.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Part of it. [default: what scores are reported on]"),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Only this many pictures.")
    ] = None,
    text: TextFile = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also score an untrained head and CLIP alone.")
    ] = False,
    show_dir: Annotated[
        Path | None, typer.Option("--show-dir", help="Paint every prediction into this folder.")
    ] = None,
    calibration: Calibration = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Instead, hIoU for γ from 0 to 1: what to choose it by."),
    ] = False,
    small: Annotated[
        bool,
        typer.Option(
            "--small",
            help="Also score by the size of what is labelled; on camvid, uavid and udd6 also the "
            "small classes (docs/evaluation.md).",
        ),
    ] = False,
    relative: Annotated[
        bool, typer.Option("--relative", help="With --small: sizes as shares of the picture.")
    ] = False,
    min_area: Annotated[
        float | None,
        typer.Option(
            "--min-area",
            help="With --small: smaller components are not scored; pixels, or % of the picture "
            "with --relative. [default: 256, or 0.025 %]",
        ),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            "--short-side",
            help="Show pictures to the model at this short side, in pixels, not at its own.",
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", help="Cut them into windows of this side.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Step from one window to the next.")
    ] = None,
    tta: Tta = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score a model: pAcc, mIoU over seen and unseen classes, hIoU.

    \b
    unseen evaluate zegclip-miniature-inductive --baselines
    unseen evaluate MODEL --data voc --root VOCdevkit/VOC2012
    unseen evaluate MODEL --recipe zegclip-coco-to-voc --root VOCdevkit/VOC2012
    unseen evaluate MODEL --split val --curve
    unseen evaluate MODEL --data camvid --root CAMVID --small --short-side 720
    """
    from dataclasses import asdict, replace

    from unseen.catalogue import find_dataset, open_dataset
    from unseen.cli.small import SizeCounter, SmallTargets, describe_protocol, read_areas
    from unseen.data.datasets import Subset
    from unseen.embeddings import TextEmbeddings
    from unseen.evaluation import (
        calibration_curve,
        default_calibration,
        default_source,
        make_baselines,
    )
    from unseen.evaluation import evaluate as run
    from unseen.metrics import chance
    from unseen.recipes import Evaluation, Source, find_row

    if scored and model:
        raise InputError("name the model once: as argument or with --model")
    if clip and baselines:
        raise InputError("--baselines are for trained models: --clip is a baseline itself")
    if curve and (baselines or show_dir or tta or calibration is not None):
        raise InputError("--curve goes without --baselines, --show-dir, --tta and --calibration")
    if curve and small:
        raise InputError("--curve goes without --small: it scores no single answer")
    if not small and (relative or min_area is not None):
        raise InputError("--relative and --min-area say how --small scores: add --small")
    areas = read_areas(relative, min_area)
    if recipe and data:
        raise InputError("give --data or --recipe, not both: a recipe says which data set")
    model = scored or model
    row = find_row(recipe) if recipe else None
    segmenter = load_segmenter(model, clip, device)
    trained = segmenter.config
    segmenter = segmenter.shown_at(short_side=short_side, window=window, stride=stride)
    config = segmenter.config
    source = row.data if row else default_source(config)
    if data not in (None, source.name):
        source = Source(data)
    try:
        dataset = open_dataset(source.name, split, root=root or source.root)
    except InputError as error:
        if row or data or root or split or not config.setting:
            raise
        raise InputError(f"{error} (the model was trained on it; --data names another)") from None
    if isinstance(row, Evaluation):  # as published: no class of another data set is unseen
        dataset.vocabulary = replace(dataset.vocabulary, unseen=())
    if count is not None:
        dataset = Subset(dataset, count)
    offered = TextEmbeddings.load(text, dataset.vocabulary) if text else None
    if offered:
        say(offered.describe())
        every = dataset.vocabulary.names
        if lacking := [name for name in every if name not in offered.vocabulary.names]:
            say(f"note: {len(lacking)} of the {len(every)} classes are never looked for")
    promised = None
    if row:
        promised, doubt = expectation(row, config.recipe)
        if promised and count is not None:
            doubt = f"{len(dataset)} of its pictures are scored"
        if promised and config != trained:
            doubt = "pictures are shown to the model at another size"
        if doubt:
            say(f"note: the scores of {recipe} are not to be expected here: {doubt}")
    if calibration is None and isinstance(row, Evaluation):
        calibration = row.calibration
    if calibration is None:
        names = (offered.vocabulary if offered else dataset.vocabulary).names
        calibration = default_calibration(segmenter, names)
    known = find_dataset(source.name)
    if curve:
        if known and split in (None, known.scored):
            say("note: these are the pictures that scores are reported on: choose γ on others")
        curves = calibration_curve(segmenter, dataset, GAMMAS, labels=offered)
        _print_curve(curves, json=json)
        return
    name = clip or model or DEFAULT_MODEL
    judged = {name: segmenter, **(make_baselines(segmenter) if baselines else {})}
    counters = {title: SizeCounter(areas) for title in judged if small}
    scores = {}
    for title, one in judged.items():
        watch: list[Callable[[Judged], None]] = [counters[title]] if small else []
        if show_dir and one is segmenter:
            watch.append(_painter(show_dir))
        scores[title] = run(
            one, dataset, labels=offered, calibration=calibration, tta=tta, watch=watch
        )
    scores["chance"] = chance(scores[name])
    if note := hardly_better(scores[name], scores["chance"]):
        say(note)
    about = {
        "data": source.name,
        "split": split or (known.scored if known else None),
        "pictures": len(dataset),
        "unseen": list(dataset.vocabulary.unseen),
        "setting": config.setting or "training-free",
        "trained_on": config.vocabulary.name if config.setting else "",
        "vocabulary": dataset.vocabulary.name,
        "calibration": calibration,
        "views": "scales and mirror images" if tta else "one",
        "short_side": config.short_side,
        "window": config.window,
        "stride": config.stride,
        "device": str(segmenter.device),
        "recipe": recipe,
        "expected": asdict(promised) if promised else None,
    }
    targets = None
    if small:
        given = offered.vocabulary if offered else dataset.vocabulary
        sentences = given.templates if offered is None or offered.clip else ()
        targets = SmallTargets(
            sizes={title: counter.scores for title, counter in counters.items()},
            scores=scores,
            names=known.small if known else (),
            protocol=describe_protocol(about, given.names, sentences, partial=count is not None),
        )
    if json:
        results = {title: one.to_dict() for title, one in scores.items()}
        more = {"small": targets.to_dict()} if targets else {}
        print(json_module.dumps({**about, "scores": results, **more}, indent=1))
        return
    _print_scores(scores, about)
    if targets:
        targets.print()


def _painter(folder: Path) -> "Callable[[Judged], None]":
    return lambda one: one.result.save(folder / f"{one.sample.name}.png")


def _print_curve(curves: "dict[float, Scores]", *, json: bool) -> None:
    """Print what each γ scores, one a line."""
    from unseen.metrics import compare, rounded

    rows = {f"{gamma:.2f}": scores.summary() for gamma, scores in curves.items()}
    if json:
        print(json_module.dumps({"curve": {g: rounded(row) for g, row in rows.items()}}, indent=1))
        return
    best = max(curves, key=lambda gamma: curves[gamma].hiou)
    print(compare(rows, corner="γ"))
    print(f"\nbest hIoU: {100 * curves[best].hiou:.1f} at γ = {best:.2f}")


def expectation(
    row: "Recipe | Evaluation", record: dict[str, Any]
) -> "tuple[Expected | None, str]":
    """Return what a row promises; or None, and what of the model is otherwise than the row says.

    Args:
        row: what the model is scored as.
        record: how it was trained; empty for a converted model, which does not say.
    """
    from unseen.recipes import Evaluation, differing, find_recipe, override

    plan = find_recipe(row.model) if isinstance(row, Evaluation) else row
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


def hardly_better(scores: "Scores", blind: "Scores") -> str:
    """Return a note on a mIoU below twice that of chance: the mark of labels in another order."""
    ours, theirs = (100 * one.mean(one.iou) for one in (scores, blind))
    if ours >= 2 * theirs:
        return ""
    return (
        f"note: mIoU {ours:.1f} is hardly above chance, {theirs:.1f}: if the model is trained, its "
        "labels may have another order; look with 'unseen doctor data', 'unseen doctor checkpoint'"
    )


def _print_scores(scores: "dict[str, Scores]", about: dict[str, Any]) -> None:
    from unseen.metrics import compare

    views = f", {about['views']}" if about["views"] != "one" else ""
    print(
        f"{about['pictures']} pictures of {about['data']}; {about['setting']}, "
        f"γ = {about['calibration']:g}{views}, {about['device']}; "
        f"short side {about['short_side']}, windows of {about['window']} every {about['stride']}"
    )
    if not about["unseen"]:
        held_out = " (every class counts as seen)"
    elif about["trained_on"] not in ("", about["vocabulary"]):
        held_out = f" (the split of {about['vocabulary']}; training was on {about['trained_on']})"
    elif about["setting"] in NOT_HELD_OUT:
        held_out = f" ({NOT_HELD_OUT[about['setting']]})"
    else:
        held_out = ""
    print(f"unseen classes: {', '.join(about['unseen']) or 'none'}{held_out}\n")
    rows: dict[str, dict[str, float | None]] = {t: {**s.summary()} for t, s in scores.items()}
    if promised := about["expected"]:
        known = {title: promised[field] for title, field in PROMISED.items()}
        rows[f"expected of {about['recipe']}"] = {
            column: known.get(column) for column in next(iter(rows.values()))
        }
    print(compare(rows) + "\n")
    if promised and promised["note"]:
        print(f"expected: {promised['note']}\n")
    print(compare({t: s.details() for t, s in scores.items() if s.boundary is not None}) + "\n")
    print(next(iter(scores.values())).table())
