"""Signals that ask a training to end: it saves what it has, then stops."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""What asks for an end. SIGUSR1 is what SLURM can send before it ends a job; Windows has none."""

_AGAIN = 1.0
"""Seconds after which a second interrupt is meant as one: launchers pass the first one on."""


class Interrupted(Exception):
    """A training was asked to end and did; what it had learned is saved.

    Args:
        number: the signal.
        message: where it stopped, and how it goes on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)  # both, or what crosses processes could not be read
        self.number = number

    def __str__(self) -> str:
        return str(self.args[1])


class Request:
    """Whether an end was asked for, and by which signal."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; a second interrupt from the keyboard ends everything at once."""
        again = self.number == number == signal.SIGINT
        if again and time.monotonic() - self._since > _AGAIN:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._since = number, time.monotonic()


@contextmanager
def watch() -> Iterator[Request]:
    """Note ``SIGNALS`` while within.

    Outside the main thread, where signals cannot be caught, nothing is ever noted.
    """
    request = Request()
    caught = threading.current_thread() is threading.main_thread()
    numbers = SIGNALS if caught else ()
    before = {number: signal.signal(number, request.take) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
