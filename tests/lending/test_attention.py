"""Attention computed openly gives what fused attention gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from xgradcam.errors import XGradCamError
from xgradcam.lending.attention import opened


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Calling(nn.Module):
    """Fused attention with these arguments, of queries that are in the graph."""

    def __init__(self, heads=(2, 2), keys=5, **options):
        super().__init__()
        self.key, self.value = numbers(3, heads[1], keys, 4, seed=1), numbers(3, heads[1], keys, 4, seed=2)
        self.heads, self.options = heads[0], options

    def forward(self, query):
        return functional.scaled_dot_product_attention(1 * query, self.key, self.value, **self.options)


BLIND = torch.ones(4, 5, dtype=torch.bool)
BLIND[1] = False
CALLS = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "choosing": {"attn_mask": numbers(4, 5) > 0},
    "a query that sees nothing": {"attn_mask": BLIND},
    "biased": {"attn_mask": numbers(3, 1, 4, 5)},
    "grouped": {"heads": (4, 2), "enable_gqa": True},
    "no dropout": {"dropout_p": 0.0},
}


@pytest.mark.parametrize("case", CALLS)
def test_fused_attention(case):
    net = Calling(**CALLS[case])
    query = numbers(3, net.heads, 4, 4, seed=3).requires_grad_()
    expected = net(query)
    with opened(net) as opening:
        found = net(query)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (one,) = opening.found
    assert one.weights.shape == one.logits.shape == (3, net.heads, 4, 5)
    value = net.value.repeat_interleave(net.heads // net.value.shape[1], 1)
    torch.testing.assert_close(one.weights @ value, expected, rtol=1e-10, atol=1e-12)
    sums = one.weights.sum(dim=-1)
    whole = torch.ones_like(sums)
    if case == "a query that sees nothing":
        whole[:, :, 1] = 0
    torch.testing.assert_close(sums, whole)
    gradients = [torch.autograd.grad(output.square().sum(), query)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_in_half_precision_it_is_as_exact_as_the_fused():
    query = numbers(1, 2, 4, 4).requires_grad_()
    net = Calling()
    expected = net(query)[:1]
    net.key, net.value = net.key.bfloat16(), net.value.bfloat16()
    with opened(net) as opening:
        found = net(query.bfloat16())[:1]
    assert found.dtype == torch.bfloat16
    assert opening.found[0].weights.dtype == torch.float32
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_chance_is_refused():
    net = Calling(dropout_p=0.1)
    with pytest.raises(XGradCamError, match="by chance in evaluation too: set its dropout to 0"), opened(net):
        net(numbers(3, 2, 4, 4).requires_grad_())


class Heads(nn.Module):
    """nn.MultiheadAttention called in one of several ways."""

    def __init__(self, batch_first=True, options=None, **call):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.own = nn.MultiheadAttention(8, 2, batch_first=batch_first, dropout=0.5, **(options or {}))
        self.call = call
        self.double().eval()

    def forward(self, tokens):
        return self.own(tokens, tokens, tokens, **self.call)


WAYS = {
    "with weights": {},
    "with weights of each head": {"average_attn_weights": False},
    "without weights": {"need_weights": False},
    "in the other order": {"need_weights": False, "batch_first": False},
    "masked": {"need_weights": False, "attn_mask": numbers(4, 4).tril() == 0},
    "padded": {"key_padding_mask": torch.arange(4).expand(3, 4) > 2},
    "with more keys": {"need_weights": False, "options": {"add_bias_kv": True, "add_zero_attn": True}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frozen", [False, True])
def test_heads_of_pytorch(way, frozen):
    net = Heads(**WAYS[way]).requires_grad_(not frozen)
    tokens = numbers(3, 4, 8) if net.own.batch_first else numbers(4, 3, 8)
    with torch.no_grad():  # its fast path
        expected, _ = net(tokens)
    with opened(net) as opening:
        found, weights = net(tokens.requires_grad_())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (one,) = opening.found
    assert one.weights.numel() == 3 * 2 * 4 * (6 if way == "with more keys" else 4)
    assert [ran.name for ran in one.around] == ["own", ""]
    if way == "with weights of each head":
        torch.testing.assert_close(one.weights.view_as(weights), weights, rtol=0, atol=0)


def test_a_transformer_layer_of_pytorch_in_its_fast_path():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    tokens = numbers(3, 4, 8)
    with torch.no_grad():
        expected = net(tokens)
    with opened(net) as opening:
        found = net(tokens.requires_grad_())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert [one.name for one in opening.found] == ["self_attn"]


class Softmaxes(nn.Module):
    """Attention and other softmaxes by every name."""

    def forward(self, logits):
        found = [
            torch.softmax(logits, dim=-1), logits.softmax(2), nn.Softmax(dim=-1)(logits),
            functional.softmax(logits, dim=-1, dtype=torch.float32), torch.special.softmax(logits, 2),
        ]  # fmt: skip
        others = logits.softmax(dim=1), logits[:, 0].softmax(-1), logits.detach().softmax(-1)
        return [*found, *others]


def test_softmax_over_keys_is_found_and_no_other():
    net, logits = Softmaxes(), numbers(2, 3, 4).requires_grad_()
    with opened(net) as opening:
        returned = net(logits)
    assert len(opening.found) == 5
    for one, weights in zip(opening.found, returned, strict=False):
        assert torch.equal(one.weights, weights)
        assert one.logits is logits


def test_nothing_is_left_behind_by_an_error():
    net = Heads()
    with pytest.raises((RuntimeError, AssertionError)), opened(net):
        net(numbers(3, 4, 7))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()
