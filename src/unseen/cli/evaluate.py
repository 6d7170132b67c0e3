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
    load_segmenter,
    say,
)
from unseen.errors import InputError

if TYPE_CHECKING:
    from unseen.metrics import Scores

NOT_HELD_OUT = {
    "transductive": "their names and which pixels show one of them were known in training",
    "supervised": "their masks were shown in training like all others",
    "training-free": "no masks were shown at all",
}


def evaluate(
    scored: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.")
    ] = None,
    model: Model = None,
    clip: Clip = None,
    data: Annotated[
        str,
        typer.Option("--data", help="Data set: miniature, voc, context, coco, …, or a YAML file."),
    ] = "miniature",
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
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score a model: pAcc, mIoU over seen and unseen classes, hIoU.

    \b
    unseen evaluate zegclip-miniature-inductive --baselines
    unseen evaluate MODEL --data voc --root VOCdevkit/VOC2012
    """
    from unseen.catalogue import open_dataset
    from unseen.data.datasets import Subset
    from unseen.embeddings import TextEmbeddings
    from unseen.evaluation import default_calibration, make_baselines
    from unseen.evaluation import evaluate as run
    from unseen.metrics import chance

    if scored and model:
        raise InputError("name the model once: as argument or with --model")
    if clip and baselines:
        raise InputError("--baselines are for trained models: --clip is a baseline itself")
    model = scored or model
    dataset = open_dataset(data, split, root=root)
    if count is not None:
        dataset = Subset(dataset, count)
    segmenter = load_segmenter(model, clip, device)
    offered = TextEmbeddings.load(text, dataset.vocabulary) if text else None
    if offered:
        say(offered.describe())
    if calibration is None:
        names = (offered.vocabulary if offered else dataset.vocabulary).names
        calibration = default_calibration(segmenter, names)
    name = clip or model or DEFAULT_MODEL
    scores = {
        name: run(segmenter, dataset, labels=offered, calibration=calibration, show_dir=show_dir)
    }
    if baselines:
        for title, baseline in make_baselines(segmenter).items():
            scores[title] = run(baseline, dataset, labels=offered, calibration=calibration)
    scores["chance"] = chance(scores[name])
    about = {
        "data": data,
        "pictures": len(dataset),
        "unseen": list(dataset.vocabulary.unseen),
        "setting": segmenter.config.setting or "training-free",
        "trained_on": segmenter.config.vocabulary.name if segmenter.config.setting else "",
        "vocabulary": dataset.vocabulary.name,
        "calibration": calibration,
        "device": str(segmenter.device),
    }
    if json:
        results = {title: one.to_dict() for title, one in scores.items()}
        print(json_module.dumps({**about, "scores": results}, indent=1))
    else:
        _print_scores(scores, about)


def _print_scores(scores: "dict[str, Scores]", about: dict[str, Any]) -> None:
    from unseen.metrics import compare

    print(
        f"{about['pictures']} pictures of {about['data']}; {about['setting']}, "
        f"γ = {about['calibration']:g}, {about['device']}"
    )
    if about["trained_on"] not in ("", about["vocabulary"]):
        held_out = f" (the split of {about['vocabulary']}; training was on {about['trained_on']})"
    elif about["setting"] in NOT_HELD_OUT:
        held_out = f" ({NOT_HELD_OUT[about['setting']]})"
    else:
        held_out = ""
    print(f"unseen classes: {', '.join(about['unseen']) or 'none'}{held_out}\n")
    print(compare({title: one.summary() for title, one in scores.items()}) + "\n")
    print(next(iter(scores.values())).table())
