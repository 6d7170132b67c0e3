"""``unseen segment``."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from unseen.cli.options import (
    DEFAULT_MODEL,
    Calibration,
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
    read_labels,
    say,
)
from unseen.errors import InputError


def segment(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them (not those within).")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="What to look for: 'cat, grass', a file with a label a line, a vocabulary "
            "(voc20, coco171, miniature) or a data set's YAML. [default: what --model was "
            "trained with]",
        ),
    ] = None,
    model: Model = None,
    clip: Clip = None,
    templates: Templates = None,
    text: TextFile = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for overlays and masks.")] = Path(
        "segmented"
    ),
    calibration: Calibration = None,
    tta: Tta = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    journal: JournalFolder = None,
    json: Json = False,
) -> None:
    """Segment pictures with any words.

    Writes NAME-overlay.png, with a legend, and NAME-mask.png, whose index is the label's position,
    for every picture, and prints what was found. A label's score is the mean of what the model gave
    its pixels: from 0 to 1, less γ (--calibration) where training showed the class.

    \b
    unseen segment examples/wall.png --labels "giraffe, bear, sky, brick wall, bus"
    unseen segment photos/ --labels labels.txt --clip openai/clip-vit-base-patch16
    """
    from unseen.data.images import read_image
    from unseen.journal import Journal, digest
    from unseen.processes import Processes
    from unseen.segmentation import save_image

    if labels is None and text is None and model is None:
        raise InputError(
            "say what to look for: --labels 'cat, grass', a file with a label a line, "
            "or a vocabulary's name"
        )
    found = find_pictures(pictures)
    if out.resolve() in {picture.resolve().parent for picture in found}:
        raise InputError(f"results would lie among the pictures of {out}: give another --out")
    segmenter = load_segmenter(model, clip, device, precision, compile=compile)
    if model is None and clip is None:
        say(
            f"using {DEFAULT_MODEL}, which knows drawings; for photos give --model or "
            "--clip openai/clip-vit-base-patch16"
        )
    looked_for = read_labels(labels, text, segmenter, templates)
    written = None
    if journal:
        conditions = segmenter.conditions(looked_for, calibration=calibration, tta=tta)
        written = Journal(journal, conditions)
    names = distinct_names(found)

    def make(index: int) -> dict[str, Any] | None:
        picture = found[index]
        files = {kind: out / f"{names[index]}-{kind}.png" for kind in ("overlay", "mask")}

        def work() -> dict[str, Any] | None:
            try:
                image = read_image(picture)
            except InputError as error:
                if len(found) == 1:
                    raise
                complain(f"error: {error}")
                return None
            result = segmenter(image, looked_for, calibration=calibration, tta=tta)
            save_image(result.overlay(), files["overlay"])
            save_image(result.mask_image(), files["mask"])
            return {
                "picture": str(picture),
                **{kind: str(file) for kind, file in files.items()},
                "labels": list(result.labels),
                "found": result.regions(),
            }

        if written is None:
            return work()
        item = f"{picture} {digest(picture)} {out / names[index]}"
        return written.recall(item, work, files.values())

    processes = Processes.started()
    made = list(processes.share(len(found), make, "segmenting"))
    if processes.rank:
        return
    results = [result for result in made if result]
    if json:
        print(json_module.dumps(results, indent=1))
    else:
        _print_found(results)
    if failures := len(made) - len(results):
        raise InputError(f"{failures} of {len(found)} pictures could not be segmented")


def _print_found(results: list[dict[str, Any]]) -> None:
    from unseen.metrics import markdown

    for result in results:
        rows = [
            [
                region["label"] + (" (unseen in training)" if region["unseen"] else ""),
                f"{region['share']:.1%}",
                f"{region['score']:.2f}",
            ]
            for region in result["found"]
        ]
        print(f"{result['picture']} → {result['overlay']}, {result['mask']}")
        print(markdown(["label", "area", "score"], rows))
        found = {region["label"] for region in result["found"]}
        if missing := [name for name in result["labels"] if name not in found]:
            print(f"not found: {', '.join(missing)}")


def find_pictures(paths: list[Path]) -> list[Path]:
    """Return the pictures given, folders replaced by the pictures in them."""
    from unseen.data.images import SUFFIXES

    pictures: list[Path] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(
                f"there are no pictures in {path}: expected {', '.join(SUFFIXES)}; folders "
                "within it are not searched"
            )
        pictures += inside
    return list(dict.fromkeys(pictures))


def distinct_names(pictures: list[Path]) -> list[str]:
    """Name the output of every picture: its stem, its name, or that with a number before it."""
    stems = [picture.stem for picture in pictures]
    names = [picture.name for picture in pictures]
    numbered = [f"{i}-{name}" for i, name in enumerate(names, start=1)]
    return next((kind for kind in (stems, names) if len(set(kind)) == len(kind)), numbered)
