"""``unseen reproduce``."""

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from unseen.cli.completion import contenders
from unseen.cli.options import Device, Json, read_seeds, say
from unseen.errors import InputError, did_you_mean
from unseen.vocabulary import list_words


def reproduce(
    what: Annotated[
        Literal["table", "claims", "all"], typer.Argument(help="Which of the two tables.")
    ] = "all",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, with commas.")] = "0,1,2",
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            help="Only these methods or topics of claims, with commas.",
            autocompletion=contenders,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder with a JSON file for each run.")
    ] = Path("runs/reproduction"),
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Train what is missing, or only print.")
    ] = True,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at a time.")] = 1,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Only this many scenes a split.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of every training.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Put the papers' claims to the test in the miniature world.

    \b
    unseen reproduce table --only zegclip,maskclip --seeds 0
    unseen reproduce claims --jobs 2
    unseen reproduce --no-run --out docs/results/reproduction

    A run whose file is there is not done again; stopped, the command goes on where it was.
    """
    from dataclasses import replace

    from unseen.claims import CLAIMS, TABLE, TOPICS
    from unseen.reproduction import claims_table, execute_all, load, needed, table, trials

    known = list(dict.fromkeys([*TABLE, *TOPICS]))
    names = known if only is None else list_words(only)
    if not names:
        raise InputError(f"--only names nothing: {', '.join(known)}")
    if strange := [name for name in names if name not in known]:
        raise InputError(
            f"there is no method and no topic {strange[0]!r}{did_you_mean(strange[0], known)} "
            f"(methods: {', '.join(TABLE)}; topics: {', '.join(TOPICS)})"
        )
    rows = [name for name in names if name in TABLE] if what != "claims" else []
    claims = [one for one in CLAIMS if one.topic in names] if what != "table" else []
    numbers = read_seeds(seeds)
    listed = [
        replace(one, steps=steps, count=count)
        for one in dict.fromkeys([*trials(rows, numbers), *needed(claims, numbers)])
    ]
    if not listed:
        raise InputError(f"{', '.join(names)} is not of the {what}: leave {what!r} out")
    if run:
        execute_all(listed, out, jobs=jobs, device=device, tell=say)
    results = load(out, listed)
    if missing := len(listed) - len(results):
        say(f"note: {missing} of {len(listed)} runs are not in {out}, or were made otherwise")
    if json:
        print(json_module.dumps([results[one] for one in listed if one in results], indent=1))
        return
    shown = {one: facts for one, facts in results.items() if one.contender in rows}
    parts = [table(shown)] if rows else []
    parts += [claims_table(results, claims)] if claims else []
    print("\n\n".join(parts))
