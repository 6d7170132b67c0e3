"""``unseen segment``."""

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unseen.cli.completion import vocabularies
from unseen.cli.options import (
    DEFAULT_MODEL,
    Clip,
    Compile,
    Device,
    JournalFolder,
    Json,
    Model,
    Precision,
    Templates,
    TextFile,
    Tta,
    complain,
    load_segmenter,
    read_groups,
    read_labels,
    say,
)
from unseen.errors import InputError
from unseen.vocabulary import list_words

if TYPE_CHECKING:
    import numpy as np

    from unseen.segmentation import Segmentation

ENDINGS = {
    "overlay": "-overlay.png",
    "mask": "-mask.png",
    "coco": "-coco.json",
    "labelme": "-labelme.json",
}
VIDEO_ENDINGS = {"overlay": "-overlay.mp4", "report": "-frames.jsonl"}


def segment(
    pictures: Annotated[
        list[str],
        typer.Argument(help="Pictures, addresses, videos, or folders of pictures and videos."),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="What to look for: 'cat, grass', a file with a label a line, a vocabulary "
            "(voc20, coco171, miniature) or a data set's YAML. [default: what --model was "
            "trained with]",
            autocompletion=vocabularies,
        ),
    ] = None,
    model: Model = None,
    clip: Clip = None,
    templates: Templates = None,
    text: TextFile = None,
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder for what is written; files of its names are replaced."),
    ] = Path("segmented"),
    save: Annotated[
        str,
        typer.Option(
            "--save",
            help=f"What to write of every picture, with commas: {', '.join(ENDINGS)}.",
        ),
    ] = "overlay,mask",
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge", help="Labels that are one: 'background: sky, wall'. May be given again."
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="Least confidence that leaves a pixel its label; of a model without 'unseen "
            "calibrate', least score. Others are 'other'. Not with --tta.",
        ),
    ] = 0.0,
    other: Annotated[str, typer.Option("--other", help="What those are called.")] = "other",
    every: Annotated[
        int, typer.Option("--every", min=1, help="Of a video, look at every so many frames.")
    ] = 1,
    calibration: Annotated[
        float | None,
        typer.Option(
            "--calibration",
            help="γ, subtracted from the scores of classes seen in training. [default: the "
            "model's own]",
        ),
    ] = None,
    tta: Tta = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    journal: JournalFolder = None,
    json: Json = False,
) -> None:
    """Segment pictures and videos with any words.

    Writes NAME-overlay.png, with a legend, and NAME-mask.png, whose index is the label's position,
    for every picture, and prints what was found. A label's score is the mean of what the model gave
    its pixels: from 0 to 1, less γ (--calibration) where training showed the class.

    Of a video come NAME-overlay.mp4 and NAME-frames.jsonl, a line a frame.

    \b
    unseen segment examples/wall.png --labels "giraffe, bear, sky, brick wall, bus"
    unseen segment photos/ --labels labels.txt --clip openai/clip-vit-base-patch16
    unseen segment clip.mp4 --labels "dog, grass, sky" --every 5 --threshold 0.4
    """
    if labels is None and text is None and model is None:
        raise InputError(
            "say what to look for: --labels 'cat, grass', a file with a label a line, "
            "or a vocabulary's name"
        )
    kinds, groups = read_kinds(save), read_groups("--merge", merge)
    found = find_pictures(pictures)

    from unseen.data.images import is_address
    from unseen.journal import Journal, digest
    from unseen.pictures import as_array
    from unseen.processes import Processes
    from unseen.video import Unreadable, Video, is_video, segment_video

    if out.resolve() in {Path(one).resolve().parent for one in found if not is_address(one)}:
        raise InputError(f"results would lie among the pictures of {out}: give another --out")
    segmenter = load_segmenter(model, clip, device, precision, compile=compile)
    if model is None and clip is None:
        say(
            f"using {DEFAULT_MODEL}, which knows drawings; for photos give --model or "
            "--clip openai/clip-vit-base-patch16"
        )
    looked_for = read_labels(labels, text, segmenter, templates)
    strangers = {word for words in groups.values() for word in words}
    if strangers := strangers.difference(looked_for.vocabulary.names):
        raise InputError(f"--merge names {min(strangers)!r}, which is none of the labels")
    written = None
    if journal:
        conditions = segmenter.conditions(looked_for, calibration=calibration, tta=tta)
        asked = {"merge": merge, "threshold": threshold, "other": other, "every": every}
        written = Journal(journal, conditions | {"save": kinds, **asked})
    names = distinct_names(found)

    def look(image: "np.ndarray") -> "Segmentation":
        return segmenter(
            image,
            looked_for,
            merge=groups,
            calibration=calibration,
            threshold=threshold,
            other=other,
            tta=tta,
        )

    def make(index: int) -> dict[str, Any] | None:
        picture, stem = found[index], out / names[index]
        video = is_video(picture)
        files = {
            kind: stem.with_name(stem.name + ending)
            for kind, ending in (VIDEO_ENDINGS if video else ENDINGS).items()
            if video or kind in kinds
        }
        told = {"picture": picture, **{kind: str(file) for kind, file in files.items()}}

        def work() -> dict[str, Any] | None:
            try:
                if video:
                    overlay, report = files["overlay"], files["report"]
                    return told | segment_video(Video(picture), look, overlay, report, every=every)
                image = as_array(picture)
            except InputError as error:
                if len(found) == 1 or (video and not isinstance(error, Unreadable)):
                    raise
                complain(f"error: {error}")
                return None
            result = replace(look(image), source=picture)
            write_results(result, files)
            return told | {"labels": list(result.labels), "found": result.regions()}

        if written is None:
            return work()
        content = "" if is_address(picture) else digest(Path(picture))
        return written.recall(f"{picture} {content} {stem}", work, files.values())

    processes = Processes.started()
    results: list[dict[str, Any]] = []
    failures = 0
    for result in processes.share(len(found), make, "segmenting"):
        if result is None:
            failures += 1
        elif json:
            results.append(result)
        elif not processes.rank:
            _print_found(result)
    if processes.rank:
        return
    if json:
        print(json_module.dumps(results, indent=1))
    if failures:
        raise InputError(f"{failures} of {len(found)} pictures could not be segmented")


def _print_found(result: dict[str, Any]) -> None:
    from unseen.metrics import markdown

    rows = [
        [
            region["label"] + (" (unseen in training)" if region["unseen"] else ""),
            f"{region['share']:.1%}",
            f"{region['score']:.2f}",
        ]
        for region in result["found"]
    ]
    files = [result[kind] for kind in (*ENDINGS, "report") if kind in result]
    print(f"{result['picture']} → {', '.join(files)}")
    print(markdown(["label", "area", "score"], rows))
    found = {region["label"] for region in result["found"]}
    if missing := [name for name in result["labels"] if name not in found]:
        print(f"not found: {', '.join(missing)}")
    sys.stdout.flush()  # others may take long


def read_kinds(text: str) -> list[str]:
    """Return what --save asks for."""
    kinds = list(dict.fromkeys(list_words(text)))
    strange = [kind for kind in kinds if kind not in ENDINGS]
    if strange or not kinds:
        raise InputError(f"--save takes {', '.join(ENDINGS)}, with commas; got {text!r}")
    return kinds


def write_results(result: "Segmentation", files: Mapping[str, Path]) -> None:
    """Write a picture's mask in every form that is asked for."""
    from unseen.segmentation import save_image
    from unseen.writing import write_text

    for kind, file in files.items():
        if kind == "overlay":
            save_image(result.overlay(), file)
        elif kind == "mask":
            save_image(result.mask_image(), file)
        else:
            folder = file.parent
            told = result.to_coco() if kind == "coco" else result.to_labelme(folder=folder)
            write_text(file, json_module.dumps(told) + "\n")


def find_pictures(given: Sequence[str]) -> list[str]:
    """Return the pictures and videos given, folders replaced by those in them."""
    from unseen.data.images import SUFFIXES, is_address
    from unseen.video import SUFFIXES as VIDEOS

    suffixes = (*SUFFIXES, *VIDEOS)
    pictures: list[str] = []
    for one in given:
        path = Path(one)
        if not path.is_dir():
            if not (is_address(one) or path.exists()):
                raise InputError(f"there is no picture at {one}: check the path")
            pictures.append(one)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        if not inside:
            raise InputError(
                f"there are no pictures in {path}: expected {', '.join(suffixes)}; folders "
                "within it are not searched"
            )
        pictures += map(str, inside)
    return list(dict.fromkeys(pictures))


def distinct_names(pictures: Sequence[str]) -> list[str]:
    """Name the output of every picture: its stem, its name, or that with a number before it."""
    paths = [PurePath(picture.split("?")[0]) for picture in pictures]
    stems = [path.stem for path in paths]
    names = [path.name for path in paths]
    numbered = [f"{i}-{name}" for i, name in enumerate(names, start=1)]
    return next((kind for kind in (stems, names) if len(set(kind)) == len(kind)), numbered)
