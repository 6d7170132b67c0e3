"""Training: the loop. The only file that knows Lightning."""

import json
import os
import signal
import warnings
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseen.building import build, open_source
from unseen.checkpoints import (
    ModelConfig,
    clip_place,
    describing,
    read_description,
    save_pretrained,
)
from unseen.data.batches import Batch, Crops, Order, load
from unseen.data.datasets import Dataset
from unseen.errors import InputError, require
from unseen.interruption import Interrupted, watch
from unseen.learning import PRECISIONS, Engine, Learner
from unseen.processes import Processes, leave_at_exit
from unseen.progress import track
from unseen.recipes import Recipe
from unseen.runs import read_start
from unseen.segmenter import Segmenter, resolve_device
from unseen.settings import SELF_TRAINING, TRANSDUCTIVE, Setting, find_setting
from unseen.states import list_states, require_same
from unseen.training_folder import TrainingFolder, describe_classes
from unseen.vocabulary import Vocabulary
from unseen.writing import refuse_existing

REPORT_EVERY = 20

WITHOUT = 10
"""After so many steps without a class to learn from, the training says so."""


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
    if size > 1:
        leave_at_exit()
    return made


def fit(
    recipe: Recipe,
    *,
    out: str | Path,
    start: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
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
        overwrite: replace a model or a stopped training that is in ``out``, at the first step.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        engine: how it is done: precision, workers, states.

    Raises:
        InputError: a recipe that cannot be followed, a start that does not fit, a folder that
            holds a model or cannot be written, a picture that cannot be read, or a loss that is no
            number any more.
        Interrupted: a signal asked for the end; the state was saved before.
        MissingExtra: an extra is not installed.
    """
    engine, out = engine or Engine(), Path(out)
    start = read_start(out) if resume and start is None else start
    if resume and overwrite:
        raise InputError("give --resume or --overwrite: to go on, or to begin anew")
    _keep_apart(out, start)
    refuse_existing(out, overwrite=overwrite or resume)
    fabric = launch_fabric(engine, device)
    torch.manual_seed(recipe.seed)
    setting, dataset = find_setting(recipe.setting), open_source(recipe)
    vocabulary = dataset.vocabulary
    _check_vocabulary(vocabulary, setting)
    if resume and _is_done(out, recipe, start, vocabulary):
        return Segmenter.from_pretrained(out, device=device)
    model, text_encoder, recipe, before = build(recipe, start)
    shown_before = before.taught if before else ()
    familiar = {name.casefold() for name in shown_before}  # CLIP reads lower case only
    if known := [name for name in vocabulary.unseen if name.casefold() in familiar]:
        warnings.warn(
            f"{start} was shown masks of {', '.join(known)}, which this training holds out: what "
            "the model scores there is no zero-shot score",
            stacklevel=2,
        )
    text = text_encoder.embed(
        [vocabulary.names[i] for i in setting.shown(vocabulary)], vocabulary.templates
    )
    learner = Learner(fabric, model, text, vocabulary, recipe, engine)
    folder = TrainingFolder(out, fabric, learner, recipe, engine, start)
    config = ModelConfig(
        method=recipe.method,
        options=recipe.options,
        vocabulary=vocabulary,
        setting=setting.name,
        calibration=setting.calibration,
        short_side=recipe.short_side,
        window=recipe.window,
        stride=recipe.stride,
        clip=clip_place(recipe.clip),
        recipe=recipe.record(),
        start="" if start is None else str(start),
        shown_before=shown_before,
    )

    segmenter = Segmenter(model, text_encoder, config, device=device)
    first = folder.restore() if resume else 0
    stream = read_batches(dataset, recipe, engine, fabric, first)
    every = engine.save_every or max(1, recipe.steps // 20)
    status, lessons, shown = "", 0, setting.shown(vocabulary)
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
            lessons += int(np.isin(batch.labels, shown).any())
            if not lessons and done - first == min(WITHOUT, recipe.steps - first):
                warnings.warn(
                    f"no class that training shows ({', '.join(vocabulary.names[i] for i in shown)}"
                    f") is in any picture of the first {done - first} steps: it learns nothing; "
                    "look at the labels with 'unseen doctor data'",
                    stacklevel=2,
                )
            try:
                losses = learner.step(step, batch)
            except FloatingPointError as error:
                folder.forget(step)
                raise InputError(
                    f"the loss is no longer a number at step {done} ({error}), of the pictures "
                    f"{', '.join(batch.names)}: look at them; begin anew with a lower "
                    "learning_rate or a longer warmup, or set clip_norm, with --resume to go on "
                    f"from the last good state, {folder.newest()}"
                ) from None
            if step == first:  # nothing that was there is lost to a training that cannot begin
                folder.begin(first)
            if done % REPORT_EVERY == 0 or done in (1, recipe.steps):
                status = folder.report(done, losses)
            if done == max(1, recipe.steps // 2):
                folder.save_model("halfway", segmenter, done)
            if engine.validate_every and done % engine.validate_every == 0:
                folder.validate(done, segmenter)
            told = learner.any(request.number)
            if done < recipe.steps and (told or done % every == 0):
                folder.save(done)
            if told and done < recipe.steps:
                raise Interrupted(
                    told,
                    f"stopped by {signal.Signals(told).name} after {done} of {recipe.steps} steps; "
                    f"the same command with --resume{' in place of --overwrite' * overwrite} goes "
                    f"on from {folder.newest()}",
                )
    if fabric.is_global_zero:
        save_pretrained(out, model, text_encoder, config)
    folder.close()
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
    crops = Crops(
        dataset,
        recipe.augmentation,
        recipe.short_side,
        recipe.window,
        recipe.seed,
        engine.skip_broken,
    )
    return load(crops, order, workers=workers, pinned=gpu)


def _is_done(out: Path, recipe: Recipe, start: str | Path | None, vocabulary: Vocabulary) -> bool:
    """Tell whether a folder holds the trained model already.

    Raises:
        InputError: it holds that of another recipe, data set, CLIP or start.
    """
    if not (out / "config.json").is_file() or list_states(out / "states"):
        return False
    description = read_description(out)
    made, wanted = description["recipe"], json.loads(json.dumps(recipe.record()))
    with describing(out):
        shown = Vocabulary.from_dict(description["vocabulary"])
    for one, begun, named in ((made, read_start(out), shown), (wanted, start, vocabulary)):
        one["data"] = one.get("data", {}).get("name")  # it may have moved
        one.update(describe_classes(named))
        one["start"] = begun and str(begun)
        if start is not None:
            one.pop("clip", None)  # a start brings its own
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
