"""``unseen calibrate``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.completion import datasets
from unseen.cli.options import Device, JournalFolder, Json, say
from unseen.errors import InputError

FEW = 100
"""Fewer pictures than these are told of."""


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a model; its config.json is changed.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Data set. [default: what the model was trained on]",
            autocompletion=datasets,
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of a data set that is on disk.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Part of it that no result is reported on.")
    ] = "val",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Only this many pictures.")
    ] = None,
    device: Device = "auto",
    journal: JournalFolder = None,
    json: Json = False,
) -> None:
    """Measure how often a model is right at each of its scores, and note it in its folder.

    From then on every pixel has a confidence: how likely its label is right, among the names and
    in pictures such as those it was measured on. Scores and labels stay as they are.

    \b
    unseen calibrate runs/mine --split val
    unseen calibrate zegclip-coco --data coco --root data --split train --count 500
    unseen segment photo.jpg --model zegclip-coco --labels "cat, sofa" --threshold 0.5
    """
    from dataclasses import asdict

    from unseen.catalogue import open_dataset, scored_split
    from unseen.checkpoints import read_description
    from unseen.data.datasets import Subset
    from unseen.evaluation import default_source, measure_confidence
    from unseen.journal import Journal
    from unseen.metrics import markdown
    from unseen.processes import Processes
    from unseen.segmenter import Segmenter
    from unseen.writing import write_text

    if not model.is_dir():
        raise InputError(
            f"{model} is no folder of a model, where the confidence is noted: a shipped or "
            "published one is put into a folder by Segmenter.from_pretrained(NAME)"
            ".save_pretrained(FOLDER)"
        )
    processes = Processes.started()
    processes.take_gpu()
    segmenter = Segmenter.from_pretrained(model, device=device)
    source = default_source(segmenter.config)
    name, place = (data, root) if data else (source.name, root or source.root or None)
    dataset = open_dataset(name, split, root=place)
    if count:
        dataset = Subset(dataset, count)
    written = None
    if journal:
        named = segmenter.embed(dataset.vocabulary)
        conditions = segmenter.conditions(named) | {"for": "calibrate"}
        conditions.pop("confidence")  # which is what comes of it, and read by nothing here
        written = Journal(journal, conditions)
    measured = measure_confidence(segmenter, dataset, processes=processes, journal=written)
    if processes.rank:
        return
    if split == scored_split(name):
        say(
            "note: these are the pictures that scores are reported on: a confidence measured on "
            "them is too good there, --split names others"
        )
    if len(dataset) < FEW:
        say(f"note: {len(dataset)} pictures are few: a confidence is as good as what it is from")
    for kind, other in (("seen", "unseen"), ("unseen", "seen")):
        if not getattr(measured, kind)[0]:
            say(
                f"note: no labelled pixel was given a name {kind} in training: what was measured "
                f"of {other} names will stand for these too"
            )
    noted = read_description(model) | {"confidence": asdict(measured)}
    write_text(model / "config.json", json_module.dumps(noted, indent=1) + "\n")
    if json:
        print(json_module.dumps(asdict(measured), indent=1))
    else:
        rows = [
            [kind, f"{score:.2f}", f"{share:.2f}"]
            for kind in ("seen", "unseen")
            for score, share in zip(*getattr(measured, kind), strict=True)
        ]
        print(markdown(["names", "score", "share right"], rows))
    say(
        f"noted in {model}: from {len(dataset)} pictures of {name}, {split}, at γ = "
        f"{measured.calibration:g}"
    )
