"""What is done of a long work, written down item by item, so that a killed one can go on.

A folder holds ``journal.json``, the conditions of the work, and files of one line an item. Every
process of every run writes a file of its own, so that any number may share the folder; a line that
is not whole, because its writer was killed, counts as not written.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from unseen.errors import InputError
from unseen.writing import write_text

_FILE = "journal.json"


class Journal:
    """The journal of one work.

    Args:
        folder: where it is, or will be.
        conditions: all that the work depends on but for the items themselves, as JSON takes it,
            by names that a user knows.

    Raises:
        InputError: the folder cannot be written, or is the journal of a work under others.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        self._text = json.dumps(conditions, indent=1)
        self._folder, self._conditions = folder, json.loads(self._text)
        self._known = self._compare()
        # of what a file holds the lines is in its name too: no race of two runs can mix them
        mark = hashlib.sha256(self._text.encode()).hexdigest()[:16]
        self._file = folder / f"{mark}-{uuid.uuid4().hex[:16]}.jsonl"
        self._lines: dict[str, list[bytes]] = {}
        for file in sorted(folder.glob(f"{mark}-*.jsonl")):
            for line in file.read_bytes().splitlines():
                try:
                    self._lines.setdefault(json.loads(line)["item"], []).append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # torn

    def _compare(self) -> bool:
        """Tell whether the folder is a journal already; refuse it if it is another one."""
        path = self._folder / _FILE
        if not path.exists():
            return False
        try:
            written = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise InputError(f"{path} is not whole: name another folder for the journal") from None
        both = written | self._conditions
        differing = [name for name in both if written.get(name) != self._conditions.get(name)]
        if differing:
            raise InputError(
                f"{self._folder} is the journal of another run, with other "
                f"{', '.join(differing)}: name another folder, or remove this one"
            )
        return True

    def _write(self, line: Mapping[str, Any]) -> None:
        if not self._known:
            if not self._compare():
                write_text(self._folder / _FILE, self._text + "\n")
            self._known = True
        try:
            with open(self._file, "ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{self._file} cannot be written: {error.strerror}") from None

    def recall(self, item: str, make: Callable[[], Any], files: Collection[Path] = ()) -> Any:
        """Return what was made of an item, or make it now and write it down.

        Args:
            item: what it is called; another content must have another name.
            make: makes it, as JSON takes it; None is not written down.
            files: that are made on the way; where one is not as it was, the item is made again.

        Raises:
            InputError: the folder cannot be written.
        """
        for line in map(json.loads, self._lines.get(item, ())):
            if line["files"] == [digest(file) for file in files]:
                return line["made"]
        made = make()
        if made is not None:
            self._write({"item": item, "made": made, "files": [digest(file) for file in files]})
        return made


def digest(path: Path) -> str:
    """Return a hash of what a file holds; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return ""
