"""The attention of a transformer that sees an image, and the places of its tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.errors import NotApplicableError, XGradCamError, is_out_of_memory
from xgradcam.layouts.layout import Layout
from xgradcam.layouts.watching import Watch, watched
from xgradcam.lending.attention import Attention, Opening, opened
from xgradcam.lending.blocks import Blocks, blocks_of, by_heads, gradients_at, replayed
from xgradcam.lending.borrowing import borrowed, is_close
from xgradcam.lending.finding import AnyLayer, find_layer
from xgradcam.lending.keeping import kept
from xgradcam.lending.norms import contiguous_norm_gradients
from xgradcam.lending.varying import require_image


@dataclass(frozen=True)
class Seen:
    """The attention in one run of `model(inputs)` on N inputs, in a graph from these on.

    output: what the model returned. layout: of the blocks' tokens. scores_of: functions of the output that
    are read, and read: their values, (K, N). progress: told of each run, the first of which is done.
    """

    model: nn.Module
    inputs: Tensor
    output: Any
    opening: Opening
    blocks: Blocks
    layout: Layout
    scores_of: Sequence[Callable[[Any], Tensor]]
    read: Tensor
    progress: Callable[[int, int], None]

    def gradients(self, score: Tensor, attention: Sequence[Attention]) -> list[Tensor]:
        """The gradients of a score (N,) by the weights of each attention, (N, heads, queries, keys)."""
        found = gradients_at(self.model, self.opening, score, [one.edge for one in attention])
        return [
            torch.zeros_like(one.logits) if gradient is None else gradient.view_as(one.logits)
            for gradient, one in zip(found, attention, strict=True)
        ]

    @kept
    def alone(self) -> list[tuple[Attention, Any]]:
        """For each block its attention and what the model returns for the mean of its tokens alone.

        Where attention pools the tokens, that attention and what the model returns for the block's tokens.
        Raises NotApplicableError if the model does not run again from the tokens of its last block.
        """
        last, pooling, found = self.blocks.each[-1], self.blocks.pooling, list[tuple[Attention, Any]]()
        self._require_same(self._replayed(last.tokens.detach().requires_grad_())[1])
        for block in self.blocks.each:
            if pooling is None:
                mean = block.tokens.mean(dim=1, keepdim=True).expand_as(block.tokens)
                found.append((block.attention, self._replayed(mean)[1]))
            else:
                opening, returned = self._replayed(block.tokens.detach().requires_grad_())
                again = next(one for one in opening.found if one.name == pooling.name)
                found.append((by_heads(again, len(self.inputs)), returned))
            self._tell(2 + len(found))
        return found

    def _replayed(self, tokens: Tensor) -> tuple[Opening, Any]:
        with opened(self.model) as opening:
            return opening, replayed(self.model, self.inputs, self.blocks.each[-1], tokens)

    def _tell(self, done: int) -> None:
        runs = len(self.blocks.each) + 2
        self.progress(done * len(self.inputs), runs * len(self.inputs))

    def _require_same(self, returned: Any) -> None:
        found = torch.stack([score_of(returned) for score_of in self.scores_of]).detach()
        if not is_close(found, self.read):
            raise NotApplicableError(
                "the network gives other scores when it is run again from its last block"
            )
        self._tell(2)

    def row_read(self, score: Tensor) -> Tensor | None:
        """1 / count at the tokens that the score reads, (N, tokens), else 0; None if attention pools them."""
        if self.blocks.pooling is not None:
            return None
        last = self.blocks.each[-1]
        (gradient,) = gradients_at(self.model, self.opening, score, [last.edge])
        read = (torch.zeros_like(last.tokens) if gradient is None else gradient).any(dim=2)
        before = self.layout.prefix
        if read[:, :before].any() and read[:, before:].any():
            raise NotApplicableError(
                "the score reads the class token and the places alike: chefer has a rule for one of them"
            )
        return read / read.sum(dim=1, keepdim=True).clamp(min=1).to(score)

    def placed(self, parts: Sequence[Tensor]) -> Tensor:
        """Values of the tokens by each block, (N, tokens) each, at their places: (N, blocks, h, w)."""
        dtype = torch.promote_types(self.read.dtype, torch.float32)
        return self.layout.to_maps(torch.stack([one.to(dtype) for one in parts], dim=2))

    def depth(self, parts: Tensor) -> dict[str, Tensor]:
        """Block -> its share of a map, (N,), given each block's part of it, (N, blocks, h, w).

        A part more than there are blocks is that of the pooling.
        """
        sums = parts.sum(dim=tuple(range(2, parts.ndim)))
        whole = sums.sum(dim=1, keepdim=True)
        shares = sums / torch.where(whole == 0, 1, whole)
        return dict(zip(self.blocks.names, shares.unbind(dim=1), strict=False))


def see(
    model: nn.Module,
    inputs: Tensor,
    layer: AnyLayer,
    layout: Layout,
    scores_of: Sequence[Callable[[Any], Tensor]],
    progress: Callable[[int, int], None],
) -> Seen:
    """Run the model once and see its attention; layer, layout: the one explained, which a user may have said.

    Raises NotApplicableError for a network that is no row of blocks of attention over an image's patches, and
    XGradCamError for an image of several inputs that the layer, which other methods explain, does not see.
    """
    require_image(model, inputs, layer)
    if not inputs.is_floating_point():
        raise NotApplicableError(f"no attention has a gradient from inputs of {inputs.dtype} on: give floats")
    start = inputs.detach().clone().requires_grad_()
    try:
        with watched(model, inputs) as watch, borrowed(model) as run, contiguous_norm_gradients():
            with torch.enable_grad(), opened(model) as opening:
                output = run(start)
                read = torch.stack([score_of(output) for score_of in scores_of])
    # From its input on, a model may do what has no gradient, and raise anything.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise NotApplicableError(f"no attention can be seen from the network's input on: {reason}") from error
    blocks = blocks_of(model, opening, start, read.sum())
    found = _layout_of(watch, blocks, find_layer(model, layer)[0], layout)
    return Seen(model, inputs, output, opening, blocks, found, scores_of, read.detach(), progress)


def _layout_of(watch: Watch, blocks: Blocks, layer: str, said: Layout) -> Layout:
    """The layout of all blocks' tokens; where it is not certain, that of a layer in a block."""
    tokens = blocks.each[0].tokens.shape[1]
    if not len(watch.inputs) and said.kind == "tokens":
        return said  # a batch of none tells nothing
    try:
        found = {watch.layout(block.module, tuple(block.tokens.shape)) for block in blocks.each}
    except XGradCamError as error:
        within = any(f"{layer}.".startswith(f"{block.name}.") for block in blocks.each)
        if not within or said.kind != "tokens" or said.prefix + said.cells > tokens:
            raise NotApplicableError(
                f"block {blocks.each[0].name!r}: {error}, at a layer in a block"
            ) from error
        found = {said}
    if len(found) > 1:
        raise NotApplicableError("the blocks of the network have tokens of different grids")
    return found.pop()
