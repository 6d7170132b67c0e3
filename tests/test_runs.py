import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from unseen.errors import InputError
from unseen.recipes import Recipe
from unseen.runs import Log, Run, compare, find_runs, read_log, read_run
from unseen.training import fit


def test_a_folder_tells_what_was_trained_and_with_what(micro_recipe: Recipe, tmp_path: Path):
    fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    run = read_run(tmp_path / "run")
    assert run.done and run.step == 2 and run.losses.keys() == {"focal", "dice"}
    assert run.recipe["name"] == "micro" and run.start is None
    assert run.environment["device"] == "cpu" and run.environment["processes"] == 1
    assert {"torch", "unseen", "commit", "threads"} <= run.environment.keys()


def test_runs_are_compared_and_seeds_put_together(micro_recipe: Recipe, tmp_path: Path):
    for name, changes, score in (
        ("a/seed-0", {}, 40.0),
        ("a/seed-1", {"seed": 1}, 44.0),
        ("b/seed-0", {"dice_weight": 2.0}, 30.0),
    ):
        fit(replace(micro_recipe, steps=1, **changes), out=tmp_path / name, device="cpu")
        scores = json.dumps({"scores": {"hIoU": score, "mIoU(U)": None}})
        (tmp_path / name / "scores.json").write_text(scores)
    found = find_runs(tmp_path)
    assert [run.scores["hIoU"] for run in found] == [40.0, 44.0, 30.0]
    told = compare(found)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines()]
    assert ["a", "2", "42.0 ± 2.8", "–"] in rows and ["b", "1", "30.0", "–"] in rows
    assert ["dice_weight", "60.0", "60.0", "2.0"] in rows
    assert not any(row and row[0] == "steps" for row in rows)
    again = [replace(found[0], folder=tmp_path / "a" / "again"), *found]
    assert re.search(r"\| a +\| 2 +\| 42.0 ± 2.8 \|", compare(again))
    apart = [replace(run, folder=tmp_path / f"run-{i}") for i, run in enumerate(found)]
    assert "| run-0, run-1 " in compare(apart) and "| run-2 " in compare(apart)


def test_losses_are_those_before_a_validation(micro_recipe: Recipe, tmp_path: Path):
    run = Run(tmp_path, {}, None, {}, [{"step": 1, "focal": 2.0}, {"step": 1, "validation": 3}])
    assert run.losses == {"focal": 2.0} and replace(run, entries=[]).losses == {}


def test_a_training_on_its_way_is_listed_with_how_far_it_is(micro_recipe: Recipe, tmp_path: Path):
    fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "seconds": 60, "focal": 2}\n{"st')
    assert "| 50%   | 1     | 1.0     | focal 2" in compare(find_runs(tmp_path))


def test_folders_without_trainings_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no trainings in .*'unseen train' makes them"):
        find_runs(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="is broken"):
        read_run(tmp_path)


def test_a_log_goes_on_behind_the_state(tmp_path: Path):
    log = Log(tmp_path, step=0, loggers=(), facts={})
    for step in (1, 20, 40):
        log.add(step, {"seconds": float(step), "focal": 1.0})
    with log.path.open("a") as file:
        file.write('{"step": 60, "se')
    again = Log(tmp_path, step=30, loggers=(), facts={})
    assert again.seconds == 20.0
    again.add(40, {"seconds": 41.0, "focal": 0.5})
    assert [line["seconds"] for line in read_log(log.path)] == [1.0, 20.0, 41.0]
