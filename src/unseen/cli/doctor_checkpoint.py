"""``unseen doctor checkpoint``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.completion import models
from unseen.cli.options import Json


def checkpoint(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="What to look at.", autocompletion=models)
    ],
    json: Json = False,
) -> None:
    """Say what a file of weights is, whether it is whole, and what to do with it.

    Knows the checkpoints of the three methods' authors, models of unseen (shipped ones by name),
    CLIP's weights and text embeddings. Exit code 1 tells of keys that are missing, unknown or
    misshapen.

    \b
    unseen doctor checkpoint coco_inductive_512_vit_base.pth
    """
    from unseen.identification import identify

    found = identify(path)
    print(json_module.dumps(found.to_dict(), indent=1) if json else found.describe())
    if found.problems:
        raise typer.Exit(1)
