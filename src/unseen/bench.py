"""What ``unseen bench`` measures: how long a model's work takes, and its peak memory.

Every case runs in a process of its own, so that its peak is its own. The weights of a recipe are
random, and so are text embeddings and pictures always: the text encoder does not run, nor is a
recipe's built. Weights decide nothing of a model's time, and of the read-out's how many classes
rival at a pixel.
"""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from unseen.backends import TorchBackend, autocast
from unseen.building import open_source
from unseen.catalogue import find_dataset
from unseen.checkpoints import ModelConfig
from unseen.data.batches import Crops, Order
from unseen.data.batches import load as load_batches
from unseen.data.transforms import fit_short_side
from unseen.efficiency import clock, describe, hardware
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError, did_you_mean, ran_out_of_memory, require
from unseen.learning import compute_loss, make_optimizer
from unseen.metrics import markdown
from unseen.readout import Windows
from unseen.recipes import RECIPES, VOCABULARY_OF, Source, find_recipe
from unseen.segmenter import Segmenter, resolve_device
from unseen.settings import SUPERVISED, Setting, find_setting
from unseen.shipped import shipped_models
from unseen.vocabulary import Vocabulary, find_vocabulary
from unseen.writing import write_whole


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        task: a key of ``TASKS``, or ``loading``: the augmented pictures of a recipe, no model.
        model: folder of a model, a shipped or hub name, or a recipe.
        classes: how many are looked for; None for the model's vocabulary.
        size: (height, width) of a picture; the other tasks have the model's windows.
        batch: windows at a time, or pictures a step.
        precision: ``fp32``, ``bf16`` or ``fp16``, as far as what runs the model knows it.
        compile: let torch.compile join what it can; training steps are not compiled.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        warmup: calls before the clock runs.
        repeats: calls with the clock.
        root: folder of the data set, where one is read.
    """

    task: str
    model: str
    classes: int | None = None
    size: tuple[int, int] = (480, 640)
    batch: int = 1
    precision: str = "fp32"
    compile: bool = False
    device: str = "auto"
    warmup: int = 1
    repeats: int = 5
    root: str | None = None


@dataclass(frozen=True)
class Work:
    """A call to time, and what of it the case does not say.

    Args:
        run: the call.
        device: where it computes.
        pictures: it deals with, windows if that is the task.
        classes: it looks for; 0 for none.
        shown: what the model is shown.
    """

    run: Callable[[], object]
    device: torch.device
    pictures: int
    classes: int
    shown: str


@dataclass(frozen=True)
class Measurement:
    """What a case took.

    Args:
        case: what was measured.
        seconds: of each call.
        memory: peak, in bytes: resident on a CPU, allocated by torch on a CUDA device.
        pictures: a call deals with.
        classes: looked for.
        shown: what the model is shown.
        device: as torch names it.
        hardware: what the machine calls it.
        threads: that torch uses on a CPU.
    """

    case: Case
    seconds: tuple[float, ...]
    memory: int
    pictures: int
    classes: int
    shown: str
    device: str
    hardware: str
    threads: int

    @property
    def p50(self) -> float:
        """Median seconds of a call."""
        return float(np.percentile(self.seconds, 50))

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        return float(np.percentile(self.seconds, 95))

    def conditions(self) -> str:
        """Say in a line what holds for all cases of a run on one device."""
        threads = f", {self.threads} threads" if self.device == "cpu" else ""
        memory = "allocated by torch" if self.device.startswith("cuda") else "resident"
        return (
            f"{self.device} ({self.hardware}){threads}, torch {torch.__version__}, text embeddings "
            f"given, {self.case.warmup} calls to warm up, {self.case.repeats} timed; each case in "
            f"a process of its own, peak memory {memory}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            **asdict(self),
            "p50": self.p50,
            "p95": self.p95,
            "pictures_per_second": self.pictures / self.p50,
            "torch": torch.__version__,
        }


# What is timed -----------------------------------------------------------------------------------


def load(
    source: str, device: str = "auto", precision: str = "fp32", *, compile: bool = False
) -> Segmenter:
    """Return a trained model, or a recipe's with random weights and no text encoder.

    Raises:
        InputError: no such model or recipe, or a precision it cannot be run in.
    """
    if source in RECIPES and source not in shipped_models() and not os.path.exists(source):
        recipe = RECIPES[source]
        config = ModelConfig(
            method=recipe.method,
            options=recipe.options,
            vocabulary=find_vocabulary(VOCABULARY_OF[recipe.data.name]),
            setting=recipe.setting,
            calibration=find_setting(recipe.setting).calibration,
            short_side=recipe.short_side,
            window=recipe.window,
            stride=recipe.stride,
        )
        torch.manual_seed(recipe.seed)
        model = describe(source).build()
        run = TorchBackend(
            model, device=resolve_device(device), precision=precision, compile=compile
        )
        return Segmenter(run, None, config)
    return Segmenter.from_pretrained(source, device=device, precision=precision, compile=compile)


def random_text(segmenter: Segmenter, classes: int | None) -> TextEmbeddings:
    """Return embeddings of the model's vocabulary, or of another of ``classes`` names."""
    vocabulary = segmenter.config.vocabulary
    if classes is not None and classes != len(vocabulary):
        vocabulary = Vocabulary("random", tuple(f"label {i}" for i in range(classes)))
    width = segmenter.backend.vision.embed_dim
    values = torch.randn(len(vocabulary), width, generator=torch.Generator().manual_seed(0))
    return TextEmbeddings(vocabulary, torch.nn.functional.normalize(values, dim=-1))


def random_windows(segmenter: Segmenter, batch: int) -> Float[Tensor, "B 3 H W"]:
    """Return windows of the model's size, RGB in [0, 1]."""
    side = segmenter.config.window
    windows = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    return windows.to(segmenter.device)


def random_picture(size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture of (height, width), RGB."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def picture(segmenter: Segmenter, case: Case) -> Work:
    """Prepare to name the pixels of a picture that is in memory."""
    config, text = segmenter.config, random_text(segmenter, case.classes)
    image = random_picture(case.size)
    shown = fit_short_side(case.size, config.short_side)
    windows = Windows(shown, config.window, config.stride)
    height, width = windows.crop

    def run() -> object:
        return segmenter(image, text, limit=None)

    what = f"{len(windows.corners)} × {height}×{width}"
    return Work(run, segmenter.device, 1, len(text.values), what)


def windows(segmenter: Segmenter, case: Case) -> Work:
    """Prepare to score a batch of windows on their patch grids."""
    text = random_text(segmenter, case.classes).values.to(segmenter.device)
    images = random_windows(segmenter, case.batch)

    def run() -> object:
        with torch.inference_mode():
            return segmenter.backend(images, text)

    side = segmenter.config.window
    return Work(run, segmenter.device, case.batch, len(text), f"{case.batch} × {side}×{side}")


@dataclass(frozen=True)
class Lesson:
    """What a training step is given: label maps with up to nine classes a picture.

    Args:
        images: RGB in [0, 1].
        labels: positions in the vocabulary.
        text: embeddings of the classes that the setting shows.
        setting: the model's, or supervised where the vocabulary is not the model's.
        vocabulary: what labels mean.
    """

    images: Float[Tensor, "B 3 H W"]
    labels: Integer[Tensor, "B H W"]
    text: Float[Tensor, "C D"]
    setting: Setting
    vocabulary: Vocabulary


def make_lesson(segmenter: Segmenter, case: Case) -> Lesson:
    """Draw what a training step is given.

    Raises:
        InputError: a model of which nothing is trained.
    """
    config, embeddings = segmenter.config, random_text(segmenter, case.classes)
    if not any(parameter.requires_grad for parameter in segmenter.model.parameters()):
        raise InputError(f"nothing of {case.model} is trained: leave the task training out")
    vocabulary = embeddings.vocabulary
    setting = find_setting(config.setting) if vocabulary is config.vocabulary else SUPERVISED
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(len(vocabulary), (case.batch, 1, 3, 3), generator=generator)
    labels = torch.nn.functional.interpolate(coarse.double(), config.window)[:, 0].long()
    return Lesson(
        random_windows(segmenter, case.batch),
        labels.to(segmenter.device),
        embeddings.values[list(setting.shown(vocabulary))].to(segmenter.device),
        setting,
        vocabulary,
    )


def training(segmenter: Segmenter, case: Case) -> Work:
    """Prepare to take optimiser steps on one batch."""
    model, given = segmenter.model.train(), make_lesson(segmenter, case)
    optimizer = make_optimizer(model, learning_rate=1e-6, weight_decay=0.01)

    def run() -> None:
        optimizer.zero_grad()  # before the forward pass, which needs the memory
        with autocast(case.precision, segmenter.device):
            losses = compute_loss(
                model,
                given.images,
                given.labels,
                given.text,
                setting=given.setting,
                vocabulary=given.vocabulary,
            )
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()

    side = segmenter.config.window
    shown = f"{case.batch} × {side}×{side}"
    return Work(run, segmenter.device, case.batch, len(given.text), shown)


def loading(case: Case) -> Work:
    """Prepare to read, decode and augment batches of what a recipe trains on.

    Raises:
        InputError: no recipe, or its data set lies on disk and nobody says where.
    """
    recipe = find_recipe(case.model)
    known = find_dataset(recipe.data.name)
    if case.root is None and known is not None and known.read is not None:
        raise InputError(f"the data set {recipe.data.name} lies on disk: say where with --root")
    source = Source(recipe.data.name, case.root)
    dataset = open_source(replace(recipe, data=source))
    crops = Crops(dataset, recipe.augmentation, recipe.short_side, recipe.window, recipe.seed)
    stream = load_batches(crops, Order(len(dataset), case.batch, recipe.seed))
    shown = f"{case.batch} × {recipe.window}×{recipe.window}"
    return Work(lambda: next(stream), torch.device("cpu"), case.batch, 0, shown)


TASKS: dict[str, Callable[[Segmenter, Case], Work]] = {
    "picture": picture,
    "windows": windows,
    "training": training,
}
"""What is done with a model: a picture to labels, windows to scores on the patch grid, a step."""


# Measuring ---------------------------------------------------------------------------------------


def prepare(case: Case) -> Work:
    """Make ready what a case times.

    Raises:
        InputError: a case that cannot be.
    """
    if case.task == "loading":
        return loading(case)
    if case.task not in TASKS:
        names = [*TASKS, "loading"]
        hint = did_you_mean(case.task, names)
        raise InputError(f"no task is called {case.task!r}{hint} (known: {', '.join(names)})")
    if min(case.repeats, case.batch, *case.size, case.classes or 1) < 1 or case.warmup < 0:
        raise InputError("repeats, batch, sizes and classes are whole numbers from 1")
    segmenter = load(case.model, case.device, case.precision, compile=case.compile)
    return TASKS[case.task](segmenter, case)


def measure(case: Case, prepare: Callable[[Case], Work] = prepare) -> Measurement:
    """Time a case in this process; its peak memory is that of all that the process did.

    Raises:
        InputError: the case cannot be, or does not fit into memory.
    """
    try:
        work = prepare(case)
        seconds = [clock(work.run, work.device) for _ in range(case.warmup + case.repeats)]
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise InputError(f"memory ran out with {case.task} of {case.model}: ask for less") from None
    return Measurement(
        case,
        tuple(seconds[case.warmup :]),
        peak_memory(work.device),
        work.pictures,
        work.classes,
        work.shown,
        str(work.device),
        hardware(work.device),
        torch.get_num_threads(),
    )


def measure_apart(case: Case, prepare: Callable[[Case], Work] = prepare) -> Measurement:
    """Measure a case in a fresh process.

    Args:
        case: what to measure.
        prepare: what makes it ready: a function that can be found by its name there.

    Raises:
        InputError: the case cannot be, or its process was ended, as for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(measure, case, prepare).result()
        except BrokenProcessPool:
            raise InputError(
                f"the process of {case.task} of {case.model} was ended from outside: "
                "most likely memory ran out; ask for less"
            ) from None


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process held at once, on a CUDA device if that is meant."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # what getrusage says is never less than the parent held when it started the process
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        assert peak is not None
        return 1024 * int(peak[1])
    import resource  # Windows has none

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss if sys.platform == "darwin" else 1024 * peak_rss


def tabulate(measurements: Sequence[Measurement]) -> str:
    """Lay out measurements as a Markdown table."""
    rows = [
        [
            one.case.model,
            one.case.task,
            one.case.precision + ", compiled" * one.case.compile if one.classes else "–",
            str(one.classes or "–"),
            f"{one.case.size[0]}×{one.case.size[1]}" if one.case.task == "picture" else "–",
            one.shown,
            f"{one.p50:.3g}",
            f"{one.p95:.3g}",
            f"{min(one.seconds):.3g}–{max(one.seconds):.3g}",
            f"{one.pictures / one.p50:.3g}",
            f"{one.memory / 1e6:.0f}",
        ]
        for one in measurements
    ]
    header = "model, task, precision, classes, picture, shown, p50 s, p95 s, range s, a second, MB"
    return markdown(header.split(", "), rows)


def check_plot(cases: Sequence[Case], path: Path) -> None:
    """Refuse a plot that could not be drawn once all is measured.

    Raises:
        InputError: neither labels nor sizes of pictures vary, or the path's suffix is no format.
        MissingExtra: matplotlib is not installed.
    """
    pictures = [case for case in cases if case.task == "picture"]
    if max(len({case.classes for case in pictures}), len({case.size for case in pictures})) < 2:
        raise InputError(
            "a plot is of pictures, over several numbers of labels or several sizes: give lists "
            "such as --classes 20,171,1000 or --sizes 480x640,960x1280"
        )
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"a plot is a .png, .svg or .pdf, got {path}")
    require("matplotlib", extra="plots")


def plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw time and peak memory of pictures over the number of labels, and over their size.

    Two panels for each of both that varies; a line is what is alike in all else.

    Raises:
        InputError: the path cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    pictures = [one for one in measurements if one.case.task == "picture"]
    along: dict[str, Callable[[Measurement], float]] = {
        "labels": lambda one: one.classes,
        "megapixels": lambda one: one.case.size[0] * one.case.size[1] / 1e6,
    }
    costs: dict[str, Callable[[Measurement], float]] = {
        "seconds (median)": lambda one: one.p50,
        "peak memory, MB": lambda one: one.memory / 1e6,
    }
    varied = [name for name, place in along.items() if len({place(one) for one in pictures}) > 1]
    # not pyplot, which would look for a screen
    figure = require("matplotlib.figure", extra="plots").Figure(
        figsize=(4.5 * len(varied), 6), layout="constrained"
    )
    for column, axis in zip(figure.subplots(2, len(varied), squeeze=False).T, varied, strict=True):
        lines: dict[str, list[Measurement]] = {}
        for one in pictures:
            height, width = one.case.size
            other = f"{height}×{width}" if axis == "labels" else f"{one.classes} labels"
            mode = one.case.precision + ", compiled" * one.case.compile
            lines.setdefault(f"{one.case.model}, {mode}, {other}", []).append(one)
        for panel, (title, cost) in zip(column, costs.items(), strict=True):
            for name, line in lines.items():
                points = sorted((along[axis](one), cost(one)) for one in line)
                panel.plot(*zip(*points, strict=True), marker="o", label=name)
            panel.set(xscale="log", xlabel=axis, ylabel=title)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
        column[0].legend(fontsize="x-small")
    style = {"svg.fonttype": "none"}  # words stay words
    with require("matplotlib", extra="plots").rc_context(style):
        write_whole(path, figure.savefig)
