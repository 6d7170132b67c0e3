"""The three methods computed plainly, on the weights of our models: what speed is measured against.

Everything the authors' code does is done as it does it: prompts are tokens like others in every
block, attention is a softmax over scores that exist, the last decoder layer is run to its end,
CLIP-RC multiplies region by region, every class is brought to every pixel, windows come one by one,
the loss sees all classes at full resolution. Nothing is slow on purpose: what their code leaves out
or does once is left out or done once, and no step is worse than torch's own way to do it. Not done:
the accuracy that their training logs, and reading the text embeddings from disk at every step.

Covered are ZegCLIP, Cascade-CLIP over ZegCLIP, and CLIP-RC, with two decoder layers or more.
Letters in shapes are those of ``unseen.model``; N is the prompts, patches and all other tokens.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from unseen.clip.model import Attention, Block, ImageEncoder
from unseen.methods.cascade import Cascade
from unseen.methods.cliprc import RecoveryDecoder, RegionHead
from unseen.methods.decoder import DecoderLayer
from unseen.methods.encoder import PromptedEncoder
from unseen.methods.zegclip import ZegHead
from unseen.model import ImageFeatures, Prediction, SegmentationModel

# Encoder -----------------------------------------------------------------------------------------


def attend(
    x: Float[Tensor, "N B M"], weights: Attention, mask: Float[Tensor, "N N"] | None
) -> Float[Tensor, "N B M"]:
    """Let tokens attend to each other as ``nn.MultiheadAttention`` did before fused kernels."""
    count, batch, width = x.shape
    size = width // weights.heads
    q, k, v = (
        part.contiguous().view(count, batch * weights.heads, size).transpose(0, 1)
        for part in F.linear(x, weights.in_proj_weight, weights.in_proj_bias).chunk(3, dim=-1)
    )
    scores = torch.bmm(q * size**-0.5, k.transpose(1, 2))  # (B·K, N, N)
    if mask is not None:
        scores += mask
    attended = torch.bmm(scores.softmax(dim=-1), v)
    return weights.out_proj(attended.transpose(0, 1).reshape(count, batch, width))


def run(
    block: Block, x: Float[Tensor, "N B M"], mask: Float[Tensor, "N N"] | None
) -> Float[Tensor, "N B M"]:
    """Run a pre-norm block over all tokens."""
    x = x + attend(block.ln_1(x), block.attn, mask)
    return x + block.mlp.c_proj(block.mlp.activation(block.mlp.c_fc(block.ln_2(x))))


def positions(clip: ImageEncoder, grid: tuple[int, int]) -> Float[Tensor, "L M"]:
    """Return the positions of the class token and the patches; the former adds its embedding."""
    table = clip.positional_embedding
    side = math.isqrt(len(table) - 1)
    spatial = table[1:].T.reshape(1, -1, side, side)
    spatial = F.interpolate(spatial, grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1] + clip.class_embedding, spatial[0].flatten(1).T])


def region_mask(
    grid: tuple[int, int], side: int, prompts: int, device: torch.device
) -> Float[Tensor, "N N"]:
    """Return CLIP-RC's mask, 0 or -inf, over [class token, prompts, patches, regions].

    Patches see the token of their own region, which sees them and itself; otherwise tokens of
    regions neither see nor are seen.
    """
    first, patches, regions = 1 + prompts, grid[0] * grid[1], side**2
    mask = torch.full((first + patches + regions,) * 2, -torch.inf, device=device)
    mask[:-regions, :-regions] = 0
    rows, columns = (torch.arange(length, device=device) * side // length for length in grid)
    for i in range(regions):
        inside = (rows == i // side)[:, None] & (columns == i % side)
        own = first + inside.flatten().nonzero()[:, 0]
        token = first + patches + i
        mask[own, token] = mask[token, own] = mask[token, token] = 0
    return mask


def encode(encoder: PromptedEncoder, image: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
    """Encode normalised images with prompts as tokens, all of them through every layer."""
    clip, prompts, stages = encoder.clip, encoder.prompts, encoder.stages
    embedded = clip.conv1(image)
    batch, _, *sides = embedded.shape
    grid = sides[0], sides[1]
    patches, regions = grid[0] * grid[1], encoder.region_side**2
    cls = clip.class_embedding.expand(batch, 1, -1)
    x = torch.cat([cls, embedded.flatten(2).transpose(1, 2)], dim=1) + positions(clip, grid)
    if encoder.regions is not None:
        x = torch.cat([x, encoder.regions.expand(batch, -1, -1)], dim=1)
    x = clip.ln_pre(x).transpose(0, 1)  # (N, B, M)

    def of_patches(tokens: Float[Tensor, "N B D"]) -> Float[Tensor, "B D h w"]:
        first = len(tokens) - regions - patches
        dense = tokens[first : first + patches].permute(1, 2, 0).unflatten(2, grid)
        return F.normalize(dense, dim=1)

    maps = []
    mask = None
    for i, block in enumerate(clip.transformer.resblocks):
        rest = x[len(x) - patches - regions :]
        if i <= prompts.depth:
            tokens = prompts.shallow[0] if i == 0 else prompts.deep[i - 1]
            fresh = prompts.dropout(prompts.project(tokens).expand(batch, -1, -1))
            x = torch.cat([x[:1], fresh.transpose(0, 1), rest])
        else:
            x = torch.cat([x[:1], rest])
        if regions and (mask is None or len(mask) != len(x)):
            count = len(x) - 1 - len(rest)
            mask = region_mask(grid, encoder.region_side, count, image.device)
        x = run(block, x, mask)
        if stages is not None and i + 1 in stages.blocks and i + 1 < stages.last:
            tapped = stages.norms[len(maps)](prompts.norm(x)) @ stages.proj[len(maps)]
            maps.append(of_patches(tapped))
    normed = prompts.norm(x[: len(x) - regions])
    x = clip.ln_post(torch.cat([normed, x[len(x) - regions :]])) @ clip.proj  # (N, B, D)
    dense = of_patches(x)
    if stages is not None and stages.last in stages.blocks:
        maps.append(dense)
    bridge = None
    if regions:
        side = encoder.region_side
        bridge = F.normalize(x[-regions:].permute(1, 2, 0).unflatten(2, (side, side)), dim=1)
    return ImageFeatures(F.normalize(x[0], dim=-1), dense, tuple(maps), bridge)


# Decoders ----------------------------------------------------------------------------------------


def decode(
    layer: DecoderLayer,
    queries: Float[Tensor, "B C D"],
    memory: Float[Tensor, "B L D"],
    query: nn.Linear | None = None,
    key: nn.Linear | None = None,
) -> tuple[Float[Tensor, "B C D"], Float[Tensor, "B C L"]]:
    """Run a decoder layer; also return its scores before the softmax, averaged over heads.

    Args:
        layer: whose weights to take.
        queries: what reads.
        memory: what is read.
        query: the projection of queries, if not the layer's.
        key: the projection of keys, if not the layer's.
    """

    def heads(x: Tensor) -> Float[Tensor, "B K L d"]:
        return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    q = heads((query or layer.query)(queries))
    k = heads((key or layer.key)(memory))
    v = heads(layer.value(memory))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5  # (B, K, C, L)
    weights = layer.dropout(scores.softmax(dim=-1))
    attended = layer.out((weights @ v).transpose(1, 2).flatten(2))
    queries = layer.norm1(queries + layer.dropout(attended))
    hidden = layer.dropout(layer.linear1(queries).relu())
    queries = layer.norm2(queries + layer.dropout(layer.linear2(hidden)))
    return queries, scores.mean(dim=1)


def zeg_scores(
    head: ZegHead,
    cls: Float[Tensor, "B D"],
    patches: Float[Tensor, "B D h w"],
    text: Float[Tensor, "C D"],
) -> Float[Tensor, "B C h w"]:
    """Return the scores of a decoder's last layer, on the patch grid.

    The authors run that layer to its end although only its scores are read. Ours has no weights for
    the rest: those of the layer before stand in, at the same cost.
    """
    shown = text.expand(len(cls), -1, -1)
    queries = head.project(torch.cat([cls[:, None] * shown, shown], dim=-1))
    memory = patches.flatten(2).transpose(1, 2)
    for layer in head.layers:
        queries, _ = decode(layer, queries, memory)
    last = head.similarity
    _, scores = decode(head.layers[-1], queries, memory, last.query, last.key)
    return scores.unflatten(2, patches.shape[2:])


def cascade_scores(
    head: Cascade, features: ImageFeatures, text: Float[Tensor, "C D"]
) -> Float[Tensor, "B C h w"]:
    """Return the sum of the scores of all decoders, each on the mix of its group's maps."""
    maps = dict(zip(head.blocks, features.stages, strict=True))
    total = []
    for one, group, mix in zip(head.heads, head.groups, head.mixes, strict=True):
        weights = [1.0] if mix.weights is None else mix.weights
        mixed = sum(weight * maps[block] for weight, block in zip(weights, group, strict=True))
        total.append(zeg_scores(one, features.cls, mixed, text))
    return sum(total[1:], total[0])


def region_scores(
    head: RegionHead, features: ImageFeatures, text: Float[Tensor, "C D"]
) -> Prediction:
    """Return CLIP-RC's scores on the patch grid, and in training its recovery losses."""
    cls, patches, regions = features.cls, features.patches, features.regions
    assert regions is not None
    sums = regions.flatten(2).transpose(1, 2) + cls[:, None]  # (B, R, D)
    shown = text.expand(len(cls), sums.shape[1], -1, -1)
    given = torch.cat([sums[:, :, None] * shown, shown], dim=-1).flatten(1, 2)  # (B, R·C, 2D)
    queries = head.project(given)
    spread = F.interpolate(regions, patches.shape[2:], mode="bilinear", align_corners=False)
    seen = torch.cat([spread, cls[:, :, None, None].expand_as(patches), patches], dim=1)
    memory = head.merge(seen.flatten(2).transpose(1, 2))
    for of_queries, of_patches in zip(head.query_layers, head.patch_layers, strict=True):
        (queries, _), (memory, _) = (
            decode(of_queries, queries, memory),
            decode(of_patches, memory, queries),
        )
    products = queries @ memory.transpose(1, 2)  # (B, R·C, h·w)
    scores = products.unflatten(1, (-1, len(text))).mean(dim=1).unflatten(2, patches.shape[2:])
    auxiliary = recover(head.recovery, queries, memory, given, patches) if head.training else {}
    return Prediction(scores, auxiliary)


def recover(
    recovery: RecoveryDecoder,
    queries: Float[Tensor, "B Q D"],
    memory: Float[Tensor, "B L D"],
    given: Float[Tensor, "B Q 2*D"],
    patches: Float[Tensor, "B D h w"],
) -> dict[str, Float[Tensor, ""]]:
    """Return how far what is recovered is from what the decoder was given: mean distances."""
    q, m = recovery.query_in(queries), recovery.patch_in(memory)
    (q, _), (m, _) = decode(recovery.query_layer, q, m), decode(recovery.patch_layer, m, q)
    dense = patches.flatten(2).transpose(1, 2)
    return {
        "recovery_queries": (recovery.query_out(q) - given.detach()).abs().mean(),
        "recovery_patches": (recovery.patch_out(m) - dense.detach()).abs().mean(),
    }


def predict(
    model: SegmentationModel, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
) -> Prediction:
    """Score every class at every patch of normalised images."""
    encoder, head = model.encoder, model.head
    assert isinstance(encoder, PromptedEncoder)
    features = encode(encoder, image)
    if isinstance(head, RegionHead):
        return region_scores(head, features, text)
    if isinstance(head, Cascade):
        return Prediction(cascade_scores(head, features, text))
    assert isinstance(head, ZegHead)
    return Prediction(zeg_scores(head, features.cls, features.patches, text))


# Read-out ----------------------------------------------------------------------------------------


@torch.no_grad()
def score(
    model: SegmentationModel,
    image: Float[Tensor, "3 H W"],
    text: Float[Tensor, "C D"],
    bias: Float[Tensor, " C"],
    *,
    window: int,
    stride: int,
) -> Float[Tensor, "C H W"]:
    """Score every class at every pixel of a picture as it is shown, window by window.

    Args:
        model: the model.
        image: RGB in [0, 1].
        text: one embedding a class.
        bias: what is subtracted from the scores: γ for seen classes, 0 for others.
        window: side of a window.
        stride: step from one window to the next; the last is moved back inside.
    """
    height, width = image.shape[1:]
    pixels = ((image - model.mean) / model.std)[None]
    total = pixels.new_zeros(1, len(text), height, width)
    count = pixels.new_zeros(1, 1, height, width)
    for i in range(max(height - window + stride - 1, 0) // stride + 1):
        for j in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, height), min(j * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            crop = pixels[:, :, top:bottom, left:right]
            size = crop.shape[2:]
            # the authors' crops are square; others are read out at their own size
            fine = (window, window) if size[0] == size[1] else size
            logits = predict(model, crop, text).logits
            logits = F.interpolate(logits, fine, mode="bilinear", align_corners=False)
            scores = logits.sigmoid()
            scores -= bias.view(-1, 1, 1)
            scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
            total += F.pad(scores, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return (total / count)[0]


@torch.no_grad()
def segment(
    model: SegmentationModel,
    image: Float[Tensor, "3 H W"],
    text: Float[Tensor, "C D"],
    bias: Float[Tensor, " C"],
    *,
    size: tuple[int, int],
    window: int,
    stride: int,
) -> Integer[Tensor, "y x"]:
    """Return the best class of each pixel of a picture of ``size``; the rest is as in ``score``."""
    scores = score(model, image, text, bias, window=window, stride=stride)
    resized = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)
    return resized.softmax(dim=1).argmax(dim=1)[0]


# Training ----------------------------------------------------------------------------------------


def training_loss(
    model: SegmentationModel,
    images: Float[Tensor, "B 3 H W"],
    target: Integer[Tensor, "B H W"],
    text: Float[Tensor, "C D"],
    *,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
    auxiliary_weight: float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """Return every term of a batch's loss: focal and dice of all classes at full resolution.

    Args:
        model: the model.
        images: RGB in [0, 1].
        target: positions in ``text``; everything beyond is in no class.
        text: one embedding a class.
        focal_weight: factor of the focal term.
        dice_weight: factor of the dice term.
        auxiliary_weight: factor of every term that the head itself returns.
    """
    prediction = predict(model, (images - model.mean) / model.std, text)
    size = target.shape[1:]
    logits = F.interpolate(prediction.logits, size, mode="bilinear", align_corners=False)
    classes = torch.arange(len(text), device=target.device).view(-1, 1, 1)
    masks = (target[:, None] == classes).to(logits.dtype).flatten(0, 1).flatten(1)  # (B·C, H·W)
    logits = logits.flatten(0, 1).flatten(1)
    present = masks.any(dim=1)
    pairs = present.sum().clamp(min=1)

    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    p_t = p * masks + (1 - p) * (1 - masks)
    alpha_t = 0.25 * masks + 0.75 * (1 - masks)
    focal = (alpha_t * entropy * (1 - p_t) ** 2).mean(dim=1).sum() / pairs

    p, m = logits[present].sigmoid(), masks[present]
    dice = (1 - (2 * (p * m).sum(dim=1) + 1) / (p.sum(dim=1) + m.sum(dim=1) + 1)).sum() / pairs
    auxiliary = {name: auxiliary_weight * one for name, one in prediction.auxiliary.items()}
    return {"focal": focal_weight * focal, "dice": dice_weight * dice, **auxiliary}
