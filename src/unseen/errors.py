"""What a user can get wrong, as one sentence: what was expected, what came, what to do."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """Input that cannot be used. The command line prints its sentence and exits with code 2."""


class MissingExtra(ImportError):
    """A command needs an optional dependency. Its sentence names the extra to install."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, of the machine or of a GPU."""
    # torch has a class of its own for a GPU alone
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'x'?`` for the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this needs {module.partition('.')[0]}, which is not installed: "
            f"pip install 'unseen[{extra}]'"
        ) from error
