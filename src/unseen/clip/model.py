"""CLIP's two transformers, with OpenAI's parameter names (arXiv 2103.00020).

Letters: B batch, L tokens, M transformer width, D joint width, K heads, h×w patch grid, H×W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unseen.clip.tokenizer import BytePairTokenizer, Tokenizer
from unseen.errors import InputError
from unseen.progress import track

MEAN = (122.7709383, 116.7460125, 104.09373615)
STD = (68.5005327, 66.6321579, 70.32316305)
"""Pixel statistics that CLIP was trained with: RGB, on the 0..255 scale."""


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image encoder; ``image_size`` is the square its position grid was learned on."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text encoder."""

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"


VIT_B_32 = VisionConfig(224, 32, 768, 12, 12, 512)
VIT_B_16 = VisionConfig(224, 16, 768, 12, 12, 512)
VIT_L_14 = VisionConfig(224, 14, 1024, 24, 16, 768)
VIT_L_14_336 = VisionConfig(336, 14, 1024, 24, 16, 768)
TEXT_B = TextConfig(49408, 77, 512, 12, 8, 512)
TEXT_L = TextConfig(49408, 77, 768, 12, 12, 768)


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU as OpenAI's CLIP does: x·σ(1.702x)."""
    # = x σ(1.702 x), of which the backward pass keeps two tensors, and this one
    return F.silu(1.702 * x) / 1.702


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Attention(nn.Module):
    """Multi-head self-attention, parameters named as ``nn.MultiheadAttention`` names them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"{heads} attention heads do not divide a width of {width}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        x: Float[Tensor, "B L M"],
        mask: Float[Tensor, "L L2"] | None = None,
        context: Float[Tensor, "#B P M"] | None = None,
    ) -> Float[Tensor, "B L M"]:
        """Attend, to ``context`` too, which comes last in ``mask``, added to scores (0 or -inf)."""
        width = x.shape[-1]
        # apart from keys and values: a view into all three would keep them, beside their copies
        # with the context, for the backward pass
        q = F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, K, L, M/K)
        k, v = self._remember(x)
        if context is not None:
            more = self._remember(context).expand(-1, x.shape[0], -1, -1, -1)
            k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _remember(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "2 B K L d"]:
        """Return keys and values."""
        width = x.shape[-1]
        kv = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])
        return kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def value(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        """Return what each token would receive if it attended to itself alone."""
        width = x.shape[-1]
        return self.out_proj(
            F.linear(x, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :])
        )


class Feedforward(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"activation must be {' or '.join(ACTIVATIONS)}, got {activation!r}")
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, activation: str) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Feedforward(width, activation)
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "B L M"],
        mask: Float[Tensor, "L L2"] | None = None,
        context: Float[Tensor, "#B P M"] | None = None,
    ) -> Float[Tensor, "B L M"]:
        """Run the block; ``context`` are more tokens to attend to, of which nothing comes out."""
        beside = None if context is None else self.ln_1(context)
        x = x + self.attn(self.ln_1(x), mask, beside)
        return x + self.mlp(self.ln_2(x))

    def value_path(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        """Run the block with its queries and keys removed (MaskCLIP, arXiv 2112.01071, §3.2)."""
        x = x + self.attn.value(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, config: VisionConfig | TextConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            Block(config.width, config.heads, config.activation) for _ in range(config.layers)
        )

    def forward(
        self, x: Float[Tensor, "B L M"], mask: Float[Tensor, "L L"] | None = None
    ) -> Float[Tensor, "B L M"]:
        for block in self.resblocks:
            x = block(x, mask)
        return x


def resample_positions(
    positions: Float[Tensor, "L M"], size: tuple[int, int]
) -> Float[Tensor, "L2 M"]:
    """Resample the patch rows of a position table to another (height, width) of patches.

    Row 0 (the class token's) is kept. Bilinear, corners not aligned, no antialiasing: as all three
    methods do (timm's habit is bicubic with antialiasing). At the table's own size nothing changes,
    which needs no case of its own: an exported model could not hold one.
    """
    side = math.isqrt(len(positions) - 1)
    grid = positions[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T])


class ImageEncoder(nn.Module):
    """CLIP's vision transformer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        num_positions = (config.image_size // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(num_positions, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def patchify(
        self, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B L M"], tuple[int, int]]:
        """Cut a normalised image into patch tokens, row by row; also return the grid (h, w).

        Pixels beyond the last whole patch are dropped.
        """
        patches = self.conv1(image)
        return patches.flatten(2).transpose(1, 2), (patches.shape[2], patches.shape[3])

    def embed(
        self, image: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B L M"], tuple[int, int]]:
        """Turn a normalised image into [class token, patches], positions added; and the grid."""
        patches, grid = self.patchify(image)
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)
        positions = resample_positions(self.positional_embedding, grid)
        return self.ln_pre(torch.cat([cls, patches], dim=1) + positions), grid

    def project(self, tokens: Float[Tensor, "... M"]) -> Float[Tensor, "... D"]:
        """Take tokens into the space shared with text."""
        return self.ln_post(tokens) @ self.proj

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L D"]:
        """Embed a normalised image; token 0 is CLIP's image embedding (not unit length)."""
        tokens, _ = self.embed(image)
        return self.project(self.transformer(tokens))


class TextEncoder(nn.Module):
    """CLIP's text transformer and the tokenizer it was trained with."""

    causal_mask: Tensor

    def __init__(self, config: TextConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer or BytePairTokenizer(config.context_length)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(
            0.01 * torch.randn(config.context_length, config.width)
        )
        self.transformer = Transformer(config)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(
            config.width**-0.5 * torch.randn(config.width, config.embed_dim)
        )
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        mask = torch.full((config.context_length, config.context_length), -torch.inf).triu(1)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, tokens: Int[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """Embed token rows, read at their end-of-text token: the highest id. Not unit length."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, self.causal_mask[:length, :length]))
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "C D"]:
        """Embed class names: each template's embedding normalised, averaged, normalised again.

        Raises:
            InputError: a name the tokenizer cannot take.
        """
        # one class at a time: memory does not grow with the vocabulary
        return torch.stack(
            [self.embed_name(name, templates) for name in track(names, "reading labels")]
        )

    @torch.no_grad()
    def embed_name(self, name: str, templates: Sequence[str]) -> Float[Tensor, " D"]:
        """Embed a class name, as ``embed`` does each of several."""
        tokens = self.tokenizer([template.format(name) for template in templates])
        tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]  # causal: padding is unread
        sentences = F.normalize(self(tokens.to(self.causal_mask.device)), dim=-1)
        return F.normalize(sentences.mean(dim=0), dim=-1)


class CLIP(nn.Module):
    """The two encoders as they were trained, and the logarithm of the inverse temperature."""

    def __init__(self, image: ImageEncoder, text: TextEncoder) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
