"""``unseen embed``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.completion import vocabularies
from unseen.cli.options import Clip, Device, Json, Model, Templates, find_labels, load_segmenter
from unseen.errors import InputError


def embed(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="VOCABULARY",
            help="Name of a vocabulary (voc20, coco171, …), a file with a label a line, a data "
            "set's YAML file, or labels: 'cat, grass'.",
            autocompletion=vocabularies,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--out", "--output", "-o", help="File to write; ends in .safetensors.")
    ],
    model: Model = None,
    clip: Clip = None,
    templates: Templates = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there already.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write the text embeddings of a vocabulary to a file.

    The file says which CLIP and which sentences made it; a model with another CLIP refuses it.

    \b
    unseen embed coco171 -o coco171.safetensors --clip ViT-B-16.pt
    unseen segment photo.jpg --clip ViT-B-16.pt --text coco171.safetensors
    """
    from dataclasses import asdict, replace

    from unseen.vocabulary import TEMPLATES

    if output.suffix != ".safetensors":
        raise InputError(f"{output} must end in .safetensors, which is what is written")
    if output.exists() and not overwrite:
        raise InputError(f"{output} is there already: name another file, or --overwrite")
    segmenter = load_segmenter(model, clip, device)
    vocabulary = find_labels(labels, segmenter.config.vocabulary.templates)
    if templates:
        vocabulary = replace(vocabulary, templates=TEMPLATES[templates])
    embeddings = segmenter.embed(vocabulary)
    embeddings.save(output)
    if json:
        facts = {"file": str(output), "clip": embeddings.clip, **asdict(embeddings.vocabulary)}
        print(json_module.dumps(facts, indent=1))
    else:
        print(f"{output} holds {embeddings.describe()}")
