"""What a training leaves on disk: its log, its states, the best and the half-trained model."""

import json
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen.catalogue import open_dataset
from unseen.checkpoints import save_pretrained
from unseen.clip import fingerprint
from unseen.data.datasets import Subset
from unseen.errors import InputError
from unseen.evaluation import evaluate
from unseen.learning import Engine, Learner
from unseen.processes import Processes
from unseen.recipes import Recipe
from unseen.runs import Log, describe_environment
from unseen.segmenter import Segmenter
from unseen.states import list_states, read_newest, require_same, save_state
from unseen.vocabulary import Vocabulary
from unseen.writing import write_text


def describe_classes(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Return what of a vocabulary a training cannot change on its way."""
    return {"classes": list(vocabulary.names), "unseen classes": list(vocabulary.unseen)}


class TrainingFolder:
    """A training's folder as it comes to be, written by one process alone.

    Args:
        out: where it is.
        fabric: Lightning's, launched.
        learner: whose states are kept.
        recipe: what it learns.
        engine: how.
        start: what it went on from.

    Raises:
        InputError: models are to be validated, and there is nothing to do that on.
    """

    def __init__(
        self,
        out: Path,
        fabric: Any,
        learner: Learner,
        recipe: Recipe,
        engine: Engine,
        start: str | Path | None,
    ) -> None:
        self._out, self._fabric, self._learner = out, fabric, learner
        self._recipe, self._engine, self._start = recipe, engine, start
        changeable = {"clip_norm"}  # what a training is saved by, once its loss is no number
        self._identity = {
            **{key: value for key, value in recipe.record().items() if key not in changeable},
            "data": recipe.data.name,  # it may have moved
            **describe_classes(learner.vocabulary),
            "CLIP": fingerprint(learner.bare.encoder.clip),
            "start": None if start is None else str(start),
        }
        self._validation: Subset | None = None
        if engine.validate_every:
            dataset = open_dataset(recipe.data.name, "val", root=recipe.data.root)
            self._validation = Subset(dataset, engine.validate_on)
        self._best = 0.0
        self._log: Log | None = None
        self._since = time.monotonic(), 0  # when the last report was, and of which step

    @property
    def states(self) -> Path:
        """Where states lie."""
        return self._out / "states"

    def restore(self) -> int:
        """Bring the learner to the newest state; return the steps it has taken.

        Raises:
            InputError: the state is of another training.
        """
        found = read_newest(self.states) if self._fabric.is_global_zero else None
        found = self._fabric.broadcast(found)
        if found is None:
            return 0
        file, state = found
        require_same(state["identity"], self._identity, file.path)
        self._learner.restore(state)
        self._best = state["best"]
        self._since = time.monotonic(), file.step
        return file.step

    def begin(self, step: int) -> None:
        """Open the log; before the first step, remove what an earlier training left."""
        if not self._fabric.is_global_zero:
            return
        if step == 0:
            _clear(self._out)
        for part in self.states.glob(".part-*"):
            part.unlink(missing_ok=True)  # of a process that was killed while it wrote
        told = {
            "recipe": self._recipe.record(),
            "start": None if self._start is None else str(self._start),
            "engine": asdict(self._engine),
            "environment": describe_environment(self._fabric.device.type, self._fabric.world_size),
        }
        write_text(self._out / "run.json", json.dumps(told, indent=1) + "\n")
        self._log = Log(
            self._out, step=step, loggers=self._engine.loggers, facts=self._recipe.record()
        )

    def report(self, step: int, losses: Mapping[str, Tensor]) -> str:
        """Write the log's line of a step; return what a person may want to see of it."""
        values, now = self._learner.mean(losses), time.monotonic()
        then, before = self._since
        speed = self._recipe.batch_size * (step - before) / max(now - then, 1e-9)
        self._since = now, step
        if self._log:
            rate = self._learner.optimizer.param_groups[0]["lr"]
            facts = {
                "seconds": round(self._log.seconds + now - then, 1),
                "rate": rate,
                "pictures_per_second": round(speed, 2),
            }
            self._log.add(step, facts | values)
        return f"loss {sum(values.values()):.4g} · {speed:.3g} pictures/s · {_memory()}"

    def save(self, step: int) -> None:
        """Write a state; if that fails, say so, and end the training where that is wished.

        Raises:
            InputError: it cannot be written, and the engine needs states.
        """
        if self._fabric.is_global_zero:
            state = {
                "identity": self._identity,
                "best": self._best,
                **self._learner.state(),
            }
            with self._spare_disk():
                save_state(self.states, step, state, keep=self._engine.keep)
        self._fabric.barrier()

    def save_model(self, name: str, model: Segmenter, stopped_at: int) -> None:
        """Write the model as it is now into a folder within; a failure is as that of a state."""
        if self._fabric.is_global_zero:
            recipe = self._recipe.record() | {"stopped_at": stopped_at}
            with self._spare_disk():
                save_pretrained(
                    self._out / name, model.model, model.text, replace(model.config, recipe=recipe)
                )
        self._fabric.barrier()

    @contextmanager
    def _spare_disk(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if self._engine.need_states:
                raise
            warnings.warn(
                f"{error}: training goes on, the newest state is {self.newest()}", stacklevel=4
            )

    def validate(self, step: int, model: Segmenter) -> None:
        """Score the model on validation pictures; the best so far is kept."""
        model.model.eval()  # the next step turns dropout on again
        assert self._validation is not None
        scores = evaluate(model, self._validation, processes=Processes.started())
        names = self._validation.vocabulary
        score = scores.hiou if names.unseen and names.seen else scores.mean(scores.iou)
        if self._log:
            self._log.add(step, {"seconds": self._log.seconds, "validation": round(100 * score, 2)})
        if score > self._best:
            self._best = score
            self.save_model("best", model, step)

    def newest(self) -> str:
        """Name the newest state."""
        states = list_states(self.states)
        return str(states[0].path) if states else "none"

    def forget(self, step: int) -> None:
        """Remove the states from a step on: what they lead to is no number."""
        if self._fabric.is_global_zero:
            for state in list_states(self.states):
                if state.step >= step:
                    state.path.unlink()

    def close(self) -> None:
        """End the log, and remove the states of a training that is done."""
        if self._log:
            self._log.close()
            shutil.rmtree(self.states, ignore_errors=True)
        self._fabric.barrier()


def _memory() -> str:
    """Say how much memory was needed at most so far."""
    if torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB"
    try:
        import resource
    except ImportError:  # Windows has none
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GB"


def _clear(folder: Path) -> None:
    """Remove what an earlier training left, lest a stopped one leave a mixture of both."""
    try:
        for name in ("halfway", "best", "states", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("config.json", "model.safetensors", "log.jsonl", "scores.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from None
