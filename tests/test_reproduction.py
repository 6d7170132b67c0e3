import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from unseen import reproduction
from unseen.building import build
from unseen.claims import CLAIMS, CONTENDERS, SETTINGS, TABLE, Claim, Side
from unseen.errors import InputError
from unseen.evaluation import best_calibration
from unseen.interruption import Interrupted
from unseen.metrics import Scores
from unseen.miniature.world import edition
from unseen.reproduction import (
    STUDENT,
    Trial,
    claims_table,
    differences,
    execute_all,
    load,
    needed,
    table,
    trials,
    verdict,
)
from unseen.vocabulary import Vocabulary


def made_up(trial: Trial, hiou: float) -> dict:
    scores = {column: hiou for column in (*reproduction.COLUMNS, "mIoU")}
    sides = {gamma: scores for gamma in ("published", "none", "chosen")}
    return {**trial.origin, "scores": sides, "trainable_parameters": 9000, "training_seconds": 60}


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_can_be_built(name):
    for setting in SETTINGS if name in TABLE else ("inductive",):
        recipe = Trial(name, setting).recipe
        if recipe is None:
            assert name in ("plain", "maskclip")
        else:
            assert recipe.seed == 0 and recipe.setting == setting
            model, *_ = build(replace(recipe, setting="inductive"), None)
            assert any(p.requires_grad for p in model.parameters())


def test_contenders_differ_in_nothing_but_what_they_are_named_for():
    for name in CONTENDERS:
        recipe = Trial(name, "inductive").recipe
        if recipe is None:
            continue
        options = recipe.options
        assert options["heads"] == 2, name
        if "frozen" not in name:
            assert options["prompts"] == 10, name
        if "cliprc" in name:
            expected = {"cliprc-one": 1, "cliprc-sixteen": 16}.get(name, 4)
            assert options["regions"] == expected, name
        changes = CONTENDERS[name].changes
        ours, theirs = (one.record() for one in (recipe, Trial("zegclip", "inductive").recipe))
        other = {key for key in theirs if ours[key] != theirs[key]}
        own = {"name", "method", "options", *(key.split(".")[0] for key in changes)}
        if CONTENDERS[name].base == "cliprc":  # docs/log.md: it does not train otherwise
            own |= {"learning_rate", "clip_norm"}
        assert other <= own, name


def test_the_control_has_the_parameters_of_the_cascade():
    counts = []
    for name in ("cascade", "cascade-last", "cascade-fused"):
        model, *_ = build(Trial(name, "inductive").recipe, None)
        counts.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert max(counts) - min(counts) <= 4  # the weights within groups


def test_claims_name_trials_that_are_carried_out():
    listed = needed(CLAIMS, [0])
    assert len(set(listed)) == len(listed)
    for trial in listed:
        assert trial.contender in CONTENDERS
        assert trial.start is None or listed.index(trial.start) < listed.index(trial)
    assert {trial.contender for trial in listed} == set(CONTENDERS)
    inductive = [trial for trial in trials(list(TABLE), [0, 1]) if trial.setting == "inductive"]
    assert [trial.seed for trial in inductive] == 5 * [0] + 5 * [1]


def test_verdicts_follow_the_spread():
    assert verdict([]) == "not run"
    assert verdict([3.0, 3.1]) == "too few seeds"
    assert verdict([1.0, 1.2, 0.9]) == "holds"
    assert verdict([-1.0, -1.2, -0.9]) == "reversed"
    assert verdict([2.0, -0.1, 2.0]) == "does not show"
    assert verdict([1.0, 2.0, 3.5]) == "does not show"  # all above 0, and p = 0.096
    assert verdict([0.2], certain=True) == "holds"


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_a_verdict_on_nothing_is_given_in_one_case_of_twenty(seeds):
    draws = np.random.default_rng(0).standard_normal((4000, seeds))
    given = np.mean([verdict(list(one)) != "does not show" for one in draws])
    assert 0.03 < given < 0.065


def test_the_limits_are_those_of_students_t():
    for seeds, limit in enumerate(STUDENT, start=3):
        assert limit == pytest.approx(stats.t.ppf(0.975, seeds - 1), abs=0.006)


def test_differences_are_seed_by_seed_and_against_what_has_no_seed():
    results = {Trial("maskclip"): made_up(Trial("maskclip"), 10.0)}
    for seed, value in ((0, 15.0), (1, 18.0), (2, 17.0)):
        trial = Trial("zegclip", "inductive", seed)
        results[trial] = made_up(trial, value)
    other = Trial("cascade", "inductive", 1)
    results[other] = made_up(other, 20.0)
    assert differences(
        Claim("", Side("zegclip"), Side("maskclip"), "hIoU"), results
    ) == pytest.approx([5, 8, 7])
    assert differences(
        Claim("", Side("cascade"), Side("zegclip"), "hIoU"), results
    ) == pytest.approx([2])
    assert not differences(Claim("", Side("cliprc"), Side("zegclip"), "hIoU"), results)
    assert "16.7 ± 1.5" in table(results) and "ZegCLIP" in table(results)
    claim = Claim("training", Side("zegclip"), Side("maskclip"), "hIoU")
    line = claims_table(results, [claim]).splitlines()[-1]
    assert "+6.7 ± 1.5" in line and "holds" in line and "3 of 3" in line


def test_differences_of_several_methods_are_averaged_seed_by_seed():
    claim = Claim(
        "", Side("zegclip", "supervised"), Side("zegclip"), "hIoU", over=("zegclip", "cliprc")
    )
    assert claim.statement == "mean of these 2 methods: supervised > inductive"
    assert {trial.contender for trial in needed([claim], [0])} == {"zegclip", "cliprc"}
    results = {}
    for name, seed, gain in (("zegclip", 0, 1.0), ("zegclip", 1, 2.0), ("cliprc", 0, 5.0)):
        for setting, hiou in (("inductive", 10.0), ("supervised", 10.0 + gain)):
            trial = Trial(name, setting, seed)
            results[trial] = made_up(trial, hiou)
    assert differences(claim, results) == [3.0]


def test_what_has_no_score_is_left_out_of_tables():
    claim = Claim("training", Side("zegclip"), Side("maskclip"), "hIoU")
    results = {Trial("maskclip"): made_up(Trial("maskclip"), 10.0)}
    for seed, hiou in ((0, 15.0), (1, None)):
        trial = Trial("zegclip", "inductive", seed)
        results[trial] = made_up(trial, hiou)
    assert differences(claim, results) == [5.0]
    assert table(results).splitlines()[-1].count(" – ") == len(reproduction.COLUMNS) + 1
    vocabulary = Vocabulary("two", ("cow", "sky"), unseen=("sky",))
    undefined = {0.0: Scores(np.array([[5, 0], [0, 0]]), vocabulary)}
    assert best_calibration(undefined) is None
    assert reproduction._curve(undefined)["hIoU"] == [None]


def test_trials_are_carried_out_once_and_again_if_anything_changed(tmp_path: Path):
    listed = [
        replace(trial, steps=2, count=2)
        for trial in (
            Trial("maskclip"),
            Trial("zegclip", "inductive"),
            Trial("zegclip", "transductive"),
        )
    ]
    told: list[str] = []
    execute_all(listed, tmp_path, tell=told.append)
    assert told[0].startswith("3 of 3 runs")
    results = load(tmp_path, listed)
    assert list(results) == listed
    facts = results[listed[1]]
    assert facts["world"] == edition() and facts["recipe"]["steps"] == 2
    assert (
        facts["scores"]["published"]["gamma"] == 0.1 and len(facts["curve"]["val"]["gamma"]) == 21
    )
    assert results[listed[2]]["scores"]["published"]["gamma"] == 0.0
    assert {path.name for path in tmp_path.iterdir()} == {
        "models",
        *(f"{trial.name}.json" for trial in listed),
    }
    told.clear()
    execute_all(listed, tmp_path, tell=told.append)
    assert not told
    assert not load(tmp_path, [replace(trial, count=3) for trial in listed])
    assert not load(tmp_path, [replace(trial, steps=3) for trial in listed[1:]])
    chains = reproduction._chains
    (chain,) = chains(listed, lambda trial: trial is not listed[2] and trial in results, tmp_path)
    assert chain == [listed[2]]  # goes on from the half-trained model that is there
    (chain,) = chains(listed, lambda trial: trial is listed[0], tmp_path)
    assert chain == listed[1:]  # that one is of another recipe: it is trained anew
    halfway = tmp_path / "models" / "zegclip-inductive-0-halfway" / "config.json"
    before = halfway.read_text()
    halfway.write_text(before.replace('"steps": 2', '"steps": 3'))
    (chain,) = chains(listed, lambda trial: trial is not listed[2] and trial in results, tmp_path)
    assert chain == listed[1:]
    halfway.write_text(before)
    with pytest.raises(InputError, match=r"were made otherwise.*: maskclip\. Name another --out"):
        execute_all([replace(listed[0], count=3)], tmp_path)
    path = tmp_path / "maskclip.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world": "another"}))
    assert len(load(tmp_path, listed)) == 2
    path.write_text("{}")
    with pytest.raises(InputError, match=r"maskclip\.json is no result"):
        load(tmp_path, listed)


def test_a_training_that_was_stopped_goes_on_unless_it_was_another(tmp_path, monkeypatch):
    trial = Trial("zegclip", "inductive", steps=2, count=2)
    begun: list[bool] = []

    def stop(recipe, *, out, **_):
        begun.append((out / "run.json").exists())
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text(json.dumps({"recipe": recipe.record()}))
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduction, "fit", stop)
    for one in (trial, trial, replace(trial, steps=3)):
        with pytest.raises(KeyboardInterrupt):
            reproduction.execute(one, tmp_path)
    assert begun == [False, True, False]


def test_what_is_trained_is_not_trained_again_if_its_scoring_was_stopped(tmp_path, monkeypatch):
    trial = Trial("zegclip", "inductive", steps=2, count=2)
    whole = json.loads(reproduction.execute(trial, tmp_path / "whole").read_text())

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reproduction, "_score", stop)
        reproduction.execute(trial, tmp_path)
    folder = tmp_path / "models" / "zegclip-inductive-0-unfinished"
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    facts = json.loads(reproduction.execute(trial, tmp_path).read_text())
    assert facts["scores"] == whole["scores"]
    assert facts["training_seconds"] == round(last["seconds"])
    (kept,) = (tmp_path / "models").iterdir()
    assert kept.name == "zegclip-inductive-0-halfway" and (kept / "config.json").is_file()


def test_a_training_that_was_interrupted_says_so_across_processes():
    again = pickle.loads(pickle.dumps(Interrupted(15, "stopped after 3 of 6 steps")))
    assert (again.number, str(again)) == (15, "stopped after 3 of 6 steps")


_WAITING = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from unseen.reproduction import _prepare

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(1,))
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""


def test_a_training_ends_with_the_command_that_began_it(tmp_path):
    (tmp_path / "waiting.py").write_text(_WAITING)
    command = [sys.executable, str(tmp_path / "waiting.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        try:
            parent.communicate(timeout=30)  # until nobody holds its end of the pipe
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise
