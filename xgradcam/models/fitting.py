"""A state dict given to a model, under whatever names it was saved."""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError

COUNTER = "num_batches_tracked"


# Names around the model's that are looked behind.
DEEPEST = 16


def fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give the tensors of `state` to the model, without a copy where the number type is the model's.

    First names that all of them share and the model does not have are left out, as where the model was a
    part of what was saved: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of Lightning;
    and so is what else was saved there, as the weights of a loss, if but one part may be the model.
    Raises XGradCamError that names the keys which are missing, unknown, or of another shape.
    """
    wanted = model.state_dict()
    state = _in_the_models_terms(_unwrapped(state, wanted), wanted)
    shapes = {
        key: (tuple(state[key].shape), tuple(wanted[key].shape))
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    }
    problems = [
        *_named("missing", (key for key in wanted if key not in state)),
        *_named("unknown", (key for key in state if key not in wanted)),
        *_named(
            "of another shape", (f"{key} {has}, the model's is {its}" for key, (has, its) in shapes.items())
        ),
    ]
    if problems:
        remedy = _other_head(shapes) if state.keys() == wanted.keys() else ()
        reason = "; ".join([*problems, *remedy])
        raise XGradCamError(f"weights of {source} do not fit this {type(model).__name__}: {reason}")
    model.load_state_dict(state, assign=True)


def _unwrapped(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], depth: int = DEEPEST
) -> Mapping[str, Tensor]:
    """The part of the state that is the model's, without the first names that its tensors share there.

    It is all of the state, or a part that has all that is wanted where no other has half of that; else the
    state as it is.
    """
    if state.keys() & wanted.keys() or not depth:
        return state
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if rest:
            parts[first][rest] = value
    found = [_unwrapped(part, wanted, depth - 1) for part in parts.values()]
    if any(len(part) == len(state) for part in parts.values()):
        return found[0] if found[0].keys() & wanted.keys() else state
    # Counters are filled in where they are missing.
    needed = {key for key in wanted if not key.endswith(COUNTER)}
    most = [part for part in found if 2 * len(part.keys() & needed) > len(needed)]
    return most[0] if len(most) == 1 and most[0].keys() >= needed else state


def _in_the_models_terms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state with the names, number types and counters of today's model; old checkpoints lack some."""
    fitted: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        # torchvision's DenseNets were saved with a dot that module names may no longer have.
        key = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)
        fitted[key] = value.to(wanted[key].dtype) if key in wanted else value
    for key in wanted:
        if key.endswith(COUNTER):
            fitted.setdefault(key, torch.tensor(0))
    fitted._metadata = getattr(state, "_metadata", None) or getattr(wanted, "_metadata", None)  # type: ignore[attr-defined]
    return fitted


def _named(what: str, keys: Iterable[str]) -> Iterator[str]:
    listed = list(keys)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        yield f"{what}: {', '.join(listed[:3])}{more}"


def _other_head(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[str]:
    """What to do where only the number of outputs is another; the shapes are the state's and the model's."""
    outputs = {(has[:1], its[:1]) for has, its in shapes.values()}
    if len(outputs) == 1 and all(has[1:] == its[1:] for has, its in shapes.values()):
        ((classes,), _its) = outputs.pop()
        yield f"are they of {classes} classes? then give --num-classes {classes}"
