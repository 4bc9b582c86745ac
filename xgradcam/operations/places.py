"""Places of operations' results on a layer's grid, followed through the network behind the layer.

The constant c of an operation adds Σ ĝ c to the score, at the places of its result. Maps (N, C, h', w') lie
over the whole image, so a cell of theirs covers cells of the layer. Anything else, such as tokens, is
followed entry by entry: codes name the cells that an entry comes from, and the operation moves them as it
moves entries. What no rule here can place, such as a pooled value or a class token, is nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from xgradcam.operations.calls import Call, depends, float_tensors_of

NOWHERE = -1
# An entry that is mixed from more cells than this has no place of its own.
MOST_MIXED = 16

# fmt: off
MOVES = frozenset(
    """reshape view view_as reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes
    swapdims t movedim moveaxis adjoint contiguous clone expand expand_as broadcast_to repeat
    repeat_interleave tile roll rot90 flip fliplr flipud getitem select narrow index_select take gather
    take_along_dim chunk split tensor_split hsplit vsplit dsplit split_with_sizes unbind diagonal alias cat
    concat concatenate stack hstack vstack dstack column_stack row_stack setitem copy pixel_shuffle
    pixel_unshuffle channel_shuffle to type float double half bfloat16 cpu cuda detach pad iter get index_put
    unsafe_chunk unsafe_split select_scatter slice_scatter""".split()
)
SPATIAL = frozenset(
    """conv2d conv_transpose2d convolution _convolution max_pool2d avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices lp_pool2d max_unpool2d
    fractional_max_pool2d interpolate upsample upsample_nearest upsample_bilinear pad grid_sample""".split()
)
# The result's entry lies where the entries at its index lie.
ELEMENT_WISE = frozenset(
    """add sub subtract rsub mul multiply div divide true_divide floor_divide pow addcmul addcdiv lerp where
    masked_fill masked_scatter fill zero clamp clip clamp_min clamp_max maximum minimum fmax fmin max min
    remainder fmod neg negative positive abs absolute sqrt rsqrt square exp exp2 expm1 log log2 log10
    log1p sin cos tan sinh cosh asinh atan tanh erf erfc sigmoid logit reciprocal sign sgn round floor
    ceil trunc fix frac heaviside nan_to_num copysign hypot atan2 logaddexp xlogy ldexp relu relu6
    leaky_relu rrelu prelu elu selu celu gelu silu swish mish softplus softsign hardtanh hardsigmoid
    hardswish hardshrink softshrink tanhshrink threshold logsigmoid log_sigmoid softmax log_softmax
    softmin gumbel_softmax normalize batch_norm layer_norm group_norm instance_norm rms_norm
    local_response_norm dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout
    feature_alpha_dropout""".split()
)
CONTRACTIONS = frozenset("linear matmul mm bmm scaled_dot_product_attention".split())
REDUCTIONS = frozenset(
    "mean sum amax amin max min var std norm linalg_norm linalg_vector_norm logsumexp prod".split()
)
# fmt: on
# Those that leave the entries of maps where they are, or join their channels.
_COPIES, _JOINS = ("clone", "contiguous", "to", "float", "double", "detach"), ("cat", "concat", "concatenate")


@dataclass(frozen=True)
class Grid:
    """Places of maps (N, C, height, width)."""

    height: int
    width: int


# Codes are integers of the result's shape: a cell's number, or `NOWHERE`. None: the result has no places.
Places: TypeAlias = Grid | Tensor | None


class Follower:
    """Follows places from the layer's maps (N, C, height, width) to all results that depend on them.

    bases: the first code of each grid that was met. mixtures: from the codes of entries that several cells
    are mixed in to the shares of all codes before it.
    """

    def __init__(self, height: int, width: int) -> None:
        self.grid = Grid(height, width)
        self.bases = {self.grid: 0}
        self.codes = height * width
        self.mixtures: dict[int, Tensor] = {}
        self._named: dict[tuple[int, ...], int] = {}
        self._places: Any = WeakIdKeyDictionary()

    def put(self, tensor: Tensor, places: Places) -> None:
        """Set the places of a tensor."""
        self._places[tensor] = places

    def places_of(self, tensor: Tensor) -> Places:
        """The places of a tensor; None for one that has none."""
        return self._places.get(tensor)  # type: ignore[no-any-return]

    def follow(self, call: Call, result: Any) -> None:
        """Find the places of an operation's results."""
        known = [
            (tensor, places) for tensor in call.dependents if (places := self.places_of(tensor)) is not None
        ]
        results = [tensor for tensor in float_tensors_of(result) if tensor.requires_grad]
        if known and results:
            for tensor, places in zip(results, self._after(call, known, results), strict=True):
                # None too: an operation in place may have made a placed tensor one without places.
                self._places[tensor] = places
        else:
            for tensor in results:
                if self.places_of(tensor) is not None:
                    self._places[tensor] = None

    def _after(
        self, call: Call, known: Sequence[tuple[Tensor, Places]], results: Sequence[Tensor]
    ) -> Sequence[Places]:
        """The places of the results of a call, one for each."""
        operation = call.operation if call.is_of_torch() else ""
        on_maps = operation != "pad" or isinstance(known[0][1], Grid)
        if operation in SPATIAL and on_maps and all(result.ndim == 4 for result in results):
            return [self._over_maps(known[0][1], result) for result in results]
        if operation == "index_put" and call.argument(3, "accumulate"):
            return [None] * len(results)
        if operation in MOVES:
            kept = self._kept(call, known, results)
            return self._moved(call, results) if kept is None else [kept] * len(results)
        if operation in CONTRACTIONS:
            return [self._contracted(call, results[0])]
        if operation == "einsum":
            return [self._summed(call, results[0])]
        if operation in REDUCTIONS and results[0].shape != known[0][0].shape:
            return [self._reduced(call, result) for result in results]
        if operation in ELEMENT_WISE:
            return [self._beside(known, result) for result in results]
        return [None] * len(results)

    def _over_maps(self, places: Places, result: Tensor) -> Places:
        """Maps lie over all that the maps lay over that they are made of."""
        height, width = result.shape[2:]
        if isinstance(places, Grid):
            # One cell of a larger grid is all of it: no place.
            return None if Grid(height, width) == Grid(1, 1) != self.grid else Grid(height, width)
        if places is None or places.ndim != 4:
            return None
        codes = self._mixed(places, 1)
        if (height, width) == (1, 1):
            codes = self._mixed(codes.flatten(2), 2)[..., None]
        elif codes.shape[2:] != (height, width):
            sized = nn.functional.interpolate(codes.double(), (height, width), mode="nearest-exact")
            codes = sized.long()
        return self._plain(codes.expand(result.shape)) if _broadcasts(codes.shape, result.shape) else None

    def _kept(
        self, call: Call, known: Sequence[tuple[Tensor, Places]], results: Sequence[Tensor]
    ) -> Grid | None:
        """The grid of joined or copied maps: the common moves, at no cost."""
        grid = known[0][1]
        if not isinstance(grid, Grid) or any(isinstance(at, Grid) and at != grid for _, at in known):
            return None
        joins = call.operation in _JOINS and call.argument(1, "dim", 0) in (1, -3)
        same = all(result.ndim == 4 and result.shape[2:] == (grid.height, grid.width) for result in results)
        whole = all(isinstance(places, Grid) for _, places in known)
        return grid if same and whole and (joins or call.operation in _COPIES) else None

    def _beside(self, known: Sequence[tuple[Tensor, Places]], result: Tensor) -> Places:
        """Places of element-wise operations: those of the first operand that is not repeated for it."""
        for tensor, places in known:
            if tensor.shape == result.shape:
                return places
        for tensor, places in known:
            if isinstance(places, Grid) and result.ndim == 4 and tensor.shape[2:] == result.shape[2:]:
                return places
            if isinstance(places, Tensor) and _broadcasts(places.shape, result.shape):
                return self._plain(places.expand(result.shape))
        return None

    def _moved(self, call: Call, results: Sequence[Tensor]) -> Sequence[Places]:
        """Places of moved entries: the operation itself moves the codes."""

        def codes_of(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return self.codes_in(self.places_of(tensor) if depends(tensor) else None, tensor)

        kept = {key: value for key, value in call.kwargs.items() if key not in ("dtype", "memory_format")}
        arguments = tuple(value for value in call.args if not isinstance(value, (torch.dtype, torch.device)))
        if call.operation == "pad":
            arguments, kept = arguments[:3], {**kept, "value": NOWHERE}
        try:
            moved = Call(call.function, arguments, kept).run(codes_of)
        # Codes are integers, for which an operation may not be made.
        except (RuntimeError, TypeError, NotImplementedError):
            return [None] * len(results)
        every = [moved] if isinstance(moved, Tensor) else list(moved)
        if [codes.shape for codes in every] != [result.shape for result in results]:
            return [None] * len(results)
        return [self._plain(codes) for codes in every]

    def _contracted(self, call: Call, result: Tensor) -> Places:
        """Places of sums over an axis: those of the first factor's rows, or of the second's columns."""
        first, second = call.argument(0, "input"), call.argument(1, "other")
        if isinstance(first, Tensor) and (places := self._local(first, [-1], result)) is not None:
            return places
        if isinstance(second, Tensor) and second.ndim > 1 and call.operation in ("matmul", "mm", "bmm"):
            return self._local(second, [-2], result)
        return None

    def _summed(self, call: Call, result: Tensor) -> Places:
        """Places of `einsum`: those of the first factor that tells, at the indices that it shares."""
        equation, *operands = call.args
        if not isinstance(equation, str) or "->" not in equation or "." in equation:
            return None
        inputs, out = equation.replace(" ", "").split("->")
        for letters, operand in zip(inputs.split(","), operands, strict=False):
            if not isinstance(operand, Tensor) or operand.ndim != len(letters):
                continue
            summed = [axis for axis, letter in enumerate(letters) if letter not in out]
            left = [letters.index(letter) for letter in out if letter in letters]
            missing = [axis for axis, letter in enumerate(out) if letter not in letters]
            places = self._local(operand, summed, result, (*left, *summed), missing)
            if places is not None:
                return places
        return None

    def _local(
        self,
        factor: Tensor,
        summed: Sequence[int],
        result: Tensor,
        order: Sequence[int] = (),
        missing: Sequence[int] = (),
    ) -> Places:
        """The places of a factor after a sum over these axes; None if they are nowhere.

        order: of the axes in einsum's result, those that are summed last. missing: axes of the result that
        the factor has not.
        """
        if not depends(factor) or self.places_of(factor) is None:
            return None
        codes = self.codes_in(self.places_of(factor), factor)
        for axis in summed:
            codes = self._mixed(codes, axis)
        if order:
            codes = codes.permute(*order).flatten(len(order) - len(summed))
            codes = codes[..., 0] if summed else codes
            for axis in missing:
                codes = codes.unsqueeze(axis)
        return self._plain(codes.expand(result.shape)) if _broadcasts(codes.shape, result.shape) else None

    def _mixed(self, codes: Tensor, axis: int) -> Tensor:
        """Codes after mixing all entries along an axis, which is kept with one entry."""
        first = codes.narrow(axis, 0, 1)
        small = _without_repeats(codes, axis)
        if small.shape[axis] == 1 or bool((small == small.narrow(axis, 0, 1)).all()):
            return first
        rows = small.movedim(axis, -1)
        patterns, index = torch.unique(rows.reshape(-1, rows.shape[-1]), dim=0, return_inverse=True)
        named = torch.tensor([self._mixture(pattern) for pattern in patterns], device=codes.device)
        return named[index].reshape(*rows.shape[:-1], 1).movedim(-1, axis).expand(first.shape)

    def _mixture(self, pattern: Tensor) -> int:
        """The code of an entry that is mixed from entries with these codes; `NOWHERE` if they are many.

        Entries that are nowhere do not count: padding, or a class token beside each patch.
        """
        cells, counts = torch.unique(pattern[pattern != NOWHERE], return_counts=True)
        if len(cells) == 1:
            return int(cells[0])
        if not 0 < len(cells) <= min(MOST_MIXED, self.grid.height * self.grid.width - 1):
            return NOWHERE
        key = (*cells.tolist(), *counts.tolist())
        if key in self._named:
            return self._named[key]
        shares = torch.zeros(self.codes, dtype=torch.float64, device=pattern.device)
        shares[cells] = counts.double() / counts.sum()
        code, self.codes = self.codes, self.codes + 1
        self.mixtures[code], self._named[key] = shares, code
        return code

    def _reduced(self, call: Call, result: Tensor) -> Places:
        """Places of reductions over axes along which they do not change."""
        first = call.argument(0, "input")
        axes = call.argument(2 if "norm" in call.operation else 1, "dim")
        if not isinstance(first, Tensor) or self.places_of(first) is None:
            return None
        if not isinstance(axes, (int, tuple, list)):
            return None
        codes = self.codes_in(self.places_of(first), first)
        keeps = result.ndim == codes.ndim
        lowest, highest = codes.amin(axes, keepdim=keeps), codes.amax(axes, keepdim=keeps)
        if lowest.shape != result.shape:
            return None
        return self._plain(torch.where(lowest == highest, lowest, NOWHERE))

    def codes_in(self, places: Places, tensor: Tensor) -> Tensor:
        """The codes of a tensor's entries with these places, in its shape."""
        if places is None:
            return torch.full((), NOWHERE, device=tensor.device).expand(tensor.shape)
        codes = places if isinstance(places, Tensor) else self._of_grid(places, tensor.device)
        return codes.expand(tensor.shape)

    def _of_grid(self, grid: Grid, device: torch.device) -> Tensor:
        if grid not in self.bases:
            self.bases[grid] = self.codes
            self.codes += grid.height * grid.width
        first = self.bases[grid]
        cells = torch.arange(first, first + grid.height * grid.width, device=device)
        return cells.view(grid.height, grid.width)

    def _plain(self, codes: Tensor) -> Places:
        """A grid if the codes are those of one, else the codes; None if all are nowhere."""
        small = _without_repeats(codes)
        if bool((small == NOWHERE).all()):
            return None
        if codes.ndim == 4 and codes.shape[2] * codes.shape[3] > 1:
            grid = Grid(codes.shape[2], codes.shape[3])
            if grid in self.bases and bool((small == self._of_grid(grid, codes.device)).all()):
                return grid
        return codes


def _without_repeats(codes: Tensor, keep: int | None = None) -> Tensor:
    """The codes with one entry along each axis that repeats them; keep: an axis to look at in any case."""
    for axis, stride in enumerate(codes.stride()):
        if stride == 0 and codes.shape[axis] > 1:
            codes = codes.narrow(axis, 0, 1)
    return codes


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """True if a tensor of one shape can be expanded to the other."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in pairs)
