"""``unseen runs``."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import Json
from unseen.errors import InputError


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Trainings, or folders of them. [default: runs]")
    ] = None,
    json: Json = False,
) -> None:
    """List trainings: how far they are, their last losses, their scores, in what they differ.

    \b
    unseen runs
    unseen runs runs/zegclip-miniature-inductive runs/cascade-miniature-inductive
    """
    from unseen.runs import compare, find_runs

    found = []
    for folder in folders or [Path("runs")]:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give one that 'unseen train' wrote to")
        found += find_runs(folder)
    if json:
        facts = [asdict(run) | {"folder": str(run.folder)} for run in found]
        print(json_module.dumps(facts, indent=1))
    else:
        print(compare(found))
