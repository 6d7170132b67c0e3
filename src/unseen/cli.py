"""The command line: a verb a function, help from its signature and docstring.

Results go to standard output, everything else to standard error. torch is imported when a verb
runs, not for ``--help``.
"""

import json as json_module
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unseen.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from unseen.embeddings import TextEmbeddings
    from unseen.metrics import Scores
    from unseen.segmenter import Segmenter
    from unseen.vocabulary import Vocabulary

DEFAULT_MODEL = "zegclip-miniature-inductive"

app = typer.Typer(
    name="unseen",
    help="Name every pixel of a picture, also with classes nobody ever labelled.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model", help=f"Folder of a model, or a shipped name. [default: {DEFAULT_MODEL}]"
    ),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP alone, no model: weights file, folder or hub name."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where to compute; auto takes a GPU if there is one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Calibration = Annotated[
    float | None,
    typer.Option(
        "--calibration", help="γ, subtracted from the scores of classes seen in training."
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option("--text", help="File of text embeddings to use instead of the text encoder."),
]


def say(message: str) -> None:
    """Tell the person at the terminal something that is not the result."""
    print(message, file=sys.stderr)


def load_segmenter(model: str | None, clip: str | None, device: str) -> "Segmenter":
    """Load what --model or --clip names."""
    from unseen.segmenter import Segmenter

    if model and clip:
        raise InputError("give --model or --clip, not both: --clip is CLIP without a trained model")
    if clip:
        return Segmenter.from_clip(clip, device=device)
    return Segmenter.from_pretrained(model or DEFAULT_MODEL, device=device)


def read_labels(
    labels: str | None, text: Path | None, segmenter: "Segmenter"
) -> "Vocabulary | TextEmbeddings":
    """Return the labels that --labels and --text give together."""
    from unseen.embeddings import TextEmbeddings
    from unseen.vocabulary import read_vocabulary

    templates = segmenter.config.vocabulary.templates
    vocabulary = None if labels is None else read_vocabulary(labels, templates=templates)
    if text is None:
        assert vocabulary is not None
        return vocabulary
    embeddings = TextEmbeddings.load(text, vocabulary)
    say(embeddings.describe())
    return embeddings


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
            raise InputError(f"there are no pictures in {path}: expected {', '.join(SUFFIXES)}")
        pictures += inside
    return pictures


@app.command()
def segment(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="What to look for: 'cat, grass', a file with a label a line, or a vocabulary "
            "(voc20, coco171, miniature).",
        ),
    ] = None,
    model: Model = None,
    clip: Clip = None,
    text: TextFile = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for overlays and masks.")] = Path(
        "segmented"
    ),
    calibration: Calibration = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Segment pictures with any words.

    Writes NAME-overlay.png, with a legend, and NAME-mask.png, whose index is the label's position,
    for every picture, and prints what was found.

    \b
    unseen segment examples/meadow.png --labels "cow, horse, grass, sky, clouds"
    unseen segment photos/ --labels labels.txt --clip openai/clip-vit-base-patch16
    """
    from unseen.progress import track
    from unseen.segmenter import save_image

    if labels is None and text is None:
        raise InputError(
            "say what to look for: --labels 'cat, grass', a file with a label a line, "
            "or a vocabulary's name"
        )
    found = find_pictures(pictures)
    segmenter = load_segmenter(model, clip, device)
    if model is None and clip is None:
        say(
            f"using {DEFAULT_MODEL}, which knows drawings; for photos give --model or "
            "--clip openai/clip-vit-base-patch16"
        )
    looked_for = read_labels(labels, text, segmenter)
    stems = [picture.stem for picture in found]
    results, failures = [], 0
    for picture in track(found, "segmenting"):
        name = picture.stem if stems.count(picture.stem) == 1 else picture.name
        files = {kind: out / f"{name}-{kind}.png" for kind in ("overlay", "mask")}
        try:
            result = segmenter(picture, looked_for, calibration=calibration)
            save_image(result.overlay(), files["overlay"])
            save_image(result.mask_image(), files["mask"])
        except InputError as error:
            if len(found) == 1:
                raise
            say(f"error: {error}")
            failures += 1
            continue
        results.append(
            {
                "picture": str(picture),
                **{kind: str(file) for kind, file in files.items()},
                "labels": list(result.labels),
                "found": result.regions(),
            }
        )
    if json:
        print(json_module.dumps(results, indent=1))
    else:
        _print_found(results)
    if failures:
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


@app.command()
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help=f"Folder of a model, or a shipped name. [default: {DEFAULT_MODEL}]"),
    ] = None,
    clip: Clip = None,
    data: Annotated[
        Literal["miniature", "voc"], typer.Option("--data", help="Which data set.")
    ] = "miniature",
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of a data set that is on disk.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Part of it. [default: test, or voc's val]")
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
    from unseen.evaluation import evaluate as run
    from unseen.evaluation import make_baselines
    from unseen.metrics import chance

    dataset = open_dataset(data, split, root=root)
    if count is not None:
        dataset = Subset(dataset, count)
    segmenter = load_segmenter(model, clip, device)
    offered = read_labels(data if data != "voc" else "voc20", text, segmenter) if text else None
    name = clip or model or DEFAULT_MODEL
    scores = {
        name: run(segmenter, dataset, labels=offered, calibration=calibration, show_dir=show_dir)
    }
    if baselines:
        for title, baseline in make_baselines(segmenter).items():
            scores[title] = run(baseline, dataset, labels=offered)
    scores["chance"] = chance(scores[name])
    about = {
        "data": data,
        "pictures": len(dataset),
        "held out": list(dataset.vocabulary.unseen),
        "setting": segmenter.config.setting or "training-free",
        "calibration": segmenter.config.calibration if calibration is None else calibration,
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
    print(f"held out in training: {', '.join(about['held out']) or 'nothing'}\n")
    print(compare(scores) + "\n")
    print(next(iter(scores.values())).table())


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Instead of the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Model whose weights to start from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the model. [default: runs/RECIPE]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there already.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a recipe.

    \b
    unseen train zegclip-miniature-inductive
    unseen train zegclip-miniature-transductive \\
        --from runs/zegclip-miniature-inductive/halfway
    """
    from dataclasses import replace

    from unseen.recipes import find_recipe

    plan = find_recipe(recipe)
    if steps is not None:
        plan = replace(plan, steps=steps)
    if seed is not None:
        plan = replace(plan, seed=seed)
    out = out or Path("runs") / plan.name
    if (out / "config.json").exists() and not overwrite:
        raise InputError(f"{out} holds a model already: give another --out, or --overwrite")
    from unseen.training import fit

    fit(plan, out=out, start=start, device=device)
    if json:
        print(json_module.dumps({"model": str(out), "steps": plan.steps, "seed": plan.seed}))
    else:
        print(f"{out} holds the model; score it with: unseen evaluate {out}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' .pth file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")],
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", help="What it was trained on: voc20 or coco171.")
    ],
    setting: Annotated[
        Literal["inductive", "transductive", "supervised"],
        typer.Option("--setting", help="How it was trained."),
    ],
) -> None:
    """Turn a ZegCLIP checkpoint of the authors into a model.

    \b
    unseen convert coco_inductive_512_vit_base.pth -o zegclip-coco-inductive \\
        --vocabulary coco171 --setting inductive
    """
    from unseen.checkpoints import ModelConfig, save_pretrained
    from unseen.checkpoints import convert as run
    from unseen.clip.weights import read_state
    from unseen.settings import SETTINGS
    from unseen.vocabulary import find_vocabulary

    known = find_vocabulary(vocabulary)
    model, text, options = run(read_state(checkpoint))
    if text is None:
        raise InputError(f"{checkpoint} lacks the text encoder: is the file whole?")
    config = ModelConfig(
        method="zegclip",
        options=options,
        vocabulary=known,
        setting=setting,
        calibration=SETTINGS[setting].calibration,
    )
    save_pretrained(output, model, text, config)
    print(f"{output} holds the model; use it with: unseen segment PICTURE --model {output}")


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {message}")

    warnings.showwarning = show
    try:
        app(prog_name="unseen")
    except (InputError, MissingExtra) as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
