"""A progress bar on standard error, where a person is looking."""

import sys
from collections.abc import Callable, Iterable, Sized
from typing import TypeVar

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    *,
    done: int = 0,
    status: Callable[[], str] = str,
    quiet: bool = False,
) -> Iterable[Item]:
    """Go through items behind a bar with the time left; silent unless on a terminal.

    Args:
        items: what to go through.
        description: what is being done.
        total: how many items there are, where ``len`` cannot tell.
        done: how many of them were dealt with before.
        status: what else to show, asked for at every item.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}"), TextColumn("{task.fields[status]}")
    columns = text[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text[1]
    same = sys.stdout.isatty()  # or what is printed meanwhile would go to standard error
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=same) as bar:
        count = len(items) if total is None and isinstance(items, Sized) else total
        task = bar.add_task(description, total=count, completed=done, status=status())
        for item in items:
            yield item
            bar.update(task, advance=1, status=status())
