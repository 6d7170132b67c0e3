"""A progress bar on standard error, where a person is looking."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Go through items behind a bar with time left; silent unless on a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description, console=Console(stderr=True), transient=True)
