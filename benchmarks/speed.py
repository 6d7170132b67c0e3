"""How many times sooner, and in how much less memory, than the plain computation.

    python benchmarks/speed.py zegclip-coco-inductive cliprc-coco-inductive
    python benchmarks/speed.py zegclip-coco-inductive --tasks picture --ways eager,openvino

The library, run in one or several ways, and the yardstick (``straight.py``) take turns in one
process, on the same weights, so that what else the machine does meets all of them; a ratio is the
median of the turns' ratios. Peak memory is of processes of their own, which load the model from its
folder. So that the yardstick is not slow on purpose, its encoder is compared with the CLIP vision
tower of ``transformers``, which has no prompts, in the same way.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from straight import encode, segment, training_loss

from unseen.bench import (
    TASKS,
    Case,
    Work,
    load,
    make_lesson,
    measure_apart,
    prepare,
    random_picture,
    random_text,
    random_windows,
)
from unseen.clip import TextConfig, TextEncoder
from unseen.data.transforms import fit_short_side, resize_image
from unseen.efficiency import clock, hardware
from unseen.export import export_model
from unseen.learning import make_optimizer
from unseen.metrics import markdown
from unseen.segmentation import Segmentation
from unseen.segmenter import Segmenter


def plain_picture(segmenter: Segmenter, case: Case) -> Callable[[], object]:
    """Prepare the yardstick's way from a picture to labels."""
    config, embeddings = segmenter.config, random_text(segmenter, case.classes)
    image, text = random_picture(case.size), embeddings.values.to(segmenter.device)
    taught = segmenter.is_taught(embeddings.vocabulary.names)
    bias = config.calibration * torch.tensor(taught, device=segmenter.device)

    def run() -> object:
        resized = resize_image(image, fit_short_side(case.size, config.short_side))
        pixels = torch.from_numpy(resized).to(segmenter.device).permute(2, 0, 1).float() / 255
        labels = segment(
            segmenter.model,
            pixels,
            text,
            bias,
            size=case.size,
            window=config.window,
            stride=config.stride,
        )
        return labels.cpu()

    return run


def plain_training(segmenter: Segmenter, case: Case) -> Callable[[], object]:
    """Prepare the yardstick's training step; unseen pixels are left out of its target before."""
    model, given = segmenter.model.train(), make_lesson(segmenter, case)
    optimizer = make_optimizer(model, learning_rate=1e-6, weight_decay=0.01)
    nothing = torch.zeros(case.batch, len(given.text), 1, 1, device=segmenter.device)
    target = given.setting.target(given.labels, nothing, given.vocabulary)

    def run() -> None:
        losses = training_loss(model, given.images, target, given.text)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return run


PLAIN = {"picture": plain_picture, "training": plain_training}


def prepare_plain(case: Case) -> Work:
    """Make ready what the yardstick does in a case."""
    segmenter = load(case.model, case.device)
    work = TASKS[case.task](segmenter, case)
    return replace(work, run=PLAIN[case.task](segmenter, case))


def alternate(
    runs: Sequence[Callable[[], object]], device: torch.device, warmup: int, repeats: int
) -> list[list[float]]:
    """Return the seconds of calls that take turns, a list each."""
    turns = [[clock(run, device) for run in runs] for _ in range(warmup + repeats)]
    return [list(seconds) for seconds in zip(*turns[warmup:], strict=True)]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the turns' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Way:
    """How the library runs a model.

    Args:
        to: what it is exported to; empty for the model itself.
        int8: store its weights in 8 bits.
        precision: of matrix products.
        compile: let torch.compile join what it can.
    """

    to: str = ""
    int8: bool = False
    precision: str = "fp32"
    compile: bool = False

    @property
    def folder(self) -> str:
        """What the folder is called that it runs from."""
        return (self.to or "torch") + "-int8" * self.int8


WAYS = {
    "eager": Way(),
    "compiled": Way(compile=True),
    "eager bf16": Way(precision="bf16"),
    "onnx": Way("onnx"),
    "onnx int8": Way("onnx", int8=True),
    "openvino": Way("openvino"),
    "openvino bf16": Way("openvino", precision="bf16"),
    "openvino int8": Way("openvino", int8=True),
}


def write_folders(segmenter: Segmenter, ways: Sequence[Way], out: Path) -> None:
    """Write the folders that a model is run from in some ways, with a text encoder never used."""
    width = segmenter.backend.vision.embed_dim
    text = segmenter.text or TextEncoder(TextConfig(49408, 77, 64, 1, 1, width))
    whole = Segmenter(segmenter.backend, text, segmenter.config)
    for way in {way.folder: way for way in ways}.values():
        if way.to:
            export_model(whole, out / way.folder, to=way.to, int8=way.int8)
        else:
            whole.save_pretrained(out / way.folder)


def compare(case: Case, names: Sequence[str] = ("eager",)) -> list[dict[str, object]]:
    """Time the yardstick and some ways in turns; take the peak memory of each in a process."""
    segmenter, ways = load(case.model, case.device), [WAYS[name] for name in names]
    with TemporaryDirectory() as folder:
        write_folders(segmenter, ways, Path(folder))
        # the second step of a training, which has the optimiser's averages too
        once = replace(case, warmup=int(case.task == "training"), repeats=1)
        memory = [measure_apart(once, prepare_plain).memory / 1e6]
        works = []
        for way in ways:
            own = replace(
                once,
                model=str(Path(folder, way.folder)),
                precision=way.precision,
                compile=way.compile,
            )
            memory.append(measure_apart(own).memory / 1e6)
            works.append(prepare(own))
        runs = [PLAIN[case.task](segmenter, case), *(work.run for work in works)]
        seconds = alternate(runs, segmenter.device, case.warmup, case.repeats)
        labels = [run() for run in runs] if case.task == "picture" else []
    rows = []
    for i, name in enumerate(["yardstick", *names]):
        row: dict[str, object] = {
            "model": case.model,
            "task": case.task,
            "classes": works[0].classes,
            "shown": works[0].shown,
            "by": name,
            "s": median(seconds[i]),
            "times sooner": ratio(seconds[0], seconds[i]),
            "MB": memory[i],
            "times less": memory[0] / memory[i],
        }
        if labels:
            row["same labels %"] = 100 * float(
                (as_labels(labels[i]) == as_labels(labels[0])).mean()
            )
        rows.append(row | {"seconds": seconds[i]})
    return rows


def as_labels(found: object) -> np.ndarray:
    """Return the label map of what either side found."""
    return found.mask if isinstance(found, Segmentation) else np.asarray(found)


@torch.no_grad()
def compare_encoder(case: Case) -> dict[str, object]:
    """Time the yardstick's encoder against the vision tower of ``transformers`` on one window."""
    import transformers  # not above: processes whose memory is measured import this file

    segmenter = load(case.model, case.device)
    encoder, sizes = segmenter.model.encoder, segmenter.model.encoder.clip.config
    image = random_windows(segmenter, 1)
    runs: list[Callable[[], object]] = [lambda: encode(encoder, image)]
    names = ("sdpa", "eager")
    for attention in names:
        config = transformers.CLIPVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=4 * sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            image_size=segmenter.config.window,
            patch_size=sizes.patch_size,
            attn_implementation=attention,
        )
        tower = transformers.CLIPVisionModel(config).to(segmenter.device).eval()
        runs.append(lambda tower=tower: tower(image))
    plain, *theirs = alternate(runs, segmenter.device, case.warmup, case.repeats)
    return {
        "model": case.model,
        "prompts": encoder.prompts.count,
        "transformers": transformers.__version__,
        "yardstick s": median(plain),
        **{
            f"over transformers, {name}": ratio(plain, seconds)
            for name, seconds in zip(names, theirs, strict=True)
        },
    }


def tabulate(rows: Sequence[dict[str, object]]) -> str:
    """Lay out the rows as a Markdown table, the single times left out."""
    heading = list(dict.fromkeys(name for row in rows for name in row if name != "seconds"))
    return markdown(heading, [[show(name, row.get(name, "–")) for name in heading] for row in rows])


def show(name: str, value: object) -> str:
    """Write one cell."""
    digits = {"MB": "0f", "same labels %": "3f"}.get(name, "3g")
    return f"{value:.{digits}}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="recipes, or folders of models")
    parser.add_argument("--tasks", default="picture,training")
    parser.add_argument("--ways", default="eager", help=f"of pictures, of {', '.join(WAYS)}")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="of the picture")
    parser.add_argument("--classes", type=int, help="by default the model's vocabulary")
    parser.add_argument("--batch", type=int, default=2, help="pictures a training step")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write every time here")
    options = parser.parse_args()
    encoders, costs = [], []
    for model in options.models:
        for task in options.tasks.split(","):
            case = Case(
                task,
                model,
                options.classes,
                tuple(options.size),
                options.batch,
                device=options.device,
                warmup=options.warmup,
                repeats=options.repeats,
            )
            ways = options.ways.split(",") if task == "picture" else ["eager"]
            found = compare(case, ways)
            print(tabulate(found), file=sys.stderr)
            costs += found
        encoders.append(compare_encoder(case))
    print(tabulate(costs))
    print("\nthe yardstick's encoder, one window:\n")
    print(tabulate(encoders))
    device = load(options.models[0], options.device).device
    conditions = (
        f"{device} ({hardware(device)}), {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, float32 where nothing else is said, text embeddings given, "
        f"{options.warmup} turns to warm up, {options.repeats} timed"
    )
    allocator = [f"{key}={value}" for key, value in os.environ.items() if "MALLOC" in key]
    conditions = ", ".join([conditions, *sorted(allocator)])
    print(f"\n{conditions}")
    if options.out:
        facts = {"conditions": conditions, "costs": costs, "encoders": encoders}
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
