"""Frozen CLIP with deep visual prompts, the encoder of all three methods; what Cascade-CLIP taps
on its way, and CLIP-RC's region tokens.

Design 1, "Deep Prompt Tuning", of ZegCLIP (Zhou et al., arXiv 2212.03588), after Visual Prompt
Tuning (Jia et al., arXiv 2203.12119): with z the class token, H the patches and P_l the prompts of
block l, [z_l, _, H_l] = Block_l([z_{l-1}, P_l, H_{l-1}]).

The authors' code departs from CLIP in two places that its numbers need, both named where they
happen: the class embedding counts twice, and features pass two layer norms.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unseen.clip.model import ImageEncoder, VisionConfig, resample_positions
from unseen.errors import InputError
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
    def count(self) -> int:
        """Number of tokens a block."""
        return self.shallow.shape[1]

    @property
    def depth(self) -> int:
        """Number of blocks after the first that get fresh prompts."""
        return len(self.deep)

    def forward(self, block: int, batch: int) -> Float[Tensor, "B P M"]:
        """Return the prompts that enter a block: in training a copy an image, else one for all."""
        tokens = self.shallow if block == 0 else self.deep[block - 1 : block]
        projected = self.project(tokens)
        # expanded before the dropout: every image loses other channels
        return self.dropout(projected.expand(batch, -1, -1)) if self.training else projected


class Stages(nn.Module):
    """What blocks on the way say, taken into the joint space (Cascade-CLIP, arXiv 2406.00670).

    Each block has a layer norm and a projection of its own. The authors mean to train them, but
    their names escape the pattern that selects what is trained: they stay frozen at random values,
    which a checkpoint therefore must hold.

    Args:
        config: sizes of the image encoder.
        blocks: numbers of the blocks to tap, counted from 1 as in the paper. The last block needs
            nothing here: its map is the final one.
        trained: train the norms and projections, unlike the authors.
    """

    def __init__(
        self, config: VisionConfig, blocks: Sequence[int], *, trained: bool = False
    ) -> None:
        super().__init__()
        self.blocks = tuple(sorted(set(blocks)))
        if any(not 1 <= block <= config.layers for block in self.blocks):
            raise InputError(
                f"blocks are numbered 1 to {config.layers} in this CLIP, got {list(self.blocks)}: "
                "name others in options.groups (of fusion: options.blocks)"
            )
        self.last = config.layers
        inner = sum(block < config.layers for block in self.blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(inner))
        self.proj = nn.Parameter(
            config.width**-0.5 * torch.randn(inner, config.width, config.embed_dim)
        )
        self.requires_grad_(trained)

    def forward(
        self, tapped: Mapping[int, Float[Tensor, "B L M"]], final: Float[Tensor, "B D h w"]
    ) -> tuple[Float[Tensor, "B D h w"], ...]:
        """Project the patches of each tapped block, by number; return all maps in block order."""
        maps = []
        for i, block in enumerate(self.blocks):
            if block == self.last:
                maps.append(final)
                continue
            maps.append(as_map(self.norms[i](tapped[block]) @ self.proj[i], final.shape[2:]))
        return tuple(maps)


def as_map(tokens: Float[Tensor, "B L D"], grid: Sequence[int]) -> Float[Tensor, "B D h w"]:
    """Lay embeddings out on their grid, at unit length."""
    return F.normalize(tokens, dim=-1).transpose(1, 2).unflatten(2, tuple(grid))


def region_mask(
    grid: tuple[int, int], side: int, device: torch.device | None = None
) -> Float[Tensor, "L L"]:
    """Return which tokens attend to which, as 0 or -inf to be added: CLIP-RC's region bridge.

    Tokens are the class token, patches, regions. A patch sees the token of its own region, a region
    token sees the patches of its region and itself; the class token does not see region tokens nor
    is seen by them. Regions are the cells of a ``side`` × ``side`` grid laid over the patches.

    Args:
        grid: (height, width) in patches.
        side: regions in a row and in a column.
        device: where to.
    """
    rows, columns = (torch.arange(n, device=device) * side // n for n in grid)
    owner = (rows[:, None] * side + columns).flatten()
    member = owner[:, None] == torch.arange(side**2, device=device)  # (h·w, R)
    regions = side**2
    bridge = torch.cat([member.new_zeros(1, regions), member])  # (1+h·w, R); no class token in it
    image = bridge.new_ones(bridge.shape[0], bridge.shape[0])
    own = torch.eye(regions, dtype=torch.bool, device=device)
    allowed = torch.cat([torch.cat([image, bridge], dim=1), torch.cat([bridge.T, own], dim=1)])
    return torch.zeros_like(allowed, dtype=torch.float).masked_fill(~allowed, -torch.inf)


def show_prompts(mask: Float[Tensor, "L L"], count: int, regions: int) -> Float[Tensor, "L L2"]:
    """Add columns for prompts to a ``region_mask``: all tokens but those of regions see them."""
    seen = mask.new_zeros(mask.shape[0] - regions, count)
    seen = torch.cat([seen, mask.new_full((regions, count), -torch.inf)])
    return torch.cat([mask, seen], dim=1)


class PromptedEncoder(Encoder):
    """CLIP's image encoder, frozen, with trained prompts in its blocks.

    Args:
        clip: the encoder to adapt; its parameters stop requiring gradients.
        prompts: tokens per block.
        depth: blocks after the first with prompts; by default all.
        regions: CLIP-RC's region tokens, a square number; none by default.
        stages: what to tap on the way; nothing by default.
    """

    def __init__(
        self,
        clip: ImageEncoder,
        *,
        prompts: int,
        depth: int | None = None,
        regions: int = 0,
        stages: Stages | None = None,
    ) -> None:
        super().__init__()
        if prompts < 1:
            raise InputError(
                f"prompts must be 1 or more, got {prompts}; CLIP without any is the method 'frozen'"
            )
        self.region_side = math.isqrt(regions)
        if self.region_side**2 != regions:
            raise InputError(f"regions must be a square number such as 4, 9 or 16, got {regions}")
        self.clip = clip.requires_grad_(False)
        config = clip.config
        depth = config.layers - 1 if depth is None else depth
        if not 0 <= depth < config.layers:
            raise InputError(
                f"depth must be from 0 to {config.layers - 1}, the blocks of this CLIP after the "
                f"first, got {depth}"
            )
        self.prompts = Prompts(prompts, depth, config.width, config.patch_size)
        # as published: each starts as CLIP's class token and, its name escaping the pattern that
        # selects what is trained, stays so
        start = clip.class_embedding + clip.positional_embedding[0]
        tokens = start.detach().repeat(regions, 1)
        self.regions = nn.Parameter(tokens, requires_grad=False) if regions else None
        self.stages = stages

    def embed(
        self, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B L M"], tuple[int, int]]:
        """Return [class token, patches, regions] as the first block takes them, and the grid."""
        patches, grid = self.clip.patchify(image)
        positions = resample_positions(self.clip.positional_embedding, grid)
        # the class token holds the class embedding twice: once as token, once in its position
        cls = 2 * self.clip.class_embedding + positions[0]
        tokens = [cls.expand(image.shape[0], 1, -1), patches + positions[1:]]
        if self.regions is not None:
            tokens.append(self.regions.expand(image.shape[0], -1, -1))
        return self.clip.ln_pre(torch.cat(tokens, dim=1)), grid

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Encode normalised images of any size from one patch up."""
        tokens, grid = self.embed(image)
        patches = slice(1, 1 + grid[0] * grid[1])
        mask = prompted_mask = None
        if self.regions is not None:
            # of another type than what attends, gradients come out wrong on CPUs (torch 2.13)
            mask = region_mask(grid, self.region_side, image.device).to(tokens.dtype)
            prompted_mask = show_prompts(mask, self.prompts.count, self.region_side**2)
        tapped = {}
        for i, block in enumerate(self.clip.transformer.resblocks):
            # what a block makes of its prompts is not used, the next one gets fresh ones: so they
            # are only attended to
            if i <= self.prompts.depth:
                tokens = block(tokens, prompted_mask, self.prompts(i, image.shape[0]))
            else:
                tokens = block(tokens, mask)
            if self.stages and i + 1 in self.stages.blocks:
                tapped[i + 1] = self.prompts.norm(tokens[:, patches])
        # two layer norms in a row; the region tokens skip the first
        embedded = self.clip.project(self.prompts.norm(tokens[:, : patches.stop]))
        dense = as_map(embedded[:, 1:], grid)
        regions = None
        if self.regions is not None:
            side = self.region_side
            regions = as_map(self.clip.project(tokens[:, patches.stop :]), (side, side))
        return ImageFeatures(
            cls=F.normalize(embedded[:, 0], dim=-1),
            patches=dense,
            stages=self.stages(tapped, dense) if self.stages else (),
            regions=regions,
        )
