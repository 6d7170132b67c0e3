"""A data set of one's own, described in one YAML file (docs/data.md)."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from unseen.data.colours import Colour, ColourTable
from unseen.data.datasets import MaskFolder, pair_up
from unseen.data.published import read_lines
from unseen.errors import InputError, did_you_mean
from unseen.vocabulary import IGNORE, TEMPLATES, Vocabulary, find_vocabulary

SUFFIXES = (".yaml", ".yml")
KEYS = (
    "name",
    "root",
    "names",
    "unseen",
    "stuff",
    "templates",
    "images",
    "masks",
    "label_map",
    "colours",
    "reduce_zero",
    "ignore",
    "splits",
)
SPLIT_KEYS = ("images", "masks", "list")
SCORED = ("test", "val")
"""The splits that are opened when none is named: the first that there is."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would otherwise take the last of keys that repeat."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return what the node maps, or say which key is there twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"{key!r} is there twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def own(
    path: str | Path, split: str | None = None, *, root: str | Path | None = None
) -> MaskFolder:
    """Read the data set that a YAML file describes.

    Args:
        path: the file.
        split: one of its splits; by default ``test``, or else ``val``, or all of it where it has
            no splits.
        root: folder to start from, instead of the file's ``root``.

    Raises:
        InputError: a file that cannot be read, a key it may not have, a value of another kind,
            pictures without label maps or the other way round.
    """
    path = Path(path)
    fields = _read(path)
    try:
        return _open(path, fields, split, root)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def own_vocabulary(path: str | Path) -> Vocabulary:
    """Return the vocabulary of the data set that a YAML file describes.

    Raises:
        InputError: as ``own``, but for the pictures, which are not looked for.
    """
    path = Path(path)
    fields = _read(path)
    try:
        _known(fields, KEYS, "the file")
        return _vocabulary(fields, path.stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def default_split(path: str | Path) -> str | None:
    """Return the split that ``own`` opens by default; ``all`` where there are none, None if it
    would refuse."""
    splits = _read(Path(path)).get("splits")
    return "all" if splits is None else _scored(splits)


def _scored(splits: Mapping[str, Any]) -> str | None:
    return next((name for name in SCORED if name in splits), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"there is no data set file at {path}: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is not YAML{place}: {getattr(error, 'problem', error)}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path} must hold keys and values such as names, images and masks")
    return fields


def _open(
    path: Path, fields: dict[str, Any], split: str | None, root: str | Path | None
) -> MaskFolder:
    _known(fields, KEYS, "the file")
    vocabulary = _vocabulary(fields, path.stem)
    part, called = _split(fields, split)
    folder = Path(root) if root is not None else path.parent / _text(fields, "root", ".")
    if not folder.is_dir():
        raise InputError(f"its root {folder} is no folder: correct it, or give --root")
    for key in ("images", "masks"):
        if key not in part:
            raise InputError(f"{called} needs {key}: a pattern such as {key}/*.png")
    pictures, label_maps = (find_files(folder, _text(part, k)) for k in ("images", "masks"))
    for key, found in (("images", pictures), ("masks", label_maps)):
        if not found:
            raise InputError(f"no file of {folder} fits {key}: {part[key]}")
    if "list" in part:
        listing = folder / _text(part, "list")
        kept = _select(pictures, read_lines(listing), folder, listing)
        pictures = {key: pictures[key] for key in kept}
        label_maps = {key: label_maps[key] for key in kept if key in label_maps}
    return MaskFolder(
        pair_up(pictures, label_maps, called),
        vocabulary,
        reduce_zero=_flag(fields, "reduce_zero"),
        label_map=_label_map(fields, vocabulary),
        ignore=_ids(fields, "ignore"),
        colours=_colours(fields, vocabulary),
    )


def _known(fields: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    for key in fields:
        if key not in keys:
            hint = did_you_mean(key, keys)
            raise InputError(f"{where} has no key {key!r}{hint} (known: {', '.join(keys)})")


def _vocabulary(fields: dict[str, Any], stem: str) -> Vocabulary:
    names = fields.get("names")
    if names is None:
        raise InputError("names is missing: list the classes in label order")
    changes: dict[str, Any] = {"name": _text(fields, "name", stem)}
    for key in ("unseen", "stuff"):
        if key in fields:
            changes[key] = _words(fields, key)
    if "templates" in fields:
        changes["templates"] = _templates(fields["templates"])
    if isinstance(names, str):  # the name of a vocabulary
        return replace(find_vocabulary(names), **changes)
    return Vocabulary(names=_words(fields, "names"), **changes)


def _templates(given: object) -> tuple[str, ...]:
    if isinstance(given, str) and given in TEMPLATES:
        return TEMPLATES[given]
    if isinstance(given, list) and given and all(isinstance(t, str) for t in given):
        if all(t.count("{}") == 1 == t.count("{") == t.count("}") for t in given):
            return tuple(given)
    raise InputError(
        f"templates must be {' or '.join(TEMPLATES)}, or a list of sentences with one {{}} each, "
        f"got {given!r}"
    )


def _split(fields: dict[str, Any], split: str | None) -> tuple[dict[str, Any], str]:
    """Return the patterns of a split, and what to call it in sentences."""
    general: dict[str, Any] = {key: fields[key] for key in ("images", "masks") if key in fields}
    splits = fields.get("splits")
    if splits is None:
        if split not in (None, "all"):
            raise InputError(
                f"it has no splits, so there is no {split!r}: add splits: {split}: with its own "
                "images and masks, or its own list"
            )
        return general, "the data set"
    if not isinstance(splits, dict) or not all(isinstance(s, dict) for s in splits.values()):
        raise InputError("splits must hold splits such as train and val, each with keys and values")
    if split is None:
        split = _scored(splits)
    if split not in splits:
        wanted = f"split {split!r}" if split else "split test or val to be scored"
        raise InputError(f"it has no {wanted}: its splits are {', '.join(map(str, splits))}")
    _known(splits[split], SPLIT_KEYS, f"the split {split}")
    return general | splits[split], f"the split {split}"


def _label_map(fields: dict[str, Any], vocabulary: Vocabulary) -> dict[int, int] | None:
    given = fields.get("label_map")
    if given is None:
        return None
    for other in ("reduce_zero", "colours"):
        if fields.get(other):
            raise InputError(f"label_map and {other} exclude each other: leave one out")
    if not isinstance(given, dict) or not all(_is_id(key) for key in given):
        raise InputError(
            "label_map must say what ids from 0 to 255 mean, such as 7: grass or 0: ignore, "
            f"got {given!r}"
        )
    return {key: _label(name, vocabulary, "label_map") for key, name in given.items()}


def _colours(fields: dict[str, Any], vocabulary: Vocabulary) -> ColourTable | None:
    given = fields.get("colours")
    if given is None:
        return None
    if fields.get("reduce_zero") or "ignore" in fields:
        raise InputError("colours need no reduce_zero and no ignore: map a colour to ignore")
    if not isinstance(given, dict) or not given:
        raise InputError("colours must say what they mean, such as '#6b8e23': grass")
    labels = {_colour(key): _label(name, vocabulary, "colours") for key, name in given.items()}
    return ColourTable(labels)


def _colour(text: object) -> Colour:
    match = re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", str(text))
    if not match:
        raise InputError(f"colours are written '#rrggbb', with the quotes, got {text!r}")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue


def _label(name: object, vocabulary: Vocabulary, where: str) -> int:
    if name == "ignore":
        return IGNORE
    if name not in vocabulary.names:
        hint = did_you_mean(name, vocabulary.names)
        raise InputError(f"{where} names {name!r}, which is not among names{hint}")
    return vocabulary.names.index(str(name))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _ids(fields: dict[str, Any], key: str) -> tuple[int, ...]:
    given = fields.get(key, [])
    given = given if isinstance(given, list) else [given]
    if not all(_is_id(value) for value in given):
        raise InputError(f"{key} must be ids from 0 to 255, got {fields[key]!r}")
    return tuple(given)


def _flag(fields: dict[str, Any], key: str) -> bool:
    given = fields.get(key, False)
    if not isinstance(given, bool):
        raise InputError(f"{key} must be true or false, got {given!r}")
    return given


def _text(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    given = fields.get(key, default)
    if not isinstance(given, str) or not given:
        raise InputError(f"{key} must be text, got {given!r}")
    return given


def _words(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    given = fields[key] if fields[key] is not None else []
    if not isinstance(given, list):
        raise InputError(f"{key} must be a list of names, got {given!r}")
    strangers = [name for name in given if not isinstance(name, str)]
    if strangers:
        raise InputError(
            f"{key} holds {strangers[0]!r}, which YAML does not read as a word: put it in quotes"
        )
    return tuple(" ".join(name.split()) for name in given)


def _select(
    pictures: Mapping[str, Path], names: list[str], folder: Path, listing: Path
) -> list[str]:
    """Return the keys of the pictures that a list names by key or path, with suffix or without."""
    keys: dict[str, str] = {}
    for key, path in pictures.items():
        relative = path.relative_to(folder) if path.is_relative_to(folder) else path
        for alias in (relative.as_posix(), str(relative.with_suffix("")), key + path.suffix, key):
            keys[alias] = key
    missing = [name for name in names if name not in keys]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{listing} names {missing[0]}{more}, not among images: expected what "
            "the stars stand for, or paths from root"
        )
    return list(dict.fromkeys(keys[name] for name in names))


def find_files(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the files that fit a pattern, by what its stars stand for.

    Args:
        folder: where to start.
        pattern: a path with ``*`` (not beyond a slash), ``**/`` (any folders, or none) and
            ``{jpg,png}`` (one of them; no star).

    Raises:
        InputError: two files differ only in the braces.
    """
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*{]", part)), len(parts) - 1)
    start = folder.joinpath(*parts[:fixed]) if parts[0] else Path("/", *parts[:fixed])
    rest = "/".join(parts[fixed:])
    expression = re.compile(_expression(rest))
    found: dict[str, Path] = {}
    within = {str(start): {os.path.realpath(start)}}  # the real folders that a path goes through
    for above, folders, files in os.walk(start, followlinks=True):
        if "/" not in rest:
            folders.clear()
        way = within.pop(above)
        for name in list(folders):
            below = os.path.join(above, name)
            if (real := os.path.realpath(below)) in way:  # a link back to where it lies
                folders.remove(name)
            else:
                within[below] = way | {real}
        for file in files:
            path = Path(above, file)
            match = expression.fullmatch(path.relative_to(start).as_posix())
            if not match:
                continue
            key = "/".join(group for group in match.groups() if group)
            if key in found:
                raise InputError(f"{found[key]} and {path} are one picture twice: remove one")
            found[key] = path
    return found


def _expression(pattern: str) -> str:
    """Turn a pattern into a regular expression, a group a star."""
    result = ""
    for token in re.split(r"(\*\*/|\*\*|\*|\{[^{}]*\})", pattern):
        if token == "**/":
            result += "(?:(.*)/)?"
        elif token == "**":
            result += "(.*)"
        elif token == "*":
            result += "([^/]*)"
        elif token.startswith("{"):
            choices = "|".join(re.escape(choice) for choice in token[1:-1].split(","))
            result += f"(?:{choices})"
        else:
            result += re.escape(token)
    return result
