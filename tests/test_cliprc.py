from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from oracles import bilinear, sees

from unseen.clip import ImageEncoder, VisionConfig
from unseen.errors import InputError
from unseen.methods.cliprc import RegionHead, align, cliprc
from unseen.methods.encoder import PromptedEncoder, region_mask, show_prompts
from unseen.model import ImageFeatures

DIM = 8


@pytest.fixture
def clip() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder(VisionConfig(32, 8, 24, layers=3, heads=1, embed_dim=DIM))
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


@pytest.mark.parametrize(
    ("grid", "side", "prompts"), [((4, 4), 2, 0), ((4, 6), 2, 2), ((5, 7), 3, 1), ((2, 3), 4, 1)]
)
def test_the_mask_is_what_a_loop_over_tokens_allows(grid, side, prompts):
    mask = show_prompts(region_mask(grid, side), prompts, side**2)
    before, count = 1 + prompts, grid[0] * grid[1] + side**2
    assert mask.shape == (1 + count, 1 + count + prompts)
    # the loop has the prompts after the class token, the mask has them last and in columns only
    asking = [0, *range(before, before + count)]
    for row, a in enumerate(asking):
        for column, b in enumerate([*asking, *range(1, before)]):
            allowed = sees(a, b, grid, side, before)
            assert mask[row, column].item() == (0.0 if allowed else -torch.inf), (a, b)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_features_equal_a_loop_in_which_each_token_reads_what_it_sees(clip, depth, size):
    encoder = PromptedEncoder(clip, prompts=2, depth=depth, regions=4).eval()
    encoder.prompts.norm.bias.data += 0.5 * torch.randn(24)
    encoder.regions.data += torch.randn(4, 24)
    image = torch.randn(1, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    count = grid[0] * grid[1]
    plain = PromptedEncoder(clip, prompts=2)
    embedded = [*plain.embed(image)[0][0], *clip.ln_pre(encoder.regions)]
    cls, rest = embedded[0], embedded[1:]
    for i, block in enumerate(clip.transformer.resblocks):
        prompts = [*encoder.prompts(i, 1)[0]] if i <= depth else []
        tokens = torch.stack([cls, *prompts, *rest])
        before = 1 + len(prompts)
        qkv = block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = qkv.chunk(3, dim=-1)
        read = []
        for a in range(len(tokens)):
            seen = [b for b in range(len(tokens)) if sees(a, b, grid, 2, before)]
            weights = torch.softmax(torch.stack([q[a] @ k[b] / 24**0.5 for b in seen]), dim=0)
            read.append(sum(w * v[b] for w, b in zip(weights, seen, strict=True)))
        tokens = tokens + block.attn.out_proj(torch.stack(read))
        tokens = tokens + block.mlp(block.ln_2(tokens)[None])[0]
        cls, rest = tokens[0], [*tokens[before:]]
    features = encoder(image)
    project = lambda token: F.normalize(clip.project(token), dim=-1)  # noqa: E731
    torch.testing.assert_close(features.cls[0], project(encoder.prompts.norm(cls)))
    for p in range(count):
        expected = project(encoder.prompts.norm(rest[p]))
        torch.testing.assert_close(features.patches[0].flatten(1)[:, p], expected)
    for r in range(4):  # regions skip the trained norm
        expected = project(rest[count + r])
        torch.testing.assert_close(features.regions[0].flatten(1)[:, r], expected)


def test_gradients_in_float64_equal_differences(clip):
    torch.manual_seed(0)
    model = cliprc(clip, prompts=2, regions=4, heads=2).encoder.double().eval()
    image, way = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64)
    image.requires_grad_()
    model(image).patches[:, :3].sum().backward()
    with torch.no_grad():
        ahead, behind = (model(image + e * way).patches[:, :3].sum() for e in (1e-6, -1e-6))
    slope = (ahead - behind) / 2e-6
    torch.testing.assert_close((image.grad * way).sum(), slope, rtol=1e-5, atol=1e-7)


def test_regions_start_as_the_class_token_and_stay(clip):
    encoder = PromptedEncoder(clip, prompts=1, regions=9)
    expected = clip.class_embedding + clip.positional_embedding[0]
    assert all(torch.equal(region, expected) for region in encoder.regions)
    assert not encoder.regions.requires_grad


def test_regions_must_be_a_square_number(clip):
    with pytest.raises(InputError, match="square number"):
        cliprc(clip, regions=6)


def test_alignment_relates_each_class_to_each_region():
    text, cls, regions = torch.randn(3, DIM), torch.randn(2, DIM), torch.randn(2, 4, DIM)
    related = align(text, cls, regions)
    for image in range(2):
        for region in range(4):
            for name in range(3):
                product = (regions[image, region] + cls[image]) * text[name]
                expected = torch.cat([product, text[name]])
                assert torch.equal(related[image, 3 * region + name], expected)


def slow_logits(head: RegionHead, features: ImageFeatures, text: torch.Tensor) -> torch.Tensor:
    """One image: region by region, patch by patch."""
    side, (height, width) = features.regions.shape[2], features.patches.shape[2:]
    regions = [features.regions[0, :, r // side, r % side] for r in range(side**2)]
    given = [torch.cat([(r + features.cls[0]) * t, t]) for r in regions for t in text]
    queries = head.project(torch.stack(given))[None]
    spread = torch.stack([bilinear(features.regions[0, d], height, width) for d in range(DIM)])
    rows = [
        torch.cat([spread[:, y, x], features.cls[0], features.patches[0, :, y, x]])
        for y in range(height)
        for x in range(width)
    ]
    patches = head.merge(torch.stack(rows))[None]
    for query_layer, patch_layer in zip(head.query_layers, head.patch_layers, strict=True):
        old = queries, patches
        queries, patches = query_layer(*old), patch_layer(*reversed(old))
    logits = torch.zeros(len(text), height * width)
    for r in range(side**2):
        for c in range(len(text)):
            for p in range(height * width):
                product = torch.dot(queries[0, r * len(text) + c], patches[0, p])
                logits[c, p] += product / side**2
    return logits.reshape(len(text), height, width)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_masks_are_products_averaged_over_regions(grid):
    torch.manual_seed(0)
    head = RegionHead(DIM, layers=2, heads=2).eval()
    features = ImageFeatures(
        torch.randn(1, DIM), torch.randn(1, DIM, *grid), regions=torch.randn(1, DIM, 2, 2)
    )
    text = torch.randn(3, DIM)
    expected = slow_logits(head, features, text)
    torch.testing.assert_close(head(features, text).logits[0], expected, atol=1e-5, rtol=1e-4)


def test_recovery_is_a_loss_in_training_alone_and_its_targets_get_no_gradient():
    head = RegionHead(DIM, heads=2)
    cls = torch.randn(2, DIM, requires_grad=True)
    features = ImageFeatures(cls, torch.randn(2, DIM, 3, 5), regions=torch.randn(2, DIM, 2, 2))
    text = torch.randn(3, DIM)
    assert head.eval()(features, text).auxiliary == {}
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    terms = head.train()(features, text).auxiliary
    given = align(text, cls, features.regions.flatten(2).transpose(1, 2))
    for parameter in head.recovery.parameters():
        parameter.data.zero_()  # then nothing is recovered, and the loss is the targets' mean size
    zeroed = head(features, text).auxiliary
    assert zeroed["recovery_queries"].item() == pytest.approx(given.abs().mean().item())
    assert zeroed["recovery_patches"].item() == pytest.approx(features.patches.abs().mean().item())
    (gradient,) = torch.autograd.grad(sum(zeroed.values()), cls, allow_unused=True)
    assert gradient is None or not gradient.any()
    assert all(term.item() > 0 for term in terms.values())


def test_layers_that_are_run_again_give_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    head = RegionHead(8, heads=2)
    features = ImageFeatures(
        torch.randn(2, 8), torch.randn(2, 8, 3, 3), (), torch.randn(2, 8, 2, 2)
    )
    text, found = torch.randn(5, 8), []
    for kept in (2**20, 0):
        monkeypatch.setattr(import_module("unseen.methods.cliprc"), "_KEPT", kept)
        torch.manual_seed(1)  # dropout is on
        prediction = head(features, text)
        loss = prediction.logits.square().sum() + sum(prediction.auxiliary.values())
        found.append([loss, *torch.autograd.grad(loss, head.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_every_parameter_of_the_head_is_trained(clip):
    model = cliprc(clip, prompts=1, regions=4, heads=2).train()
    prediction = model(torch.rand(2, 3, 32, 48), torch.randn(5, DIM))
    assert prediction.logits.shape == (2, 5, 4, 6)
    (prediction.logits.square().sum() + sum(prediction.auxiliary.values())).backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_layers_of_a_decoder_start_alike():
    head = RegionHead(DIM, layers=2, heads=2)
    for layers in (head.query_layers, head.patch_layers):
        for key, value in layers[0].state_dict().items():
            assert torch.equal(value, layers[1].state_dict()[key])
