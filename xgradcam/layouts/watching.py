"""Watch a forward pass for what is certain about the layout of a layer's output.

The type of a module decides where it can: a convolution's channels come first. Else a change of a few places
of these maps does, by what it changes in the output of the layer itself.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.nn.modules import activation

from xgradcam.errors import XGradCamError
from xgradcam.layouts.axes import FIRST, LAST, axis_by_type
from xgradcam.layouts.layout import HOW_TO_SAY, PREFIXES, Layout, image_grids, token_layouts
from xgradcam.layouts.memory import Known, key_of, known_layouts
from xgradcam.layouts.places import Grid, Marked, halved
from xgradcam.lending.borrowing import borrowed
from xgradcam.lending.hooks import Looking, on_all_modules
from xgradcam.lending.keeping import kept
from xgradcam.lending.several import for_sample
from xgradcam.lending.turns import modules_of, turn_of

# Modules whose layout a type told last time: with them, back to the one of that type, the modules between.
_TOLD_BY_TYPE: WeakKeyDictionary[nn.Module, list[ref[nn.Module]]] = WeakKeyDictionary()


class Made(NamedTuple):
    """A module's output: its shape, None if it is no tensor; same: the layout is that of the one before."""

    module: nn.Module
    shape: tuple[int, ...] | None
    same: bool


@dataclass(eq=False)
class Watch:
    """Outputs of the modules in one forward pass of `model(inputs)`, in order.

    known: layouts found before, to which those found are added. frames: the rows of a sample in the outputs
    whose layout is asked for.
    """

    model: nn.Module
    inputs: Tensor
    known: Known = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    frames: int = 1
    _last: Tensor | None = None
    _modules: Collection[nn.Module] = field(init=False)
    _axes: dict[int, int | None] = field(default_factory=dict)
    _images: dict[tuple[Grid, int], Marked] = field(default_factory=dict)
    _larger: dict[int, dict[nn.Module, tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._modules = modules_of(self.model)

    @kept
    def sides(self) -> int:
        """The number of sides of the network's first maps: 2 of images, 1 of signals, 3 of volumes."""
        of_maps = (made.shape for index, made in enumerate(self.made) if self._axis_of(index) == FIRST)
        first = next((len(shape) - 2 for shape in of_maps if shape), self.inputs.ndim - 2)
        # A network of images may have convolutions along its tokens.
        return min(3, max(2 if self.inputs.ndim == 4 else 1, first))

    def see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note the output of a module; a forward hook."""
        # Hooks on all modules see those of other models, too.
        if module not in self._modules:
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

    def _axis_of(self, number: int) -> int | None:
        """The axis of the channels in an output, where a module's type tells; None if unknown."""
        if number not in self._axes:
            module, shape, same = self.made[number]
            axis = axis_by_type(module, shape)
            self._axes[number] = self._axis_of(number - 1) if axis is None and same else axis
        return self._axes[number]

    def _number_of(self, module: nn.Module, shape: tuple[int, ...] | None, run: int | None) -> int:
        """The number of a module's output, which gets this shape."""
        numbers = [index for index, made in enumerate(self.made) if made.module is module] or [0]
        number = numbers[-1 if run is None else min(run, len(numbers) - 1)]
        if shape is not None and self.made[number].shape != shape:
            self.made[number] = Made(module, shape, False)
        return number

    def tells_by_type(self, module: nn.Module, shape: tuple[int, ...], run: int | None) -> bool:
        """True if types tell the layout of a module's output, as in `layout`."""
        ran = any(made.module is module for made in self.made)
        return ran and len(shape) in (4, 5) and self._axis_of(self._number_of(module, shape, run)) == FIRST

    def layout(
        self, module: nn.Module, shape: tuple[int, ...] | None = None, run: int | None = None
    ) -> Layout:
        """The layout of the output (N, ...) of a module that ran; XGradCamError if it is not certain.

        shape: of the output, where a hook may have made another one of it. run: of the module, if it runs
        several times; the last for None.
        """
        number = self._number_of(module, shape, run)
        shape = tuple(self.made[number].shape or ())
        if told := self._of_type(number, shape):
            _TOLD_BY_TYPE[module] = [ref(one) for one in self._asked(number)]
            return told
        _TOLD_BY_TYPE.pop(module, None)
        key = key_of(module, self.inputs, shape, self.frames)
        if key not in self.known:
            try:
                self.known[key] = self._found(number, shape)
            except XGradCamError as error:
                self.known[key] = str(error)
        found = self.known[key]
        if isinstance(found, str):
            raise XGradCamError(found)
        return found

    def _of_type(self, number: int, shape: tuple[int, ...]) -> Layout | None:
        """The layout of maps of two or three sides that the type of a module makes certain."""
        rows, axes = len(self.inputs) * self.frames, len(shape)
        certain = axes in (4, 5) and shape[0] == rows and axes == 2 + self.sides
        return Layout.of("maps", shape[2:]) if certain and self._axis_of(number) == FIRST else None

    def _asked(self, number: int) -> list[nn.Module]:
        """The modules whose types tell the layout of an output, from the last back."""
        module, shape, _ = self.made[number]
        return [module, *([] if axis_by_type(module, shape) else self._asked(number - 1))]

    def _found(self, number: int, shape: tuple[int, ...]) -> Layout:
        if shape[:1] == (len(self.inputs) * self.frames,):
            if len(shape) == 3 and self.sides == 1:
                return self._of_three_axes(number, shape)
            if len(shape) == 2 + self.sides:
                return self._of_maps(number, shape)
            if len(shape) == 3 and shape[2] > 1:
                return self._of_tokens(number, shape)
            if len(shape) in (4, 5) and self._axis_of(number) == FIRST:
                return self._of_other_sides(number, shape)
        raise XGradCamError(
            f"shape {shape} is neither feature maps (N, C, h, w) nor tokens (N, tokens, C): layout= takes a "
            "function that makes it (N, C, h, w)"
        )

    def _of_maps(self, number: int, shape: tuple[int, ...]) -> Layout:
        module, axis, sides = self.made[number].module, self._axis_of(number), self.sides
        layouts = {FIRST: Layout.of("maps", shape[2:]), LAST: Layout.of("channels last", shape[1:-1])}
        if prod(shape[2:]) == 1:
            return layouts[FIRST]
        # Not the tokens of a later stage, of which the first are the same.
        told = [
            one
            for one, layout in layouts.items()
            if (layout.grid, 0) in self._marked.told_of(module, shape, one % len(shape))
        ]
        if len(told) != 1 and module not in self._marked.scattered:
            grown = [self._grown(module, shape, 2 + side) for side in range(sides)]
            told = [one for one in layouts if grown == [[side + 1 + (one == FIRST)] for side in range(sides)]]
        if len(told) != 1 or axis not in (None, told[0]):
            raise _unknown(shape, list(layouts.values()))
        return layouts[told[0]]

    def _of_three_axes(self, number: int, shape: tuple[int, ...]) -> Layout:
        """The layout of an output of a network of signals: (N, C, l), or tokens.

        A module may also convolve along the channels: only the length of a map grows with the signal's.
        """
        module, axis = self.made[number].module, self._axis_of(number)
        maps, grown = Layout.of("maps", shape[2:]), self._all_grown(module, shape)
        if axis == FIRST and grown == {2}:
            return maps
        first, tokens = (self._marked.told_of(module, shape, one) for one in (1, 2))
        told = [Layout.of("tokens", *one) for one in sorted(tokens) if not grown or grown == {1}]
        told += [maps] if (maps.grid, 0) in first and grown == {2} else []
        told = told or ([maps] if grown == {2} else [])
        if len(told) == 1 and axis != FIRST:
            return told[0]
        raise _unknown(shape, [*told, maps, Layout("channels last", 0, 0)])

    def _of_other_sides(self, number: int, shape: tuple[int, ...]) -> Layout:
        """The layout of an output with more or fewer sides than the inputs, such as maps of whole videos."""
        module = self.made[number].module
        if self._all_grown(module, shape) == set(range(2, len(shape))):
            return Layout.of("maps", shape[2:])
        raise _unknown(shape, [Layout("maps", 0, 0)])

    def _all_grown(self, module: nn.Module, shape: tuple[int, ...]) -> set[int]:
        """The axes of an output that grow with single axes of the inputs."""
        each = (self._grown(module, shape, axis) for axis in range(1, self.inputs.ndim))
        return {one for grown in each for one in grown if len(grown) == 1}

    def _grown(self, module: nn.Module, shape: tuple[int, ...], axis: int) -> list[int]:
        """The axes of an output that change where an axis of the inputs doubles; -1 if not in that way."""
        if axis not in self._larger:
            self._larger[axis] = self._shapes_of(axis)
        pairs = list(enumerate(zip(shape, self._larger[axis].get(module, ()), strict=False)))[1:]
        return [one if old < new < 3 * old else -1 for one, (old, new) in pairs if new != old]

    def _shapes_of(self, axis: int) -> dict[nn.Module, tuple[int, ...]]:
        """The shapes that modules make of a larger image: the sides of maps grow with those of the image."""
        # A model may raise anything on another size.
        with (
            watched(self.model, self.inputs, hooked=True) as watch,
            borrowed(for_sample(self.model, 0)) as run,
            suppress(Exception),
        ):
            run(self.inputs[:1].repeat_interleave(2, dim=axis))
        return {made.module: made.shape for made in watch.made if made.shape}

    @kept
    def _marked(self) -> Marked:
        return Marked(for_sample(self.model, 0), self.inputs, sides=self.sides, frames=self.frames)

    @kept
    def _patches(self) -> dict[Grid, set[int]]:
        return image_grids((self.inputs.shape[2], self.inputs.shape[3])) if self.inputs.ndim == 4 else {}

    def _grids(self, number: int) -> set[Grid]:
        """The sizes of the maps that modules before this one made, whose types tell that they are maps."""
        return {
            tuple(made.shape[2:])
            for index, made in enumerate(self.made[:number])
            if made.shape and len(made.shape) == 2 + self.sides and self._axis_of(index) == FIRST
            and made.shape[0] == len(self.inputs) * self.frames
        }  # fmt: skip

    def _of_tokens(self, number: int, shape: tuple[int, ...]) -> Layout:
        module = self.made[number].module
        told = [
            Layout.of("tokens", grid, first) for grid, first in sorted(self._marked.told_of(module, shape, 2))
        ]
        if not told:
            choices = self._choices(number, shape[1])
            # On the meta device there are no numbers to tell by.
            counted = self.inputs.is_meta and self._axis_of(number) != FIRST and self._grids(number)
            told = choices if counted else self._of_patches(module, shape, choices)
        if len(told) == 1:
            return told[0]
        raise _unknown(shape, told or choices)

    def _choices(self, number: int, tokens: int) -> list[Layout]:
        """Layouts of so many tokens by the grids that modules made before, those halved, or the image's."""
        grids = self._grids(number)
        for possible, prefixes in ((grids, (0,)), (halved(grids), (0, 1)), (self._patches, PREFIXES)):
            if choices := token_layouts(tokens, possible, prefixes):
                return choices
        return []

    def _of_patches(self, module: nn.Module, shape: tuple[int, ...], choices: list[Layout]) -> list[Layout]:
        """The layout of tokens that are made of patches of the image by no convolution."""
        if self.inputs.ndim != 4 or set(self._marked.grids) - {tuple(self.inputs.shape[2:])}:
            return []
        for layout in choices:
            grid = layout.grid
            for patch in sorted(self._patches.get(grid, ())):
                if (grid, patch) not in self._images:
                    self._images[grid, patch] = Marked(for_sample(self.model, 0), self.inputs, (grid, patch))
                if self._images[grid, patch].told_of(module, shape, 2) == {(grid, layout.prefix)}:
                    return [layout]
        return []


@contextmanager
def watched(
    model: nn.Module, inputs: Tensor, *, hooked: bool = False, few: Sequence[nn.Module] = ()
) -> Iterator[Watch]:
    """Watch all modules that run in the context: `model(inputs)`, once.

    hooked: see outputs as the modules' own hooks leave them; PyTorch's transformers are slower then.
    few: watch these alone, whose types tell the only layout that will be asked for.
    """
    with turn_of(model), ExitStack() as hooks:
        watch = Watch(model, inputs, {} if few else known_layouts(model))
        for module in few:
            hooks.enter_context(module.register_forward_hook(Looking(watch.see), prepend=True))
        for module in model.modules() if hooked else ():
            hooks.enter_context(module.register_forward_hook(Looking(watch.see)))
        if not few and not hooked:
            hooks.enter_context(on_all_modules(watch.see))
        yield watch


class _Recorded(Protocol):
    @property
    def activation(self) -> Tensor: ...


AnyRecorded = TypeVar("AnyRecorded", bound=_Recorded)


def watching(
    model: nn.Module, inputs: Tensor, layer: nn.Module, run: int | None, record: Callable[[], AnyRecorded]
) -> tuple[AnyRecorded, Watch]:
    """The recording at the layer, or at a run of it, that `record` makes by `model(inputs)`, and a watch.

    To watch all modules, and to read the model for a layout that is known, takes as long as the forward of a
    small network. So the few whose types told the layout last time are watched alone; if they do not now, it
    is recorded anew.
    """
    told = _TOLD_BY_TYPE.get(layer, [])
    few = dict.fromkeys(module for one in told if (module := one()) is not None)
    if few:
        with watched(model, inputs, few=[*few]) as watch:
            recorded = record()
        if watch.tells_by_type(layer, recorded.activation.shape, run):
            return recorded, watch
    with watched(model, inputs) as watch:
        return record(), watch


def _unknown(shape: tuple[int, ...], choices: list[Layout]) -> XGradCamError:
    which = (
        " or ".join(dict.fromkeys(map(str, choices[:4]))) or f"{HOW_TO_SAY}, or a function to (N, C, h, w)"
    )
    return XGradCamError(f"the layout of shape {shape} is not certain: say it by layout= (--layout): {which}")
