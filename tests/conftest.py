"""Small models and folders that several tests share."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import jaxtyping
import pytest
import torch

from unseen.clip import CLIP
from unseen.clip.weights import save_clip
from unseen.miniature.pretrain import Pretraining, tiny_clip
from unseen.miniature.world import MICRO
from unseen.recipes import RECIPES, Recipe, Source
from unseen.segmenter import Segmenter

torch.set_num_threads(1)  # what is small is faster so, and the suite runs in several processes

MICRO_PRETRAINING = Pretraining(
    steps=4,
    batch_size=8,
    warmup=1,
    size=24,
    width=64,
    layers=3,
    heads=2,
    text_width=32,
    text_layers=1,
    embed_dim=32,
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much of the documents was run, and why the rest was not."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        counts += Counter(dict(report.user_properties).get("documents", {}))
    if counts:
        ran = counts.pop("ran", 0)
        terminalreporter.section("documents")
        terminalreporter.line(
            f"{ran} code blocks and commands ran, where they need data or models on small made-up "
            f"ones; {counts.total()} did not:"
        )
        for reason, count in counts.most_common():
            terminalreporter.line(f"{count:4} {reason}")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests, and each test's to itself."""
    monkeypatch.setenv("UNSEEN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Let a test draw the same numbers whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def sizes_may_be_symbols() -> Iterator[None]:
    """While a model is traced its sizes are symbols, which annotations in the model call int."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def micro_clip() -> CLIP:
    """Return an untrained CLIP that knows the micro world's words."""
    torch.manual_seed(0)
    return tiny_clip(MICRO_PRETRAINING, MICRO)


@pytest.fixture
def micro_recipe(micro_clip: CLIP, tmp_path: Path) -> Recipe:
    """Return a training of seconds."""
    save_clip(micro_clip, tmp_path / "clip")
    return replace(
        RECIPES["zegclip-miniature-inductive"],
        name="micro",
        clip=str(tmp_path / "clip"),
        data=Source("micro"),
        steps=6,
        batch_size=4,
        warmup=1,
        options={"prompts": 2, "heads": 4},
        short_side=48,
        window=48,
        stride=40,
    )


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """Return the model that ships with the package."""
    return Segmenter.from_pretrained("zegclip-miniature-inductive", device="cpu")
