"""Frozen CLIP with deep visual prompts: ZegCLIP's image encoder and the trained part of it.

Design 1, "Deep Prompt Tuning", of ZegCLIP (Zhou et al., arXiv 2212.03588), after Visual Prompt
Tuning (Jia et al., arXiv 2203.12119): with z the class token, H the patches and P_l the prompts of
block l, [z_l, _, H_l] = Block_l([z_{l-1}, P_l, H_{l-1}]).

ZegCLIP's code departs from CLIP in two places that its numbers need, both named where they happen:
the class embedding counts twice, and features pass two layer norms.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip.model import ImageEncoder, resample_positions
from unseen.model import Encoder, ImageFeatures


class Prompts(nn.Module):
    """The trained tokens of every prompted block, and the layers that only they brought.

    Args:
        count: tokens per block.
        depth: blocks after the first whose prompts are fresh; later blocks run without any.
        width: channels of the transformer.
        patch_size: side of a patch in pixels; it enters the initial range.
        dropout: share of prompt channels dropped in training, drawn anew per block and image.
    """

    def __init__(
        self, count: int, depth: int, width: int, patch_size: int, *, dropout: float = 0.1
    ) -> None:
        super().__init__()
        bound = (6 / (3 * patch_size**2 + width)) ** 0.5
        self.shallow = nn.Parameter(torch.empty(1, count, width).uniform_(-bound, bound))
        self.deep = nn.Parameter(torch.empty(depth, count, width).uniform_(-bound, bound))
        self.project = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.project.weight, a=0, mode="fan_out")
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    @property
    def depth(self) -> int:
        """Number of blocks after the first that get fresh prompts."""
        return len(self.deep)

    def forward(self, block: int, batch: int) -> Float[Tensor, "B P M"]:
        """Return the prompts that enter a block, one copy an image."""
        tokens = self.shallow[0] if block == 0 else self.deep[block - 1]
        # expanded before the dropout: every image loses other channels
        return self.dropout(self.project(tokens).expand(batch, -1, -1))


class PromptedEncoder(Encoder):
    """CLIP's image encoder, frozen, with trained prompts in its blocks.

    Args:
        clip: the encoder to adapt; its parameters stop requiring gradients.
        prompts: tokens per block.
        depth: blocks after the first with prompts; by default all.
    """

    def __init__(self, clip: ImageEncoder, *, prompts: int, depth: int | None = None) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        config = clip.config
        depth = config.layers - 1 if depth is None else depth
        self.prompts = Prompts(prompts, depth, config.width, config.patch_size)

    def embed(
        self, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B L M"], tuple[int, int]]:
        """Return [class token, patches] as the first block takes them, and the patch grid."""
        patches, grid = self.clip.patchify(image)
        positions = resample_positions(self.clip.positional_embedding, grid)
        # ZegCLIP's class token holds the class embedding twice: once as token, once in its position
        cls = 2 * self.clip.class_embedding + positions[0]
        tokens = torch.cat([cls.expand(len(image), 1, -1), patches + positions[1:]], dim=1)
        return self.clip.ln_pre(tokens), grid

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Encode normalised images of any size from one patch up."""
        tokens, grid = self.embed(image)
        cls, patches = tokens[:, :1], tokens[:, 1:]
        for i, block in enumerate(self.clip.transformer.resblocks):
            if i <= self.prompts.depth:
                tokens = block(torch.cat([cls, self.prompts(i, len(image)), patches], dim=1))
            else:
                tokens = block(torch.cat([cls, patches], dim=1))
            # what a block makes of its prompts is dropped: the next one gets fresh ones
            cls, patches = tokens[:, :1], tokens[:, -patches.shape[1] :]
        tokens = torch.cat([cls, patches], dim=1)
        embedded = self.clip.project(self.prompts.norm(tokens))  # two layer norms in a row
        embedded = F.normalize(embedded, dim=-1)
        return ImageFeatures(
            cls=embedded[:, 0], patches=embedded[:, 1:].transpose(1, 2).unflatten(2, grid)
        )
