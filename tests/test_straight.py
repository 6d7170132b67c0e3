"""The yardstick of benchmarks/ against the library, on the same weights: a third witness."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from unseen.checkpoints import ModelConfig
from unseen.clip import ImageEncoder, VisionConfig
from unseen.embeddings import TextEmbeddings
from unseen.learning import compute_loss
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.segmenter import Segmenter
from unseen.settings import SUPERVISED
from unseen.vocabulary import IGNORE, Vocabulary

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DIM = 16
NAMES = Vocabulary("five", ("a", "b", "c", "d", "e"), unseen=("b", "e"))
OPTIONS = {
    "zegclip": {},
    "cascade": {"groups": ((1, 2), (3,), (4,))},
    "cliprc": {"regions": 4},
}


def load(name: str):
    """Import a script of ``benchmarks/``."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


straight = load("straight")


def make(method: str, **options) -> SegmentationModel:
    """Return a small model of random weights, none of them at its initial value."""
    torch.manual_seed(0)
    clip = ImageEncoder(VisionConfig(32, 8, 24, layers=4, heads=3, embed_dim=DIM))
    given = {"prompts": 3, "heads": 4, **OPTIONS[method], **options}
    model = METHODS[method](clip, **given).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=list(OPTIONS))
def model(request) -> SegmentationModel:
    return make(request.param)


@pytest.fixture
def text() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(len(NAMES), DIM), dim=-1)


def assert_close(ours: torch.Tensor, plain: torch.Tensor) -> None:
    limit = 1e-5 * max(1, plain.abs().max().item())
    torch.testing.assert_close(ours, plain, atol=limit, rtol=0)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("method", list(OPTIONS))
def test_features_and_logits_are_the_yardsticks(method, depth, size, text):
    model = make(method, depth=depth)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        ours, plain = model.encoder(image), straight.encode(model.encoder, image)
        assert len(ours.stages) == len(plain.stages)
        assert_close(ours.cls, plain.cls)
        for a, b in zip((ours.patches, *ours.stages), (plain.patches, *plain.stages), strict=True):
            assert_close(a, b)
        if ours.regions is not None:
            assert_close(ours.regions, plain.regions)
        pixels = image * model.std + model.mean
        assert_close(model(pixels, text).logits, straight.predict(model, image, text).logits)


@pytest.mark.parametrize("size", [(32, 32), (43, 32), (40, 75), (24, 48)])
def test_labels_are_the_yardsticks(model, size, text):
    config = ModelConfig("", {}, NAMES, "inductive", 0.1, short_side=32, window=32, stride=20)
    segmenter = Segmenter(model, None, config, device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = TextEmbeddings(NAMES, text)
    bias = 0.1 * torch.tensor([name in NAMES.seen for name in NAMES.names])
    shown = torch.from_numpy(picture).permute(2, 0, 1) / 255
    windows = {"window": 32, "stride": 20}
    view = segmenter.look(picture, text, bias)
    ours = view.scores((0, size[0]), (0, size[1])).permute(2, 0, 1)
    assert_close(ours, straight.score(model, shown, text, bias, **windows))
    found = segmenter.shown_at(short_side=min(size))(picture, labels)
    plain = straight.segment(model, shown, text, bias, size=size, **windows).numpy()
    best = ours.topk(2, dim=0).values
    clear = (best[0] - best[1] > 2e-5).numpy()
    assert np.array_equal(found.mask[clear], plain[clear]) and clear.mean() > 0.99


def test_losses_and_gradients_are_the_yardsticks(model, text):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    images = torch.rand(2, 3, 32, 32)
    labels = torch.randint(0, len(NAMES), (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0, :8] = IGNORE
    ours = compute_loss(
        model, images, labels, text, setting=SUPERVISED, vocabulary=NAMES, auxiliary_weight=2.0
    )
    plain = straight.training_loss(model, images, labels, text, auxiliary_weight=2.0)
    assert ours.keys() == plain.keys()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = [
        torch.autograd.grad(sum(terms.values()), trained.values(), allow_unused=True)
        for terms in (ours, plain)
    ]
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name], atol=0, rtol=1e-5)
    for name, a, b in zip(trained, *gradients, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and not name.endswith("key.bias"):  # which a softmax does not see: noise
            assert_close(a / b.abs().max(), b / b.abs().max())
