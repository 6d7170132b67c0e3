"""The papers' claims, put to the test: trainings, their scores, verdicts.

Every single training and its scores become one JSON file; tables are made of the files that are
there. Nothing is chosen on test scenes: where γ is chosen, it is on validation scenes.
"""

import json
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unseen.claims import CLAIMS, CONTENDERS, SETTINGS, TABLE, Claim
from unseen.clip import fingerprint, load_clip
from unseen.data.datasets import Dataset, Subset
from unseen.errors import InputError
from unseen.evaluation import (
    GAMMAS,
    best_calibration,
    calibration_curve,
    default_calibration,
    evaluate,
)
from unseen.metrics import Scores, defined, markdown, rounded, spread
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import edition
from unseen.recipes import Recipe, find_recipe, override
from unseen.runs import read_log
from unseen.segmenter import Segmenter
from unseen.shipped import shipped_clip
from unseen.training import fit
from unseen.writing import write_text


@cache
def _world() -> dict[str, str]:
    """Return the fingerprints of what all trials share: the CLIP, and how scenes are drawn."""
    return {"clip": fingerprint(load_clip(shipped_clip()).image), "world": edition()}


@dataclass(frozen=True)
class Trial:
    """A training and its scores.

    Args:
        contender: a key of ``CONTENDERS``.
        setting: empty if nothing is trained.
        seed: of weights, sampling, augmentation and dropout.
        steps: instead of the recipe's, for a quick look.
        count: only this many validation and test scenes, likewise.
    """

    contender: str
    setting: str = ""
    seed: int = 0
    steps: int | None = None
    count: int | None = None

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.contender}-{self.setting}-{self.seed}" if self.setting else self.contender

    def file(self, folder: Path) -> Path:
        """Return its file in a folder of results."""
        return folder / f"{self.name}.json"

    @property
    def recipe(self) -> Recipe | None:
        """What is trained, if anything is."""
        contender = CONTENDERS[self.contender]
        if not contender.base:
            return None
        row = find_recipe(f"{contender.base}-miniature-{self.setting}")
        steps = {} if self.steps is None else {"steps": self.steps}
        return override(row, {**contender.changes, **steps, "seed": self.seed})

    def scenes(self, split: str) -> Dataset:
        """Return the scenes of a split that it is scored on."""
        scenes = Scenes(split)
        return scenes if self.count is None else Subset(scenes, self.count)

    @property
    def origin(self) -> dict[str, Any]:
        """Tell all that its scores depend on, as JSON takes it."""
        recipe, before = self.recipe, self.start.recipe if self.start else None
        made: dict[str, Any] = {
            "recipe": recipe.record() if recipe else None,
            "started_from": before.record() if before else None,
            "scenes": {split: len(self.scenes(split)) for split in ("val", "test")},
            **_world(),
        }
        return _as_read(made)

    @property
    def start(self) -> "Trial | None":
        """The trial whose half-trained model this one goes on from."""
        return replace(self, setting="inductive") if self.setting == "transductive" else None


def trials(names: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """Return the trials of contenders, all of a seed before the next seed."""
    listed = [Trial(name) for name in names if not CONTENDERS[name].base]
    for seed in seeds:
        for name in names:
            settings = SETTINGS if name in TABLE else ("inductive",)
            if CONTENDERS[name].base:
                listed += [Trial(name, setting, seed) for setting in settings]
    return listed


def needed(claims: Sequence[Claim], seeds: Sequence[int]) -> list[Trial]:
    """Return the trials that claims compare, and what those go on from."""
    parts = [part for claim in claims for part in claim.parts]
    sides = [side for part in parts for side in (part.better, part.worse)]
    listed: dict[Trial, None] = {}
    for side in sides:
        if not CONTENDERS[side.contender].base:
            listed[Trial(side.contender)] = None
    for seed in seeds:
        for side in sides:
            if CONTENDERS[side.contender].base:
                trial = Trial(side.contender, side.setting, seed)
                if trial.start:
                    listed[trial.start] = None
                listed[trial] = None
    return list(listed)


def execute(trial: Trial, out: Path, *, device: str = "cpu") -> Path:
    """Train and score a trial; return its file.

    Args:
        trial: what to train.
        out: folder of the files; models that others go on from lie in ``out/models``.
        device: as everywhere.
    """
    recipe = trial.recipe
    seconds = 0.0
    if recipe is None:
        segmenter = Segmenter.from_clip("miniature", method=trial.contender, device=device)
        # as the trained models are shown pictures
        segmenter = segmenter.shown_at(short_side=128, window=64, stride=32)
    else:
        halfway = out / "models" / f"{trial.name}-halfway"
        start = out / "models" / f"{trial.start.name}-halfway" if trial.start else None
        folder = out / "models" / f"{trial.name}-unfinished"
        if folder.exists() and not _is_of(folder / "run.json", recipe):
            shutil.rmtree(folder)
        segmenter = fit(recipe, out=folder, start=start, resume=True, device=device)
        seconds = read_log(folder / "log.jsonl")[-1]["seconds"]
    facts = {
        "run": trial.name,
        **trial.origin,
        "trainable_parameters": sum(
            p.numel() for p in segmenter.model.parameters() if p.requires_grad
        ),
        "training_seconds": round(seconds),
        **_score(segmenter, {split: trial.scenes(split) for split in ("val", "test")}),
        "conditions": {
            "device": str(segmenter.device),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "unseen": version("unseen"),
        },
    }
    if recipe is not None and trial.setting == "inductive" and trial.contender in TABLE:
        shutil.rmtree(halfway, ignore_errors=True)
        shutil.copytree(folder / "halfway", halfway)
    path = trial.file(out)
    write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    if recipe is not None:
        shutil.rmtree(folder)  # last: stopped before, the next run scores what is trained
    return path


def _is_of(file: Path, recipe: Recipe) -> bool:
    """Tell whether a training's ``run.json``, or its model's ``config.json``, is of a recipe."""
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))["recipe"]
        return theirs | {"stopped_at": None} == {**_as_read(recipe.record()), "stopped_at": None}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _as_read(facts: Any) -> Any:
    """Return what JSON makes of facts."""
    return json.loads(json.dumps(facts))


def _score(segmenter: Segmenter, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    """Score a model at its γ, at none and at the best on validation scenes."""
    names = parts["test"].vocabulary.names
    published = default_calibration(segmenter, names)
    taught = segmenter.is_taught(names)
    if any(taught) and not all(taught):
        curves = {
            split: calibration_curve(segmenter, part, GAMMAS) for split, part in parts.items()
        }
        best = best_calibration(curves["val"])
        chosen = published if best is None else best
    else:  # γ changes nothing: all classes are seen, or none
        curves = {"test": {0.0: evaluate(segmenter, parts["test"], calibration=0.0)}}
        chosen = 0.0
    gammas = {"published": published, "none": 0.0, "chosen": chosen}
    test = curves["test"]
    return {
        "scores": {
            title: {"gamma": gamma, **rounded(test[gamma].summary())}
            for title, gamma in gammas.items()
        },
        "curve": {split: _curve(one) for split, one in curves.items()},
        "classes": {
            name: defined(100 * iou, 2)
            for name, iou in zip(names, test[published].iou, strict=True)
        },
    }


def _curve(scores: Mapping[float, Scores]) -> dict[str, list[Any]]:
    return {
        "gamma": list(scores),
        "mIoU(S)": [defined(100 * one.seen, 2) for one in scores.values()],
        "mIoU(U)": [defined(100 * one.unseen, 2) for one in scores.values()],
        "hIoU": [defined(100 * one.hiou, 2) for one in scores.values()],
    }


def _chains(listed: Sequence[Trial], done: Callable[[Trial], bool], out: Path) -> list[list[Trial]]:
    """Divide the trials that are not done into what can go side by side, in order."""
    chains: dict[Trial, list[Trial]] = {}
    for trial in listed:
        if done(trial):
            continue
        start = trial.start
        if start is None:
            chains[trial] = [trial]
        elif start in chains:
            chains[start].append(trial)
        elif done(start) and _has_halfway(start, out):
            chains[trial] = [trial]
        else:
            chains[start] = [start, trial]
    return list(chains.values())


def _has_halfway(trial: Trial, out: Path) -> bool:
    recipe = trial.recipe
    return recipe is not None and _is_of(
        out / "models" / f"{trial.name}-halfway" / "config.json", recipe
    )


def _work(chain: Sequence[Trial], out: Path, device: str) -> list[str]:
    return [execute(trial, out, device=device).stem for trial in chain]


def _prepare(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    sys.stderr = open(os.devnull, "w")  # bars of several trainings would write over each other


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, or it would train on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def execute_all(
    listed: Sequence[Trial],
    out: Path,
    *,
    jobs: int = 1,
    device: str = "cpu",
    tell: Callable[[str], object] = lambda line: None,
) -> None:
    """Carry out all trials whose files are not there yet; stopped, it goes on where it was.

    Args:
        listed: the trials.
        out: folder of the files.
        jobs: trainings at a time; the machine's threads are divided among them.
        device: as everywhere.
        tell: called with a line when a trial is done.

    Raises:
        InputError: a file is there that was made otherwise, or a training's process was killed.
    """
    have = load(out, listed)
    if other := [one.name for one in listed if one not in have and one.file(out).exists()]:
        raise InputError(
            f"{out} holds runs that were made otherwise (steps, scenes, recipe, CLIP or world): "
            f"{', '.join(other[:3])}{' …' if len(other) > 3 else ''}. Name another --out, or "
            "remove them"
        )
    chains = _chains(listed, lambda trial: trial in have, out)
    if not chains:
        return
    left = sum(map(len, chains))
    tell(f"{left} of {len(listed)} runs to do, {jobs} at a time")
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(threads,))
    try:
        futures = [pool.submit(_work, chain, out, device) for chain in chains]
        for future in as_completed(futures):
            try:
                names = future.result()
            except BrokenProcessPool:
                raise InputError(
                    "the process of a training was killed, for memory perhaps: take fewer --jobs; "
                    "the same command goes on"
                ) from None
            left -= len(names)
            tell(f"{', '.join(names)} done, {left} to go")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# Tables ------------------------------------------------------------------------------------------

Results = Mapping[Trial, Mapping[str, Any]]


def load(folder: Path, listed: Sequence[Trial]) -> dict[Trial, dict[str, Any]]:
    """Read the files of trials that are there and were made as they would be made now.

    Raises:
        InputError: a file that is no result.
    """
    results = {}
    for trial in listed:
        path = trial.file(folder)
        if not path.exists():
            continue
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            origin = {key: facts[key] for key in trial.origin}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is no result of a run: remove it") from None
        if origin == trial.origin:
            results[trial] = facts
    return results


COLUMNS = (
    "pAcc",
    "mIoU(S)",
    "mIoU(U)",
    "hIoU",
    "things(S)",
    "things(U)",
    "stuff(S)",
    "stuff(U)",
)


def table(results: Results) -> str:
    """Write the contenders' scores as a Markdown table: mean ± standard deviation over seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for trial, facts in results.items():
        groups.setdefault((trial.contender, trial.setting), []).append(facts)
    rows = []
    for name, contender in TABLE.items():
        for setting in SETTINGS if contender.base else ("",):
            found = groups.get((name, setting))
            if not found:
                continue
            scores = [facts["scores"]["published"] for facts in found]
            columns = [[one[column] for one in scores] for column in COLUMNS]
            columns += [[facts["scores"]["chosen"]["hIoU"] for facts in found]]
            *shown, chosen = ("–" if None in values else spread(values) for values in columns)
            rows.append(
                [
                    contender.title,
                    setting or "training-free",
                    *shown,
                    chosen if setting == "inductive" else "",
                    f"{found[0]['trainable_parameters'] / 1e3:,.0f} k" if setting else "–",
                    spread([f["training_seconds"] / 60 for f in found]) if setting else "–",
                    str(len(found)) if setting else "–",
                ]
            )
    header = ["%", "", *COLUMNS, "hIoU, γ chosen", "trained", "minutes", "seeds"]
    return markdown(header, rows)


def differences(claim: Claim, results: Results) -> list[float]:
    """Return by how much the better side scores above the other, seed by seed, in points."""
    found = [_by_seed(part, results) for part in claim.parts]
    seeds = sorted(set.intersection(*map(set, found)))
    return [statistics.fmean(one[seed] for one in found) for seed in seeds]


def _by_seed(claim: Claim, results: Results) -> dict[int, float]:
    sides = (claim.better, claim.worse)
    scores: list[dict[int, float]] = [
        {
            trial.seed: facts["scores"][side.gamma][claim.column]
            for trial, facts in results.items()
            if trial.contender == side.contender
            and trial.setting in ("", side.setting)
            and facts["scores"][side.gamma][claim.column] is not None
        }
        for side in sides
    ]
    if not all(scores):
        return {}
    for side, known in zip(sides, scores, strict=True):
        if not CONTENDERS[side.contender].base:  # the same whatever the other's seed
            known |= dict.fromkeys({seed for one in scores for seed in one}, known[0])
    ours, theirs = scores
    return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}


STUDENT = (4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Where there is no difference, the mean of 3, 4, … 10 seeds lies further from 0 than this, in
standard errors, in 5 % of cases: Student's t, both sides."""


def verdict(found: Sequence[float], *, certain: bool = False) -> str:
    """Judge a claim by its differences: a paired t-test at 5 %, both sides, from three seeds on.

    It holds if the mean is above, by more than the test's limit, and is reversed if it is as far
    below; anything else does not show. More than ten seeds are judged by the limit of ten.

    Args:
        found: the differences, seed by seed.
        certain: nothing was trained, so there is no spread.
    """
    if not found:
        return "not run"
    mean = statistics.fmean(found)
    if certain:
        return "holds" if mean > 0 else "reversed" if mean < 0 else "does not show"
    if len(found) < 3:
        return "too few seeds"
    error = statistics.stdev(found) / math.sqrt(len(found))
    if abs(mean) > STUDENT[min(len(found), 10) - 3] * error:
        return "holds" if mean > 0 else "reversed"
    return "does not show"


def claims_table(results: Results, claims: Sequence[Claim] = CLAIMS) -> str:
    """Write claims as a Markdown table: the paired difference over seeds, and the verdict."""
    rows = []
    for claim in claims:
        found = differences(claim, results)
        sides = (claim.better, claim.worse)
        certain = not any(CONTENDERS[side.contender].base for side in sides)
        rows.append(
            [
                claim.topic,
                claim.statement,
                claim.column,
                ("+" if found and statistics.fmean(found) > 0 else "") + spread(found)
                if found
                else "–",
                verdict(found, certain=certain),
                "–" if certain or not found else f"{sum(d > 0 for d in found)} of {len(found)}",
                claim.paper or "–",
            ]
        )
    header = ["", "claim", "score", "difference", "verdict", "seeds above", "in the papers"]
    return markdown(header, rows)
