"""Files, and folders of them, that appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError

from unseen.errors import InputError


def write_whole(path: Path, write: Callable[[Path], object], *, synced: bool = False) -> None:
    """Write a file beside its place, then move it there; its folder is made if need be.

    Args:
        path: the file.
        write: writes to the path it is given, which has the same suffix.
        synced: return when it is on the disk, not only on its way: it outlasts a loss of power.

    Raises:
        InputError: the place cannot be written; no part of the file is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written: it is no folder, and none can be made there "
            f"({error.strerror})"
        ) from None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
        os.close(handle)
        try:
            write(Path(name))
            os.chmod(name, 0o666 & ~_umask())
            if synced:
                _sync(Path(name))
            os.replace(name, path)
            if synced:
                _sync(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written: {reason}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_whole(path, lambda part: _fill(part, text))


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Write a folder of text files beside its place, then move it there.

    A folder that is there already is replaced, and must hold files of these names only.

    Args:
        folder: the folder.
        texts: the contents by name.

    Raises:
        InputError: the place cannot be written, or holds something else; it is as it was.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
        new, old = part / "new", part / "old"
        try:
            new.mkdir()
            for name, text in texts.items():
                _fill(new / name, text)
            if folder.exists():
                os.replace(folder, old)
                if strangers := {path.name for path in old.iterdir()} - texts.keys():
                    raise InputError(f"{folder} also holds {sorted(strangers)[0]}: it is kept")
            os.replace(new, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
        finally:
            for files in (new, old):
                if files.exists():
                    for name in texts:
                        (files / name).unlink(missing_ok=True)
                    files.rmdir()
            part.rmdir()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder} cannot be written: {reason}") from None


def refuse_existing(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder where a model already lies, if only a half-trained one.

    Args:
        folder: where a model is to be written.
        overwrite: refuse no model.

    Raises:
        InputError: a model, or a training's states, are there; or a file, or what is no model of
            unseen, which are always refused.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    if overwrite:
        refuse_foreign(folder)
        return
    if (folder / "states").exists():
        raise InputError(
            f"{folder} holds a training that was stopped: --resume goes on, --overwrite begins anew"
        )
    names = ("config.json", "halfway", "model.safetensors")
    taken = next((folder / name for name in names if (folder / name).exists()), None)
    if taken:
        raise InputError(f"{taken} is of a model: name another folder, or --overwrite")


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder whose ``config.json``, of which others have one too, is not of a model here.

    Raises:
        InputError: it is of something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("format") != "unseen-model":
        raise InputError(f"{path} is of no model of unseen, and is kept: name another folder")


def _fill(path: Path, text: str) -> None:
    # names of files need not be UTF-8; as \udc.., which JSON reads, bytes of such a name are text
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
