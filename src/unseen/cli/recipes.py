"""``unseen recipes``."""

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from unseen.cli.completion import rows
from unseen.cli.options import Json
from unseen.errors import InputError


def recipes(
    action: Annotated[
        Literal["list", "show"], typer.Argument(help="A table of all, or all of one.")
    ] = "list",
    name: Annotated[str | None, typer.Argument(help="What to show.", autocompletion=rows)] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As 'unseen train' takes.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of changes; the others go before it.")
    ] = None,
    json: Json = False,
) -> None:
    """List the trainings and evaluations, with the scores to expect, or show one in full.

    \b
    unseen recipes
    unseen recipes show cascade-context-inductive
    """
    from unseen.recipes import (
        EVALUATIONS,
        RECIPES,
        Evaluation,
        describe,
        find_row,
        override,
        read_assignments,
        read_overrides,
        table,
        to_yaml,
    )

    if action == "list":
        if name is not None:
            raise InputError(f"'list' takes no name: unseen recipes show {name}")
        if json:
            every = map(find_row, (*RECIPES, *EVALUATIONS))
            print(json_module.dumps([describe(row) for row in every], indent=1))
        else:
            print(table())
        return
    if name is None:
        raise InputError("say which recipe to show: unseen recipes show zegclip-voc-inductive")
    row = find_row(name)
    if changes or config:
        if isinstance(row, Evaluation):
            raise InputError(f"{name} is an evaluation, which has nothing to change")
        given = read_overrides(config) if config else {}
        row = override(row, given | read_assignments(changes or ()))
        from unseen.building import check

        check(row)
    facts = describe(row)
    print(json_module.dumps(facts, indent=1) if json else to_yaml(facts).rstrip())
