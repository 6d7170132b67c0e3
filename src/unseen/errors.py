"""What a user can get wrong, as one sentence: what was expected, what came, what to do."""

import importlib
from types import ModuleType


class InputError(ValueError):
    """Input that cannot be used. The command line prints its sentence and exits with code 2."""


class MissingExtra(ImportError):
    """A command needs an optional dependency. Its sentence names the extra to install."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this needs {module.partition('.')[0]}, which is not installed: "
            f"pip install 'unseen[{extra}]'"
        ) from error
