"""Train and score what docs/log.md tells of and `unseen reproduce` does not compare.

python scripts/train_variants.py cascade-informed 0 --out docs/results/variants
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from unseen import learning
from unseen.claims import CONTENDERS, Contender
from unseen.clip import ImageEncoder
from unseen.losses import ALPHA, find_present
from unseen.methods import METHODS
from unseen.methods.cascade import Cascade, Groups
from unseen.methods.cliprc import RegionHead
from unseen.methods.encoder import PromptedEncoder, Stages
from unseen.methods.zegclip import ZegHead
from unseen.model import ImageFeatures, Prediction, SegmentationModel
from unseen.reproduction import Trial, execute


class InformedHead(ZegHead):
    """ZegCLIP's head; each patch is merged with the last block's class token, as CLIP-RC's are."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.merge = nn.Linear(2 * dim, dim)

    def forward(self, features: ImageFeatures, text: Float[Tensor, "C D"]) -> Prediction:
        cls = features.cls[:, :, None, None].expand_as(features.patches)
        both = torch.cat([cls, features.patches], dim=1).permute(0, 2, 3, 1)
        patches = self.merge(both).permute(0, 3, 1, 2)
        return super().forward(features._replace(patches=patches), text)


class LastThird(nn.Module):
    """A linear layer that is given the last third of its input: of CLIP-RC's, patches alone."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Float[Tensor, "B L 3*D"]) -> Float[Tensor, "B L D"]:
        dim = self.whole.out_features
        return F.linear(x[..., 2 * dim :], self.whole.weight[:, 2 * dim :], self.whole.bias)


class UninformedHead(RegionHead):
    """CLIP-RC's head; class token and regions reach its patches through the queries alone."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.merge = LastThird(self.merge)  # type: ignore[assignment]


def cascade_of(
    clip: ImageEncoder,
    head: type[nn.Module],
    *,
    prompts: int,
    heads: int,
    groups: Groups,
    regions: int = 0,
) -> SegmentationModel:
    """Build a cascade of heads as ``unseen.methods.cascade`` builds those that it knows."""
    stages = Stages(clip.config, sorted({block for group in groups for block in group}))
    encoder = PromptedEncoder(clip, prompts=prompts, regions=regions, stages=stages)
    decoders = [head(clip.config.embed_dim, heads=heads) for _ in groups]
    return SegmentationModel(encoder, Cascade(decoders, groups))


def informed(
    clip: ImageEncoder, *, prompts: int, heads: int, groups: list[list[int]]
) -> SegmentationModel:
    """Build ZegCLIP's cascade whose patches are told of the class token."""
    return cascade_of(clip, InformedHead, prompts=prompts, heads=heads, groups=groups)


def uninformed(
    clip: ImageEncoder, *, prompts: int, heads: int, groups: list[list[int]], regions: int
) -> SegmentationModel:
    """Build CLIP-RC's cascade whose patches are told of nothing."""
    return cascade_of(
        clip, UninformedHead, prompts=prompts, heads=heads, groups=groups, regions=regions
    )


def labelled_alone(
    logits: Float[Tensor, "B C h w"],
    target: Integer[Tensor, "B H W"],
    *,
    focal_weight: float,
    dice_weight: float,
    num_pairs: Float[Tensor, ""],
) -> dict[str, Float[Tensor, ""]]:
    """ZegCLIP's loss, pixels without a label left out of it."""
    classes = logits.shape[1]
    z = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    labelled = (target < classes)[:, None].to(z.dtype)
    masks = (target[:, None] == torch.arange(classes)[:, None, None]).to(z.dtype)
    p = z.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(z, masks, reduction="none")
    right = p * masks + (1 - p) * (1 - masks)
    alpha = ALPHA * masks + (1 - ALPHA) * (1 - masks)
    focal = (alpha * (1 - right) ** 2 * surprise * labelled).sum() / target[0].numel()
    p = p * labelled
    both = p.sum((2, 3)) + masks.sum((2, 3)) + 1
    dice = (1 - (2 * (p * masks).sum((2, 3)) + 1) / both)[find_present(target, classes)].sum()
    pairs = num_pairs.clamp(min=1)
    return {"focal": focal_weight * focal / pairs, "dice": dice_weight * dice / pairs}


OVER = CONTENDERS["cascade-cliprc"]
SAME = {key: value for key, value in OVER.changes.items() if key != "options.over"}
PLAIN = {key: value for key, value in SAME.items() if key != "options.regions"}
VARIANTS = {
    "cascade-informed": Contender("", "cascade", {**PLAIN, "method": "cascade-informed"}),
    "cascade-cliprc-uninformed": Contender(
        "", OVER.base, {**SAME, "method": "cascade-cliprc-uninformed"}
    ),
    "cascade-cliprc-unrecovered": Contender(
        "", OVER.base, {**OVER.changes, "auxiliary_weight": 0.0}
    ),
    "zegclip-labelled": Contender("", "zegclip"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/variants"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    METHODS["cascade-informed"] = informed
    METHODS["cascade-cliprc-uninformed"] = uninformed
    CONTENDERS.update(VARIANTS)
    if options.variant == "zegclip-labelled":
        vars(learning)["criterion"] = labelled_alone
    trial = Trial(options.variant, "inductive", options.seed, options.steps, options.count)
    print(execute(trial, options.out))


if __name__ == "__main__":
    main()
