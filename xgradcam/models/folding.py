"""Batch norms folded into the convolutions in front of them: the same network with less to compute."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from xgradcam.capture.borrowing import borrowed
from xgradcam.capture.calls import tensors_of
from xgradcam.capture.layers import find_layer

# Of the largest number of an output: more than this is no rounding.
SAME = 1e-4


def fold_batch_norms(model: nn.Module, inputs: Tensor, layers: Sequence[str] = ()) -> int:
    """Fold each 2-d batch norm that directly follows a convolution into it; how many were, often all.

    The model is changed: in evaluation mode it computes the same up to rounding, with other parameters.
    inputs: (N, ...), with which the model is run to see what follows what, and once more to see that its
    outputs, and those of `layers` (names), are the same as before. Where they are not, it is left as it was:
    a convolution's output may be used beside the norm. No convolution is touched that is one of `layers`.
    """
    with borrowed(model):
        before, pairs = _watched(model, inputs, layers)
        old = {name: model.get_submodule(name) for pair in pairs for name in pair}
        for convolution, norm in pairs:
            model.set_submodule(convolution, fuse_conv_bn_eval(old[convolution], old[norm]))  # type: ignore[arg-type,type-var]
            # What a norm of another package does beside it, such as an activation, are modules inside it.
            model.set_submodule(norm, nn.Sequential(OrderedDict(old[norm].named_children())).eval())
        if pairs and not _computes(model, inputs, layers, before):
            for name, module in old.items():
                model.set_submodule(name, module)
            return 0
    return len(pairs)


def _computes(model: nn.Module, inputs: Tensor, layers: Sequence[str], outputs: Sequence[Tensor]) -> bool:
    try:
        found, _ = _watched(model, inputs, layers)
    # Whatever a model may raise that looks for the norm it had.
    except Exception:
        return False
    return len(found) == len(outputs) and all(map(_is_same, found, outputs))


@dataclass
class _Watch:
    """What was seen in a forward: the convolutions' outputs, and those of them that norms were given.

    made: convolution and output, by the output's identity; held, or another could come to have it.
    """

    made: dict[int, tuple[str, Tensor, int]] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    outputs: list[Tensor] = field(default_factory=list)

    def after_convolution(self, name: str, _module: nn.Module, _given: Any, output: Tensor) -> None:
        self.runs[name] += 1
        self.made[id(output)] = name, output, output._version

    def before_norm(self, name: str, _module: nn.Module, given: tuple[Any, ...]) -> None:
        self.runs[name] += 1
        convolution, output, version = self.made.get(id(given[0]) if given else 0, ("", None, 0))
        if output is not None and output._version == version:  # else written to in between
            self.pairs[name] = convolution

    def after_layer(self, _module: nn.Module, _given: Any, output: Any) -> None:
        for tensor in tensors_of(output):
            self.made.pop(id(tensor), None)  # shall be seen as it is, so no norm may be folded into it
            self.outputs.append(tensor.clone())


def _watched(
    model: nn.Module, inputs: Tensor, layers: Sequence[str]
) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """What the layers and the model return; and each convolution with the norm that is given its output."""
    watch = _Watch()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _is_plain(module, nn.Conv2d):
                hook = module.register_forward_hook(partial(watch.after_convolution, name))
                hooks.enter_context(hook)
            elif _is_plain(module, nn.BatchNorm2d) and module.running_mean is not None:
                hook = module.register_forward_pre_hook(partial(watch.before_norm, name))
                hooks.enter_context(hook)
        for layer in layers:
            hooks.enter_context(find_layer(model, layer)[1].register_forward_hook(watch.after_layer))
        watch.outputs += tensors_of(model(inputs))
    once = [
        (convolution, norm)
        for norm, convolution in watch.pairs.items()
        if watch.runs[norm] == watch.runs[convolution] == 1
    ]
    return watch.outputs, once


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of this kind and does no more than its forward says."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, kind) and not hooked and not is_parametrized(module)


def _is_same(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    largest = before.abs().max() if before.numel() else 0
    return bool(((before - after).abs() <= SAME * largest).all())
