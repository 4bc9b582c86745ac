"""The class scores in what a model returned."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from inspect import getattr_static
from types import MemberDescriptorType
from typing import Any, TypeGuard

import torch
from torch import Tensor

from xgradcam.errors import NotFiniteError, XGradCamError, listed, shortened, shown

# Attributes that a class gives its objects: properties and slots.
_ATTRIBUTES = (property, cached_property, MemberDescriptorType)


def select_output(returned: Any, output: str | int | None) -> Any:
    """The part of what a model returned at this key, attribute, position or path; all of it for None.

    A path has dots: `head.logits` is `logits` in `head`.
    """
    if output is None:
        return returned
    if isinstance(returned, (tuple, list)) and re.fullmatch(r"-?\d{1,9}", str(output), re.ASCII):
        if -len(returned) <= int(output) < len(returned):
            return returned[int(output)]
    for name, value in named_outputs(returned):
        if name == str(output):
            return value
    names = [name for name, _ in named_outputs(returned)]
    first, _, rest = output.partition(".") if isinstance(output, str) else ("", "", "")
    if rest and first in names:
        return select_output(select_output(returned, first), rest)
    there = listed((shortened(name, 20) for name in names), 6) or "nothing by name"
    raise XGradCamError(
        f"no output {shown(output)}: the model returns a {type(returned).__name__} with {there}"
    )


def named_outputs(returned: Any) -> Iterator[tuple[str, Any]]:
    """The parts of what a model returned that have a key, a position or the name of an attribute."""
    own = getattr(returned, "__dict__", {})
    if isinstance(returned, Tensor):
        return
    if isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", map(str, range(len(returned))))
        yield from zip(names, returned, strict=True)
    else:
        held = returned if isinstance(returned, Mapping) else own
        yield from ((str(key), value) for key, value in held.items())
    for name in dir(type(returned)):
        kind = getattr_static(type(returned), name, None)
        if isinstance(kind, _ATTRIBUTES) and not name.startswith("_") and name not in own:
            # A property may raise anything.
            with suppress(Exception):
                yield name, getattr(returned, name)


def logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores (N, classes) in what a model returned; XGradCamError if there are none.

    output: their key in a dictionary, attribute of an object or position in a tuple, or a path of these.
    The values are not checked, since this would wait for a GPU: see `require_finite`.
    """
    logits = select_output(returned, output)
    if is_scores(logits) and logits.ndim == 2 and logits.shape[1] > 0:
        return logits
    what, hint = described(logits)
    if not hint and isinstance(logits, Tensor):
        single = logits.ndim > 2 and logits.shape[2:].numel() == 1
        hint = (
            ": each class has one place: return the .flatten(1) of it"
            if single
            else _HINTS.get(logits.ndim, "")
        )
    raise XGradCamError(f"the model returns {what}, not class scores (N, classes){hint}")


# What to do with a tensor that is no class scores, by its number of axes.
_HINTS = {
    1: ": return (N, classes), or (N, 1) for one score a sample; explain_score takes (N,)",
    3: ": explain_score explains any number computed from it for each sample",
    4: ": of a segmentation, explain_score explains RegionMean(class, region)",
}


def is_scores(value: Any) -> TypeGuard[Tensor]:
    """True for a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()


def described(value: Any) -> tuple[str, str]:
    """A returned value in words, and advice if it is not what was needed."""
    if isinstance(value, Tensor):
        what = f"shape {tuple(value.shape)}"
        if is_scores(value):
            return what, ""
        why = ": integers, such as the classes that argmax gives, have no gradient: return the scores"
        if value.is_complex():
            why = ": complex numbers have no order: return real scores, such as their size by .abs()"
        return f"{what} of {value.dtype}", why
    parts = list(named_outputs(value))
    deeper = [(f"{name}.{inner}", one) for name, part in parts for inner, one in named_outputs(part)]
    names = [[name for name, one in level if isinstance(one, Tensor)] for level in (parts, deeper)]
    choice = [shortened(name, 20) for name in names[0] or names[1]]
    hint = f": choose one of its tensors with --output: {listed(choice, 6)} (in Python: output=)"
    return f"a {type(value).__name__}", hint if choice else ""


def require_finite(scores: Tensor) -> None:
    """Raise NotFiniteError if the scores contain an infinity or NaN."""
    if not torch.isfinite(scores).all():
        raise NotFiniteError("the model's scores are not finite: check its weights and the input's range")


def finite_logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores as in `logits_of`; NotFiniteError if one of them is not finite."""
    logits = logits_of(returned, output)
    require_finite(logits)
    return logits
