"""``unseen doctor``."""

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from unseen.cli.completion import datasets
from unseen.cli.doctor_checkpoint import checkpoint
from unseen.cli.options import Json, paint, say
from unseen.errors import InputError

if TYPE_CHECKING:
    from unseen.data.doctor import Examination


class _Family(TyperGroup):
    """Looks at the environment where nothing else is named."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if not context.resilient_parsing and args in ([], ["--json"]):
            args = ["environment", *args]
        return super().parse_args(context, args)


doctor = typer.Typer(
    cls=_Family,
    help="Look for what goes wrong in silence: here (without a verb), in data, in weights.\n\n"
    "\b\nunseen doctor\nunseen doctor data voc --root data\nunseen doctor checkpoint FILE",
    rich_markup_mode=None,
)
doctor.command("checkpoint")(checkpoint)


@doctor.command()
def environment(json: Json = False) -> None:
    """Say what is installed, for which extra, what the machine computes with, and what to do.

    Exit code 1 tells of what is broken; notes tell of what could be better.

    \b
    unseen doctor environment
    """
    from unseen.environment import examine

    found = examine()
    if json:
        print(json_module.dumps(found.to_dict(), indent=1))
    else:
        print("\n".join(paint(line, sys.stdout) for line in found.describe()))
    if not found.is_healthy:
        raise typer.Exit(1)


@doctor.command()
def data(
    name: Annotated[
        str,
        typer.Argument(
            help="Data set, or a YAML file that describes one.", autocompletion=datasets
        ),
    ],
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of a data set that is on disk.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Part of it. [default: what scores are reported on]"),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Look at this many pictures, spread evenly."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Picture of labels painted over some pictures, to be written."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what the label maps of a data set hold, against its names.

    Exit code 1 tells of files that cannot be used, or of ids that have no name.

    \b
    unseen doctor data voc --root data --out sheet.png
    unseen doctor data mine.yaml --split train
    """
    from unseen.catalogue import open_dataset
    from unseen.data.doctor import draw_sheet, examine
    from unseen.segmentation import check_picture_name, save_image

    if out is not None:
        check_picture_name(out)
    dataset = open_dataset(name, split, root=root)
    found = examine(dataset, count)
    if json:
        print(json_module.dumps(found.to_dict(), indent=1))
    else:
        _print(found, name)
    if out is not None:
        try:
            save_image(draw_sheet(dataset), out)
        except InputError as error:  # after a report that says why
            say(f"error: {error}")
            raise typer.Exit(1) from None
        say(f"{out} shows labels over pictures")
    if not found.is_healthy:
        raise typer.Exit(1)


def _print(found: "Examination", name: str) -> None:
    from unseen.data.doctor import describe_sizes
    from unseen.metrics import markdown

    print(
        f"{name}: {len(found.examined)} of {found.total} pictures, "
        f"{len(found.vocabulary)} names ({found.vocabulary.name})"
    )
    for side, (least, median, most) in describe_sizes(found.sizes).items():
        print(f"{side}: {least} to {most}, median {median}")
    print(f"background: {found.background}\n")
    print(markdown(["id", "means", "pixels", "share", "pictures"], found.rows()))
    if found.never:
        print(f"\nnames that no pixel has: {', '.join(found.never)}")
    if found.nameless:
        ids = ", ".join(map(str, found.nameless))
        print(f"\nids without a name: {ids}; say what they mean with label_map, or ignore them")
    for hint in found.hints:
        print(f"\nlook: {hint}")
    if found.problems:
        print(f"\n{len(found.problems)} files that cannot be used:")
        for problem in found.problems:
            print(f"- {problem}")
