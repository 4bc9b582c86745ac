"""The blocks of a transformer are found in its graph, and run again."""

import pytest
import torch
from torch import nn

from tests.cam.attention import PlainViT, images
from xgradcam.errors import NotApplicableError
from xgradcam.lending.attention import opened
from xgradcam.lending.blocks import blocks_of, gradients_at, replayed


def seen(net, batch, score_of=lambda output: output[:, 1]):
    batch = batch.clone().requires_grad_()
    with opened(net) as opening:
        returned = net(1 * batch)
    return opening, batch, score_of(returned)


@pytest.mark.parametrize("how", ["fused", "open", "folded"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_blocks_and_their_tokens(how, depth):
    net, batch = PlainViT(how, depth=depth), images()
    opening, start, score = seen(net, batch)
    blocks = blocks_of(net, opening, start, score.sum())
    assert blocks.names == tuple(f"blocks.{number}" for number in range(depth))
    assert blocks.pooling is None
    _, attention, behind = net.openly(batch)
    for block, weights, tokens in zip(blocks.each, attention, behind, strict=True):
        assert block.attention.logits.shape == weights.shape == (3, 2, 7, 7)
        torch.testing.assert_close(block.attention.weights.view_as(weights), weights)
        torch.testing.assert_close(block.tokens, tokens)


def test_gradients_are_those_of_plain_autograd():
    net, batch = PlainViT(), images()
    opening, start, score = seen(net, batch)
    blocks = blocks_of(net, opening, start, score.sum())
    logits, attention, behind = net.openly(batch)
    found = gradients_at(net, opening, score, [*(one.edge for one in blocks.attention), blocks.each[0].edge])
    expected = torch.autograd.grad(logits[:, 1].sum(), [*attention, behind[0]])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert gradients_at(net, opening, score.detach(), [blocks.each[0].edge]) == (None,)


class Packed(nn.Module):
    """A block whose tokens are in a tuple, which the next one takes apart."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, tokens):
        return (self.block(tokens if isinstance(tokens, torch.Tensor) else tokens[0]), "more")


class InTuples(PlainViT):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(map(Packed, self.blocks))

    def end(self, tokens):
        return super().end(tokens[0] if isinstance(tokens, tuple) else tokens)


@pytest.mark.parametrize("make", [PlainViT, InTuples])
def test_the_rest_runs_again_from_other_tokens(make):
    net, batch = make(), images()
    opening, start, score = seen(net, batch)
    last = blocks_of(net, opening, start, score.sum()).each[-1]
    assert last.name == "blocks.2"
    tokens = (2 * last.tokens).detach().requires_grad_()
    returned = replayed(net, batch, last, tokens)
    expected = net.end(tokens)
    torch.testing.assert_close(returned, expected)
    found, other = (torch.autograd.grad(one.square().sum(), tokens)[0] for one in (returned, expected))
    torch.testing.assert_close(found, other)
    assert not any(module._forward_hooks for module in net.modules())


class Side(PlainViT):
    """Attention beside the way to the score is no block of it."""

    def forward(self, images):
        tokens = self.begin(images)
        self.kept = self.blocks[1](tokens)
        return self.end(self.blocks[0](tokens))


def test_attention_that_the_score_does_not_read_is_no_block():
    net, batch = Side(), images()
    opening, start, score = seen(net, batch)
    assert len(opening.found) == 2
    assert blocks_of(net, opening, start, score.sum()).names == ("blocks.0",)


def test_without_attention_in_the_graph_there_are_none():
    net, batch = PlainViT().requires_grad_(False), images()
    with opened(net) as opening:
        score = net(batch)[:, 0].clone().requires_grad_()
    start = batch.clone().requires_grad_()
    with pytest.raises(NotApplicableError, match="computes no attention between its input and the score"):
        blocks_of(net, opening, start, (1 * score).sum())
