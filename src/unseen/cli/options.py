"""Options that mean the same in every verb, and what they stand for."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unseen.cli.completion import clips, models
from unseen.errors import InputError
from unseen.processes import Processes
from unseen.vocabulary import list_words

if TYPE_CHECKING:
    from unseen.embeddings import TextEmbeddings
    from unseen.segmenter import Segmenter
    from unseen.vocabulary import Vocabulary

DEFAULT_MODEL = "zegclip-miniature-inductive"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=f"Folder of a model, or a shipped name. [default: {DEFAULT_MODEL}]",
        autocompletion=models,
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip",
        help="CLIP alone, no model: weights file, folder or hub name.",
        autocompletion=clips,
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where to compute; auto takes a GPU if there is one."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Let torch.compile work a minute or more first, for less time on every picture.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        help="Of matrix products: fp32 is exact; bf16 needs a model in torch or OpenVINO, fp16 "
        "one in torch.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a model that is there already.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Average over scales and mirror images, the authors' --aug-test: some 20 × slower.",
    ),
]
Templates = Annotated[
    Literal["single", "multi"] | None,
    typer.Option(
        "--templates",
        help="Sentences around plain labels: 'a photo of a …', or the 15 published ones. "
        "[default: what the model was trained with]",
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option("--text", help="File of text embeddings to use instead of the text encoder."),
]


JournalFolder = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        help="Write down in this folder what is done of each picture; the same command, after it "
        "was stopped, goes on from there.",
    ),
]


def say(message: str) -> None:
    """Tell the person at the terminal something that is not the result; once, not by process."""
    if not Processes.started().rank:
        print(paint(message, sys.stderr), file=sys.stderr)


def complain(message: str) -> None:
    """Tell what is wrong, whichever process finds it."""
    processes = Processes.started()
    which = f" (process {processes.rank} of {processes.size})" if processes.size > 1 else ""
    print(paint(message + which, sys.stderr), file=sys.stderr)


_COLOURS = {"error": 31, "broken": 31, "warning": 33, "note": 36}


def wants_colour() -> bool:
    """Tell whether colour may be used on a terminal (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(line: str, stream: Any) -> str:
    """Colour the word that says what a line is, if it goes to a terminal."""
    word, colon, rest = line.partition(":")
    if word not in _COLOURS or not (stream.isatty() and wants_colour()):
        return line
    return f"\033[{_COLOURS[word]}m{word}{colon}\033[0m{rest}"


def load_segmenter(
    model: str | None,
    clip: str | None,
    device: str,
    precision: str = "fp32",
    *,
    compile: bool = False,
) -> "Segmenter":
    """Load what --model or --clip names."""
    from unseen.segmenter import Segmenter

    Processes.started().take_gpu()
    if model and clip:
        raise InputError("give --model or --clip, not both: --clip is CLIP without a trained model")
    if clip:
        return Segmenter.from_clip(clip, device=device, precision=precision, compile=compile)
    return Segmenter.from_pretrained(
        model or DEFAULT_MODEL, device=device, precision=precision, compile=compile
    )


def read_labels(
    labels: str | None, text: Path | None, segmenter: "Segmenter", templates: str | None = None
) -> "TextEmbeddings":
    """Return the embeddings that --labels, --templates and --text ask for together.

    With neither --labels nor --text these are of the names that the model was trained with.
    """
    from dataclasses import replace

    from unseen.embeddings import TextEmbeddings
    from unseen.vocabulary import TEMPLATES

    if text is not None and templates:
        raise InputError("--templates are for labels to be read: --text is read already")
    sentences = TEMPLATES[templates] if templates else segmenter.config.vocabulary.templates
    vocabulary = None if labels is None else find_labels(labels, sentences)
    if text is not None:
        embeddings = TextEmbeddings.load(text, vocabulary)
        if labels is not None and text.suffix != ".npy":
            raise InputError(f"{text} names its labels itself: leave --labels out")
        say(embeddings.describe())
        return segmenter.embed(embeddings)
    if vocabulary is None:
        if not segmenter.config.setting:
            raise InputError("this model was trained with no names: say what to look for, --labels")
        vocabulary = replace(segmenter.config.vocabulary, templates=sentences)
        say(f"looking for the {len(vocabulary)} names the model was trained with")
    return segmenter.embed(vocabulary)


def find_labels(labels: str, templates: tuple[str, ...]) -> "Vocabulary":
    """Return what --labels names: also the vocabulary of a data set described in YAML."""
    from unseen.vocabulary import read_vocabulary

    if labels.lower().endswith((".yaml", ".yml")):
        from unseen.data.own import own_vocabulary

        return own_vocabulary(labels)
    return read_vocabulary(labels, templates=templates)


def read_groups(option: str, texts: Sequence[str] | None) -> dict[str, list[str]]:
    """Return names with the words that each stands for, given as 'background: sky, wall'."""
    groups: dict[str, list[str]] = {}
    for text in texts or ():
        name, colon, words = text.partition(":")
        if not (colon and name.strip() and list_words(words)):
            raise InputError(f"{option} is given as 'background: sky, wall', got {text!r}")
        groups[name.strip()] = list(list_words(words))
    return groups


def read_seeds(text: str) -> list[int]:
    """Return different seeds, given with commas."""
    try:
        numbers = [int(word) for word in list_words(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds must be different whole numbers from 0, with commas: {text!r}")
    return numbers
