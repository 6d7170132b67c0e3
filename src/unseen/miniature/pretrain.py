"""Contrastive pre-training of the tiny CLIP: what the shipped weights were made with.

    python -m unseen.miniature.pretrain runs/clip

draws its scenes as it goes, can be stopped at any time and goes on where it was when called again.
It ends with ``clip.safetensors`` and ``clip.json`` in that folder: what the package ships.

Beside CLIP's loss (arXiv 2103.00020, Fig. 3) on the class token stands a second one on the mean of
the normalised patch embeddings. It is our addition: at this size, patch tokens do not come to carry
the names of things by themselves, as they do in a CLIP trained on 400 million pictures.

Most steps see half of the patches of each picture, drawn by chance, for half of the time ("Scaling
Language-Image Pre-training via Masking", arXiv 2212.00794); the last ones see them all.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip import CLIP, ImageEncoder, TextConfig, TextEncoder, VisionConfig, WordTokenizer
from unseen.clip.model import MEAN, STD
from unseen.clip.weights import save_clip
from unseen.miniature.world import Scene, World, caption_words
from unseen.vocabulary import MINIATURE, Vocabulary
from unseen.writing import write_whole

TRAIN, VALIDATION = 1000, 1001  # first number of the scenes' seeds; segmentation uses others

NOTE = "It was trained on drawings of a small world, not on photos."


@dataclass(frozen=True)
class Pretraining:
    """Everything the weights depend on."""

    steps: int = 2600
    batch_size: int = 128
    learning_rate: float = 1e-3
    matrix_rate: float = 3e-3  # of the matrices in blocks, which Muon trains
    weight_decay: float = 0.1
    warmup: int = 100
    decay: float = 0.3  # share of the steps over which the rate falls to zero, at the end
    patch_weight: float = 0.3
    seen_patches: float = 0.5  # share of the patches that a step sees of a picture
    whole: float = 0.1  # share of the steps, at the end, that see all of them
    seed: int = 0
    size: int = 64
    patch_size: int = 8
    width: int = 192
    layers: int = 6
    heads: int = 3
    text_width: int = 128
    text_layers: int = 2
    embed_dim: int = 128


def tiny_clip(config: Pretraining, vocabulary: Vocabulary = MINIATURE) -> CLIP:
    """Build an untrained CLIP whose text encoder knows the words of a world's captions."""
    tokenizer = WordTokenizer(caption_words(vocabulary), context_length=32, note=NOTE)
    vision = VisionConfig(
        config.size, config.patch_size, config.width, config.layers, config.heads, config.embed_dim
    )
    text = TextConfig(
        tokenizer.vocab_size,
        tokenizer.context_length,
        config.text_width,
        config.text_layers,
        max(config.text_width // 64, 1),
        config.embed_dim,
    )
    return CLIP(ImageEncoder(vision), TextEncoder(text, tokenizer))


def contrastive_loss(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    scale: Float[Tensor, ""],
    same: Float[Tensor, "B B"],
) -> Float[Tensor, ""]:
    """Average CLIP's two cross-entropies between unit embeddings.

    ``same`` (B, B) is 1 where two captions are equal: each of them is a right answer.
    """
    logits = scale * images @ texts.T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def rate(config: Pretraining, step: int) -> float:
    """Return the share of its full rate at a step: linear warm-up, constant, linear to zero."""
    fall = max(1.0, config.decay * config.steps)
    return min(1.0, (step + 1) / config.warmup, max(0.0, (config.steps - step) / fall))


def draw(world: World, *seeds: tuple[int, ...]) -> tuple[Float[Tensor, "B 3 H W"], list[Scene]]:
    """Draw scenes and stack their pictures, normalised."""
    scenes = [world.scene(*seed) for seed in seeds]
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2) - mean) / std, scenes


def drop_patches(
    tokens: Float[Tensor, "B L M"], share: float, generator: torch.Generator
) -> Float[Tensor, "B L2 M"]:
    """Keep the class token and a share of each picture's patches, drawn by chance."""
    count = tokens.shape[1] - 1
    order = torch.rand(len(tokens), count, generator=generator).argsort(dim=1)
    kept = F.pad(1 + order[:, : max(1, round(share * count))], (1, 0))  # position 0: class token
    return tokens.take_along_dim(kept[..., None], dim=1)


def step_loss(clip: CLIP, config: Pretraining, world: World, step: int) -> Float[Tensor, ""]:
    """Draw the batch of a step and compute its loss."""
    numbers = range(step * config.batch_size, (step + 1) * config.batch_size)
    images, scenes = draw(world, *((TRAIN, config.seed, number) for number in numbers))
    captions = [scene.caption for scene in scenes]
    seen, _ = clip.image.embed(images)
    if step < (1 - config.whole) * config.steps:
        generator = torch.Generator().manual_seed(1_000_003 * config.seed + step)
        seen = drop_patches(seen, config.seen_patches, generator)
    embedded = clip.image.project(clip.image.transformer(seen))
    cls = F.normalize(embedded[:, 0], dim=-1)
    patches = F.normalize(F.normalize(embedded[:, 1:], dim=-1).mean(dim=1), dim=-1)
    tokens = clip.text.tokenizer(captions)
    tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]  # causal: padding is unread
    texts = F.normalize(clip.text(tokens), dim=-1)
    same = torch.tensor([[float(a == b) for a in captions] for b in captions])
    scale = clip.logit_scale.exp()
    return contrastive_loss(cls, texts, scale, same) + config.patch_weight * contrastive_loss(
        patches, texts, scale, same
    )


@torch.no_grad()
def zero_shot(
    clip: CLIP,
    vocabulary: Vocabulary = MINIATURE,
    num_scenes: int = 480,
    sprites: Traversable | None = None,
) -> dict[str, float]:
    """Score the naming of things on validation scenes that show exactly one.

    Args:
        clip: what is scored.
        vocabulary: the names of things to choose from.
        num_scenes: how many scenes are drawn.
        sprites: where the drawings are; the package's own by default.

    Returns:
        Shares right, in 0..1: of pictures by their class token (``top1``), of the thing's pixels by
        their patch (``patch_top1``). Chance is one over the number of things.
    """
    size, patch = clip.image.config.image_size, clip.image.config.patch_size
    world = World(vocabulary, (size, size), scale=(0.4, 0.9), things=(1, 1), sprites=sprites)
    text = clip.text.embed(vocabulary.things, vocabulary.templates)
    things = torch.tensor([vocabulary.names.index(name) for name in vocabulary.things])
    right = patch_right = patch_count = 0
    for start in range(0, num_scenes, 60):
        numbers = range(start, min(start + 60, num_scenes))
        images, scenes = draw(world, *((VALIDATION, number) for number in numbers))
        answers = (clip.image(images) @ text.T).argmax(dim=-1).cpu()
        for answer, scene in zip(answers, scenes, strict=True):
            mask = torch.from_numpy(scene.mask)
            label = int(mask[torch.isin(mask, things)].mode().values)
            centre = patch // 2  # a patch is scored by the label of its middle pixel
            is_thing = mask[centre::patch, centre::patch] == label
            right += int(things[answer[0]] == label)
            patch_right += int((things[answer[1:]][is_thing.flatten()] == label).sum())
            patch_count += int(is_thing.sum())
    return {"top1": right / num_scenes, "patch_top1": patch_right / max(patch_count, 1)}


def orthogonalise(matrix: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
    """Bring the singular values of a matrix near 1, its singular vectors kept: Newton and Schulz.

    Five steps of x ← ax + (b·xxᵀ + c·(xxᵀ)²)x with Muon's coefficients; those
    that are not tiny end in 0.7..1.2.
    """
    x = matrix / (matrix.norm() + 1e-7)
    if len(matrix) > matrix.shape[1]:
        x = x.T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for the matrices of hidden layers (K. Jordan, 2024).

    It takes half of the pictures that AdamW takes here. Steps are as large as AdamW's (arXiv
    2502.16982). torch's own computes in bfloat16, which most CPUs have to emulate.
    """

    def __init__(
        self, params: list[nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(state["momentum"], group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(weight.shape)))


def make_optimizers(clip: CLIP, config: Pretraining) -> list[torch.optim.Optimizer]:
    """Train the blocks' matrices with Muon, all else with AdamW.

    Matrices decay; biases, norms and the temperature are left alone.
    """
    hidden = [p for name, p in clip.named_parameters() if p.ndim == 2 and "resblocks" in name]
    chosen = {id(p) for p in hidden}
    others = [p for p in clip.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1]},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    decay = config.weight_decay
    optimizers = [
        Muon(hidden, lr=config.matrix_rate, weight_decay=decay),
        torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.98), weight_decay=decay),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def pretrain(
    folder: Path,
    config: Pretraining,
    *,
    vocabulary: Vocabulary = MINIATURE,
    report_every: int = 250,
) -> CLIP:
    """Train, or go on training, the tiny CLIP of a folder, where log, state and weights lie."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    clip = tiny_clip(config, vocabulary)
    optimizers = make_optimizers(clip, config)
    start, state_file = 0, folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        clip.load_state_dict(state["clip"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    world = World(vocabulary, (config.size, config.size), scale=(0.3, 1.2), things=(0, 3))
    losses, began = [], time.monotonic()
    for step in range(start, config.steps):
        loss = step_loss(clip, config, world, step)
        clip.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(config, step) * group["full_rate"]
            optimizer.step()
        clip.logit_scale.data.clamp_(max=math.log(100))
        losses.append(loss.item())
        if (step + 1) % report_every == 0 or step + 1 == config.steps:
            speed = len(losses) * config.batch_size / (time.monotonic() - began)
            shares = zero_shot(clip, vocabulary)
            line = {
                "step": step + 1,
                "images": (step + 1) * config.batch_size,
                "loss": round(sum(losses) / len(losses), 4),
                **{name: round(share, 4) for name, share in shares.items()},
                "images_per_second": round(speed, 1),
            }
            state = {
                "clip": clip.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
            }
            write_whole(state_file, partial(torch.save, state))
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            losses, began = [], time.monotonic()
    save_clip(clip, folder, dtype=torch.float16, pretraining=asdict(config))
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the miniature's CLIP.")
    parser.add_argument("folder", type=Path)
    for field in fields(Pretraining):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = vars(parser.parse_args())
    pretrain(options.pop("folder"), Pretraining(**options))


if __name__ == "__main__":
    main()
