import pytest
import torch
from oracles import attention_scores
from torch import nn

from unseen.methods.decoder import DESCRIPTORS, DecoderLayer, Similarity, descriptor
from unseen.methods.zegclip import ZegHead
from unseen.model import ImageFeatures


def test_descriptor_puts_the_product_before_the_text():
    text, cls = torch.randn(5, 8), torch.randn(3, 8)
    related = descriptor(text, cls)
    for image in range(3):
        for name in range(5):
            expected = torch.cat([text[name] * cls[image], text[name]])
            assert torch.equal(related[image, name], expected)


def test_descriptors_have_the_width_they_say():
    text, cls = torch.randn(3, 4), torch.randn(2, 4)
    for width, describe in DESCRIPTORS.values():
        assert describe(text, cls).shape == (2, 3, width * 4)
    assert torch.equal(DESCRIPTORS["text"][1](text, cls)[1], text)
    assert torch.equal(DESCRIPTORS["product"][1](text, cls), descriptor(text, cls)[..., :4])


def test_similarity_is_the_mean_over_heads_of_scaled_scores():
    torch.manual_seed(0)
    similarity = Similarity(12, heads=3)
    queries, memory = torch.randn(1, 4, 12), torch.randn(1, 6, 12)
    expected = attention_scores(similarity.query(queries)[0], similarity.key(memory)[0], heads=3)
    torch.testing.assert_close(similarity(queries, memory)[0], expected)


def test_layer_is_torchs_decoder_layer_without_its_self_attention():
    torch.manual_seed(0)
    layer = DecoderLayer(16, heads=4).eval()
    theirs = nn.TransformerDecoderLayer(16, 4, 64, batch_first=True).eval()
    ours = layer.state_dict()
    attention = theirs.multihead_attn
    for kind in ("weight", "bias"):
        joined = torch.cat([ours[f"{part}.{kind}"] for part in ("query", "key", "value")])
        getattr(attention, f"in_proj_{kind}").data.copy_(joined)
        getattr(attention.out_proj, kind).data.copy_(ours[f"out.{kind}"])
        for name, same in (("linear1", "linear1"), ("linear2", "linear2")):
            getattr(getattr(theirs, name), kind).data.copy_(ours[f"{same}.{kind}"])
        for name, same in (("norm2", "norm1"), ("norm3", "norm2")):
            getattr(getattr(theirs, name), kind).data.copy_(torch.randn(16))
            getattr(getattr(layer, same), kind).data.copy_(getattr(getattr(theirs, name), kind))
    queries, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    x = theirs.norm2(queries + attention(queries, memory, memory)[0])
    expected = theirs.norm3(x + theirs.linear2(torch.relu(theirs.linear1(x))))
    torch.testing.assert_close(layer(queries, memory), expected)


def test_all_layers_start_from_the_same_weights():
    head = ZegHead(8, layers=3, heads=2)
    first, second = head.layers
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert torch.equal(head.similarity.query.weight, first.query.weight)
    assert torch.equal(head.similarity.key.bias, first.key.bias)


@pytest.mark.parametrize("classes", [1, 7])
def test_every_parameter_of_the_head_gets_a_gradient(classes):
    head = ZegHead(8, heads=2)
    features = ImageFeatures(torch.randn(2, 8), torch.randn(2, 8, 3, 5))
    prediction = head(features, torch.randn(classes, 8))
    assert prediction.logits.shape == (2, classes, 3, 5)
    prediction.logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
