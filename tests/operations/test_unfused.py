"""Attention step by step is what PyTorch's own way to it computes, and is that of this thread alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from xgradcam.operations.unfused import Unfused

MASK = torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) > 0.3
WAYS = {
    "plain": {},
    "a mask of truth values": {"attn_mask": MASK},
    "a mask of numbers": {"attn_mask": MASK.double().log1p()},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "grouped": {"enable_gqa": True},
}


def tokens(heads, seed):
    return torch.randn(2, heads, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", WAYS)
def test_attention_is_that_of_pytorchs_steps_and_has_second_derivatives(way):
    query, key, value = tokens(4, 0).requires_grad_(), tokens(2 if way == "grouped" else 4, 1), tokens(4, 2)
    value = value[:, : key.shape[1]]
    with sdpa_kernel(SDPBackend.MATH):
        expected = functional.scaled_dot_product_attention(query, key, value, **WAYS[way])
    with Unfused():
        found = functional.scaled_dot_product_attention(query, key, value, **WAYS[way])
    assert torch.equal(found, expected)
    (first,) = torch.autograd.grad(found.sum(), query, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), query)
    assert second.abs().max() > 0


@pytest.mark.parametrize("weights", [True, False])
def test_attention_in_modules(weights):
    torch.manual_seed(0)
    module, given = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        expected = module(given, given, given, need_weights=weights)[0]
    with Unfused():
        found = module(given, given, given, need_weights=weights)[0]
    assert torch.equal(found, expected)
    (first,) = torch.autograd.grad(found.square().sum(), given, create_graph=True)
    assert torch.autograd.grad(first.sum(), given)[0].abs().max() > 0


def test_other_threads_keep_their_way():
    query = tokens(4, 0).float().requires_grad_()
    flags = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()

    def node():
        made = functional.scaled_dot_product_attention(query, query, query)
        return made.grad_fn.name(), torch.backends.cuda.flash_sdp_enabled()

    with Unfused(), ThreadPoolExecutor(1) as threads:
        here, there = node()[0], threads.submit(node).result(20)
    assert here != there[0]
    assert "FlashAttention" in there[0]
    assert there[1] == flags[0]
