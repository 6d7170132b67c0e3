import pytest
import torch
from oracles import cascade_weights

from unseen.clip import CLIP, ImageEncoder, VisionConfig
from unseen.errors import InputError
from unseen.methods.cascade import GROUPS, Cascade, cascade, fusion
from unseen.methods.cliprc import RegionHead
from unseen.methods.encoder import PromptedEncoder, Stages
from unseen.methods.frozen import FrozenEncoder, TextSimilarity
from unseen.methods.zegclip import ZegHead, zegclip
from unseen.model import ImageFeatures, SegmentationModel

DIM = 8


def make_features(stages: int) -> ImageFeatures:
    maps = tuple(torch.randn(2, DIM, 3, 5) for _ in range(stages))
    return ImageFeatures(torch.randn(2, DIM), maps[-1], maps, torch.randn(2, DIM, 2, 2))


@pytest.fixture
def clip() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(VisionConfig(32, 8, 24, layers=4, heads=3, embed_dim=DIM))


@pytest.mark.parametrize(
    "head", [ZegHead(DIM, heads=2), RegionHead(DIM, heads=2), TextSimilarity()], ids=repr
)
def test_cascade_of_one_head_on_the_last_block_is_that_head(head):
    features, text = make_features(1), torch.randn(4, DIM)
    alone = head.eval()(features, text)
    assert torch.equal(Cascade([head], [(12,)]).eval()(features, text).logits, alone.logits)


def test_a_cascade_of_one_zegclip_head_on_the_last_block_is_zegclip(clip):
    torch.manual_seed(0)
    single = zegclip(clip, prompts=2, heads=2).eval()
    one = cascade(clip, groups=[[4]], prompts=2, heads=2).eval()
    one.encoder.prompts.load_state_dict(single.encoder.prompts.state_dict())
    one.head.heads[0].load_state_dict(single.head.state_dict())
    image, text = torch.rand(1, 3, 24, 40), torch.randn(3, DIM)
    assert torch.equal(one(image, text).logits, single(image, text).logits)
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in single.parameters())


def test_logits_are_the_sum_of_the_heads_on_weighted_maps():
    heads = [ZegHead(DIM, heads=2).eval() for _ in GROUPS]
    features, text = make_features(7), torch.randn(4, DIM)
    total = torch.zeros(2, 4, 3, 5)
    for head, group in zip(heads, GROUPS, strict=True):
        mixed = torch.zeros(2, DIM, 3, 5)
        for weight, block in zip(cascade_weights(len(group)), group, strict=True):
            mixed += weight * features.stages[block - 6]
        total += head(features._replace(patches=mixed), text).logits
    torch.testing.assert_close(Cascade(heads, GROUPS).eval()(features, text).logits, total)


def test_published_weights_are_those_of_the_papers_table():
    mix = Cascade([ZegHead(DIM, heads=2) for _ in GROUPS], GROUPS).mixes
    assert [round(w, 2) for w in mix[0].weights.tolist()] == [0.14, 0.61, 1.0]
    assert mix[2].weights is None


def test_a_cascade_and_its_encoder_agree_on_blocks(clip):
    heads = [ZegHead(DIM, heads=2) for _ in range(2)]
    cascaded = Cascade(heads, [[2, 3], [4]])
    for blocks in ((1, 2, 3), (1, 2, 3, 4)):
        encoder = PromptedEncoder(clip, prompts=1, stages=Stages(clip.config, blocks))
        with pytest.raises(InputError, match=r"reads the blocks \[2, 3, 4\], and the encoder taps"):
            SegmentationModel(encoder, cascaded)
    bare = SegmentationModel(PromptedEncoder(clip, prompts=1), cascaded)
    with pytest.raises(InputError, match="the encoder taps 0: give it Stages of these blocks"):
        bare(torch.rand(1, 3, 64, 64), torch.randn(2, DIM))
    with pytest.raises(InputError, match="a head of its own: one is there twice"):
        Cascade([heads[0]] * 2, [[3], [4]])


def test_heads_with_losses_of_their_own_and_others_without_go_together(clip):
    heads = [ZegHead(DIM, heads=2), RegionHead(DIM, heads=2)]
    found = []
    for order in (heads, heads[::-1]):
        encoder = PromptedEncoder(clip, prompts=1, regions=4, stages=Stages(clip.config, (3, 4)))
        model = SegmentationModel(encoder, Cascade(order, [[3], [4]])).train()
        found.append(set(model(torch.rand(1, 3, 64, 64), torch.randn(2, DIM)).auxiliary))
    assert found == [{"recovery_queries", "recovery_patches"}] * 2


def test_groups_may_overlap_and_need_not_hold_the_last_block(clip):
    for groups in ([[2, 3], [3, 4]], [[4], [4]], [[1], [3]]):
        model = cascade(clip, groups=groups, prompts=1, heads=2)
        assert model(torch.rand(1, 3, 32, 32), torch.randn(3, DIM)).logits.shape == (1, 3, 4, 4)


@pytest.mark.parametrize("encoder", ["prompted", "frozen"])
def test_stages_are_the_blocks_outputs_normed_and_projected(clip, encoder):
    stages = Stages(clip.config, (1, 3, 4))
    for norm in stages.norms:
        norm.weight.data = torch.rand(24)
        norm.bias.data = torch.randn(24)
    tapped = {}
    for i in (0, 2):
        clip.transformer.resblocks[i].register_forward_hook(
            lambda m, args, out, i=i: tapped.update({i: out})
        )
    if encoder == "prompted":
        model = PromptedEncoder(clip, prompts=2, stages=stages).eval()
        model.prompts.norm.bias.data = torch.randn(24)
        norm = model.prompts.norm
    else:
        model, norm = FrozenEncoder(clip, stages=stages), torch.nn.Identity()
    features = model(torch.rand(2, 3, 24, 40))
    assert len(features.stages) == 3 and features.stages[2] is features.patches
    for s, i in enumerate((0, 2)):
        for y in range(3):
            for x in range(5):
                token = norm(tapped[i][:, 1 + 5 * y + x])
                projected = stages.norms[s](token) @ stages.proj[s]
                expected = projected / projected.norm(dim=1, keepdim=True)
                torch.testing.assert_close(features.stages[s][:, :, y, x], expected)


def test_projections_stay_random_unless_asked_to_train(clip):
    stages = Stages(VisionConfig(32, 8, 256, 4, 2, 64), (1, 2, 4))
    assert stages.proj.shape == (2, 256, 64)
    assert stages.proj.std().item() == pytest.approx(256**-0.5, rel=0.05)
    for trained in (False, True):
        model = cascade(clip, groups=[[2, 3], [4]], prompts=1, heads=2, train_projections=trained)
        model(torch.rand(1, 3, 32, 32), torch.randn(3, DIM)).logits.square().sum().backward()
        grads = [p.grad is not None for p in model.encoder.stages.parameters()]
        assert all(grads) == trained and any(grads) == trained


def test_weights_are_learned_unless_fixed(clip):
    for learned in (True, False):
        model = cascade(clip, groups=[[2, 3], [4]], prompts=1, heads=2, learned=learned)
        assert model.head.mixes[0].weights.requires_grad == learned


def test_a_cascade_over_cliprc_adds_its_recovery_losses(clip):
    model = cascade(clip, over="cliprc", groups=[[2, 3], [4]], prompts=1, regions=4, heads=2)
    image, text = torch.rand(1, 3, 32, 32), torch.randn(3, DIM)
    terms = model.train()(image, text).auxiliary
    assert terms.keys() == {"recovery_queries", "recovery_patches"}
    sum(terms.values()).backward()
    assert all(h.recovery.query_out.weight.grad.any() for h in model.head.heads)
    assert not model.eval()(image, text).auxiliary


def test_a_cascade_over_frozen_clip_trains_its_heads_alone(clip):
    model = cascade(clip, over="frozen", groups=[[2, 3], [4]], heads=2)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head"}
    assert model(torch.rand(1, 3, 32, 32), torch.randn(3, DIM)).logits.shape == (1, 3, 4, 4)


def test_a_cascade_over_training_free_heads_adds_their_scores(clip):
    encoder = FrozenEncoder(clip, stages=Stages(clip.config, (3, 4)))
    features, text = encoder(torch.rand(1, 3, 32, 32)), torch.randn(3, DIM)
    head = TextSimilarity()
    expected = sum(head(features._replace(patches=one), text).logits for one in features.stages)
    both = Cascade([head, head], [(3,), (4,)])(features, text).logits
    torch.testing.assert_close(both, expected)


def test_straightforward_fusion_is_one_head_on_the_mean_of_the_maps(clip):
    model = fusion(clip, blocks=(2, 3, 4), prompts=1, heads=2).eval()
    image, text = torch.rand(1, 3, 32, 32), torch.randn(3, DIM)
    features = model.encoder((image - model.mean) / model.std)
    mean = sum(features.stages) / 3
    expected = model.head.heads[0](features._replace(patches=mean), text).logits
    torch.testing.assert_close(model(image, text).logits, expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": [[3, 5]]}, "numbered 1 to 4"),
        ({"groups": [[0]]}, "numbered 1 to 4"),
        ({"groups": [[3], []]}, "a group of blocks for each head"),
        ({"groups": [[2, 3]], "aggregation": "max"}, "gaussian, sum, mean"),
        ({"groups": [[4]], "over": "maskclip"}, "zegclip, cliprc or frozen"),
    ],
)
def test_what_cannot_be_built_gets_one_sentence(clip, options, says):
    with pytest.raises(InputError, match=says):
        cascade(clip, prompts=1, heads=2, **options)


def test_the_published_groups_need_a_clip_of_twelve_blocks(micro_clip: CLIP):
    with pytest.raises(InputError, match="numbered 1 to 3"):
        cascade(micro_clip.image)
