"""``unseen card``."""

import json as json_module
from typing import Annotated

import typer

from unseen.cli.completion import models
from unseen.cli.options import Json

Pushed = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder of a model, or a shipped name.", autocompletion=models
    ),
]
Licence = Annotated[
    str,
    typer.Option(
        "--license", help="The hub's word for that of a model you trained: mit, apache-2.0, …"
    ),
]
AdapterOnly = Annotated[
    bool, typer.Option("--adapter-only", help="Leave CLIP out; others fetch it from the hub.")
]


def card(
    model: Pushed,
    name: Annotated[str, typer.Option("--name", help="The repository it is for.")] = "owner/name",
    licence: Licence = "",
    adapter_only: AdapterOnly = False,
    json: Json = False,
) -> None:
    """Print the model card that 'unseen push' writes: MODEL's README.md, if a person wrote one.

    \b
    unseen card runs/zegclip-miniature-inductive --license mit > README.md
    """
    text = write_card(model, name, licence, adapter_only=adapter_only)
    print(json_module.dumps({"model": model, "card": text}) if json else text.rstrip())


def write_card(model: str, name: str, licence: str, *, adapter_only: bool) -> str:
    """Return a model's card: a person's own if there is one."""
    from unseen.card import make_card, read_measured, read_own_card
    from unseen.checkpoints import (
        describing,
        find_model,
        read_config,
        read_description,
        refuse_exported,
    )
    from unseen.shipped import shipped_models

    folder = find_model(model)
    description = read_description(folder)
    refuse_exported(folder, description)
    with describing(folder):
        config = read_config(description)
    made = make_card(
        config,
        name=name,
        adapter_only=adapter_only,
        measured=read_measured(folder),
        licence=licence or ("mit" if model in shipped_models() else ""),
    )
    return read_own_card(folder) or made
