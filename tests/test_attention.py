import pytest
import torch
import torch.nn.functional as F

from unseen.methods import attention
from unseen.methods.attention import attend


def make(requires_grad: bool = True) -> list[torch.Tensor]:
    return [
        torch.randn(2, 3, tokens, 8, dtype=torch.double).requires_grad_(requires_grad)
        for tokens in (5, 7, 7)
    ]


def test_without_dropout_it_is_torchs_attention():
    given = make()
    assert torch.equal(attend(*given), F.scaled_dot_product_attention(*given))


@pytest.mark.parametrize("held", [1, 100, 2**22])
def test_with_dropout_it_is_a_loop_over_heads_whose_weights_are_dropped(held, monkeypatch):
    monkeypatch.setattr(attention, "_WEIGHTS", held)
    given = make()
    torch.manual_seed(7)
    found = attend(*given, dropout=0.3)
    torch.manual_seed(7)
    random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    heads = max(1, held // 35)
    drawn = [
        torch.empty(len(some), 5, 7, dtype=torch.double).bernoulli_(0.7, generator=random)
        for some in torch.arange(6).split(heads)
    ]
    kept = torch.cat(drawn).view(2, 3, 5, 7)
    query, key, value = given
    weights = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5, dim=-1)
    expected = (weights * kept / 0.7) @ value
    torch.testing.assert_close(found, expected)
    by = torch.randn_like(found)
    gradients = torch.autograd.grad(found, given, by)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, given, by))


def test_what_is_dropped_follows_torchs_seed_and_has_the_share_asked_for():
    query, key = torch.zeros(1, 1, 50, 40), torch.zeros(1, 1, 40, 40)
    each = torch.eye(40).view(1, 1, 40, 40)  # reads the weights themselves
    torch.manual_seed(1)
    first, second = (attend(query, key, each, dropout=0.25) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(attend(query, key, each, dropout=0.25), first)
    assert not torch.equal(first, second)
    assert (first == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(first[first != 0], torch.full_like(first, 1 / 30)[first != 0])


def test_lower_precision_is_computed_in_single():
    given = [one.float() for one in make()]
    torch.manual_seed(3)
    expected = attend(*given, dropout=0.5)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*given, dropout=0.5)
    assert found.dtype == torch.float
    assert torch.equal(found, expected)
