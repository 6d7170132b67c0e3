"""``unseen calibrate``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import Device, JournalFolder, Json, say
from unseen.errors import InputError


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a model; its config.json is changed.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set. [default: what the model was trained on]"),
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
    unseen calibrate zegclip-coco --data coco --root data/coco --split train --count 500
    unseen segment photo.jpg --model zegclip-coco --labels "cat, sofa" --threshold 0.5
    """
    from dataclasses import replace

    from unseen.catalogue import open_dataset
    from unseen.checkpoints import read_description
    from unseen.data.datasets import Subset
    from unseen.evaluation import confidence_curve, default_source
    from unseen.journal import Journal
    from unseen.metrics import markdown
    from unseen.processes import Processes
    from unseen.segmenter import Segmenter
    from unseen.writing import write_text

    if not model.is_dir():
        raise InputError(f"{model} is no folder of a model: what is noted must have a place")
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
        config = replace(segmenter.config, confidence=())
        plain = Segmenter(segmenter.backend, segmenter.text, config)
        written = Journal(journal, plain.conditions(plain.embed(dataset.vocabulary)))
    curve = confidence_curve(segmenter, dataset, processes=processes, journal=written)
    if processes.rank:
        return
    description = read_description(model)
    write_text(
        model / "config.json",
        json_module.dumps(description | {"confidence": curve}, indent=1) + "\n",
    )
    if json:
        print(json_module.dumps({"scores": curve[0], "confidence": curve[1]}, indent=1))
    else:
        rows = [[f"{score:.2f}", f"{share:.2f}"] for score, share in zip(*curve, strict=True)]
        print(markdown(["score", "share right"], rows))
    say(f"noted in {model}: from {len(dataset)} pictures of {name}, {split}")
