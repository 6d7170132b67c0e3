"""What a training's folder tells of it: how it was run, its log, its scores."""

import importlib
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unseen.errors import InputError, MissingExtra, did_you_mean, require
from unseen.metrics import Scores, markdown, rounded, show, spread
from unseen.writing import write_text

LOGGERS = ("tensorboard", "trackio", "wandb")


def describe_environment(device: str, processes: int) -> dict[str, Any]:
    """Return what a result may depend on beside the recipe, as JSON takes it."""
    return {
        "unseen": version("unseen"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "command": sys.argv,
    }


def _commit() -> str | None:
    """Return the git commit of the working directory, and whether files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        changed = "" if not git("status", "--porcelain", "-uno") else ", with changes"
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; those that a kill or a full disk cut short are left out."""
    entries: list[dict[str, Any]] = []
    if not path.is_file():
        return entries
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries


class Log:
    """A training's log: a line of JSON a report, and the same to trackers of experiments.

    Args:
        folder: of the training; ``log.jsonl`` lies there.
        step: steps that were taken before; what an earlier log says of later ones is dropped.
        loggers: of ``LOGGERS``.
        facts: the recipe, for the trackers.

    Raises:
        InputError: an unknown logger, or the folder cannot be written.
        MissingExtra: a tracker is not installed.
    """

    def __init__(
        self, folder: Path, *, step: int, loggers: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        self.path = folder / "log.jsonl"
        self.entries = [one for one in read_log(self.path) if one["step"] <= step]
        self._trackers = [_open(name, folder, facts) for name in loggers]
        write_text(self.path, "".join(json.dumps(one) + "\n" for one in self.entries))

    @property
    def seconds(self) -> float:
        """How long the training has taken by the last report."""
        return float(self.entries[-1]["seconds"]) if self.entries else 0.0

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Report a step; a line that cannot be written is warned of."""
        entry = {"step": step, **values}
        self.entries.append(entry)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            warnings.warn(f"{self.path} cannot be written: {error.strerror}", stacklevel=2)
        for tracker in self._trackers:
            tracker(values, step)

    def close(self) -> None:
        """End the trackers' runs."""
        for tracker in self._trackers:
            tracker(None, 0)


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are not known or not installed."""
    for name in names:
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS)
            raise InputError(f"no logger is called {name!r}{hint} (known: {', '.join(LOGGERS)})")
        _package(name)


def _package(name: str) -> Any:
    if name == "tensorboard":
        return require("tensorboardX", extra="tensorboard")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"this needs {name}, which is not installed: pip install {name}"
        ) from error


def _open(name: str, folder: Path, facts: Mapping[str, Any]) -> Any:
    """Return a function of a step's values and its number; None instead of values ends the run."""
    if name == "tensorboard":
        writer = _package(name).SummaryWriter(str(folder / "tensorboard"))

        def write(values: Mapping[str, float] | None, step: int) -> None:
            if values is None:
                writer.close()
                return
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return write
    run = _package(name).init(project="unseen", name=folder.name, config=dict(facts))

    def track(values: Mapping[str, float] | None, step: int) -> None:
        if values is None:
            run.finish()
        else:
            run.log(dict(values), step=step)

    return track


def read_start(folder: Path) -> str | None:
    """Return what the training of a folder went on from, if anything."""
    path = folder / "run.json"
    return read_run(folder).start if path.is_file() else None


def save_scores(folder: Path, scores: Scores, about: Mapping[str, Any]) -> None:
    """Write how a training's model was scored beside it.

    Args:
        folder: of the training.
        scores: of its model.
        about: of what, as JSON takes it.
    """
    told = {**about, "scores": rounded(scores.summary())}
    write_text(folder / "scores.json", json.dumps(told, indent=1) + "\n")


# Comparing trainings ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A training's folder, as far as it got.

    Args:
        folder: where it lies.
        recipe: what was trained.
        start: the model it went on from.
        environment: with what.
        entries: its log.
        scores: in percent, by name; empty if it was not scored.
        done: the model is there.
    """

    folder: Path
    recipe: dict[str, Any]
    start: str | None
    environment: dict[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    done: bool = False

    @property
    def step(self) -> int:
        """The last step that the log tells of."""
        return int(self.entries[-1]["step"]) if self.entries else 0

    @property
    def seconds(self) -> float:
        """How long it took, as far as the log tells."""
        return float(self.entries[-1]["seconds"]) if self.entries else 0.0

    @property
    def losses(self) -> dict[str, float]:
        """The last losses of the log; a line of validation has none."""
        told = ({k: v for k, v in one.items() if k not in _NO_LOSS} for one in self.entries[::-1])
        return next(filter(None, told), {})


_NO_LOSS = ("step", "seconds", "rate", "pictures_per_second", "validation")


def read_run(folder: Path) -> Run:
    """Read a training's folder.

    Raises:
        InputError: it is none, or its files are broken.
    """
    path = folder / "run.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        scores = folder / "scores.json"
        scored = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {}
        return Run(
            folder,
            told["recipe"],
            told["start"],
            told["environment"],
            read_log(folder / "log.jsonl"),
            scored.get("scores", {}),
            (folder / "config.json").is_file(),
        )
    except FileNotFoundError:
        raise InputError(f"{folder} is no training's folder: it has no run.json") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} or {folder}/scores.json is broken: {error}") from None


def find_runs(folder: Path) -> list[Run]:
    """Return the trainings in a folder and in the folders within it, by name.

    Raises:
        InputError: the folder does not exist or holds none.
    """
    found = sorted(path.parent for path in folder.rglob("run.json"))
    if not found:
        raise InputError(f"there are no trainings in {folder}: 'unseen train' makes them")
    return [read_run(path) for path in found]


def compare(runs: Sequence[Run]) -> str:
    """Write trainings as Markdown: each of them, seeds together, and in what they differ."""
    columns = list(dict.fromkeys(name for run in runs for name in run.scores))
    names = _names([run.folder for run in runs])
    rows = []
    for name, run in zip(names, runs, strict=True):
        state = "done" if run.done else f"{run.step / int(run.recipe['steps']):.0%}"
        losses = ", ".join(f"{key} {value:.4g}" for key, value in run.losses.items())
        scores = [show(run.scores.get(key)) for key in columns]
        rows.append([name, state, f"{run.step:,}", f"{run.seconds / 60:.1f}", losses, *scores])
    header = ["training", "state", "steps", "minutes", "last losses", *columns]
    tables = [markdown(header, rows)]
    scored = [run for run in runs if run.scores]
    groups: dict[str, dict[int, Run]] = {}  # a seed that was trained twice counts once
    for run in scored:
        groups.setdefault(_alike(run), {})[run.recipe["seed"]] = run
    if columns and any(len(group) > 1 for group in groups.values()):
        called = {run.folder: name for run, name in zip(runs, names, strict=True)}
        parents = [{run.folder.parent for run in group.values()} for group in groups.values()]
        above = _names([run.folder.parent for run in runs])
        rows = []
        for group, within in zip(groups.values(), parents, strict=True):
            title = ", ".join(called[run.folder] for run in group.values())
            if len(within) == 1 and parents.count(within) == 1:  # a folder of its own
                title = above[runs.index(next(iter(group.values())))]
            values = (_spread([run.scores.get(key) for run in group.values()]) for key in columns)
            rows.append([title, str(len(group)), *values])
        tables.append(markdown(["mean ± std over seeds", "seeds", *columns], rows))
    facts = [_flat({**run.recipe, "environment": run.environment}) for run in runs]
    keys = dict.fromkeys(key for one in facts for key in one if key != "environment.command")
    other = [key for key in keys if len({json.dumps(one.get(key)) for one in facts}) > 1]
    if other:
        rows = [[key, *(str(one.get(key, "–")) for one in facts)] for key in other]
        tables.append(markdown(["differs", *names], rows))
    return "\n\n".join(tables)


def _names(folders: Sequence[Path]) -> list[str]:
    """Name folders by what they do not share."""
    whole = [folder.resolve() for folder in folders]
    above = os.path.commonpath([folder.parent for folder in whole])
    return [str(folder.relative_to(above)) for folder in whole]


def _spread(values: Sequence[float | None]) -> str:
    told = [value for value in values if value is not None]
    return spread(told) if told else show(None)


def _alike(run: Run) -> str:
    """Return what trainings share that differ in their seed alone."""
    other = ("seed", "starts_from")
    return json.dumps({key: value for key, value in run.recipe.items() if key not in other})


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested facts by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
