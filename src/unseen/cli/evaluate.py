"""``unseen evaluate``."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unseen.cli.completion import datasets, models, rows
from unseen.cli.options import (
    DEFAULT_MODEL,
    Clip,
    Compile,
    Device,
    JournalFolder,
    Json,
    Model,
    Precision,
    TextFile,
    Tta,
    load_segmenter,
    read_groups,
    say,
)
from unseen.cli.scores import (
    find_differences,
    hardly_better,
    held_out,
    print_curve,
    print_scores,
)
from unseen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unseen.data.datasets import Dataset
    from unseen.embeddings import TextEmbeddings
    from unseen.evaluation import Judged
    from unseen.journal import Journal
    from unseen.recipes import Source
    from unseen.segmenter import Segmenter
    from unseen.vocabulary import Vocabulary


def evaluate(
    scored: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="The same as --model; several are compared.",
            autocompletion=models,
        ),
    ] = None,
    model: Model = None,
    clip: Clip = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Which data set: miniature, voc, coco, context, …, or a YAML file. "
            "[default: what the model was trained on]",
            autocompletion=datasets,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Score as this recipe says and print what it promises.",
            autocompletion=rows,
        ),
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
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--words",
            help="Look for these in place of a name: 'background: sky, wall'. May be given again.",
        ),
    ] = None,
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
    calibration: Annotated[
        float | None,
        typer.Option(
            "--calibration",
            help="γ, subtracted from the scores of classes seen in training. [default: the "
            "model's own; 0 on names other than those of the training]",
        ),
    ] = None,
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
    precision: Precision = "fp32",
    compile: Compile = False,
    journal: JournalFolder = None,
    json: Json = False,
) -> None:
    """Score a model: pAcc, mIoU over seen and unseen classes, hIoU.

    \b
    unseen evaluate zegclip-miniature-inductive --baselines
    unseen evaluate MODEL --data voc --root data
    unseen evaluate MODEL --recipe zegclip-coco-to-voc --root data
    unseen evaluate MODEL --split val --curve
    unseen evaluate MODEL --data camvid --root CAMVID --small --short-side 720
    unseen evaluate --compare MODEL OTHER --report out/
    """
    from dataclasses import asdict, replace

    from unseen.catalogue import find_dataset, scored_split
    from unseen.cli.small import SizeCounter, SmallTargets, describe_protocol, read_areas
    from unseen.data.datasets import Subset, folders_of
    from unseen.embeddings import TextEmbeddings
    from unseen.evaluation import (
        BASELINES,
        GAMMAS,
        calibration_curve,
        default_calibration,
        default_source,
        make_baselines,
        put_into_words,
    )
    from unseen.evaluation import evaluate as run
    from unseen.metrics import chance
    from unseen.page import write_report
    from unseen.processes import Processes
    from unseen.recipes import Evaluation, Source, expectation, find_row
    from unseen.report import Record, Report, check_folder, describe

    several = compare or len(scored or ()) > 1
    for wrong, sentence in (
        (scored and model, "name the model once: as argument or with --model"),
        (clip and baselines, "--baselines are for trained models: --clip is a baseline itself"),
        (
            curve and (baselines or show_dir or tta or calibration is not None),
            "--curve goes without --baselines, --show-dir, --tta and --calibration",
        ),
        (curve and small, "--curve goes without --small: it scores no single answer"),
        (curve and report, "--curve makes no report: leave --report out"),
        (
            several and (clip or recipe or baselines or show_dir or curve),
            "models are compared without --clip, --recipe, --baselines, --show-dir and --curve",
        ),
        (
            several and len(set(scored or ())) < max(2, len(scored or ())),
            "--compare needs two models or more, each named once, as arguments",
        ),
        (
            not small and (relative or min_area is not None),
            "--relative and --min-area say how --small scores: add --small",
        ),
        (journal and show_dir, "--journal goes without --show-dir: no picture is painted again"),
        (force and not report, "--force is for --report: say which folder"),
        (
            words and (text or recipe),
            "--words goes without --text, which is read already, and --recipe, which has its own",
        ),
        (recipe and data, "give --data or --recipe, not both: a recipe says which data set"),
    ):
        if wrong:
            raise InputError(sentence)
    areas = read_areas(relative, min_area)
    groups = read_groups("--words", words)
    if report:
        check_folder(report, force=force)
        for within, option in ((show_dir, "--show-dir"), (journal, "--journal")):
            if within and within.resolve().is_relative_to(report.resolve()):
                raise InputError(f"{option} lies in {report}, which --report fills: name another")
    row = find_row(recipe) if recipe else None
    segmenters: dict[str, Segmenter] = {}
    resized = False
    for asked in scored or [model or ""]:
        loaded = load_segmenter(asked, clip, device, precision, compile=compile)
        shown = loaded.shown_at(short_side=short_side, window=window, stride=stride)
        resized |= shown.config != loaded.config
        title = asked or clip or DEFAULT_MODEL
        if title in ("chance", *BASELINES):
            raise InputError(f"another row of the table is called {title!r}: write ./{title}")
        segmenters[title] = shown
    name, segmenter = next(iter(segmenters.items()))
    source = row.data if row else default_source(segmenter.config)
    if data not in (None, source.name):
        source = Source(data)
    of_training = not (row or data or root or split) and bool(segmenter.config.setting)
    dataset = _open(source, root, split, of_training=of_training)
    if show_dir and show_dir.resolve() in folders_of(dataset):
        raise InputError(
            f"--show-dir would paint over the pictures or label maps in {show_dir}: name another"
        )
    if isinstance(row, Evaluation):  # as published: no class of another data set is unseen
        dataset.vocabulary = replace(dataset.vocabulary, unseen=())
    if count is not None:
        dataset = Subset(dataset, count)
    if several and len(dataset) < 2:
        raise InputError("models are compared over two pictures or more")
    embedded = TextEmbeddings.load(text, dataset.vocabulary) if text else None
    if embedded:
        say(embedded.describe())
        every = dataset.vocabulary.names
        if lacking := [name for name in every if name not in embedded.vocabulary.names]:
            say(f"note: {len(lacking)} of the {len(every)} classes are never looked for")
    spelt, _ = put_into_words(dataset.vocabulary, groups)
    offered = embedded.vocabulary if embedded else spelt
    names = offered.names if embedded else dataset.vocabulary.names
    known = find_dataset(source.name)
    scored_part = scored_split(source.name)
    promised = None
    if row:
        config = segmenter.config
        kind = config.method, config.vocabulary.name, config.setting
        promised, doubt = expectation(row, config.recipe, kind)
        for other, sentence in (
            (count is not None, f"{len(dataset)} of its pictures are scored"),
            (split not in (None, scored_part), f"the pictures are those of {split}"),
            (resized, "pictures are shown to the model at another size"),
            (tta, "they are shown at several scales and as mirror images"),
            (calibration is not None, "γ is another one"),
        ):
            if promised and other:
                doubt = sentence
        if doubt:
            say(f"note: the scores of {recipe} are not to be expected here: {doubt}")
    part = split or scored_part
    processes = Processes.started()
    facts = {"data": [source.name, part, asdict(dataset.vocabulary), groups]}
    if curve:
        if split in (None, scored_part):
            say("note: these are the pictures that scores are reported on: choose γ on others")
        curves = calibration_curve(
            segmenter,
            dataset,
            GAMMAS,
            labels=embedded,
            words=groups,
            processes=processes,
            journal=_open_journal(
                journal, segmenter, embedded or spelt, {**facts, "options": "curve"}
            ),
        )
        if not processes.rank:
            print_curve(curves, json=json)
        return
    if calibration is None and isinstance(row, Evaluation):
        calibration = row.calibration
    unseen = dataset.vocabulary.unseen
    models: dict[str, dict[str, Any]] = {
        title: {
            "setting": one.config.setting or "training-free",
            "trained_on": one.config.vocabulary.name if one.config.setting else "",
            "shown": [name for name in unseen if one.is_taught([name])[0]],
            "calibration": default_calibration(one, names) if calibration is None else calibration,
            "short_side": one.config.short_side,
            "window": one.config.window,
            "stride": one.config.stride,
            "device": str(one.device),
        }
        for title, one in segmenters.items()
    }
    for title, one in segmenters.items():
        if calibration is None and one.config.calibration and not models[title]["calibration"]:
            say(
                f"note: γ is 0 for {title}, not its {one.config.calibration:g}: these names are "
                "not those of its training; --calibration sets it"
            )
    judged = {**segmenters, **(make_baselines(segmenter) if baselines else {})}
    counters = {
        title: SizeCounter(areas, dataset.vocabulary) for title in judged if small or report
    }
    records = {title: Record() for title in segmenters if several or report}
    gammas = {title: models.get(title, models[name])["calibration"] for title in judged}
    journals = {
        title: _open_journal(
            journal and journal / str(number),
            one,
            embedded or spelt,
            {**facts, "options": [title in counters and areas.describe(), title in records]},
            calibration=gammas[title],
            tta=tta,
        )
        for number, (title, one) in enumerate(judged.items(), start=1)
    }
    scores = {}
    for title, one in judged.items():
        scores[title] = run(
            one,
            dataset,
            labels=embedded,
            words=groups,
            calibration=gammas[title],
            tta=tta,
            watch=[_painter(show_dir)] if show_dir and one is segmenter else (),
            keep=[part[title] for part in (counters, records) if title in part],
            processes=processes,
            journal=journals[title],
        )
    if processes.rank:
        return
    scores["chance"] = chance(scores[name])
    for title in segmenters:
        if note := hardly_better(scores[title], scores["chance"]):
            say(f"{title}: {note}" if several else note)
    about: dict[str, Any] = {
        "data": source.name,
        "split": part,
        "pictures": len(dataset),
        "unseen": list(dataset.vocabulary.unseen),
        "vocabulary": dataset.vocabulary.name,
        "words": groups,
        "views": "scales and mirror images" if tta else "one",
        "recipe": recipe,
        "expected": asdict(promised) if promised else None,
        **({"models": models} if several else models[name]),
    }
    if several:
        about["differences"] = find_differences(records, dataset.vocabulary)
    results = {**about, "scores": {title: one.to_dict() for title, one in scores.items()}}
    targets = None
    if small:
        sentences = offered.templates if embedded is None or embedded.clip else ()
        targets = SmallTargets(
            sizes={title: counter.scores for title, counter in counters.items()},
            scores=scores,
            names=known.small if known else (),
            protocol=describe_protocol(
                about, models, offered.names, sentences, partial=count is not None
            ),
        )
        results["small"] = targets.to_dict()
    if json:
        print(json_module.dumps(results, indent=1))
    else:
        print_scores(scores, models, about)
        if targets:
            targets.print()
    if report:
        conditions = {
            title: describe(
                one,
                title,
                dataset,
                source=source.name,
                split=part or "",
                calibration=models[title]["calibration"],
                tta=tta,
            )
            for title, one in segmenters.items()
        }
        for title, rows in conditions.items():
            rows["held out"] += held_out(models[title], about)
            if groups:
                each = (f"{label} as {', '.join(one)}" for label, one in groups.items())
                rows["looked for"] = "; ".join(each)
        sizes = {title: counters[title].scores for title in segmenters}
        write_report(
            Report(results, dataset, scores, records, conditions, sizes), report, force=force
        )
        say(f"report: {report / 'index.html'}")


def _open(
    source: "Source", root: Path | None, split: str | None, *, of_training: bool
) -> "Dataset":
    """Open a data set; say where its name comes from if that of the training cannot be opened."""
    from unseen.catalogue import open_dataset

    try:
        return open_dataset(source.name, split, root=root or source.root)
    except InputError as error:
        if not of_training:
            raise
        raise InputError(f"{error} (the model was trained on it; --data names another)") from None


def _open_journal(
    folder: Path | None,
    segmenter: "Segmenter",
    labels: "Vocabulary | TextEmbeddings",
    facts: dict[str, Any],
    *,
    calibration: float | None = None,
    tta: bool = False,
) -> "Journal | None":
    """Open the journal of a model's evaluation, if there is to be one."""
    if folder is None:
        return None
    from unseen.journal import Journal

    conditions = segmenter.conditions(segmenter.embed(labels), calibration=calibration, tta=tta)
    return Journal(folder, {**conditions, **facts})


def _painter(folder: Path) -> "Callable[[Judged], None]":
    return lambda one: one.result.save(folder / f"{one.sample.name}.png")
