"""A change of a few places stays at these places, whatever operation would mix them."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention

from xgradcam.layouts.mixing import Unmixed

TOKENS, WIDTH = 12, 4


def samples_of(seed, marked, shape=(TOKENS, WIDTH)):
    """Two samples, equal but for the tokens of these numbers."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(shape, generator=generator, dtype=torch.float64)
    two = one.clone()
    two[marked] = torch.randn(len(marked), shape[1], generator=generator, dtype=torch.float64)
    return torch.stack([one, two])


def by_hand(queries, keys, values):
    """The attention of the queries of the second sample to the keys and values of the first."""
    weights = (queries[1] @ keys[0].T / WIDTH**0.5).softmax(dim=-1)
    return weights @ values[0]


def attention_of_parts(queries, keys, values):
    """The fused one as PyTorch computes it where no kernel suits, with a softmax of its own."""
    with sdpa_kernel(SDPBackend.MATH):
        return attention(queries, keys, values)


FORMS = {
    "fused": attention,
    "fused, of parts": attention_of_parts,
    "matmul": lambda q, k, v: (q @ k.mT / WIDTH**0.5).softmax(dim=-1) @ v,
    "einsum": lambda q, k, v: torch.einsum(
        "bqk,bkd->bqd", (torch.einsum("bqd,bkd->bqk", q, k) / WIDTH**0.5).softmax(dim=-1), v
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_attention_is_changed_at_the_queries_that_are(form):
    tokens = [samples_of(seed, [2, 7]) for seed in range(3)]
    with Unmixed(2):
        found = FORMS[form](*tokens)
    torch.testing.assert_close(found[0], FORMS[form](*(one[:1] for one in tokens))[0])
    torch.testing.assert_close(found[1], by_hand(*tokens))
    assert (found[1] - found[0]).abs().amax(dim=1).nonzero().flatten().tolist() == [2, 7]


@pytest.mark.parametrize("form", FORMS)
def test_learned_queries_are_not_changed_at_all(form):
    queries = samples_of(0, [])
    with Unmixed(2):
        found = FORMS[form](queries, samples_of(1, [2, 7]), samples_of(2, [2, 7]))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_attention_of_pytorch_in_each_order_of_its_axes(batch_first):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first).double().eval()
    tokens = samples_of(0, [1, 5])
    given = tokens if batch_first else tokens.transpose(0, 1)
    with torch.no_grad(), Unmixed(2):
        found = module(given, given, given, need_weights=False)[0]
    found = found if batch_first else found.transpose(0, 1)
    with torch.no_grad():
        expected = module(*(one.transpose(0, 0) if batch_first else one.transpose(0, 1) for one in (
            tokens[1:], tokens[:1], tokens[:1])), need_weights=False)[0]  # fmt: skip
    expected = expected if batch_first else expected.transpose(0, 1)
    torch.testing.assert_close(found[1], expected[0])


@pytest.mark.parametrize("form", [attention, FORMS["matmul"]], ids=["fused", "matmul"])
def test_an_attention_between_channels_keeps_the_changes_of_its_values(form):
    queries, keys, values = (samples_of(seed, [2, 7]).mT for seed in range(3))
    with Unmixed(2):
        found = form(queries, keys, values)
    expected = form(queries[:1], keys[:1], values[1:])[0]
    torch.testing.assert_close(found[1], expected)


def test_a_linear_layer_across_tokens_is_given_none_of_the_changes_and_one_of_channels_all():
    torch.manual_seed(0)
    across, along = nn.Linear(TOKENS, 5).double(), nn.Linear(WIDTH, 5).double()
    tokens = samples_of(0, [2, 7])
    with torch.no_grad(), Unmixed(2):
        mixed, kept = across(tokens.mT), along(tokens)
    torch.testing.assert_close(mixed[1], mixed[0])
    torch.testing.assert_close(kept, along(tokens))


def test_four_neighbours_in_one_row_are_no_mixed_places():
    """The linear layer between Swin's stages reads the one of four neighbours that is changed."""
    torch.manual_seed(0)
    merge, tokens = nn.Linear(4 * WIDTH, 2).double(), samples_of(0, [0, 4], (20, WIDTH))
    merged = tokens.unflatten(1, (5, 4)).flatten(2)
    with torch.no_grad(), Unmixed(2):
        found = merge(merged)
    torch.testing.assert_close(found, merge(merged))
    assert (found[1] != found[0]).any(dim=1).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("pool", [torch.mean, torch.sum, lambda x, dim: torch.linalg.vector_norm(x, dim=dim)])
def test_what_is_pooled_over_the_places_is_not_changed(pool):
    tokens = samples_of(0, [2, 7])
    with Unmixed(2):
        over_places, over_channels = pool(tokens, dim=1), pool(tokens, dim=2)
    torch.testing.assert_close(over_places[1], over_places[0])
    torch.testing.assert_close(over_channels, pool(tokens, dim=2))
