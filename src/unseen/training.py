"""Training: the loop, and what it leaves on disk. The only file that knows Lightning."""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen.building import build, open_source
from unseen.catalogue import open_dataset
from unseen.checkpoints import ModelConfig, read_description, save_pretrained
from unseen.clip import fingerprint
from unseen.data.batches import Batch, Crops, Order, load
from unseen.data.datasets import Dataset, Subset
from unseen.errors import InputError, require
from unseen.evaluation import evaluate
from unseen.interruption import Interrupted, watch
from unseen.learning import PRECISIONS, Engine, Learner
from unseen.processes import Processes
from unseen.progress import track
from unseen.recipes import Recipe
from unseen.runs import Log, describe_environment, read_start
from unseen.segmenter import Segmenter, resolve_device
from unseen.settings import SELF_TRAINING, TRANSDUCTIVE, Setting, find_setting
from unseen.states import list_states, read_newest, require_same, save_state
from unseen.vocabulary import Vocabulary
from unseen.writing import write_text

REPORT_EVERY = 20


def launch_fabric(engine: Engine, device: str) -> Any:
    """Return Fabric, with the other processes that a launcher started, if any.

    ``torchrun`` and SLURM tell each process how many there are.

    Raises:
        InputError: another launcher, or a precision that the device does not have.
        MissingExtra: Lightning Fabric is not installed.
    """
    fabric = require("lightning_fabric", extra="train")
    accelerator = resolve_device(device).type
    if engine.precision == "fp16" and accelerator == "cpu":
        raise InputError("training in fp16 needs a GPU: take bf16 or fp32")
    size, nodes = Processes.started().size, 1
    plugins = []
    if size == 1:  # or Fabric would go by what SLURM says of a batch script
        environments = require("lightning_fabric.plugins.environments", extra="train")
        plugins = [environments.LightningEnvironment()]
    elif "LOCAL_WORLD_SIZE" in os.environ:
        nodes = size // int(os.environ["LOCAL_WORLD_SIZE"])
    elif "SLURM_STEP_NUM_NODES" in os.environ:
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    else:
        raise InputError("several processes are started by torchrun or SLURM's srun")
    made = fabric.Fabric(
        accelerator=accelerator,
        devices=size // nodes,
        num_nodes=nodes,
        strategy="ddp" if size > 1 else "auto",
        precision=PRECISIONS[engine.precision],
        plugins=plugins,
    )
    made.launch()
    return made


class Keeper:
    """Writes a training's folder, from one process alone.

    Args:
        out: the folder.
        fabric: Lightning's, launched.
        learner: whose states are kept.
        recipe: what it learns.
        engine: how.
        start: what it went on from.
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
        self._identity = {
            **recipe.record(),
            "data": recipe.data.name,  # it may have moved
            "CLIP": fingerprint(learner.bare.encoder.clip),
            "start": None if start is None else str(start),
        }
        self._best = 0.0
        self._log: Log | None = None
        self._since = 0.0, 0  # when the last report was, and of which step

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
        return file.step

    def begin(self, step: int) -> None:
        """Open the log; before the first step, remove what an earlier training left."""
        self._since = time.monotonic(), step
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
        source = self._recipe.data
        dataset = Subset(
            open_dataset(source.name, "val", root=source.root), self._engine.validate_on
        )
        scores = evaluate(model, dataset, processes=Processes.started())
        unseen = dataset.vocabulary.unseen
        score = scores.hiou if unseen and dataset.vocabulary.seen else scores.mean(scores.iou)
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


def fit(
    recipe: Recipe,
    *,
    out: str | Path,
    start: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    engine: Engine | None = None,
) -> Segmenter:
    """Train a recipe; its folder then holds the model, the model half-way, and a log.

    Batches follow from (seed, step), crops from (seed, epoch, picture), dropout from (seed, step,
    process): on a CPU, a training that was stopped and resumed is, to the bit, one that was not.

    Args:
        recipe: what to train.
        out: folder for ``config.json``, ``model.safetensors``, ``halfway/``, ``log.jsonl``,
            ``run.json``, until it is done ``states/``, and where models are validated ``best/``.
        start: folder or name of a model whose weights to start from (``--from``).
        resume: go on from the newest state in ``out``, if there is one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        engine: how it is done: precision, workers, states.

    Raises:
        InputError: a recipe that cannot be followed, a start that does not fit, a folder that
            cannot be written, a picture that cannot be read, or a loss that is no number any more.
        Interrupted: a signal asked for the end; the state was saved before.
        MissingExtra: an extra is not installed.
    """
    engine, out = engine or Engine(), Path(out)
    start = read_start(out) if resume and start is None else start
    _keep_apart(out, start)
    fabric = launch_fabric(engine, device)
    torch.manual_seed(recipe.seed)
    setting, dataset = find_setting(recipe.setting), open_source(recipe)
    vocabulary = dataset.vocabulary
    _check_vocabulary(vocabulary, setting)
    if resume and _is_done(out, recipe):
        return Segmenter.from_pretrained(out, device=device)
    model, text_encoder, recipe = build(recipe, start)
    text = text_encoder.embed(
        [vocabulary.names[i] for i in setting.shown(vocabulary)], vocabulary.templates
    )
    learner = Learner(fabric, model, text, vocabulary, recipe, engine)
    keeper = Keeper(out, fabric, learner, recipe, engine, start)
    config = ModelConfig(
        method=recipe.method,
        options=recipe.options,
        vocabulary=vocabulary,
        setting=setting.name,
        calibration=setting.calibration,
        short_side=recipe.short_side,
        window=recipe.window,
        stride=recipe.stride,
        clip=recipe.clip,
        recipe=recipe.record(),
    )

    segmenter = Segmenter(model, text_encoder, config, device=device)
    first = keeper.restore() if resume else 0
    stream = read_batches(dataset, recipe, engine, fabric, first)
    every = engine.save_every or max(1, recipe.steps // 20)
    status = ""
    with watch() as request, closing(stream):
        steps = range(first, recipe.steps)
        bar = track(
            steps,
            f"training {recipe.name}",
            total=recipe.steps,
            done=first,
            status=lambda: status,
            quiet=not fabric.is_global_zero,
        )
        for step in bar:
            batch, done = next(stream), step + 1
            try:
                losses = learner.step(step, batch)
            except FloatingPointError as error:
                keeper.forget(step)
                raise InputError(
                    f"the loss is no longer a number at step {done} ({error}), of the pictures "
                    f"{', '.join(batch.names)}: look at them; begin anew with a lower "
                    "learning_rate or a longer warmup, or add a clip_norm and --resume: "
                    f"the last good state is {keeper.newest()}"
                ) from None
            if step == first:  # nothing that was there is lost to a training that cannot begin
                keeper.begin(first)
            if done % REPORT_EVERY == 0 or done in (1, recipe.steps):
                status = keeper.report(done, losses)
            if done == max(1, recipe.steps // 2):
                keeper.save_model("halfway", segmenter, done)
            if engine.validate_every and done % engine.validate_every == 0:
                keeper.validate(done, segmenter)
            told = learner.any(request.number)
            if done < recipe.steps and (told or done % every == 0):
                keeper.save(done)
            if told and done < recipe.steps:
                raise Interrupted(
                    told,
                    f"stopped by {signal.Signals(told).name} after {done} of {recipe.steps} steps; "
                    f"the same command with --resume goes on from {keeper.newest()}",
                )
    if fabric.is_global_zero:
        save_pretrained(out, model, text_encoder, config)
    keeper.close()
    model.eval()
    return segmenter


def read_batches(
    dataset: Dataset, recipe: Recipe, engine: Engine, fabric: Any, first: int
) -> Generator[Batch]:
    """Return this process's batches from a step on."""
    gpu = fabric.device.type == "cuda"
    workers = engine.workers
    if workers is None:  # on a CPU the training itself takes all cores
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = min(8, (os.cpu_count() or 1) // beside) if gpu else 0
    share = (fabric.global_rank, fabric.world_size)
    order = Order(len(dataset), recipe.batch_size, recipe.seed, first, share)
    crops = Crops(dataset, recipe.augmentation, recipe.window, recipe.seed, engine.skip_broken)
    return load(crops, order, workers=workers, pinned=gpu)


def _is_done(out: Path, recipe: Recipe) -> bool:
    """Tell whether a folder holds the trained model already.

    Raises:
        InputError: it holds that of another recipe.
    """
    if not (out / "config.json").is_file() or list_states(out / "states"):
        return False
    theirs, ours = read_description(out)["recipe"], json.loads(json.dumps(recipe.record()))
    own = {"data", "clip"}  # data may have moved; a start brings its own CLIP
    made, wanted = ({k: v for k, v in one.items() if k not in own} for one in (theirs, ours))
    require_same(made, wanted, out)
    return True


def _keep_apart(out: Path, start: str | Path | None) -> None:
    """Refuse a start that the training would replace."""
    if start is None or not Path(start).exists():
        return
    place = Path(start).resolve()
    if out.resolve() in (place, *place.parents):
        raise InputError(f"{start} lies in {out}, which is to be replaced: name another --out")


def _check_vocabulary(vocabulary: Vocabulary, setting: Setting) -> None:
    """Refuse a setting that is about classes that are not there."""
    if not vocabulary.seen:
        raise InputError(
            f"every name of {vocabulary.name} is unseen: training needs masks of some classes"
        )
    if not vocabulary.unseen and setting in (TRANSDUCTIVE, SELF_TRAINING):
        raise InputError(
            f"{setting.name} training finds pixels of unseen classes, and {vocabulary.name} names "
            "none: train it inductive or supervised"
        )
