import pytest
import torch
import torch.nn.functional as F
from oracles import bilinear
from torch import nn

from unseen.clip import CLIP, ImageEncoder, VisionConfig
from unseen.clip.model import resample_positions
from unseen.methods.encoder import PromptedEncoder
from unseen.methods.frozen import TextSimilarity, frozen, maskclip, plain
from unseen.model import ImageFeatures


@pytest.fixture
def clip() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder(VisionConfig(32, 8, 24, layers=4, heads=3, embed_dim=12))
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def slow_features(encoder: PromptedEncoder, image: torch.Tensor) -> torch.Tensor:
    """One image, token list by token list, prompts as full tokens, heads one by one."""
    clip, prompts = encoder.clip, encoder.prompts
    height, width = image.shape[1] // 8, image.shape[2] // 8
    side = clip.config.image_size // 8
    grid = clip.positional_embedding[1:].reshape(side, side, -1)
    positions = torch.stack(
        [bilinear(grid[..., m], height, width) for m in range(grid.shape[2])], -1
    )
    tokens = [2 * clip.class_embedding + clip.positional_embedding[0]]
    for y in range(height):
        for x in range(width):
            patch = image[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            tokens.append((clip.conv1.weight * patch).sum(dim=(1, 2, 3)) + positions[y, x])
    tokens = [clip.ln_pre(token) for token in tokens]
    for i, block in enumerate(clip.transformer.resblocks):
        given = [*prompts.shallow[0]] if i == 0 else []
        if 0 < i <= len(prompts.deep):
            given = [*prompts.deep[i - 1]]
        sequence = [tokens[0], *map(prompts.project, given), *tokens[1:]]
        x = torch.stack(sequence)
        normed = block.ln_1(x)
        qkv = normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = qkv.chunk(3, dim=-1)
        attended = []
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            weights = torch.softmax(q[:, part] @ k[:, part].T / 8**0.5, dim=-1)
            attended.append(weights @ v[:, part])
        x = x + block.attn.out_proj(torch.cat(attended, dim=-1))
        hidden = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        tokens = [x[0], *x[1 + len(given) :]]
    out = torch.stack([clip.ln_post(prompts.norm(token)) @ clip.proj for token in tokens])
    return out / out.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_features_equal_a_loop_over_tokens(clip, depth, size):
    encoder = PromptedEncoder(clip, prompts=2, depth=depth).eval()
    encoder.prompts.norm.weight.data += 0.2 * torch.randn(24)
    images = torch.randn(2, 3, *size)
    features = encoder(images)
    for i, image in enumerate(images):
        expected = slow_features(encoder, image)
        torch.testing.assert_close(features.cls[i], expected[0], atol=1e-5, rtol=1e-4)
        patches = features.patches[i].flatten(1).T
        torch.testing.assert_close(patches, expected[1:], atol=1e-5, rtol=1e-4)


def test_resampled_positions_equal_a_slow_loop():
    positions = torch.randn(1 + 16, 3)
    resampled = resample_positions(positions, (5, 7))
    assert torch.equal(resampled[0], positions[0])
    for m in range(3):
        expected = bilinear(positions[1:, m].reshape(4, 4), 5, 7)
        torch.testing.assert_close(resampled[1:, m].reshape(5, 7), expected)


def test_positions_of_their_own_grid_are_returned_untouched():
    positions = torch.randn(1 + 16, 3)
    assert torch.equal(resample_positions(positions, (4, 4)), positions)


def test_pixels_beyond_the_last_whole_patch_are_dropped(clip):
    encoder = PromptedEncoder(clip, prompts=1).eval()
    image = torch.randn(1, 3, 37, 45)
    trimmed = encoder(image[:, :, :32, :40])
    assert torch.equal(encoder(image).patches, trimmed.patches)


def test_clip_is_frozen_and_prompts_are_trained(clip):
    encoder = PromptedEncoder(clip, prompts=2)
    trained = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"prompts"}
    encoder(torch.randn(1, 3, 32, 32)).cls.sum().backward()
    assert all(p.grad is not None for p in encoder.prompts.parameters())
    assert all(p.grad is None for p in encoder.clip.parameters())


def test_every_image_loses_other_prompt_channels_to_dropout(clip):
    encoder = PromptedEncoder(clip, prompts=2).train()
    first, second = encoder.prompts(1, batch=2)
    assert not torch.equal(first, second)
    assert encoder.eval().prompts(1, batch=2).shape[0] == 1  # the same for all images


def test_prompts_start_within_the_published_range(clip):
    prompts = PromptedEncoder(clip, prompts=50).prompts
    bound = (6 / (3 * 8**2 + 24)) ** 0.5
    for tokens in (prompts.shallow, prompts.deep):
        assert 0.9 * bound < tokens.abs().max() <= bound
    assert prompts.project.weight.std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.15)


def test_value_path_is_attention_in_which_every_patch_sees_itself_alone(clip):
    model = maskclip(clip)
    image = torch.randn(1, 3, 32, 32)
    tokens, _ = clip.embed(image)
    *blocks, last = clip.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    alone = torch.full((17, 17), -torch.inf).fill_diagonal_(0)
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.load_state_dict(last.attn.state_dict())
    normed = last.ln_1(tokens)
    tokens = tokens + theirs(normed, normed, normed, attn_mask=alone)[0]
    tokens = tokens + last.mlp(last.ln_2(tokens))
    expected = F.normalize(clip.project(tokens)[:, 1:], dim=-1)
    patches = model.encoder(image).patches.flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=1e-4)


def test_training_free_names_are_the_nearest_text():
    features = ImageFeatures(torch.zeros(1, 6), F.normalize(torch.randn(1, 6, 4, 4), dim=1))
    text = F.normalize(torch.randn(5, 6), dim=1)
    logits = TextSimilarity()(features, text).logits
    cosine = torch.einsum("bdhw,cd->bchw", features.patches, text)
    assert torch.equal(logits.argmax(dim=1), cosine.argmax(dim=1))
    assert torch.equal(logits.sigmoid().argmax(dim=1), cosine.argmax(dim=1))


def test_maskclip_uses_clips_own_pixel_statistics(micro_clip: CLIP):
    assert maskclip(micro_clip.image).mean.flatten()[0].item() == pytest.approx(0.4814547, abs=1e-6)


def test_plain_patches_are_clips_own_tokens(clip):
    image = torch.randn(1, 3, 24, 40)
    tokens = F.normalize(clip(image), dim=-1)
    for model in (plain(clip), frozen(clip, heads=2)):
        features = model.encoder(image)
        assert torch.equal(features.cls, tokens[:, 0])
        assert torch.equal(features.patches.flatten(2), tokens[:, 1:].transpose(1, 2))


def test_of_frozen_clip_only_the_head_is_trained(clip):
    trained = {
        n.split(".")[0] for n, p in frozen(clip, heads=2).named_parameters() if p.requires_grad
    }
    assert trained == {"head"}
