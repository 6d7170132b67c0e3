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
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
from unseen.evaluation import GAMMAS, calibration_curve, default_calibration, evaluate
from unseen.metrics import Scores, markdown, rounded, spread
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import edition
from unseen.recipes import Recipe, find_recipe, override
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
        return json.loads(json.dumps(made))

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
    sides = [side for claim in claims for side in (claim.better, claim.worse)]
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
    path = out / f"{trial.name}.json"
    recipe = trial.recipe
    began = time.monotonic()
    if recipe is None:
        segmenter = Segmenter.from_clip("miniature", method=trial.contender, device=device)
        # as the trained models are shown pictures
        segmenter = segmenter.shown_at(short_side=128, window=64, stride=32)
    else:
        halfway = out / "models" / f"{trial.name}-halfway"
        start = out / "models" / f"{trial.start.name}-halfway" if trial.start else None
        folder = out / "models" / f"{trial.name}-unfinished"
        segmenter = fit(recipe, out=folder, start=start, resume=True, device=device)
        if trial.setting == "inductive" and trial.contender in TABLE:
            shutil.rmtree(halfway, ignore_errors=True)
            halfway.parent.mkdir(exist_ok=True)
            shutil.move(folder / "halfway", halfway)
        shutil.rmtree(folder)
    seconds = time.monotonic() - began
    facts = {
        "run": trial.name,
        **trial.origin,
        "trainable_parameters": sum(
            p.numel() for p in segmenter.model.parameters() if p.requires_grad
        ),
        "training_seconds": round(seconds) if recipe else 0,
        **_score(segmenter, {split: trial.scenes(split) for split in ("val", "test")}),
        "conditions": {
            "device": str(segmenter.device),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "unseen": version("unseen"),
        },
    }
    write_text(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return path


def _score(segmenter: Segmenter, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    """Score a model at its γ, at none and at the best on validation scenes."""
    names = parts["test"].vocabulary.names
    published = default_calibration(segmenter, names)
    taught = segmenter.is_taught(names)
    if any(taught) and not all(taught):
        curves = {
            split: calibration_curve(segmenter, part, GAMMAS) for split, part in parts.items()
        }
        chosen = max(curves["val"], key=lambda gamma: curves["val"][gamma].hiou)
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
            name: None if math.isnan(iou) else round(100 * float(iou), 2)
            for name, iou in zip(names, test[published].iou, strict=True)
        },
    }


def _curve(scores: Mapping[float, Scores]) -> dict[str, list[float]]:
    return {
        "gamma": list(scores),
        "mIoU(S)": [round(100 * one.seen, 2) for one in scores.values()],
        "mIoU(U)": [round(100 * one.unseen, 2) for one in scores.values()],
        "hIoU": [round(100 * one.hiou, 2) for one in scores.values()],
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
        elif done(start) and (out / "models" / f"{start.name}-halfway").exists():
            chains[trial] = [trial]
        else:
            chains[start] = [start, trial]
    return list(chains.values())


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
    """
    have = load(out, listed)
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
            names = future.result()
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
        path = folder / f"{trial.name}.json"
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
            chosen = [facts["scores"]["chosen"]["hIoU"] for facts in found]
            rows.append(
                [
                    contender.title,
                    setting or "training-free",
                    *("–" if None in values else spread(values) for values in columns),
                    spread(chosen) if setting == "inductive" else "",
                    f"{found[0]['trainable_parameters'] / 1e3:,.0f} k" if setting else "–",
                    spread([f["training_seconds"] / 60 for f in found]) if setting else "–",
                    str(len(found)) if setting else "–",
                ]
            )
    header = ["%", "", *COLUMNS, "hIoU, γ chosen", "trained", "minutes", "seeds"]
    return markdown(header, rows)


def differences(claim: Claim, results: Results) -> list[float]:
    """Return by how much the better side scores above the other, seed by seed, in points."""
    sides = (claim.better, claim.worse)
    scores: list[dict[int, float]] = [
        {
            trial.seed: facts["scores"][side.gamma][claim.column]
            for trial, facts in results.items()
            if trial.contender == side.contender and trial.setting in ("", side.setting)
        }
        for side in sides
    ]
    if not all(scores):
        return []
    for side, known in zip(sides, scores, strict=True):
        if not CONTENDERS[side.contender].base:  # the same whatever the other's seed
            known |= dict.fromkeys({seed for one in scores for seed in one}, known[0])
    ours, theirs = scores
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def verdict(found: Sequence[float], *, certain: bool = False) -> str:
    """Judge a claim by its differences.

    It holds if all seeds, three or more, agree and their mean is above twice its standard error
    (the standard deviation over √n); turned around, it is reversed; anything else does not show.

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
    if abs(mean) > 2 * error and len({value > 0 for value in found}) == 1:
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
                claim.paper or "–",
            ]
        )
    header = ["", "claim", "score", "difference", "verdict", "in the papers"]
    return markdown(header, rows)
