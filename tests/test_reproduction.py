import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unseen import reproduction
from unseen.building import build
from unseen.claims import CLAIMS, CONTENDERS, SETTINGS, TABLE, Claim, Side
from unseen.errors import InputError
from unseen.miniature.world import edition
from unseen.reproduction import (
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
    assert {trial.contender for trial in listed} >= set(CONTENDERS) - {"cascade-cliprc"}
    inductive = [trial for trial in trials(list(TABLE), [0, 1]) if trial.setting == "inductive"]
    assert [trial.seed for trial in inductive] == 5 * [0] + 5 * [1]


def test_verdicts_follow_the_spread():
    assert verdict([]) == "not run"
    assert verdict([3.0, 3.1]) == "too few seeds"
    assert verdict([1.0, 1.2, 0.9]) == "holds"
    assert verdict([-1.0, -1.2, -0.9]) == "reversed"
    assert verdict([2.0, -0.1, 2.0]) == "does not show"
    noisy = [0.1, 3.0, 0.2]  # all above 0, the mean within twice its error
    assert statistics.fmean(noisy) < 2 * statistics.stdev(noisy) / 3**0.5
    assert verdict(noisy) == "does not show"
    assert verdict([0.2], certain=True) == "holds"


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
    assert "+6.7 ± 1.5" in line and "holds" in line


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
    path = tmp_path / "maskclip.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world": "another"}))
    assert len(load(tmp_path, listed)) == 2
    path.write_text("{}")
    with pytest.raises(InputError, match=r"maskclip\.json is no result"):
        load(tmp_path, listed)


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
