"""Trainings that are killed at random moments and resumed are those that were not."""

import random
import time
from pathlib import Path

import pytest
from launching import launch

from unseen.clip import CLIP
from unseen.clip.weights import save_clip
from unseen.states import list_states

EVERY = 2


def newest(out: Path) -> int:
    states = list_states(out / "states")
    return states[0].step if states else 0


def survive(clip: Path, out: Path, kills: int, processes: int, steps: int) -> None:
    """Kill a training at random moments, and start it again until it is done."""
    chance = random.Random(processes)
    words = (f"steps={steps}", "--save-every", str(EVERY), "--resume")
    for kill in range(kills):
        started, before = launch(clip, out, *words, processes=processes), newest(out)
        seen = before
        deadline = time.monotonic() + 90
        while seen == before:  # until it has learned something since it was resumed
            assert started.running and time.monotonic() < deadline, started.wait()
            time.sleep(0.01)
            seen = newest(out)
        time.sleep(chance.uniform(0, 0.8 * (steps - seen) / steps / (kills - kill)))
        seen = newest(out)
        started.kill()
        assert seen <= newest(out)
    codes = launch(clip, out, *words, processes=processes).wait()
    assert [code for code, _ in codes] == [0] * processes, codes


@pytest.mark.parametrize(
    ("processes", "kills", "steps"),
    [
        (1, 2, 60),
        pytest.param(1, 20, 1500, marks=pytest.mark.slow),
        pytest.param(2, 20, 1500, marks=pytest.mark.slow),
        (2, 1, 60),
    ],
)
def test_a_training_that_is_killed_again_and_again_ends_where_it_would_have(
    micro_clip: CLIP, tmp_path: Path, processes: int, kills: int, steps: int
):
    clip = tmp_path / "clip"
    save_clip(micro_clip, clip)
    straight = launch(clip, tmp_path / "straight", f"steps={steps}", processes=processes)
    survive(clip, tmp_path / "killed", kills, processes, steps)
    codes = straight.wait()
    assert [code for code, _ in codes] == [0] * processes, codes
    for name in ("model.safetensors", "halfway/model.safetensors"):
        ours, theirs = (tmp_path / run / name for run in ("straight", "killed"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert not (tmp_path / "killed" / "states").exists()
