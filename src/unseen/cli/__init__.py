"""The command line: a verb a function, help from its signature and docstring.

Results go to standard output, everything else to standard error. torch is imported when a verb
runs, not for ``--help``.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from unseen.cli.bench import bench
from unseen.cli.calibrate import calibrate
from unseen.cli.card import card
from unseen.cli.convert import convert
from unseen.cli.data import data
from unseen.cli.demo import demo
from unseen.cli.doctor import doctor
from unseen.cli.efficiency import efficiency
from unseen.cli.embed import embed
from unseen.cli.evaluate import evaluate
from unseen.cli.export import export
from unseen.cli.options import complain, wants_colour
from unseen.cli.push import push
from unseen.cli.recipes import recipes
from unseen.cli.reproduce import reproduce
from unseen.cli.runs import runs
from unseen.cli.segment import segment
from unseen.cli.serve import serve
from unseen.cli.train import train
from unseen.errors import InputError, MissingExtra, ran_out_of_memory
from unseen.interruption import Interrupted

VERBS: dict[str, Callable[..., None]] = {
    "segment": segment,
    "serve": serve,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "train": train,
    "runs": runs,
    "convert": convert,
    "export": export,
    "recipes": recipes,
    "reproduce": reproduce,
    "embed": embed,
    "efficiency": efficiency,
    "bench": bench,
    "card": card,
    "push": push,
    "demo": demo,
}

FAMILIES: dict[str, typer.Typer] = {"data": data, "doctor": doctor}
"""Verbs that have verbs of their own."""

app = typer.Typer(
    name="unseen",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        print(f"unseen {version('unseen')}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    asked: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Name every pixel of a picture, also with classes nobody ever labelled.

    \b
    unseen segment examples/wall.png --labels "giraffe, sky, brick wall"
    unseen segment --help
    unseen doctor
    """


for name, verb in VERBS.items():
    app.command(name)(verb)
for name, family in FAMILIES.items():
    app.add_typer(family, name=name)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        complain(f"warning: {message}")

    warnings.showwarning = show
    if "_UNSEEN_COMPLETE" in os.environ:  # typer wraps help of options, and fish offers each line
        os.environ["COLUMNS"] = "1000"
    try:
        app(prog_name="unseen", color=None if wants_colour() else False)
    except (InputError, MissingExtra) as error:
        complain(f"error: {error}")
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        complain("error: memory ran out: take smaller or fewer pictures at a time, or cut windows")
        sys.exit(2)
    except Interrupted as stop:
        complain(str(stop))
        sys.exit(128 + stop.number)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer turns the one into the other
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        complain("interrupted: what was written before is whole, the rest is missing")
        sys.exit(130)
