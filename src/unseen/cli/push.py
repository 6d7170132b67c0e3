"""``unseen push``."""

import json as json_module
from typing import Annotated

import typer

from unseen.cli.card import AdapterOnly, Licence, Pushed, write_card
from unseen.cli.options import Json


def push(
    model: Pushed,
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Made if it is not there.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Hide a repository that is made.")
    ] = False,
    adapter_only: AdapterOnly = False,
    licence: Licence = "",
    json: Json = False,
) -> None:
    """Put a model on the Hugging Face Hub, with a card that says what it is (see 'unseen card').

    Needs a login: 'hf auth login', or the variable HF_TOKEN.

    \b
    unseen push runs/mine owner/name --private --license mit
    """
    card = write_card(model, repository, licence, adapter_only=adapter_only)
    from unseen.segmenter import Segmenter

    address = Segmenter.from_pretrained(model, device="cpu").push_to_hub(
        repository, private=private, adapter_only=adapter_only, card=card
    )
    if json:
        print(json_module.dumps({"model": model, "repository": repository, "address": address}))
    else:
        print(
            f"{address} holds the model; use it with: unseen segment PICTURE --model {repository}"
        )
