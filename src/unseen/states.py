"""States of trainings on disk: whole or not at all, each with a checksum in its name."""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unseen.errors import InputError
from unseen.writing import write_whole

_NAME = re.compile(r"state-(\d{8})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True, order=True)
class StateFile:
    """A state on disk.

    Args:
        step: the steps taken before it.
        checksum: of the file's bytes.
        path: where it lies.
    """

    step: int
    checksum: str
    path: Path


def list_states(folder: Path) -> list[StateFile]:
    """Return the states of a folder, newest first."""
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("state-*.pt")]
    states = [StateFile(int(name[1]), name[2], path) for path, name in found if name]
    return sorted(states, reverse=True)


def save_state(folder: Path, step: int, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write a state; older ones than the ``keep`` newest go once it is on disk.

    Args:
        folder: of the states.
        step: the steps taken.
        state: tensors, numbers, text, and dictionaries and lists of these.
        keep: how many stay, at least 1.

    Raises:
        InputError: the folder cannot be written; the states that were there still are.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path = folder / f"state-{step:08d}-{_checksum(content)}.pt"
    write_whole(path, lambda part: part.write_bytes(content), synced=True)
    for old in list_states(folder)[keep:]:
        old.path.unlink(missing_ok=True)
    return path


def read_newest(folder: Path) -> tuple[StateFile, dict[str, Any]] | None:
    """Read the newest state that is whole, or return None; those that are not are warned of."""
    for file in list_states(folder):
        try:
            content = file.path.read_bytes()
        except OSError as error:
            _warn(file, f"cannot be read: {error.strerror}")
            continue
        if _checksum(content) == file.checksum:
            return file, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _warn(file, "is broken, its checksum is another")
    return None


def require_same(state: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with a state of another training.

    Args:
        state: what the state says of its training.
        wanted: what the training is now.
        where: the state's file.

    Raises:
        InputError: the first thing that differs.
    """
    for name in {**state, **wanted}:
        ours, theirs = wanted.get(name), state.get(name)
        if ours != theirs:
            raise InputError(
                f"{where} is of a training with {name} {theirs}, and this one has {ours}: go on as "
                "it began, or begin anew with --overwrite"
            )


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _warn(file: StateFile, what: str) -> None:
    warnings.warn(f"{file.path} {what}: the state before it is used", stacklevel=3)
