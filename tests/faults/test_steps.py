"""Several processes learn what one would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MICRO_PRETRAINING
from launching import places

from unseen.clip.weights import save_clip
from unseen.miniature.pretrain import tiny_clip
from unseen.miniature.world import MICRO

SCRIPT = Path(__file__).parent / "steps.py"


@pytest.fixture(scope="module")
def take_steps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], dict]:
    folder = tmp_path_factory.mktemp("steps")
    torch.manual_seed(0)
    save_clip(tiny_clip(MICRO_PRETRAINING, MICRO), folder / "clip")

    def take(processes: int, nodes: int, accumulate: int) -> dict:
        command = [sys.executable, SCRIPT, folder / "clip", folder / "out.pt", str(accumulate)]
        started = [
            subprocess.Popen(command, env={**os.environ, **place})
            for place in places(processes, nodes)
        ]
        try:
            assert [process.wait(300) for process in started] == [0] * len(started)
        finally:
            for process in started:
                process.kill()
        return torch.load(folder / "out.pt")

    return take


@pytest.fixture(scope="module")
def one_process(take_steps) -> dict:
    return take_steps(1, 1, 1)


@pytest.mark.parametrize(("processes", "nodes", "accumulate"), [(2, 1, 1), (1, 2, 1), (2, 1, 2)])
def test_processes_nodes_and_parts_take_the_steps_of_one(
    take_steps, one_process: dict, processes: int, nodes: int, accumulate: int
):
    many = take_steps(processes, nodes, accumulate)
    assert many.keys() == one_process.keys() and len(many) == 30
    for step, ours in many.items():
        theirs = one_process[step]
        for name, loss in ours["losses"].items():
            assert abs(loss - theirs["losses"][name]) <= 1e-6 * (1 + abs(loss)), (step, name)
        assert ours["gradients"].keys() == theirs["gradients"].keys()
        for name, gradient in ours["gradients"].items():
            other = theirs["gradients"][name]
            assert (gradient - other).abs().max() <= 1e-6 * (1 + other.abs().max()), (step, name)
