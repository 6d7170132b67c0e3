"""Segment millions of pictures with Ray Data, shard by shard, on a laptop or a cluster.

    python examples/segment_millions.py photos/ --labels "cat, sofa, floor" --model zegclip-coco \
        --out masks/

INPUT is a folder of pictures, of WebDataset tar files or of Parquet files, at any depth, or a
quoted glob of such files. A shard is a tar file, a Parquet file, or --shard-size pictures of a
folder. For each, OUT receives a shard of masks of the same kind once it is finished, and a JSON
file beside it, which lists the pictures that could not be read. Give the same command again to go
on after a stop: finished shards are not touched.

Reading, segmenting and writing are stages of one stream. Masks arrive in the order of the pictures,
so that one shard is written at a time; Ray Data stops reading ahead where its store of objects is
full, or holds --buffer-gb.
"""

import argparse
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from unseen import InputError, MissingExtra, Segmenter, TextEmbeddings
from unseen.data.images import SUFFIXES, decode_image
from unseen.errors import require
from unseen.writing import write_text

Row = dict[str, Any]


class BrokenShard(Exception):
    """A shard cannot be read to its end."""


# What a shard is made of: pictures as (name, the file's content, why there is none).
# Each kind of shard has a reader, which runs in Ray's tasks, and a writer, which runs here.


def read_folder(files: list[str], root: str, field: str | None) -> Iterator[tuple[str, bytes, str]]:
    for name in files:
        try:
            yield name, Path(root, name).read_bytes(), ""
        except OSError as error:
            yield name, b"", f"{name} cannot be read: {error.strerror}"


def read_tar(files: list[str], root: str, field: str | None) -> Iterator[tuple[str, bytes, str]]:
    (file,) = files
    with open(Path(root, file), "rb") as stream:
        keys = set()
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                folder, base = os.path.split(member.name)
                key, _, extension = base.partition(".")  # as WebDataset divides names
                wanted = extension == field if field else base.lower().endswith(SUFFIXES)
                if not (member.isfile() and key and wanted):
                    continue
                content = tar.extractfile(member)
                assert content is not None
                name = os.path.join(folder, key)
                again = f"there is another picture of {name}: choose one with --field"
                yield name, content.read(), again if name in keys else ""
                keys.add(name)
        stream.seek(-512, os.SEEK_END)
        if stream.read().strip(b"\0"):  # tarfile itself overlooks an end between two members
            raise BrokenShard("it has no end: it was not written or copied whole")


def read_parquet(
    files: list[str], root: str, field: str | None
) -> Iterator[tuple[str, bytes, str]]:
    parquet = require("pyarrow.parquet", extra="ray")
    field = field or "image"
    wanted = {field, "name"}
    with parquet.ParquetFile(Path(root, files[0])) as file:
        columns = file.schema_arrow.names
        if field not in columns:
            raise BrokenShard(
                f"it has no column {field}: choose of {', '.join(columns)} by --field"
            )
        number = 0
        for batch in file.iter_batches(16, columns=[name for name in columns if name in wanted]):
            for row in batch.to_pylist():
                picture = row[field]
                if isinstance(picture, dict):  # as Hugging Face's data sets store pictures
                    picture = picture.get("bytes")
                name = str(row.get("name") or f"{number:08d}")
                yield name, picture or b"", "" if picture else f"row {number} has no picture"
                number += 1


def write_folder(part: Path, rows: Iterable[Row]) -> None:
    for row in rows:
        for suffix, content in (("mask.png", row["mask"]), ("json", row["found"].encode())):
            path = part / f"{row['name']}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_tar(part: Path, rows: Iterable[Row]) -> None:
    with tarfile.open(part, "w") as tar:
        for row in rows:
            for suffix, content in (("mask.png", row["mask"]), ("json", row["found"].encode())):
                member = tarfile.TarInfo(f"{row['name']}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(part: Path, rows: Iterable[Row]) -> None:
    arrow = require("pyarrow", extra="ray")
    schema = arrow.schema(
        {"name": arrow.string(), "mask": arrow.binary(), "found": arrow.string()}.items()
    )
    rows = ({name: row[name] for name in schema.names} for row in rows)
    with require("pyarrow.parquet", extra="ray").ParquetWriter(part, schema) as writer:
        while some := list(islice(rows, 256)):
            writer.write_table(arrow.Table.from_pylist(some, schema=schema))


class Kind(NamedTuple):
    """A kind of shards: how its files end, and what reads and writes them."""

    suffixes: tuple[str, ...]
    suffix: str
    read: Callable[[list[str], str, str | None], Iterator[tuple[str, bytes, str]]]
    write: Callable[[Path, Iterable[Row]], None]


KINDS = {
    "pictures": Kind(SUFFIXES, "", read_folder, write_folder),
    "tar files": Kind((".tar",), ".tar", read_tar, write_tar),
    "Parquet files": Kind((".parquet",), ".parquet", read_parquet, write_parquet),
}


def list_shards(source: str, shard_size: int) -> tuple[Kind, str, dict[str, list[str]]]:
    """List the shards of INPUT.

    Returns:
        Their kind, the folder they are in, and the files of each by the shard's name.

    Raises:
        InputError: nothing is there, or files of several kinds.
    """
    if os.path.isdir(source):
        root, pattern = source, "**"
    else:
        root = os.path.dirname(source if os.path.exists(source) else re.split(r"[*?[]", source)[0])
        pattern = os.path.relpath(source, root or ".")
    root = os.path.abspath(root)
    names = [pattern] if os.path.isfile(source) else glob(pattern, root_dir=root, recursive=True)
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        for kind, (suffixes, *_) in KINDS.items():
            if name.lower().endswith(suffixes) and not os.path.isdir(os.path.join(root, name)):
                kinds.setdefault(kind, []).append(name)
    if not kinds:
        raise InputError(
            f"there are no shards at {source}: expected a folder or a quoted glob of "
            f"pictures ({', '.join(SUFFIXES)}), .tar or .parquet files"
        )
    if len(kinds) > 1:
        raise InputError(
            f"{source} holds {' and '.join(kinds)}: choose with a quoted glob, as '**/*.tar'"
        )
    ((title, files),) = kinds.items()
    if title == "pictures":
        parts = [files[i : i + shard_size] for i in range(0, len(files), shard_size)]
        return KINDS[title], root, {f"{i:06d}": part for i, part in enumerate(parts)}
    return KINDS[title], root, {os.path.splitext(file)[0]: [file] for file in files}


def describe(
    options: argparse.Namespace, labels: Sequence[str], kind: Kind, shards: dict[str, list[str]]
) -> dict[str, Any]:
    """Say what shards are made with, as far as it must be the same for all in OUT."""
    facts = {
        "input": os.path.abspath(options.input),
        "model": options.model,
        "labels": list(labels),
        "field": options.field,
    }
    if not kind.suffix:  # one picture more or less would move all others to other shards
        names = "\n".join(name for files in shards.values() for name in files)
        facts["shard size"] = options.shard_size
        facts["pictures"] = hashlib.sha256(os.fsencode(names)).hexdigest()
    return facts


def claim(out: Path, root: str, facts: dict[str, Any]) -> TextIO:
    """Write down what the shards in OUT are made with, or compare it with what was written.

    Returns:
        The file; while it is open, OUT is nobody else's.

    Raises:
        InputError: OUT was begun with something else, is not ours, or another run's just now.
    """
    path = out / "made-with.json"
    if out.resolve() != Path(root).resolve() and out.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(f"{out} lies in {root}, all of which is read: give another --out")
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in facts if facts[name] != before.get(name)]:
            raise InputError(
                f"{out} was begun with other {' and '.join(changed)}: give what {path} says, or "
                "another --out"
            )
    elif out.resolve() == Path(root).resolve() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} holds other files: give an empty or a new folder as --out")
    else:
        write_text(path, json.dumps(facts, indent=1, ensure_ascii=False))
    held = path.open(encoding="utf-8")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise InputError(
            f"another run is writing to {out}: wait for it or give another --out"
        ) from None
    return held


# The three stages


def read(shard: Row, *, kind: Kind, root: str, field: str | None) -> Iterator[Row]:
    """Read a shard's pictures; a row without a name says that the shard itself is broken."""
    row, empty = {"shard": shard["shard"]}, True
    try:
        for name, content, reason in kind.read(list(shard["files"]), root, field):
            empty = False
            yield row | {"name": name, "content": content, "reason": reason}
        reason = "it holds no pictures" if empty else ""
    except (OSError, ValueError, tarfile.TarError, BrokenShard) as error:  # Arrow's are values'
        reason = str(error)
    if reason:
        yield row | {"name": "", "content": b"", "reason": reason}


class Segment:
    """Segments pictures; one is made in each of Ray's workers and keeps its model."""

    def __init__(self, model: str, device: str, labels: TextEmbeddings) -> None:
        self.segmenter, self.labels = Segmenter.from_pretrained(model, device=device), labels

    def __call__(self, row: Row) -> Row:
        answer = {**row, "mask": b"", "found": ""}
        content = answer.pop("content")
        if row["reason"]:
            return answer
        try:
            picture = decode_image(content, row["name"])
        except InputError as error:
            return answer | {"reason": str(error)}
        result = self.segmenter(picture, self.labels)  # what goes wrong here stops everything
        mask = io.BytesIO()
        result.mask_image().save(mask, "PNG")
        found = json.dumps(result.regions(), ensure_ascii=False)
        return answer | {"mask": mask.getvalue(), "found": found}


def write(target: Path, kind: Kind, rows: Iterable[Row]) -> int:
    """Write a shard beside its place, then move it there; return how many pictures it is of.

    Raises:
        BrokenShard: it could not be read, and is not there now.
    """
    part = target.with_name(f".part-{target.name}")  # what a stop leaves is replaced next time
    remove(part)
    failed: list[dict[str, str]] = []
    count = 0

    def segmented() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            if not row["name"]:
                raise BrokenShard(row["reason"])
            count += 1
            if row["reason"]:
                failed.append({"name": row["name"], "reason": row["reason"]})
            else:
                yield row

    (part.parent if kind.suffix else part).mkdir(parents=True, exist_ok=True)
    try:
        kind.write(part, segmented())
        facts = {"pictures": count, "failed": failed}
        write_text(listing(target), json.dumps(facts, indent=1, ensure_ascii=False))
        os.replace(part, target)
    except BaseException:
        remove(part)
        raise
    return count


def listing(target: Path) -> Path:
    """Return where the JSON beside a shard is."""
    return target.with_name(f"{target.name}.json")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def stream(
    todo: list[Row], kind: Kind, root: str, labels: TextEmbeddings, options: argparse.Namespace
) -> Iterator[Row]:
    """Have Ray Data read and segment shards; their pictures come back in order."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # or Ray reports on its use to its makers
    ray = require("ray", extra="ray")
    data = require("ray.data", extra="ray")
    address = os.environ.get("RAY_ADDRESS", "local")
    ray.init(address=address, include_dashboard=False, logging_level="warning")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    if options.buffer_gb:
        context.execution_options.resource_limits = data.ExecutionResources(
            object_store_memory=options.buffer_gb * 2**30
        )
    there = {unit: int(count) for unit, count in ray.cluster_resources().items()}
    device = options.device
    if device == "auto":
        device = "cuda" if there.get("GPU") else "cpu"
    unit = "CPU" if device == "cpu" else "GPU"
    if not there.get(unit):
        raise InputError("Ray has no GPU here: use --device cpu")
    workers = options.workers or there[unit]
    return (
        data.from_items(todo, override_num_blocks=len(todo))
        .flat_map(
            read,
            fn_kwargs={"kind": kind, "root": root, "field": options.field},
            compute=data.TaskPoolStrategy(size=min(workers, len(todo))),
            num_cpus=0,  # waits for the disk; workers may take all processors
        )
        .map(
            Segment,
            fn_constructor_args=(options.model, device, labels),
            compute=data.ActorPoolStrategy(size=workers),
            **{f"num_{unit.lower()}s": 1},
        )
        .iter_rows()
    )


def segment(options: argparse.Namespace) -> None:
    """Do what the command says."""
    kind, root, shards = list_shards(options.input, options.shard_size)
    # Ray's workers load the model themselves; here only a mistake shows soon, and labels are read
    segmenter = Segmenter.from_pretrained(options.model, device="cpu")
    labels = segmenter.embed(options.labels)
    if os.path.isdir(options.model):
        options.model = os.path.abspath(options.model)
    facts = describe(options, labels.vocabulary.names, kind, shards)
    facts["weights"] = segmenter.backend.digest()
    with claim(options.out, root, facts):
        finish(options, kind, root, shards, labels)


def finish(
    options: argparse.Namespace,
    kind: Kind,
    root: str,
    shards: dict[str, list[str]],
    labels: TextEmbeddings,
) -> None:
    """Write the shards that are not there, then say what is.

    Raises:
        InputError: some could not be read.
    """
    targets = {shard: options.out / f"{shard}{kind.suffix}" for shard in shards}
    todo = [
        {"shard": shard, "files": files}
        for shard, files in shards.items()
        if not targets[shard].exists()
    ]
    print(f"{len(shards) - len(todo)} of {len(shards)} shards are finished", flush=True)
    start, done, broken = time.perf_counter(), 0, []
    rows = stream(todo, kind, root, labels, options) if todo else iter(())
    for number, (shard, pictures) in enumerate(groupby(rows, itemgetter("shard")), start=1):
        try:
            done += write(targets[shard], kind, pictures)
        except BrokenShard as error:
            broken.append(f"{shard}: {error}")
        speed = done / (time.perf_counter() - start)
        print(f"{number} of {len(todo)} shards, {speed:.1f} pictures/s", flush=True)

    written = [listing(target) for target in targets.values() if target.exists()]
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in written]
    failed = sum(len(summary["failed"]) for summary in summaries)
    total = sum(summary["pictures"] for summary in summaries)
    print(
        f"{total - failed} pictures are segmented, {failed} are not and listed beside their shard"
    )
    if broken:
        raise InputError(
            f"{len(broken)} of {len(shards)} shards could not be read and are not finished: mend "
            f"or remove them, then give this command again ({'; '.join(broken[:3])})"
        )


def positive(kind: type) -> Callable[[str], Any]:
    """Return what reads a number above 0 of a kind."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {value}")
        return value

    return number


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="folder, file or quoted glob")
    parser.add_argument("--labels", required=True, help="words, a file of them, or a vocabulary")
    parser.add_argument("--model", required=True, help="folder of a model, or a shipped name")
    parser.add_argument("--out", required=True, type=Path, help="folder of the finished shards")
    parser.add_argument(
        "--shard-size", type=positive(int), default=256, help="pictures of a folder"
    )
    parser.add_argument("--workers", type=positive(int), help="default: one a processor, or a GPU")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--buffer-gb", type=positive(float), help="that stages may hold between them"
    )
    parser.add_argument(
        "--field",
        help="where the picture is: the column of Parquet files (default: image), or the "
        "extension in tar files (default: any of a picture)",
    )
    return parser.parse_args(arguments)


def main() -> None:
    try:
        segment(parse())
    except (InputError, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, say; Ray's own errors tell of the worker's
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: give the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
