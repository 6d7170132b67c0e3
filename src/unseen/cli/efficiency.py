"""``unseen efficiency``."""

import json as json_module
from typing import Annotated

import typer

from unseen.cli.completion import models_and_recipes, vocabularies
from unseen.cli.options import Device, Json, say
from unseen.errors import InputError


def efficiency(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RECIPE",
            help="Folder of a model, a shipped name, or a recipe, which needs no weights.",
            autocompletion=models_and_recipes,
        ),
    ],
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--size",
            metavar="HEIGHT WIDTH",
            help="Of the window in pixels. [default: the model's; 512 512 for published ones]",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", min=1, help="How many at once. [default: all of the model's vocabulary]"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="As many classes as these: names, a file, a vocabulary.",
            autocompletion=vocabularies,
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Windows to time; 0 counts only.")
    ] = 10,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Tell what a model costs: parameters, FLOPs, windows a second; as published, and here.

    \b
    unseen efficiency zegclip-coco-inductive --size 512 512
    unseen efficiency runs/mine --labels "cat, grass" --device cpu --json
    """
    from unseen.efficiency import describe, measure
    from unseen.segmenter import resolve_device
    from unseen.vocabulary import read_vocabulary

    if classes is not None and labels is not None:
        raise InputError("give --classes or --labels, not both: only the number of classes counts")
    if labels is not None:
        classes = len(read_vocabulary(labels))
    where = resolve_device(device)
    design = describe(model)
    if repeats and design.model is None:
        say("no weights are needed: random ones are timed")
    report = measure(design, size=size, classes=classes, device=where, repeats=repeats)
    print(json_module.dumps(report.to_dict(), indent=1) if json else report.table())
