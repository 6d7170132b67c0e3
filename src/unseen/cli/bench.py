"""``unseen bench``."""

import json as json_module
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unseen.cli.completion import models_and_recipes
from unseen.cli.completion import precisions as known_precisions
from unseen.cli.completion import tasks as known_tasks
from unseen.cli.options import Compile, Device, Json, say
from unseen.errors import InputError

if TYPE_CHECKING:
    from unseen.bench import Measurement


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|RECIPE...",
            help="Folders of models, shipped names, or recipes, whose weights are random.",
            autocompletion=models_and_recipes,
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            help="Of picture (to labels), windows (to scores on the patch grid), training (a "
            "step), loading (and augmenting, no model).",
            autocompletion=known_tasks,
        ),
    ] = "picture,windows,training",
    precisions: Annotated[
        str,
        typer.Option(
            "--precisions",
            help="Of fp32, bf16, fp16 (autocast).",
            autocompletion=known_precisions,
        ),
    ] = "fp32",
    compile: Compile = False,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="How many at once. [default: the model's vocabulary]"),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Of pictures, HEIGHTxWIDTH in pixels.")
    ] = "480x640",
    batch: Annotated[
        str, typer.Option("--batch", help="Windows at a time, pictures a step.")
    ] = "1,2",
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the data set, for loading.")
    ] = None,
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Instead: what reading and augmenting a recipe's pictures costs, part by part, "
            "and how many cores 600 a second take. Without --root, of made-up photos.",
        ),
    ] = False,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Calls not timed.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Calls timed.")] = 5,
    device: Device = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Also draw cost over labels and sizes here, .png or .svg (extra 'plots').",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write every time here, as JSON."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure time and peak memory, over everything that lists name; text embeddings are random.

    \b
    unseen bench zegclip-coco-inductive --tasks picture --classes 20,171,1000 --plot cost.svg
    unseen bench zegclip-coco-inductive --data --root coco_stuff164k
    unseen bench runs/mine zegclip-voc-inductive --precisions fp32,bf16 --out bench.json
    """
    from unseen.bench import Case, check_plot, measure_apart, tabulate
    from unseen.bench import plot as draw
    from unseen.writing import write_text

    counts: list[int | None] = [None]
    if classes is not None:
        counts = [*numbers(classes, "--classes")]
    pictures = [read_size(size) for size in listed(sizes)]
    batches = numbers(batch, "--batch")
    if data:
        for wrong, option in ((plot, "--plot"), (out, "--out")):
            if wrong is not None:
                raise InputError(f"{option} is of models: --data goes without")
        _tell_of_loading(models, root, batches[-1], device, json=json)
        return
    cases = []
    for task, model in product(listed(tasks), models):
        varied = product(
            ["fp32"] if task == "loading" else listed(precisions),
            [None] if task == "loading" else counts,
            pictures if task == "picture" else pictures[:1],
            [1] if task == "picture" else batches,
        )
        where = None if root is None else str(root)
        cases += [
            Case(
                task,
                model,
                count,
                size,
                number,
                precision,
                compile and task in ("picture", "windows"),
                device,
                warmup,
                repeats,
                where,
            )
            for precision, count, size, number in varied
        ]
    if plot is not None:
        check_plot(cases, plot)
    measured: list[Measurement] = []
    try:
        for case in cases:
            one = measure_apart(case)
            measured.append(one)
            say(f"{case.model} {case.task} {one.shown}, {one.classes} classes: {one.p50:.3g} s")
    finally:  # what is measured is kept, whatever stopped the rest
        facts = json_module.dumps([one.to_dict() for one in measured], indent=1)
        if measured:
            print(facts if json else f"{tabulate(measured)}\n\n{_conditions(measured)}")
        if measured and out is not None:
            write_text(out, facts + "\n")
    if plot is not None:
        draw(measured, plot)


def _conditions(measured: "list[Measurement]") -> str:
    """Say all conditions, with their tasks where they are several: pictures load on the CPU."""
    lines = {one.case.task: one.conditions() for one in measured}
    if len(set(lines.values())) > 1:
        return "\n".join(f"{task}: {line}" for task, line in lines.items())
    return "".join(dict.fromkeys(lines.values()))


def _tell_of_loading(
    models: list[str], root: Path | None, batch: int, device: str, *, json: bool
) -> None:
    """Print what a recipe's pictures cost, beside what learning from them takes."""
    from dataclasses import asdict

    from unseen.bench import Case, measure_apart
    from unseen.loading import measure_loading
    from unseen.recipes import find_recipe

    facts = []
    for name in models:
        recipe = find_recipe(name)
        if root is not None:
            recipe = replace(recipe, data=replace(recipe.data, root=str(root)))
        loading = measure_loading(recipe)
        step = measure_apart(
            Case("training", name, batch=batch, device=device, warmup=1, repeats=2)
        )
        facts.append({**asdict(loading), "cores": loading.cores, "training": step.to_dict()})
        if not json:
            print(loading)
            took = f"{1000 * step.p50 / batch:.0f} ms a picture ({step.shown})"
            print(f"\na training step takes {took}\n{step.conditions()}")
    if json:
        print(json_module.dumps(facts, indent=1))


def listed(text: str) -> list[str]:
    """Return what a list separated by commas holds."""
    return [item.strip() for item in text.split(",")]


def numbers(text: str, option: str) -> list[int]:
    """Return the whole numbers that a list holds."""
    if not all(item.isdecimal() and int(item) for item in listed(text)):
        raise InputError(f"{option} takes whole numbers from 1 such as 1,2,4; got {text!r}")
    return [int(item) for item in listed(text)]


def read_size(text: str) -> tuple[int, int]:
    """Return the (height, width) that a size spells."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"--sizes takes HEIGHTxWIDTH in pixels such as 480x640; got {text!r}")
    return int(sides[0]), int(sides[1])
