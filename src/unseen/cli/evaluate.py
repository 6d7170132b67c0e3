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
    from unseen.report import Record
    from unseen.vocabulary import Vocabulary

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
        list[str] | None,
        typer.Argument(metavar="[MODEL]", help="The same as --model; several are compared."),
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
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also make a page to look at, in this folder."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a report that is there already.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Say how far models differ; so do two without this."),
    ] = False,
    calibration: Calibration = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Instead, hIoU for γ from 0 to 1: what to choose it by."),
    ] = False,
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
    unseen evaluate --compare MODEL OTHER --report out/
    """
    from dataclasses import asdict, replace

    from unseen.catalogue import find_dataset, open_dataset
    from unseen.data.datasets import Subset
    from unseen.embeddings import TextEmbeddings
    from unseen.evaluation import (
        calibration_curve,
        default_calibration,
        default_source,
        make_baselines,
    )
    from unseen.evaluation import evaluate as run
    from unseen.metrics import Scores, chance
    from unseen.page import write_report
    from unseen.recipes import Evaluation, Source, find_row
    from unseen.report import Record, Report, check_folder, describe

    if scored and model:
        raise InputError("name the model once: as argument or with --model")
    if clip and baselines:
        raise InputError("--baselines are for trained models: --clip is a baseline itself")
    if curve and (baselines or show_dir or tta or calibration is not None):
        raise InputError("--curve goes without --baselines, --show-dir, --tta and --calibration")
    several = compare or len(scored or ()) > 1
    if several and (clip or recipe or baselines or show_dir or curve):
        raise InputError(
            "models are compared without --clip, --recipe, --baselines, --show-dir and --curve"
        )
    if several and len(set(scored or ())) < max(2, len(scored or ())):
        raise InputError("--compare needs two models or more, each named once, as arguments")
    if report and curve:
        raise InputError("--curve makes no report: leave --report out")
    if force and not report:
        raise InputError("--force is for --report: say which folder")
    if report:
        check_folder(report, force=force)
    if recipe and data:
        raise InputError("give --data or --recipe, not both: a recipe says which data set")
    row = find_row(recipe) if recipe else None
    asked = scored or [model or ""]
    segmenters = {one or clip or DEFAULT_MODEL: load_segmenter(one, clip, device) for one in asked}
    name, segmenter = next(iter(segmenters.items()))
    source = row.data if row else default_source(segmenter.config)
    if data not in (None, source.name):
        source = Source(data)
    try:
        dataset = open_dataset(source.name, split, root=root or source.root)
    except InputError as error:
        if row or data or root or split or not segmenter.config.setting:
            raise
        raise InputError(f"{error} (the model was trained on it; --data names another)") from None
    if isinstance(row, Evaluation):  # as published: no class of another data set is unseen
        dataset.vocabulary = replace(dataset.vocabulary, unseen=())
    if count is not None:
        dataset = Subset(dataset, count)
    if several and len(dataset) < 2:
        raise InputError("models are compared over two pictures or more")
    offered = TextEmbeddings.load(text, dataset.vocabulary) if text else None
    if offered:
        say(offered.describe())
        every = dataset.vocabulary.names
        if lacking := [name for name in every if name not in offered.vocabulary.names]:
            say(f"note: {len(lacking)} of the {len(every)} classes are never looked for")
    promised = None
    if row:
        promised, doubt = expectation(row, segmenter.config.recipe)
        if promised and count is not None:
            doubt = f"{len(dataset)} of its pictures are scored"
        if doubt:
            say(f"note: the scores of {recipe} are not to be expected here: {doubt}")
    if calibration is None and isinstance(row, Evaluation):
        calibration = row.calibration
    names = (offered.vocabulary if offered else dataset.vocabulary).names
    gammas = {
        title: default_calibration(one, names) if calibration is None else calibration
        for title, one in segmenters.items()
    }
    known = find_dataset(source.name)
    if curve:
        if known and split in (None, known.scored):
            say("note: these are the pictures that scores are reported on: choose γ on others")
        curves = calibration_curve(segmenter, dataset, GAMMAS, labels=offered)
        _print_curve(curves, json=json)
        return
    painters: list[Callable[[Judged], object]] = [_painter(show_dir)] if show_dir else []
    records = {title: Record() for title in segmenters} if several or report else {}
    scores: dict[str, Scores] = {}
    for title, one in segmenters.items():
        watch = painters + [record for key, record in records.items() if key == title]
        scores[title] = run(
            one, dataset, labels=offered, calibration=gammas[title], tta=tta, watch=watch
        )
    if baselines:
        for title, one in make_baselines(segmenter).items():
            scores[title] = run(one, dataset, labels=offered, calibration=gammas[name], tta=tta)
    scores["chance"] = chance(scores[name])
    for title in segmenters:
        if note := hardly_better(scores[title], scores["chance"]):
            say(f"{title}: {note}" if several else note)
    models = {
        title: {
            "setting": one.config.setting or "training-free",
            "trained_on": one.config.vocabulary.name if one.config.setting else "",
            "calibration": gammas[title],
            "device": str(one.device),
        }
        for title, one in segmenters.items()
    }
    about = {
        "data": source.name,
        "pictures": len(dataset),
        "unseen": list(dataset.vocabulary.unseen),
        "vocabulary": dataset.vocabulary.name,
        "views": "scales and mirror images" if tta else "one",
        "recipe": recipe,
        "expected": asdict(promised) if promised else None,
        **({"models": models} if several else models[name]),
    }
    if several:
        about["differences"] = _differences(records, dataset.vocabulary)
    results = {**about, "scores": {title: one.to_dict() for title, one in scores.items()}}
    if json:
        print(json_module.dumps(results, indent=1))
    else:
        _print_scores(scores, models, about)
    if report:
        conditions = {
            title: describe(
                one,
                title,
                dataset,
                source=source.name,
                split=split or (known.scored if known else ""),
                calibration=gammas[title],
                tta=tta,
            )
            for title, one in segmenters.items()
        }
        for title, rows in conditions.items():
            rows["held out"] += held_out(models[title], about)
        write_report(Report(results, dataset, scores, records, conditions), report, force=force)
        say(f"report: {report / 'index.html'}")


def _differences(records: "dict[str, Record]", vocabulary: "Vocabulary") -> dict[str, Any]:
    """Return, as JSON takes it, how far the other models differ from the first."""
    from unseen.bootstrap import RESAMPLES, compare_paired
    from unseen.metrics import rounded

    first, *others = records
    of = {
        name: compare_paired(records[first].counts, records[name].counts, vocabulary)
        for name in others
    }
    return {
        "to": first,
        "pictures": len(records[first].names),
        "resamples": RESAMPLES,
        "note": "intervals are over pictures, one training each: they say nothing of other seeds",
        "of": {n: {m: rounded(d._asdict()) for m, d in found.items()} for n, found in of.items()},
    }


def _print_differences(found: dict[str, Any]) -> None:
    from unseen.bootstrap import MEASURES
    from unseen.metrics import markdown

    rows = []
    for name, measures in found["of"].items():
        cells = [
            "–"
            if None in (one := measures[measure]).values()
            else f"{one['value']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})"
            for measure in MEASURES
        ]
        rows.append([name, *cells])
    print(markdown([f"less {found['to']}", *MEASURES], rows))
    print(
        f"\n95 % intervals in points, from {found['resamples']} paired resamples of "
        f"{found['pictures']} pictures; {found['note']}\n"
    )


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


def _print_scores(
    scores: "dict[str, Scores]", models: dict[str, dict[str, Any]], about: dict[str, Any]
) -> None:
    from unseen.metrics import compare

    views = f", {about['views']}" if about["views"] != "one" else ""
    unseen = ", ".join(about["unseen"]) or "none"
    if len(models) > 1:
        print(f"{about['pictures']} pictures of {about['data']}{views}; unseen classes: {unseen}")
        for title, one in models.items():
            print(
                f"{title}: {one['setting']}, γ = {one['calibration']:g}, {one['device']}"
                f"{held_out(one, about)}"
            )
        print()
    else:
        (one,) = models.values()
        print(
            f"{about['pictures']} pictures of {about['data']}; {one['setting']}, "
            f"γ = {one['calibration']:g}{views}, {one['device']}"
        )
        print(f"unseen classes: {unseen}{held_out(one, about)}\n")
    rows: dict[str, dict[str, float | None]] = {t: {**s.summary()} for t, s in scores.items()}
    if promised := about["expected"]:
        known = {title: promised[field] for title, field in PROMISED.items()}
        rows[f"expected of {about['recipe']}"] = {
            column: known.get(column) for column in next(iter(rows.values()))
        }
    print(compare(rows) + "\n")
    if "differences" in about:
        _print_differences(about["differences"])
    if promised and promised["note"]:
        print(f"expected: {promised['note']}\n")
    print(compare({t: s.details() for t, s in scores.items() if s.boundary is not None}) + "\n")
    print(_classes({title: scores[title] for title in models}))


def _classes(scores: "dict[str, Scores]") -> str:
    """Lay out the classes: a model's, or the IoU of several models side by side."""
    from unseen.metrics import compare

    if len(scores) == 1:
        return next(iter(scores.values())).table()
    rows = {
        name + (" (unseen)" if facts["unseen"] else ""): {
            title: one.to_dict()["classes"][name]["IoU"] for title, one in scores.items()
        }
        for name, facts in next(iter(scores.values())).to_dict()["classes"].items()
    }
    return compare(rows, corner="IoU, %")


def held_out(model: dict[str, Any], about: dict[str, Any]) -> str:
    """Return, in brackets, what must be known of a model to take its unseen classes for unseen."""
    if not about["unseen"]:
        return " (every class counts as seen)"
    if model["trained_on"] not in ("", about["vocabulary"]):
        return f" (the split of {about['vocabulary']}; training was on {model['trained_on']})"
    if model["setting"] in NOT_HELD_OUT:
        return f" ({NOT_HELD_OUT[model['setting']]})"
    return ""
