"""Adding a method, as an exercise: a head, a function, an entry; nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from unseen import (
    ImageFeatures,
    InputError,
    Prediction,
    SegmentationModel,
    Segmenter,
    evaluate,
    fit,
)
from unseen.data.datasets import Subset
from unseen.learning import check_prediction
from unseen.methods import METHODS
from unseen.methods.cascade import Cascade
from unseen.methods.encoder import PromptedEncoder, Stages
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO


class CosineHead(nn.Module):
    """A learned map of the patches, compared with text; its size enters the loss."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        patches = self.map(features.patches.movedim(1, -1))
        logits = self.scale * (nn.functional.normalize(patches, dim=-1) @ text.T).movedim(-1, 1)
        return Prediction(logits, {"size": self.map.weight.square().mean()})


def cosine(clip, *, prompts: int = 2) -> SegmentationModel:
    return SegmentationModel(
        PromptedEncoder(clip, prompts=prompts), CosineHead(clip.config.embed_dim)
    )


@pytest.mark.parametrize("setting", ["inductive", "supervised"])
def test_a_new_method_trains_saves_and_is_scored(micro_recipe, tmp_path, monkeypatch, setting):
    monkeypatch.setitem(METHODS, "cosine", cosine)
    recipe = replace(micro_recipe, method="cosine", options={"prompts": 2}, setting=setting)
    trained = fit(recipe, out=tmp_path / "run", device="cpu")
    assert '"size"' in (tmp_path / "run" / "log.jsonl").read_text()
    again = Segmenter.from_pretrained(tmp_path / "run", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert (again(picture, "bus, sky").mask == trained(picture, "bus, sky").mask).all()
    scenes = Subset(Scenes("test", vocabulary=MICRO, size=48), 2)
    assert 0 <= evaluate(again, scenes).pixel_accuracy <= 1
    monkeypatch.delitem(METHODS, "cosine")
    with pytest.raises(InputError, match="of the method 'cosine', which is none of .*: import"):
        Segmenter.from_pretrained(tmp_path / "run", device="cpu")


class TurnedHead(CosineHead):
    """Classes last, where they must be second."""

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        return Prediction(super().forward(features, text).logits.movedim(1, -1))


def test_a_head_whose_axes_are_turned_is_told_so(micro_recipe, tmp_path, monkeypatch):
    def turned(clip) -> SegmentationModel:
        return SegmentationModel(
            PromptedEncoder(clip, prompts=2), TurnedHead(clip.config.embed_dim)
        )

    monkeypatch.setitem(METHODS, "turned", turned)
    recipe = replace(micro_recipe, method="turned", options={})
    with pytest.raises(InputError, match=r"got logits \(4, 6, 6, 13\): put classes second"):
        fit(recipe, out=tmp_path / "run", device="cpu")


def test_a_head_that_returns_a_bare_tensor_is_told_so():
    with pytest.raises(InputError, match="must return a Prediction .* got Tensor"):
        check_prediction(torch.zeros(2, 3, 4, 4), 2, 3)


@pytest.mark.parametrize(
    "term", [("focal", torch.ones(())), ("mine", 0.5), ("mine", torch.ones(1))]
)
def test_a_loss_of_its_own_has_a_name_of_its_own(micro_recipe, tmp_path, monkeypatch, term):
    class LossyHead(CosineHead):
        def forward(self, features, text):
            return super().forward(features, text)._replace(auxiliary=dict([term]))

    def lossy(clip, prompts: int = 2, *, offset: int = 0, heads=None) -> SegmentationModel:
        dim = clip.config.embed_dim
        return SegmentationModel(PromptedEncoder(clip, prompts=prompts), LossyHead(dim))

    monkeypatch.setitem(METHODS, "lossy", lossy)
    recipe = replace(micro_recipe, method="lossy", options={"offset": 0, "prompts": 3})
    # here the types of what heads return are checked, as nothing does for users
    error = InputError if term[0] == "focal" else (InputError, TypeCheckError)
    with pytest.raises(error, match=f"own loss '{term[0]}' must be|auxiliary"):
        fit(recipe, out=tmp_path / "run", device="cpu")


def test_a_method_without_weights_to_train_is_told_so(micro_recipe, tmp_path, monkeypatch):
    recipe = replace(micro_recipe, method="maskclip", options={})
    with pytest.raises(InputError, match="nothing to train in this model"):
        fit(recipe, out=tmp_path / "run", device="cpu")


def test_a_new_head_cascades_at_once(micro_clip):
    dim, groups = micro_clip.image.config.embed_dim, ((1, 2), (3,))
    encoder = PromptedEncoder(
        micro_clip.image, prompts=2, stages=Stages(micro_clip.image.config, (1, 2, 3))
    )
    model = SegmentationModel(encoder, Cascade([CosineHead(dim), CosineHead(dim)], groups))
    prediction = model(torch.rand(2, 3, 48, 32), torch.randn(5, dim))
    assert prediction.logits.shape == (2, 5, 6, 4)
    assert prediction.auxiliary["size"] > 0
