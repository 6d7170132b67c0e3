"""``unseen data``."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from unseen.cli.options import Json, say

data = typer.Typer(
    help="Prepare data sets.\n\n\b\nunseen data prepare voc downloads data",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.callback()
def _callback() -> None:
    """Keep ``prepare`` a command of its own."""


@data.command()
def prepare(
    name: Annotated[
        Literal["voc", "context", "coco", "coco-stuff"],
        typer.Argument(help="The data set; coco-stuff is another name of coco."),
    ],
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked downloads.")],
    target: Annotated[
        Path, typer.Argument(help="Folder for the result, to be given as --root; may be SOURCE.")
    ],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy pictures instead of linking to their folder.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn official downloads into what training and evaluation need.

    Which files to download says docs/data.md. What was interrupted is called again and goes on.

    \b
    unseen data prepare voc downloads data
    unseen evaluate MODEL --data voc --root data
    """
    from unseen.data.prepare import prepare as run

    name = "coco" if name == "coco-stuff" else name
    done = run(name, source, target, copy_pictures=copy)
    for warning in done.warnings:
        say(f"warning: {warning}")
    if json:
        print(json_module.dumps({"data": name, **asdict(done), "root": str(done.root)}, indent=1))
        return
    counts = ", ".join(f"{split} {count}" for split, count in done.counts.items())
    print(f"{name}: {counts} pictures; {done.made} label maps made, {done.kept} were there")
    print(f"check it with: unseen doctor data {name} --root {done.root}")
