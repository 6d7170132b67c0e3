"""What goes wrong around a training: disks, files, numbers, signals."""

import errno
import json
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launching import launch
from layouts import make_own
from PIL import Image

from unseen import training, training_folder
from unseen.checkpoints import load_pretrained
from unseen.clip import ImageEncoder
from unseen.errors import InputError, MissingExtra
from unseen.interruption import Interrupted, Request
from unseen.learning import Engine, Learner
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.recipes import Recipe, Source
from unseen.states import list_states
from unseen.training import fit


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask a training to end while it takes a step, as a signal would."""
    take, request = Learner.step, Request()

    def taken(self: Learner, number: int, batch: object):
        if number == step:
            request.take(signal.SIGTERM, None)
        return take(self, number, batch)

    monkeypatch.setattr(Learner, "step", taken)
    monkeypatch.setattr(training, "watch", lambda: nullcontext(request))


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_training_that_is_asked_to_end_is_resumed_to_the_bit(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
):
    fit(micro_recipe, out=tmp_path / "straight", device="cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, at)
        with pytest.raises(
            Interrupted, match=rf"by SIGTERM after {at + 1} of 6 .*--resume.*state-"
        ):
            fit(micro_recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "config.json").exists()
    fit(micro_recipe, out=tmp_path / "run", device="cpu", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert weights(tmp_path / "run" / "halfway") == weights(tmp_path / "straight" / "halfway")
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 6]
    assert not (tmp_path / "run" / "states").exists()


def test_weights_of_clip_that_an_own_method_trains_are_resumed_too(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def tuned(clip: ImageEncoder, *, heads: int = 4) -> SegmentationModel:
        model = METHODS["zegclip"](clip, prompts=2, heads=heads)
        clip.ln_pre.requires_grad_(True)
        return model

    monkeypatch.setitem(METHODS, "tuned", tuned)
    recipe = replace(micro_recipe, method="tuned", options={})
    fit(recipe, out=tmp_path / "straight", device="cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            fit(recipe, out=tmp_path / "run", device="cpu")
    made = fit(recipe, out=tmp_path / "run", device="cpu", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    with pytest.raises(InputError, match="whose CLIP was trained too is saved whole"):
        made.save_pretrained(tmp_path / "adapter", adapter_only=True)


def test_what_is_done_is_not_done_again(micro_recipe: Recipe, tmp_path: Path, monkeypatch):
    own = Source(make_own(tmp_path / "own", 8))
    recipe = replace(micro_recipe, data=own)
    made = fit(recipe, out=tmp_path / "run", device="cpu", resume=True)  # nothing is there
    monkeypatch.setattr(Learner, "step", lambda *_: 1 / 0)
    moved = replace(recipe, data=replace(own, root=str(tmp_path / "own")))
    again = fit(moved, out=tmp_path / "run", device="cpu", resume=True)
    for key, value in made.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)
    for changes, start, says in (
        ({"seed": 1}, None, "seed 0, and this one has 1: .*--overwrite"),
        ({"data": micro_recipe.data}, None, "data .*, and this one has micro"),
        ({"clip": "elsewhere"}, None, "clip .*, and this one has elsewhere"),
        ({}, "elsewhere", "start None, and this one has elsewhere"),
    ):
        with pytest.raises(InputError, match=f"is of a training with {says}"):
            other = replace(recipe, **changes)
            fit(other, out=tmp_path / "run", start=start, device="cpu", resume=True)


def test_a_state_of_another_training_is_refused(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(Interrupted):
            fit(micro_recipe, out=tmp_path / "run", device="cpu")
    for changes, says in (
        ({"learning_rate": 1e-4}, "learning_rate 0.002, and this one has 0.0001"),
        ({"options": {"prompts": 3, "heads": 4}}, "options .*and this one has"),
    ):
        with pytest.raises(InputError, match=says):
            other = replace(micro_recipe, **changes)
            fit(other, out=tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(InputError, match="a training that was stopped: --resume goes on"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu")
    assert list_states(tmp_path / "run" / "states")


def test_a_resumed_transductive_training_is_the_one_in_one_go(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit(micro_recipe, out=tmp_path / "first", device="cpu")
    half = tmp_path / "first" / "halfway"
    recipe = replace(micro_recipe, setting="transductive", steps=4)
    fit(recipe, out=tmp_path / "straight", start=half, device="cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(Interrupted):
            fit(recipe, out=tmp_path / "run", start=half, device="cpu")
    fit(recipe, out=tmp_path / "run", device="cpu", resume=True)  # it knows what it began with
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    fit(recipe, out=tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(InputError, match="start .*halfway, and this one has .*first"):
        fit(recipe, out=tmp_path / "run", start=tmp_path / "first", device="cpu", resume=True)


def test_a_start_gives_weights_alone_not_the_optimiser_nor_the_schedule(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit(micro_recipe, out=tmp_path / "first", device="cpu")
    first, _, _ = load_pretrained(tmp_path / "first" / "halfway")
    seen: list[tuple[float, int, bool]] = []
    take = Learner.step

    def watched(self: Learner, number: int, batch: object):
        before = first.state_dict()
        same = all(torch.equal(before[k], v) for k, v in self.bare.state_dict().items())
        averages = len(self.optimizer.state)
        losses = take(self, number, batch)
        seen.append((self.optimizer.param_groups[0]["lr"], averages, same))
        return losses

    monkeypatch.setattr(Learner, "step", watched)
    recipe = replace(micro_recipe, setting="transductive", steps=2, warmup=10)
    fit(recipe, out=tmp_path / "second", start=tmp_path / "first" / "halfway", device="cpu")
    rate, averages, same = seen[0]
    assert same and averages == 0
    assert rate == pytest.approx(recipe.learning_rate * 1e-6)  # the warm-up's first
    assert seen[1][1] > 0 and not seen[1][2]


def test_a_full_disk_is_told_and_training_goes_on_or_stops(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write, states = Path.write_bytes, 0

    def fill(path: Path, content: bytes) -> int:
        nonlocal states
        states += 1
        if states == 2:
            write(path, content[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    engine = Engine(save_every=2)
    with pytest.warns(UserWarning, match=r"No space left on device: training goes on, .*00000002"):
        fit(micro_recipe, out=tmp_path / "on", device="cpu", engine=engine)
    load_pretrained(tmp_path / "on")
    states = 0
    with pytest.raises(InputError, match="state-00000004.* cannot be written: No space left"):
        fit(
            micro_recipe,
            out=tmp_path / "off",
            device="cpu",
            engine=replace(engine, need_states=True),
        )
    assert [state.step for state in list_states(tmp_path / "off" / "states")] == [2]
    monkeypatch.undo()
    fit(micro_recipe, out=tmp_path / "off", device="cpu", resume=True)
    assert weights(tmp_path / "off") == weights(tmp_path / "on")


def test_a_loss_that_is_no_number_names_step_pictures_and_state(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    take, names = Learner.step, []

    def poisoned(self: Learner, number: int, batch):
        if number == 4:
            names.extend(batch.names)
            with torch.no_grad():
                next(p for p in self.bare.parameters() if p.requires_grad).fill_(float("nan"))
        return take(self, number, batch)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(InputError, match=r"no longer a number at step 5 \(focal nan") as told:
        fit(micro_recipe, out=tmp_path / "run", device="cpu", engine=Engine(save_every=2))
    assert all(name in str(told.value) for name in names) and len(names) == 4
    assert "last good state" in str(told.value) and "state-00000002-" in str(told.value)
    monkeypatch.undo()
    calmer = replace(micro_recipe, clip_norm=1.0)  # as the sentence advises
    fit(calmer, out=tmp_path / "run", device="cpu", resume=True)


def test_a_corrupt_picture_ends_the_training_with_its_path_or_is_skipped(
    micro_recipe: Recipe, tmp_path: Path
):
    recipe = replace(micro_recipe, data=Source(make_own(tmp_path / "own", 24)))
    broken = tmp_path / "own" / "images" / "07.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(InputError, match=r"images/07\.jpg"):
        fit(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.warns(UserWarning, match=r"images/07\.jpg"):
        engine = Engine(skip_broken=True)
        fit(recipe, out=tmp_path / "run", overwrite=True, device="cpu", engine=engine)


def test_an_empty_mask_teaches_nothing_and_harms_nothing(micro_recipe: Recipe, tmp_path: Path):
    recipe = replace(micro_recipe, data=Source(make_own(tmp_path / "own", 4)))
    for path in (tmp_path / "own" / "masks").iterdir():
        Image.fromarray(np.full((60, 70), 255, np.uint8)).save(path)
    for loss in ("masks", "softmax"):
        with pytest.warns(UserWarning, match="of the first 6 steps: it learns nothing"):
            fit(replace(recipe, loss=loss), out=tmp_path / loss, device="cpu")
        for line in (tmp_path / loss / "log.jsonl").read_text().splitlines():
            assert all(np.isfinite(value) for value in json.loads(line).values())


def test_a_newest_state_that_is_broken_is_named_and_the_one_before_used(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = Engine(save_every=1)
    fit(micro_recipe, out=tmp_path / "straight", device="cpu", engine=engine)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted, match="with --resume in place of --overwrite goes on"):
            fit(micro_recipe, out=tmp_path / "run", overwrite=True, device="cpu", engine=engine)
    newest = list_states(tmp_path / "run" / "states")[0].path
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=f"{newest.name} is broken"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu", resume=True, engine=engine)
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")


def test_a_signal_ends_all_processes_with_a_state_and_its_exit_code(
    micro_recipe: Recipe, tmp_path: Path
):
    out = tmp_path / "run"
    started = launch(
        Path(micro_recipe.clip), out, "steps=3000", "--save-every", "1000", processes=2
    )
    deadline = time.monotonic() + 90
    while not (out / "log.jsonl").is_file():
        assert started.running and time.monotonic() < deadline
        time.sleep(0.05)
    started.processes[1].send_signal(signal.SIGTERM)
    told = started.wait()
    assert [code for code, _ in told] == [128 + signal.SIGTERM] * 2, told
    assert "--resume goes on from" in told[0][1]
    assert len(list_states(out / "states")) == 1


def test_workers_change_nothing(micro_recipe: Recipe, tmp_path: Path):
    fit(micro_recipe, out=tmp_path / "none", device="cpu")
    fit(micro_recipe, out=tmp_path / "two", device="cpu", engine=Engine(workers=2))
    assert weights(tmp_path / "none") == weights(tmp_path / "two")


def test_a_batch_that_cannot_be_parted_is_refused(micro_recipe: Recipe, tmp_path: Path):
    with pytest.raises(InputError, match="batch_size counts .* 4 .* 1 processes in 3 parts"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu", engine=Engine(accumulate=3))


def test_another_launcher_is_refused(micro_recipe: Recipe, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="torchrun or SLURM"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu")


def test_trackers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="no logger is called 'tensorbord'"):
        Engine(loggers=["tensorbord"])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"unseen\[tensorboard\]"):
        Engine(loggers=["tensorboard"])  # before a folder is touched
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match="this needs wandb, which is not installed: pip install"):
        Engine(loggers=["wandb"])


def test_a_missing_validation_split_is_told_before_the_first_step(
    micro_recipe: Recipe, tmp_path: Path
):
    own = Path(make_own(tmp_path / "own", 4))
    own.write_text(own.read_text().replace(", val: {list: train.txt}", ""))
    recipe = replace(micro_recipe, data=Source(str(own)))
    with pytest.raises(InputError, match="val"):
        fit(recipe, out=tmp_path / "run", device="cpu", engine=Engine(validate_every=6))
    assert not (tmp_path / "run").exists()


def test_the_best_of_validated_models_is_kept_also_over_a_stop(
    micro_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit(micro_recipe, out=tmp_path / "plain", device="cpu")
    given = iter([0.2, 0.4, 0.3])  # after steps 2, 4 and 6

    def score(segmenter, dataset, **_):
        assert (len(dataset), dataset[0].name) == (3, "val-00000")
        assert not any(module.training for module in segmenter.model.modules())
        return SimpleNamespace(hiou=next(given))

    monkeypatch.setattr(training_folder, "evaluate", score)
    engine = Engine(validate_every=2, validate_on=3)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            fit(micro_recipe, out=tmp_path / "run", device="cpu", engine=engine)
    fit(micro_recipe, out=tmp_path / "run", device="cpu", engine=engine, resume=True)
    _, _, best = load_pretrained(tmp_path / "run" / "best")
    assert best.recipe["stopped_at"] == 4
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")  # to look changes nothing
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [one["validation"] for one in lines if "validation" in one] == [20.0, 40.0, 30.0]
