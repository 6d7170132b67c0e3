"""How many times sooner, and in how much less memory, than the plain computation.

    python benchmarks/speed.py zegclip-coco-inductive cliprc-coco-inductive
    python benchmarks/speed.py zegclip-coco-inductive --tasks picture --repeats 3

The library and the yardstick (``straight.py``) take turns in one process, on the same weights, so
that what else the machine does meets both; the ratio is the median of the turns' ratios. Peak
memory is of processes of their own. So that the yardstick is not slow on purpose, its encoder is
compared with the CLIP vision tower of ``transformers``, which has no prompts, in the same way.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

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
from unseen.data.transforms import fit_short_side, resize_image
from unseen.efficiency import clock, hardware
from unseen.metrics import markdown
from unseen.segmenter import Segmenter
from unseen.training import make_optimizer


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


def compare(case: Case) -> dict[str, object]:
    """Time both in turns, and take the peak memory of each in a process of its own."""
    once = replace(case, warmup=0, repeats=1)
    memory = [measure_apart(once, by).memory / 1e6 for by in (prepare_plain, prepare)]
    segmenter = load(case.model, case.device)
    ours = TASKS[case.task](segmenter, case)
    runs = [PLAIN[case.task](segmenter, case), ours.run]
    plain, library = alternate(runs, segmenter.device, case.warmup, case.repeats)
    return {
        "model": case.model,
        "task": case.task,
        "classes": ours.classes,
        "shown": ours.shown,
        "yardstick s": median(plain),
        "library s": median(library),
        "times sooner": ratio(plain, library),
        "yardstick MB": memory[0],
        "library MB": memory[1],
        "times less": memory[0] / memory[1],
        "seconds": {"yardstick": plain, "library": library},
    }


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
    heading = [name for name in rows[0] if name != "seconds"]
    show = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    return markdown(heading, [[show(row[name]) for name in heading] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="recipes, or folders of models")
    parser.add_argument("--tasks", default="picture,training")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="of the picture")
    parser.add_argument("--classes", type=int, help="by default the model's vocabulary")
    parser.add_argument("--batch", type=int, default=2, help="pictures a training step")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every time here")
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
            costs.append(compare(case))
            print(tabulate(costs[-1:]), file=sys.stderr)
        encoders.append(compare_encoder(case))
    print(tabulate(costs))
    print("\nthe yardstick's encoder, one window:\n")
    print(tabulate(encoders))
    device = load(options.models[0], options.device).device
    print(
        f"\n{device} ({hardware(device)}), {torch.get_num_threads()} threads, float32, torch "
        f"{torch.__version__}, text embeddings given, {options.warmup} turns to warm up, "
        f"{options.repeats} timed"
    )
    if options.json:
        options.json.write_text(json.dumps({"costs": costs, "encoders": encoders}, indent=1) + "\n")


if __name__ == "__main__":
    main()
