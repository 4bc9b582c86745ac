"""The blocks of a transformer that see the input, told from the attention that ran and from the graph.

A block is a module around one attention, from tokens (N, tokens, C) to as many, through which all that the
score knows of the input passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from xgradcam.errors import NotApplicableError, is_out_of_memory
from xgradcam.lending.attention import Attention, Edge, Opening
from xgradcam.lending.borrowing import borrowed, fields_of
from xgradcam.lending.hooks import OfThread
from xgradcam.lending.several import without_others
from xgradcam.operations.calls import edge_of, edges_of, substitute, tensors_of

NONE_FOUND = (
    "the network computes no attention between its input and the score; found is softmax(q k) v, also in "
    "PyTorch's scaled_dot_product_attention (in transformers attn_implementation='sdpa')"
)


@dataclass(frozen=True)
class Block:
    """A block as it ran, its attention as (N, heads, tokens, tokens), and its output (N, tokens, C)."""

    name: str
    module: nn.Module
    attention: Attention
    tokens: Tensor
    edge: Edge


@dataclass(frozen=True)
class Blocks:
    """The blocks of a transformer, in order.

    pooling: the attention (N, heads, queries, tokens) by which what follows reads the tokens, if it does so.
    """

    each: Sequence[Block]
    pooling: Attention | None = None

    @property
    def attention(self) -> list[Attention]:
        """The attention of each block, in order, and that of the pooling."""
        return [*(block.attention for block in self.each), *([self.pooling] if self.pooling else [])]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks, in order, and that of the pooling."""
        return (*(block.name for block in self.each), *([self.pooling.name] if self.pooling else []))


def blocks_of(model: nn.Module, opening: Opening, inputs: Tensor, score: Tensor) -> Blocks:
    """The blocks of the model between the inputs (N, ...), which start the graph, and the score.

    Raises NotApplicableError for a network that is no row of such blocks, with the reason: attention within
    windows, between channels, of some tokens to others.
    """
    start, read = edge_of(inputs)[0], set(edges_of(score))
    seen = [one for one in opening.found if one.edge in read and _reaches(one.edge, start)]
    if not seen:
        raise NotApplicableError(NONE_FOUND)
    blocks: list[Block] = []
    for number, attention in enumerate(by_heads(one, len(inputs)) for one in seen):
        queries, keys = attention.logits.shape[2:]
        fits = not blocks or keys == blocks[0].tokens.shape[1]
        block = _block_around(model, attention) if fits and queries == keys else None
        if block is not None:
            _require_between(block.name, [[block.edge]], score, start)
            _require_tokens(model, opening, attention)
            blocks.append(block)
        elif blocks and fits and number == len(seen) - 1:
            _require_between(attention.name, [ran.edges for ran in attention.around], score, start)
            _require_tokens(model, opening, attention)
            return _once(Blocks(blocks, attention))
        else:
            raise _refused(attention, blocks)
    return _once(Blocks(blocks))


def _once(blocks: Blocks) -> Blocks:
    if len(set(blocks.names)) < len(blocks.names):
        raise NotApplicableError("a block of the network runs more than once: its attention has no one map")
    return blocks


def _refused(attention: Attention, blocks: Sequence[Block]) -> NotApplicableError:
    queries, keys = attention.logits.shape[2:]
    beside = f", beside blocks of {blocks[0].tokens.shape[1]} tokens" if blocks else ""
    return NotApplicableError(
        f"'{attention.name}' has attention of {queries} queries to {keys} keys{beside}: there is a rule for "
        "blocks in which all tokens see all others, not for windows, channels, pooled or other tokens"
    )


def by_heads(attention: Attention, samples: int) -> Attention:
    """The attention of so many samples with its logits as (N, heads, queries, keys)."""
    shape = attention.logits.shape
    if len(shape) == 4 and shape[0] == samples:
        return attention
    if len(shape) == 3 and samples and shape[0] % samples == 0:
        return replace(attention, logits=attention.logits.view(samples, -1, *shape[1:]))
    raise NotApplicableError(
        f"'{attention.name}' has attention of shape {tuple(shape)} for {samples} samples: it is not one of "
        "all tokens, as attention within windows"
    )


def _block_around(model: nn.Module, attention: Attention) -> Block | None:
    """The outermost module from tokens to as many around the attention; an element of a list, if one is."""
    fitting = []
    for ran in attention.around:
        shapes = {shape for shape, _ in ran.given}
        for tokens, edge in zip(ran.outputs, ran.edges, strict=True):
            if tokens.ndim == 3 and tokens.shape in shapes and tokens.shape[1] == attention.logits.shape[3]:
                fitting.append(Block(ran.name, ran.module, attention, tokens, edge))
                break
    lists = nn.Sequential, nn.ModuleList, nn.ModuleDict
    elements = [one for one in fitting if isinstance(_parent(model, one.name), lists)]
    return elements[-1] if elements else fitting[-1] if fitting else None


def _parent(model: nn.Module, name: str) -> nn.Module | None:
    return without_others(model).get_submodule(name.rpartition(".")[0]) if name else None


def _require_between(name: str, outputs: Sequence[Sequence[Edge]], score: Tensor, start: Any) -> None:
    """Raise NotApplicableError unless all that the score knows of the input passes one of these outputs."""
    if not any(edges and not _reaches(edge_of(score), start, edges) for edges in outputs):
        raise NotApplicableError(
            f"the score depends on the input past '{name}' too: there is a rule for one block after the other"
        )


def _reaches(edge: Edge, start: Any, without: Sequence[Edge] = ()) -> bool:
    """True if the graph from the edge back has the node `start`, by a path without some edges."""
    waiting, seen = [edge], {edge, (None, 0), *without}
    while waiting:
        node = waiting.pop()[0]
        if node == start:
            return True
        for following in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


def _require_tokens(model: nn.Module, opening: Opening, attention: Attention) -> None:
    """Raise NotApplicableError if a logit depends on others than its two tokens, as the modules get them."""
    queries, keys = attention.logits.shape[2:]
    given = [
        edge for ran in attention.around for shape, edge in ran.given if len(shape) == 3 and shape[1] == keys
    ]
    right = bool(given)
    for query, key in _pairs(queries, keys) if given and len(attention.logits) else ():
        logit = attention.logits[0, :, query, key]
        (gradient,) = gradients_at(model, opening, logit, given[-1:])
        if gradient is not None:
            gradient = gradient.clone()
            gradient[0, [query, key] if queries == keys else [key]] = 0
        right &= gradient is not None and not gradient.any()
    if not right:
        raise NotApplicableError(
            f"'{attention.name}' has attention between others than the tokens of its block, such as channels "
            "or tokens that were mixed or ordered anew"
        )


def _pairs(queries: int, keys: int) -> Iterator[tuple[int, int]]:
    """A few pairs of a query and a key that are not the same in another order of the tokens."""
    for query, key in ((0.0, 1.0), (0.3, 0.55), (0.8, 0.2)):
        yield int(query * (queries - 1)), int(key * (keys - 1))


def replayed(model: nn.Module, inputs: Tensor, block: Block, tokens: Tensor) -> Any:
    """The model's output if a block gives these tokens, (N, tokens, C), with the graph from them on."""
    runs = 0

    def replace_tokens(_module: nn.Module, _given: Any, output: Any) -> Any:
        nonlocal runs
        runs += 1
        first = next(one for one in tensors_of(fields_of(output)) if one.shape == tokens.shape)
        torch.set_grad_enabled(True)
        return substitute(output, lambda one: tokens if one is first else one)

    with borrowed(model) as run, block.module.register_forward_hook(OfThread(replace_tokens)):
        returned = run(inputs)
    if runs != 1:
        raise NotApplicableError(f"block {block.name!r} runs {runs} times")
    return returned


def gradients_at(
    model: nn.Module, opening: Opening, score: Tensor, edges: Sequence[Edge]
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of a score at edges of its graph, None where there is none."""
    if not score.requires_grad:
        return (None,) * len(edges)
    try:
        # Modules that are checkpointed run once more here, and must run as before.
        with borrowed(model), torch.enable_grad(), opening:
            return torch.autograd.grad(
                score.sum(), [GradientEdge(*edge) for edge in edges], retain_graph=True, allow_unused=True
            )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise NotApplicableError(f"the attention cannot be differentiated: {reason}") from error
