"""What is measured, and that it is measured apart; no test looks at the clock."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unseen.bench import (
    Case,
    check_plot,
    load,
    make_lesson,
    measure,
    measure_apart,
    peak_memory,
    plot,
    tabulate,
)
from unseen.errors import InputError
from unseen.settings import SUPERVISED

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RECIPE = "zegclip-miniature-supervised"


def small(task: str, model: str = RECIPE, **changes) -> Case:
    given = {"size": (48, 80), "batch": 2, "device": "cpu", "warmup": 0, "repeats": 2, **changes}
    return Case(task, model, **given)


@pytest.mark.parametrize(
    ("task", "pictures", "shown"),
    [
        ("picture", 1, "18 × 64×64"),
        ("windows", 2, "2 × 64×64"),
        ("training", 2, "2 × 64×64"),
        ("loading", 2, "2 × 64×64"),
    ],
)
def test_every_task_says_what_it_did(task, pictures, shown):
    found = measure(small(task))
    assert len(found.seconds) == 2 and min(found.seconds) <= found.p50 <= found.p95
    assert (found.pictures, found.shown) == (pictures, shown)
    assert found.classes == (0 if task == "loading" else 34)
    assert found.memory == pytest.approx(peak_memory(load(RECIPE, "cpu").device), rel=0.2)
    assert found.to_dict()["case"]["task"] == task and "1 threads" in found.conditions()
    assert f"{task}" in tabulate([found])


def test_recipes_come_without_a_text_encoder_and_keep_their_settings():
    assert load(RECIPE, "cpu").text is None
    recipe = load("cascade-miniature-inductive", "cpu")
    assert recipe.config.calibration == 0.1 and recipe.config.window == 64
    with pytest.raises(InputError, match="there is no model"):
        load("zegclip-miniature-inductve")


def test_vocabularies_of_any_size_are_looked_for_and_learned():
    for task in ("picture", "training"):
        assert measure(small(task, classes=300, repeats=1)).classes == 300
    inductive = load("zegclip-miniature-inductive", "cpu")
    lesson = make_lesson(inductive, small("training"))
    assert len(lesson.text) == 27 and lesson.labels.shape == lesson.images[:, 0].shape
    assert make_lesson(inductive, small("training", classes=5)).setting is SUPERVISED


def test_precisions_reach_the_model():
    from unseen.bench import windows

    logits = {}
    for precision in ("fp32", "bf16"):
        segmenter = load(RECIPE, "cpu", precision)
        logits[precision] = windows(segmenter, small("windows")).run()
    assert 0 < (logits["fp32"] - logits["bf16"]).abs().max() < 0.1 * logits["fp32"].abs().max()
    assert measure(small("picture", precision="bf16")).classes == 34
    assert measure(small("training", precision="bf16")).classes > 0


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (small("picture", precision="fp8"), "torch computes in fp32 or bf16 or fp16"),
        (small("pictures"), "known: picture, windows, training, loading"),
        (small("picture", repeats=0), "from 1"),
        (small("loading", "zegclip-voc-inductive"), "say where with --root"),
        (small("loading", "nothing"), "no recipe is called"),
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(case, says):
    with pytest.raises(InputError, match=says):
        measure(case)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("you can't allocate memory: 9")],
)
def test_what_does_not_fit_into_memory_gets_one_sentence(error):
    def prepare(case):
        raise error

    with pytest.raises(InputError, match="memory ran out with picture of .*: ask for less"):
        measure(small("picture"), prepare)


def test_cost_over_labels_and_sizes_is_drawn(tmp_path):
    cases = [
        small("picture", classes=classes, size=size, repeats=1)
        for classes in (2, 40)
        for size in ((64, 64), (96, 80))
    ]
    for name in ("cost.svg", "cost.png"):
        check_plot(cases, tmp_path / name)
        plot([measure(case) for case in cases], tmp_path / name)
    drawn = (tmp_path / "cost.svg").read_text()
    named = ("labels", "megapixels", "seconds", "peak memory", "96×80", "40 labels")
    assert all(name in drawn for name in named)
    with Image.open(tmp_path / "cost.png") as image:
        assert image.size[0] > 500


@pytest.mark.parametrize(
    ("cases", "name", "says"),
    [
        ([small("picture")], "cost.svg", "several numbers of labels or several sizes"),
        ([small("windows", classes=n) for n in (2, 3)], "cost.svg", "a plot is of pictures"),
        ([small("picture", classes=n) for n in (2, 3)], "cost.txt", "got .*cost.txt"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_it_is_measured(cases, name, says, tmp_path):
    with pytest.raises(InputError, match=says):
        check_plot(cases, tmp_path / name)


def test_peak_memory_is_that_of_a_process_of_its_own():
    ballast = np.ones(2**27)  # 1 GB
    cpu = load(RECIPE, "cpu").device
    assert measure_apart(small("loading")).memory < ballast.nbytes < peak_memory(cpu)
    with pytest.raises(InputError, match="no task is called"):
        measure_apart(small("pictures"))


@pytest.mark.parametrize(
    ("task", "ways"), [("picture", ("eager", "onnx")), ("training", ("eager",))]
)
def test_the_yardstick_is_measured_beside_the_library(
    monkeypatch, sizes_may_be_symbols, task, ways
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    speed = importlib.import_module("speed")
    rows = speed.compare(small(task), ways)
    assert [row["by"] for row in rows] == ["yardstick", *ways]
    assert all(row["times sooner"] > 0 and len(row["seconds"]) == 2 for row in rows)
    assert rows[0]["times sooner"] == rows[0]["times less"] == 1
    if task == "picture":
        assert all(row["same labels %"] > 99.9 for row in rows)
        assert speed.compare_encoder(small(task))["over transformers, eager"] > 0
    assert "| yardstick |" in speed.tabulate(rows)
