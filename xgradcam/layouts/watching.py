"""Watch a forward pass for what is certain about the layout of a layer's output.

The type of a module decides where it can: a convolution's channels come first. A grid of tokens is that of a
convolution before them, or that grid halved; a change of a few places shows which tokens are theirs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from threading import get_ident
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, padding, pooling
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import (
    HOW_TO_SAY,
    PREFIXES,
    Layout,
    image_grids,
    token_layouts,
)
from xgradcam.layouts.stages import Made, Thinned, halved, merges
from xgradcam.lending.borrowing import borrowed

# Axes of the channels, and modules whose channels come first.
FIRST, LAST = 1, -1
_FIRST_TYPES = (
    *(conv._ConvNd, batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.Dropout2d, nn.Upsample),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
    *(pooling._LPPoolNd, pooling._MaxUnpoolNd, nn.FractionalMaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle),
    *(padding._ReflectionPadNd, padding._ReplicationPadNd, nn.ZeroPad2d, nn.ChannelShuffle),
)
# Share of the largest change below which a token counts as unchanged, and tensors of tokens looked at.
UNCHANGED, SEQUENCES = 1e-3, 8
# Modules before the tokens within which their order is looked for, though a grid fits them exactly; and in
# place of the first token's number: the tokens are not in the order of the places.
NEAR, SCRAMBLED = 32, -1


@dataclass(eq=False)
class Watch:
    """Outputs of the modules in one forward pass of `model(inputs)`, in order."""

    model: nn.Module
    inputs: Tensor
    made: list[Made] = field(default_factory=list)
    _last: Tensor | None = None
    _modules: set[nn.Module] = field(init=False)
    _thread: int = field(default_factory=get_ident)
    _axes: dict[int, int | None] = field(default_factory=dict)
    _thinned: list[Thinned] = field(default_factory=list)
    _starts: dict[tuple[tuple[int, int], int, int], int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._modules = set(self.model.modules())

    def _is_mine(self, module: nn.Module) -> bool:
        """True for a module of this model in this thread: hooks on all modules see those of others, too."""
        return get_ident() == self._thread and module in self._modules

    def see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note the output of a module; a forward hook."""
        if not self._is_mine(module):
            return
        if not isinstance(output, Tensor):
            self._last = None
            self.made.append(Made(module, None, False))
            return
        # A container returns the tensor that its last module made, an activation function is like its input.
        like = inputs[0] if type(module).__module__ == activation.__name__ and inputs else output
        same = self._last is not None and (output is self._last or like is self._last)
        self._last = output
        self.made.append(Made(module, output.shape, same))
        before = inputs[0] if len(inputs) == 1 and output.ndim == 3 else None
        if isinstance(before, Tensor) and before.shape[1:2] > output.shape[1:2] and not [*module.children()]:
            self._thinned.append((before[:1].clone(), output[:1].clone()))

    def _axis_of(self, number: int) -> int | None:
        """The axis of the channels in an output, where a module's type tells; None if unknown."""
        if number not in self._axes:
            module, shape, same = self.made[number]
            axis = _axis_by_type(module, shape)
            self._axes[number] = self._axis_of(number - 1) if axis is None and same else axis
        return self._axes[number]

    def layout(self, module: nn.Module, shape: tuple[int, ...] | None = None) -> Layout:
        """The layout of the output (N, ...) of a module that ran; XGradCamError if it is not certain.

        shape: of the output, where a hook may have made another one of it.
        """
        number = max((index for index, made in enumerate(self.made) if made.module is module), default=0)
        if shape is not None and self.made[number].shape != shape:
            self.made[number] = Made(module, shape, False)
        shape = tuple(self.made[number].shape or ())
        if shape[:1] == self.inputs.shape[:1] and len(shape) == 4:
            return self._of_four_axes(number, shape)
        if shape[:1] == self.inputs.shape[:1] and len(shape) == 3 and shape[2] > 1:
            return self._of_tokens(number, shape)
        raise XGradCamError(
            f"shape {shape} is neither feature maps (N, C, h, w) nor tokens (N, tokens, C): layout= takes a "
            "function that makes it (N, C, h, w)"
        )

    def _axis(self, number: int) -> int | None:
        """The axis of the channels, by the types of this module, of those in it and of those all around."""
        module, shape, _ = self.made[number]
        alike = [index for index, made in enumerate(self.made) if made.shape == shape]
        inside = set(module.modules())
        within = [index for index in alike if self.made[index].module in inside]
        axes = [{axis for index in group if (axis := self._axis_of(index))} for group in (within, alike)]
        # As many channels as columns: permuted maps have the same shape, and a linear layer may read either.
        if shape is not None and shape[1] == shape[-1]:
            mixed = axes[0] == {FIRST} and any(isinstance(self.made[one].module, nn.Linear) for one in within)
            axes = [] if mixed else axes[:1]
        return self._axis_of(number) or next((group.pop() for group in axes if len(group) == 1), None)

    def _grids(self, stop: int | None = None) -> dict[tuple[int, int], int]:
        """Sizes of the maps of modules whose channels come first, each with the number of the last such."""
        return {
            (made.shape[2], made.shape[3]): number
            for number, made in enumerate(self.made[:stop])
            if made.shape and len(made.shape) == 4 and made.shape[2:] != (1, 1)
            and made.shape[0] == len(self.inputs) and self._axis_of(number) == FIRST
        }  # fmt: skip

    def _of_four_axes(self, number: int, shape: tuple[int, ...]) -> Layout:
        _, first, second, third = shape
        layouts = {FIRST: Layout("maps", second, third), LAST: Layout("channels last", first, second)}
        axis = self._axis(number)
        # A square of as many rows as there are tokens holds the weights of an attention.
        tokens = {made.shape[1] for made in self.made if made.shape and len(made.shape) == 3}
        module = self.made[number].module
        weights = isinstance(module, nn.Softmax) and module.dim in (-1, 3)
        weights = weights or (axis is None and second in tokens)
        if second == third and weights:
            raise _unknown(shape, [])
        if axis == FIRST:
            return layouts[axis]
        grids = set(self._grids())
        possible = grids | halved(grids) or set(self._patches)
        known = [one for one, layout in layouts.items() if (layout.height, layout.width) in possible]
        if axis is None and len(known) == 1 and grids:
            axis = known[0]
        # Channels are last in windows of tokens (N, windows, tokens, C), too.
        if axis is None or (axis == LAST and LAST not in known):
            larger = self._larger.get(self.made[number].module, shape)
            # Sides double; the number of tokens grows by four.
            grows = [old < new < 3 * old for new, old in zip(larger[1:], shape[1:], strict=False)]
            told = FIRST if grows == [False, True, True] else LAST if grows == [True, True, False] else None
            axis = told if self.inputs.ndim == 4 else axis or FIRST
        if axis is None:
            raise _unknown(shape, list(layouts.values()))
        return layouts[axis]

    @cached_property
    def _larger(self) -> dict[nn.Module, tuple[int, ...]]:
        """The shapes that modules make of an image of twice the size: those of the places grow."""
        # A model may raise anything on another size.
        with (
            watched(self.model, self.inputs, hooked=True) as watch,
            borrowed(self.model) as run,
            suppress(Exception),
        ):
            run(nn.functional.interpolate(self.inputs[:1], scale_factor=2))
        return {made.module: made.shape for made in reversed(watch.made) if made.shape}

    @cached_property
    def _patches(self) -> dict[tuple[int, int], set[int]]:
        return image_grids((self.inputs.shape[2], self.inputs.shape[3])) if self.inputs.ndim == 4 else {}

    def _of_tokens(self, number: int, shape: tuple[int, ...]) -> Layout:
        _, tokens, width = shape
        axis, grids = self._axis(number), self._grids(number)
        if axis == FIRST or (axis is None and width in {grid[0] * grid[1] for grid in grids}):
            raise _unknown(shape, [])
        for grid in sorted(grids, key=lambda grid: -grid[0] * grid[1]):
            rest = tokens - grid[0] * grid[1]
            start = None if rest < 0 or (rest == 0 and grids[grid] > NEAR) else self._start(grid, tokens)
            if start == SCRAMBLED and rest in PREFIXES:
                raise _unknown(shape, [])
            if rest == 0 or (start is not None and start != SCRAMBLED):
                return Layout("tokens", *grid, start or 0)
        first = next(made.shape for made in self.made if made.shape and len(made.shape) == 3)
        own = [grid for grid in grids if first[1] - grid[0] * grid[1] in PREFIXES]
        scrambled = any(self._start(grid, first[1]) == SCRAMBLED for grid in own)
        choices = token_layouts(tokens, halved(set(grids)), (0, 1))
        # On the meta device there are no numbers to tell by.
        merged = self.inputs.is_meta or merges(self.made, self._thinned, tokens, set(grids))
        if len(choices) == 1 and not scrambled and merged:
            return choices[0]
        choices = choices or token_layouts(tokens, self._patches)
        for layout in choices:
            grid = layout.height, layout.width
            for patch in sorted(self._patches.get(grid, ())):
                if self._start(grid, tokens, patch) == layout.prefix:
                    return layout
        raise _unknown(shape, choices)

    def _start(self, grid: tuple[int, int], tokens: int, patch: int = 0) -> int | None:
        """The number of the first place's token, found by a change of a few places.

        The change is made in the last maps of this grid before the tokens, or in patches of the image. None
        if it shows nothing, as where attention has mixed them; SCRAMBLED if they do not lie row by row.
        """
        if (key := (grid, tokens, patch)) not in self._starts:
            area = grid[0] * grid[1]
            places = sorted({0, 1, grid[1] - 1, grid[1], area // 2, area - 1} & set(range(area)))
            # Where all places change, all tokens do, whatever they are.
            places = places[: max(1, area // 2)] if len(places) == area == tokens else places
            changes = self._changes(grid, tokens, patch, places)
            self._starts[key] = _first_of(changes, places, tokens, area)
        return self._starts[key]

    def _changes(self, grid: tuple[int, int], tokens: int, patch: int, places: list[int]) -> list[Tensor]:
        """The changes of the first tensors of this many tokens, (tokens,) each, where the places change."""
        shapes = [made.shape and made.shape[:2] for made in self.made]
        source = self._grids(shapes.index((len(self.inputs), tokens))).get(grid)
        if self.inputs.is_meta or (source is None and not patch):
            return []

        def changed(maps: Tensor) -> Tensor:
            changed, step = maps.clone(), patch if source is None else 1
            for place in places:
                row, column = (int((index + 0.5) * step) for index in divmod(place, grid[1]))
                changed[..., min(row, maps.shape[-2] - 1), min(column, maps.shape[-1] - 1)] += (
                    1 + maps.abs().amax()
                )
            return changed

        before = self._sequences(tokens, nullcontext())
        if source is not None:
            module = self.made[source].module
            change = module.register_forward_hook(lambda _module, _inputs, output: changed(output))
        else:
            change = self.model.register_forward_pre_hook(lambda _module, inputs: (changed(inputs[0]),))
        after = self._sequences(tokens, change)
        pairs = [(old, new) for old, new in zip(before, after, strict=False) if old.shape == new.shape]
        return [(new - old).abs().float().amax(dim=(0, 2)) for old, new in pairs]

    def _sequences(self, tokens: int, change: AbstractContextManager[Any]) -> list[Tensor]:
        """The first tensors of this many tokens that modules read, with a change in place."""
        found: list[Tensor] = []

        def look(module: nn.Module, inputs: Any) -> None:
            if not self._is_mine(module):
                return
            size = len(self.inputs), tokens
            sequences = [one for one in inputs if isinstance(one, Tensor) and one.ndim == 3]
            found.extend(one.clone() for one in sequences if one.shape[:2] == size)
            if len(found) >= SEQUENCES:
                raise XGradCamError("found")

        # Also where a model raises that never did before: what was found is compared.
        with change, borrowed(self.model) as run, register_module_forward_pre_hook(look), suppress(Exception):
            run(self.inputs)
        return found


@contextmanager
def watched(model: nn.Module, inputs: Tensor, *, hooked: bool = False) -> Iterator[Watch]:
    """Watch all modules that run in the context: `model(inputs)`, once.

    hooked: see outputs as the modules' own hooks leave them; PyTorch's transformers are slower then.
    """
    watch = Watch(model, inputs)
    with ExitStack() as hooks:
        for module in model.modules() if hooked else ():
            hooks.enter_context(module.register_forward_hook(watch.see))
        if not hooked:
            hooks.enter_context(register_module_forward_hook(watch.see))
        yield watch


def _axis_by_type(module: nn.Module, shape: tuple[int, ...] | None) -> int | None:
    """The axis of the channels in a module's output of three or four axes, where its type tells."""
    if shape is None or len(shape) not in (3, 4):
        return None
    if isinstance(module, _FIRST_TYPES):
        names = ("out_channels", "num_features", "num_channels")
        channels = next((getattr(module, name) for name in names if hasattr(module, name)), shape[1])
        return FIRST if channels == shape[1] else None
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        if shape[1] != shape[-1]:
            return {shape[1]: FIRST, shape[-1]: LAST}.get(module.normalized_shape[0])
        # Some networks derive a norm of channels that come first from `nn.LayerNorm`.
        order = f"{type(module).__name__} {getattr(module, 'data_format', '')}".lower()
        return FIRST if "2d" in order or "first" in order else LAST
    if isinstance(module, nn.Linear):
        return LAST if len(shape) == 3 and shape[1] != shape[2] else None
    if type(module).__name__ == "Permute":
        return {(0, 3, 1, 2): FIRST, (0, 2, 3, 1): LAST}.get(tuple(getattr(module, "dims", ())))
    return None


def _first_of(changes: list[Tensor], places: list[int], tokens: int, area: int) -> int | None:
    """The number of the first place's token, told by the changes of the tokens where the places change."""
    found, exact = None, False
    for change in changes:
        changed = set((change > UNCHANGED * change.amax()).nonzero()[:, 0].tolist())
        fits = [
            first for first in range(tokens - area + 1)
            if changed & set(range(first, first + area)) == {first + place for place in places}
        ]  # fmt: skip
        largest = change.topk(len(places)).indices.sort().values.tolist()
        # The last that shows it: some networks sort their tokens once more.
        if len(fits) == 1:
            found, exact = fits[0], True
        elif changed and not fits and len(changed) <= len(places) + tokens - area:
            found, exact = SCRAMBLED, True
        # Mixed, but most where it was changed.
        elif not exact and tokens > 3 * len(places) and largest == [largest[0] + place for place in places]:
            found = largest[0]
    return found


def _unknown(shape: tuple[int, ...], choices: list[Layout]) -> XGradCamError:
    which = (
        " or ".join(dict.fromkeys(map(str, choices[:4]))) or f"{HOW_TO_SAY}, or a function to (N, C, h, w)"
    )
    return XGradCamError(f"the layout of shape {shape} is not certain: say it by layout= (--layout): {which}")
