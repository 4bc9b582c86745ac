"""State dicts and models: which state dict is the model's, and its tensors given to the model."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError, listed, short
from xgradcam.models.checkpoints import USUAL_NAMES, State
from xgradcam.models.rebuilding import Unreadable

COUNTER = "num_batches_tracked"
# Maximum wrapper prefixes to strip from names that do not fit.
MOST_WRAPPERS = 16
# Maximum parts of a state dict to look at that all have the model's names.
MOST_PARTS = 16


def choose_state(states: Mapping[str, State], model: nn.Module, source: str) -> tuple[str, State]:
    """Name and tensors of the one state dict in a checkpoint that has all names of the model.

    states: by their names, as `read_state_dicts` has them. source: the file, for errors.
    The names may begin with a prefix that the model's do not have: `module.` of DataParallel, `_orig_mod.` of
    torch.compile, `model.` of Lightning. It is stripped, and what does not begin with it (a loss's weights,
    say) is left out. If no state dict has all names, the usual or only one is returned, for `fit` to say
    what is missing. Raises XGradCamError if several have all names (raw and averaged weights, say), or if
    none has and no one is the usual.
    """
    states = {name: _with_todays_names(state) for name, state in states.items()}
    wanted = [key for key in _tensors_of(model) if not key.endswith(COUNTER)]
    found = [
        (name, prefix, part)
        for name, state in states.items()
        for prefix, part in islice(_parts_with(wanted, state), MOST_PARTS)
    ]
    different = {_identity(part, wanted): _joined(name, prefix) for name, prefix, part in reversed(found)}
    kind = type(model).__name__
    if len(different) > 1:
        names = reversed(different.values())
        raise _several(f"several state dicts in {source} have all names of this {kind}", names)
    for name, _prefix, part in found:
        return name, part
    likely = next(name for name in (*USUAL_NAMES, *states) if name in states)
    if len(states) > 1 and likely not in USUAL_NAMES:
        raise _several(f"none of the state dicts in {source} has all names of this {kind}", states)
    return likely, _without_shared_prefix(states[likely], wanted)


class ChannelsError(XGradCamError):
    """A checkpoint whose first convolution takes another number of channels than the model's."""

    def __init__(self, message: str, channels: int) -> None:
        super().__init__(message)
        self.channels = channels


def fit(model: nn.Module, state: State, source: str) -> None:
    """Give the tensors of a state dict to the model, without a copy where the number type is the model's.

    Raises XGradCamError that names the keys which are missing, unknown, of another shape, or have numbers
    that the model cannot have; ChannelsError if the first convolution takes other channels.
    """
    wanted = _tensors_of(model)
    state = _with_todays_names(state)
    for key, tensor in state.items():
        kind = _unusable(tensor, wanted.get(key))
        if kind:
            raise XGradCamError(f"cannot use weights {source}: {short(key)} is {kind}")
    tensors = {key: tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}
    counters = {key for key in wanted if key.endswith(COUNTER)}
    _require_fitting(tensors, wanted, counters, f"weights of {source} do not fit this {type(model).__name__}")
    fitted = OrderedDict()
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for key, tensor in tensors.items():
        converted = _converted(tensor, wanted[key].dtype, is_parameter=key in parameters)
        if converted is None:
            types = f"{_name_of(tensor.dtype)}, and the model's of {_name_of(wanted[key].dtype)}"
            raise XGradCamError(
                f"cannot use weights {source}: {short(key)} is of {types}: convert it (quantised?)"
            )
        fitted[key] = converted
    for key in counters:
        fitted.setdefault(key, torch.tensor(0, device="cpu"))
    fitted._metadata = getattr(state, "_metadata", None) or getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    # All keys are compared above, but for state that is no tensor.
    model.load_state_dict(fitted, assign=True, strict=False)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict, without what is no tensor: some modules add other state."""
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def _require_fitting(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], counters: set[str], problem: str
) -> None:
    """Raise XGradCamError with the keys that are missing, unknown or of another shape."""
    shapes = {
        key: (tuple(tensors[key].shape), tuple(tensor.shape))
        for key, tensor in wanted.items()
        if key in tensors and tensors[key].shape != tensor.shape
    }
    missing = [key for key in wanted if key not in tensors and key not in counters]
    unknown = [key for key in tensors if key not in wanted]
    differing = (f"{key} {has}, the model's is {its}" for key, (has, its) in shapes.items())
    problems = [
        *_named("missing", missing),
        *_named("unknown", unknown),
        *_named("of another shape", differing),
    ]
    if missing or unknown or not shapes:
        if problems:
            raise XGradCamError(f"{problem}: {'; '.join(problems)}")
        return
    first = next((key for key, tensor in wanted.items() if tensor.ndim > 3), "")
    has, its = shapes.pop(first, ((), ()))
    channels = bool(has) and len(has) == len(its) and (has[0], *has[2:]) == (its[0], *its[2:])
    if channels:
        problems.append(
            f"its first convolution takes {has[1]} channel{'s' * (has[1] != 1)} and the model's {its[1]}: "
            "build the model so, in a file.py:function of your own"
        )
    elif has:
        shapes[first] = (has, its)
    reason = f"{problem}: {'; '.join([*problems, *_other_head(shapes)])}"
    raise ChannelsError(reason, has[1]) if channels else XGradCamError(reason)


def _unusable(tensor: Tensor | Unreadable, wanted: Tensor | None) -> str:
    """A word for a tensor that the model cannot have, such as 'sparse'; '' for any other."""
    if isinstance(tensor, Unreadable):
        return tensor.kind
    if wanted is not None and tensor.is_quantized != wanted.is_quantized:
        return "a quantised tensor" if tensor.is_quantized else "not quantised, as the model's is"
    return "a complex tensor" if wanted is not None and tensor.is_complex() > wanted.is_complex() else ""


def _converted(tensor: Tensor, dtype: torch.dtype, *, is_parameter: bool) -> Tensor | None:
    """The tensor in the number type of the model, each number in memory of its own; None if it cannot be.

    Integers for weights, and tables of bytes for anything but integers, are quantised ones without their
    scale, or fractions that were cut off. Fractions are no indices.
    """
    whole = _is_whole(tensor.dtype)
    if whole and not _is_whole(dtype) and (is_parameter or (tensor.itemsize == 1 and tensor.ndim > 1)):
        return None
    try:
        converted = tensor.to(dtype)
        if not whole and _is_whole(dtype):
            return converted if torch.equal(converted.to(tensor.dtype), tensor) else None
    # Types that torch stores but does not compute with.
    except (NotImplementedError, RuntimeError, TypeError):
        return None
    shared = converted.untyped_storage().nbytes() < converted.numel() * converted.itemsize
    return converted.contiguous() if shared else converted


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parts_with(wanted: list[str], state: State) -> Iterator[tuple[str, State]]:
    """Each prefix with which the state has all the names, and the tensors below it."""
    if not wanted:
        yield "", state
        return
    # A prefix of all the names is one of the first name, too.
    first = wanted[0]
    prefixes = [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]
    for prefix in prefixes:
        if all(prefix + key in state for key in wanted):
            yield prefix, _below(prefix, state)


def _below(prefix: str, state: State) -> State:
    if not prefix:
        return state
    return {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}


def _joined(name: str, prefix: str) -> str:
    return ".".join(filter(None, (name, prefix.removesuffix("."))))


def _identity(part: State, keys: Iterable[str]) -> tuple[object, ...]:
    """The same for two state dicts with the same memory under these keys: a model that was saved twice."""
    tensors = [part[key] for key in keys]
    return tuple(
        id(tensor)
        if isinstance(tensor, Unreadable)
        else (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        for tensor in tensors
    )


def _several(problem: str, names: Iterable[str]) -> XGradCamError:
    names = list(names)
    example = next(filter(None, names))
    there = listed((name or "the whole" for name in names), 8)
    return XGradCamError(f"{problem}: {there}; choose one: --weights FILE:{example}")


def _without_shared_prefix(state: State, wanted: list[str]) -> State:
    """The state without the first names that all its tensors share, if the model's names are behind them."""
    known = set(wanted)
    stripped = state
    for _ in range(MOST_WRAPPERS):
        if not known.isdisjoint(stripped):
            return stripped
        firsts = {key.partition(".")[0] for key in stripped if "." in key}
        if len(firsts) != 1 or not all("." in key for key in stripped):
            return state
        stripped = _below(f"{firsts.pop()}.", stripped)
    return state


def _with_todays_names(state: State) -> State:
    """The state with the names of today's models: torchvision's DenseNets were saved with a dot in some."""
    dotted = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    if not any(map(dotted.search, state)):
        return state
    return {dotted.sub(r"\1\2", key): tensor for key, tensor in state.items()}


def _named(what: str, keys: Iterable[str]) -> Iterator[str]:
    keys = list(keys)
    if keys:
        yield f"{what}: {listed(keys, 3)}"


def _other_head(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[str]:
    """The remedy where only the number of outputs differs; the shapes are the state's and the model's."""
    outputs = {(has[:1], its[:1]) for has, its in shapes.values()}
    if len(outputs) == 1 and all(has[1:] == its[1:] for has, its in shapes.values()):
        ((classes,), _its) = outputs.pop()
        yield f"are they of {classes} classes? then give --num-classes {classes}"
