"""What a model costs: parameters, multiply-adds, time; as published, and as executed here.

The published column counts what the authors' code has and does. Its FLOPs are those of their tool,
fvcore: multiply-adds of linear layers, convolutions and all matrix products, five operations an
element for a layer norm, four an output element for a bilinear resize; the class text is given.
fvcore reads a traced graph, from which the trace has removed what nothing uses: the parts of a last
decoder layer after its scores.
"""

import math
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unseen.checkpoints import load_pretrained
from unseen.clip import TextEncoder, load_clip
from unseen.clip.model import (
    TEXT_B,
    TEXT_L,
    VIT_B_16,
    VIT_B_32,
    VIT_L_14,
    VIT_L_14_336,
    ImageEncoder,
    TextConfig,
    VisionConfig,
)
from unseen.errors import InputError, did_you_mean
from unseen.hub import is_repository
from unseen.methods import METHODS
from unseen.methods.cascade import GROUPS
from unseen.metrics import markdown
from unseen.model import SegmentationModel
from unseen.published import Sizes, is_trained, loss_classes, published_shapes
from unseen.recipes import (
    EVALUATIONS,
    RECIPES,
    VOCABULARY_OF,
    Evaluation,
    find_recipe,
    find_row,
)
from unseen.shipped import SHIPPED_CLIP, shipped_clip, shipped_models
from unseen.vocabulary import find_vocabulary

_OPENAI = "openai/clip-vit-"
PRESETS = {
    f"{_OPENAI}base-patch16": (VIT_B_16, TEXT_B),
    f"{_OPENAI}base-patch32": (VIT_B_32, TEXT_B),
    f"{_OPENAI}large-patch14": (VIT_L_14, TEXT_L),
    f"{_OPENAI}large-patch14-336": (VIT_L_14_336, TEXT_L),
}
"""Sizes of CLIPs that need not be at hand to be counted."""


# What is measured --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """A model as far as its cost goes: weights do not matter.

    Args:
        name: of the model or recipe.
        method: a key of ``METHODS``.
        options: keyword arguments of the method's builder.
        vision: sizes of the image encoder.
        text: sizes of the text encoder.
        classes: how many are looked for at once; 0 where the name does not say.
        window: side of its windows in pixels.
        loss_classes: numbers in the buffer of the authors' loss, less one; 0 without one.
        model: the loaded model, if there is one; otherwise random weights stand in.
    """

    name: str
    method: str
    options: dict[str, Any]
    vision: VisionConfig
    text: TextConfig
    classes: int
    window: int
    loss_classes: int = 0
    model: SegmentationModel | None = None

    def build(self) -> SegmentationModel:
        """Make the model, with random weights, on torch's current default device."""
        return METHODS[self.method](ImageEncoder(self.vision), **self.options).eval()

    def published(self) -> Sizes | None:
        """Return the sizes of the authors' model; None if they published no such method."""
        options = self.options
        groups = [tuple(group) for group in options.get("groups", GROUPS)]
        if self.method not in ("zegclip", "cascade", "cliprc"):
            return None
        if options.get("descriptor", "product+text") != "product+text":
            return None
        if self.method == "cascade":
            blocks = [block for group in groups for block in group]
            first = self.vision.layers + 1 - len(blocks)
            plain = options.get("over", "zegclip") == "zegclip" and len(groups[-1]) == 1
            # theirs are the blocks right before the last, each once, and the last alone
            if not plain or blocks != list(range(first, self.vision.layers + 1)):
                return None
        depth = options.get("depth")
        return Sizes(
            self.method,
            # their position grid is that of the window
            _with_image_size(self.vision, self.window),
            self.text,
            prompts=options.get("prompts", 10),
            depth=self.vision.layers - 1 if depth is None else depth,
            layers=options.get("layers", 3),
            groups=tuple(len(group) for group in groups[:-1]),
            regions=options.get("regions", 16),
            loss_classes=self.loss_classes,
        )


def describe(source: str) -> Design:
    """Return the design of a model's folder, a shipped or hub model, or a recipe.

    A recipe needs no weights: sizes of OpenAI's CLIPs are known.

    Raises:
        InputError: no such thing, or one whose CLIP cannot be read.
    """
    if not os.path.exists(source) and source not in shipped_models():
        if source in RECIPES or source in EVALUATIONS:
            row = find_row(source)
            recipe = find_recipe(row.model) if isinstance(row, Evaluation) else row
            vision, text = _clip_sizes(recipe.clip)
            vocabulary, trained = (
                find_vocabulary(VOCABULARY_OF[one.data.name]) for one in (row, recipe)
            )
            return Design(
                source,
                recipe.method,
                recipe.options,
                vision,
                text,
                len(vocabulary),
                recipe.window,
                loss_classes(recipe.method, trained, recipe.setting),
            )
        if not is_repository(source):
            hint = did_you_mean(source, [*shipped_models(), *RECIPES, *EVALUATIONS])
            raise InputError(
                f"there is no model's folder and no recipe {source!r}{hint} "
                "('unseen recipes' lists the recipes)"
            )
    model, encoder, config = load_pretrained(source)
    return Design(
        source,
        config.method,
        config.options,
        model.encoder.clip.config,
        encoder.config,
        len(config.vocabulary),
        config.window,
        loss_classes(config.method, config.vocabulary, config.setting),
        model,
    )


def _clip_sizes(source: str) -> tuple[VisionConfig, TextConfig]:
    if source in PRESETS:
        return PRESETS[source]
    clip = load_clip(shipped_clip() if source == SHIPPED_CLIP else source)
    return clip.image.config, clip.text.config


def _with_image_size(vision: VisionConfig, size: int) -> VisionConfig:
    return VisionConfig(**{**vars(vision), "image_size": size})


# As published ------------------------------------------------------------------------------------


def count_published(sizes: Sizes) -> tuple[int, int]:
    """Return the numbers of trained and of all parameters in the authors' state dict.

    All that the state holds counts, used or not, the buffer of their loss too.
    """
    counts = {key: math.prod(shape) for key, shape in published_shapes(sizes).items()}
    return sum(n for key, n in counts.items() if is_trained(key)), sum(counts.values())


def block_products(tokens: int, width: int) -> dict[str, int]:
    """Return the multiply-adds of a transformer block: linear layers 12·L·M², attention 2·L²·M."""
    return {
        "linear layers of blocks": 12 * tokens * width**2,
        "attention of blocks": 2 * tokens**2 * width,
    }


def decoder_products(queries: int, memory: int, dim: int) -> dict[str, int]:
    """Return the multiply-adds of a decoder layer in which queries read a memory."""
    return {
        # query and output of queries, key and value of the memory; then D → 4D → D
        "linear layers of decoders": (2 * queries + 2 * memory + 8 * queries) * dim**2,
        "attention of decoders": 2 * queries * memory * dim,
    }


def score_products(queries: int, memory: int, dim: int) -> dict[str, int]:
    """Return the multiply-adds of a last layer of which only the scores are used."""
    return {
        "linear layers of decoders": (queries + memory) * dim**2,
        "attention of decoders": queries * memory * dim,
    }


def published_operations(sizes: Sizes, size: tuple[int, int], classes: int) -> dict[str, int]:
    """Count, by kind, what the authors' code does to a picture as their tool counts it.

    Prompts are tokens like others, every token passes the last norms and projections, masks are
    resized to the crop and once more to the picture, CLIP-RC's products are taken region by region.

    Args:
        sizes: of the model.
        size: (height, width) of the picture: one window.
        classes: C.
    """
    vision = sizes.vision
    width, dim, layers = vision.width, vision.embed_dim, vision.layers
    grid = size[0] // vision.patch_size, size[1] // vision.patch_size
    patches = grid[0] * grid[1]
    regions = sizes.regions if sizes.method == "cliprc" else 0
    prompted = min(sizes.depth + 1, layers)
    tokens = [1 + patches + regions + (sizes.prompts if i < prompted else 0) for i in range(layers)]
    terms: dict[str, int] = {}

    def add(parts: dict[str, int], times: int = 1) -> None:
        for kind, number in parts.items():
            terms[kind] = terms.get(kind, 0) + times * number

    add({"patch embedding": patches * width * 3 * vision.patch_size**2})
    add({"prompts": prompted * sizes.prompts * width**2})
    for length in tokens:
        add(block_products(length, width))
        add({"layer norms": 5 * 2 * length * width})
    # ln_pre before prompts come; prompt_norm, which region tokens skip; ln_post
    add({"layer norms": 5 * (1 + patches + regions + 2 * tokens[-1] - regions) * width})
    add({"projections": tokens[-1] * width * dim})
    add({"resizing": 4 * patches * width + 2 * 4 * classes * size[0] * size[1]})
    if sizes.method == "cliprc":
        queries = regions * classes
        add({"projections": (2 * queries + 3 * patches) * dim**2})
        add({"resizing": 4 * patches * dim})
        for _ in range(sizes.layers):
            add(decoder_products(queries, patches, dim))
            add(decoder_products(patches, queries, dim))
            add({"layer norms": 5 * 2 * (queries + patches) * dim})
        add({"masks": queries * patches * dim})
        return terms
    decoders = 1
    if sizes.method == "cascade":
        decoders += len(sizes.groups)
        last = layers - 1
        for i in range(last - sum(sizes.groups), last):
            add({"layer norms": 5 * 2 * tokens[i] * width, "projections": tokens[i] * width * dim})
    add({"projections": 2 * classes * dim**2}, decoders)
    add(decoder_products(classes, patches, dim), decoders * (sizes.layers - 1))
    add({"layer norms": 5 * 2 * classes * dim}, decoders * (sizes.layers - 1))
    add(score_products(classes, patches, dim), decoders)
    return terms


# As executed -------------------------------------------------------------------------------------


def count_products(run: Callable[[], object]) -> int:
    """Return the multiply-adds of the matrix products and convolutions that a call executes.

    torch's counter knows no fused attention on a CPU: count on the meta device, which takes the
    same products one by one, and no time.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Latency:
    """How long a call took, and under which conditions.

    Args:
        p50: median of the repeats, in seconds.
        p95: 95th percentile, in seconds.
        batch: pictures in a call.
        size: (height, width) of a picture.
        device: as torch names it.
        hardware: what the machine calls it.
        dtype: of the pictures.
        threads: that torch uses on a CPU.
        warmup: calls before the clock ran.
        repeats: calls with the clock.
    """

    p50: float
    p95: float
    batch: int
    size: tuple[int, int]
    device: str
    hardware: str
    dtype: str
    threads: int
    warmup: int
    repeats: int

    @property
    def fps(self) -> float:
        """Pictures a second, at the median."""
        return self.batch / self.p50

    def conditions(self) -> str:
        """Say in a line what the time is of."""
        threads = f", {self.threads} threads" if self.device == "cpu" else ""
        return (
            f"{self.device} ({self.hardware}){threads}, {self.dtype}, torch {torch.__version__}, "
            f"batch {self.batch} of {self.size[0]}×{self.size[1]}, {self.warmup} calls to warm up, "
            f"{self.repeats} timed"
        )


def latency(
    run: Callable[[Tensor], object],
    image: Float[Tensor, "B 3 H W"],
    *,
    warmup: int = 2,
    repeats: int = 10,
) -> Latency:
    """Time a call on a batch of pictures; asynchronous devices are waited for.

    Args:
        run: what is timed; gradients are off.
        image: on the device and of the dtype to use.
        warmup: calls before.
        repeats: calls to take the median of.

    Raises:
        InputError: fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"time takes at least 1 repeat, got {repeats}, after {warmup} calls")
    device = image.device
    with torch.inference_mode():
        seconds = [clock(lambda: run(image), device) for _ in range(warmup + repeats)][warmup:]
    p50, p95 = np.percentile(seconds, [50, 95])
    return Latency(
        p50=float(p50),
        p95=float(p95),
        batch=len(image),
        size=(image.shape[2], image.shape[3]),
        device=str(device),
        hardware=hardware(device),
        dtype=str(image.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        warmup=warmup,
        repeats=repeats,
    )


def clock(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes; asynchronous devices are waited for."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def hardware(device: torch.device) -> str:
    """Return what the machine calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", facts.read_text()) if facts.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


# Both columns ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The authors' model: parameters in their state dict, operations by kind."""

    trained: int
    total: int
    operations: dict[str, int]


@dataclass(frozen=True)
class Executed:
    """Our model: parameters it has, multiply-adds of one window that it executes."""

    trained: int
    model: int
    text: int
    products: int


@dataclass(frozen=True)
class Report:
    """What a model costs.

    Args:
        name: of the model or recipe.
        method: a key of ``METHODS``.
        size: (height, width) of a window in pixels.
        classes: looked for at once.
        published: the authors' model; None if they published no such method.
        executed: our model.
        latency: of one window, from pixels to masks on the patch grid; None if it was not timed.
    """

    name: str
    method: str
    size: tuple[int, int]
    classes: int
    published: Published | None
    executed: Executed
    latency: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as JSON takes them."""
        published = self.published and {
            "trained_parameters": self.published.trained,
            "parameters": self.published.total,
            "gflops": sum(self.published.operations.values()) / 1e9,
            "operations": self.published.operations,
        }
        executed: dict[str, Any] = {
            "trained_parameters": self.executed.trained,
            "parameters": self.executed.model + self.executed.text,
            "text_encoder_parameters": self.executed.text,
            "gflops": self.executed.products / 1e9,
        }
        if self.latency:
            executed["latency"] = {**vars(self.latency), "fps": self.latency.fps}
        return {
            "name": self.name,
            "method": self.method,
            "size": list(self.size),
            "classes": self.classes,
            "published": published,
            "executed": executed,
        }

    def table(self) -> str:
        """Return both columns as a Markdown table, and the conditions of what was timed."""
        ours, theirs = self.executed, self.published
        rows = [
            ["parameters, trained", f"{theirs.trained:,}" if theirs else "–", f"{ours.trained:,}"],
            [
                "parameters, with the text encoder",
                f"{theirs.total:,}" if theirs else "–",
                f"{ours.model + ours.text:,}",
            ],
            [
                "GFLOPs (multiply-adds)",
                f"{sum(theirs.operations.values()) / 1e9:.4g}" if theirs else "–",
                f"{ours.products / 1e9:.4g}",
            ],
        ]
        lines = []
        if theirs:
            other = theirs.operations["layer norms"] + theirs.operations["resizing"]
            lines.append(
                f"as published: parameters that nothing uses count too; {other / 1e9:.2g} GFLOPs "
                "are norms and resizing, which the other column leaves out"
            )
        if self.latency:
            rows.append(["windows a second", "–", f"{self.latency.fps:.2f}"])
            p50, p95 = 1e3 * self.latency.p50, 1e3 * self.latency.p95
            rows.append(["milliseconds, p50 / p95", "–", f"{p50:.1f} / {p95:.1f}"])
            lines.append(
                f"timed: one window from pixels to masks on the patch grid, text embedded before; "
                f"{self.latency.conditions()}"
            )
        heading = f"{self.name}: {self.size[0]}×{self.size[1]}, {self.classes} classes"
        table = markdown([heading, "as published", "ours, executed"], rows)
        return "\n".join([table, *lines])


def measure(
    design: Design,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    device: str | torch.device = "cpu",
    warmup: int = 2,
    repeats: int = 10,
) -> Report:
    """Count and time a model on one window.

    Args:
        design: what ``describe`` returns.
        size: (height, width) of the window in pixels, by default the model's.
        classes: how many are looked for at once, by default those of the model's vocabulary.
        device: where to time.
        warmup: calls before the clock runs.
        repeats: calls to take the median of; 0 leaves the time out.

    Raises:
        InputError: a size below one patch, or a design that does not say its classes.
    """
    size = size or (design.window, design.window)
    classes = classes or design.classes
    if min(size) < design.vision.patch_size:
        raise InputError(
            f"a window must be at least one patch of {design.vision.patch_size} pixels, "
            f"got {size[0]}×{size[1]}"
        )
    if classes < 1:
        raise InputError(f"{design.name} does not say how many classes it is for: give --classes")
    sizes = design.published()
    published = None
    if sizes:
        trained, total = count_published(sizes)
        published = Published(trained, total, published_operations(sizes, size, classes))
    timed = None
    if repeats:
        model = (design.model or design.build()).to(device).eval()
        text = torch.randn(classes, design.vision.embed_dim, device=device)
        text = torch.nn.functional.normalize(text, dim=-1)
        image = torch.rand(1, 3, *size, device=device)
        timed = latency(lambda pixels: model(pixels, text), image, warmup=warmup, repeats=repeats)
    executed = count_executed(design, size, classes)
    return Report(design.name, design.method, size, classes, published, executed, timed)


def compare_costs(reports: Sequence[Report]) -> str:
    """Return parameters in millions and GFLOPs of several models as a Markdown table."""
    rows = []
    for report in reports:
        theirs, ours = report.published, report.executed
        published = ["–"] * 3
        if theirs:
            published = [
                f"{theirs.trained / 1e6:.3f}",
                f"{theirs.total / 1e6:.3f}",
                f"{sum(theirs.operations.values()) / 1e9:.2f}",
            ]
        executed = [
            f"{ours.trained / 1e6:.3f}",
            f"{(ours.model + ours.text) / 1e6:.3f}",
            f"{ours.products / 1e9:.2f}",
        ]
        rows.append([report.name, str(report.classes), *published, *executed])
    columns = ["trained M", "total M", "GFLOPs"]
    heading = ["model", "classes", *(f"{c}, published" for c in columns)]
    return markdown([*heading, *(f"{c}, ours" for c in columns)], rows)


def count_executed(design: Design, size: tuple[int, int], classes: int) -> Executed:
    """Count our model's parameters, and the multiply-adds of one window; needs no weights."""
    with torch.device("meta"):
        model, text = design.build(), TextEncoder(design.text)
        embeddings = torch.empty(classes, design.vision.embed_dim)
        image = torch.empty(1, 3, *size)
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    model.requires_grad_(False)  # the counter stumbles over parameters that modules are called with
    products = count_products(lambda: model(image, embeddings))
    return Executed(
        trained=trained,
        model=sum(p.numel() for p in parameters),
        text=sum(p.numel() for p in text.parameters()),
        products=products,
    )
