"""A progress bar on standard error, where a person is looking."""

import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Go through items behind a bar with the time left; silent unless on a terminal.

    Args:
        items: what to go through.
        description: what is being done.
        total: how many items there are, where ``len`` cannot tell.
    """
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    return rich_track(items, description, total=total, console=console, transient=True)
