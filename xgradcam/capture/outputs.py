"""The scores in what a model returned, and the classes that are asked about."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xgradcam.errors import NotFiniteError, XGradCamError


def logits_of(output: Any, entry: str | int | None = None) -> Tensor:
    """The class scores (N, classes) in what a model returned; XGradCamError where there are none.

    entry: the key, attribute or position that they have in a dictionary, an object or a tuple.
    Their values are not looked at, as a device would have to be waited for: see `require_finite`.
    """
    if entry is not None:
        output = entry_of(output, entry)
    if not isinstance(output, Tensor):
        entries = [name for name, value in _entries(output) if isinstance(value, Tensor)]
        hint = f": choose one of its tensors with --output: {', '.join(entries)}" if entries else ""
        raise XGradCamError(
            f"the model returns a {type(output).__name__}, not class scores (N, classes){hint}"
        )
    if output.ndim != 2 or output.shape[1] == 0:
        raise XGradCamError(f"the model returns shape {tuple(output.shape)}, not class scores (N, classes)")
    return output


def require_finite(scores: Tensor) -> None:
    """Raise NotFiniteError if the model's scores hold infinities or no numbers."""
    if not torch.isfinite(scores).all():
        raise NotFiniteError("the model's scores are not finite: check its weights and the input's range")


def finite_logits_of(output: Any, entry: str | int | None = None) -> Tensor:
    """As `logits_of`, and looked at: XGradCamError where one of them is not finite, too."""
    logits = logits_of(output, entry)
    require_finite(logits)
    return logits


def entry_of(output: Any, entry: str | int) -> Any:
    """What a model returned under this key, attribute or position."""
    if isinstance(output, (tuple, list)) and str(entry).isdecimal() and int(entry) < len(output):
        return output[int(entry)]
    for name, value in _entries(output):
        if name == str(entry):
            return value
    names = ", ".join(name for name, _ in _entries(output)) or "nothing by name"
    raise XGradCamError(f"no output {entry!r}: the model returns a {type(output).__name__} with {names}")


def _entries(output: Any) -> list[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", map(str, range(len(output))))
        return list(zip(names, output, strict=True))
    return (
        list(vars(output).items()) if hasattr(output, "__dict__") and not isinstance(output, Tensor) else []
    )


def choose_targets(
    logits: Tensor, targets: int | Sequence[int] | Tensor | None, *, trusted: bool = False
) -> Tensor:
    """One class index a sample, (N,) int64: the highest score's for None, the same for all for an int.

    trusted: indices that are on a device are not looked at, as it would have to be waited for.
    Raises XGradCamError for an index out of range or a number of indices other than N.
    """
    samples, classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1)
    try:
        chosen = torch.as_tensor(targets)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        raise XGradCamError(
            f"targets are {targets!r}: give an int or N ints; classes are 0 to {classes - 1}"
        ) from None
    if chosen.dtype.is_floating_point or chosen.dtype == torch.bool or chosen.ndim > 1:
        raise XGradCamError(f"targets are {chosen.dtype} {tuple(chosen.shape)}; give an int or N ints")
    if chosen.ndim == 1 and len(chosen) != samples:
        raise XGradCamError(f"{len(chosen)} targets for {samples} samples: give one for each, or one for all")
    chosen = chosen.long()
    if chosen.device.type == "cpu" or not trusted:
        outside = chosen[(chosen < 0) | (chosen >= classes)]
        if outside.numel():
            raise XGradCamError(
                f"no class {int(outside.flatten()[0])}: this model's classes are 0 to {classes - 1}"
            )
    return chosen.to(logits.device, non_blocking=True).expand(samples)
