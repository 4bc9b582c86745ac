"""Fold batch norms into the convolutions before them: the same network with less to compute."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from xgradcam.lending.borrowing import Run, borrowed, is_close
from xgradcam.lending.finding import find_layer
from xgradcam.lending.hooks import OfThread
from xgradcam.lending.inputs import Inputs, lent
from xgradcam.lending.several import Place, without_others
from xgradcam.lending.turns import in_turn
from xgradcam.operations.calls import tensors_of

# Largest difference that is still rounding, as a share of the largest number in an output.
ROUNDING = 1e-4


@in_turn
def fold_batch_norms(
    model: nn.Module, inputs: Inputs, layers: Sequence[str] = (), *, image: Place | None = None
) -> int:
    """Fold each 2-d batch norm that directly follows a convolution into it; returns how many.

    The model is changed: in evaluation mode it computes the same up to rounding, with other parameters.
    inputs, image: as in `explain`. The model runs on them to see which norm follows which convolution, and
    once more to compare its outputs and those of `layers` (names) with those before. If they differ, the
    model is put back as it was: something beside the norm may use a convolution's output.
    A convolution that is one of `layers` is never changed.
    """
    lending, inputs = lent(model, inputs, image)
    model = without_others(model)
    with borrowed(lending) as run:
        before, pairs = _watched(model, run, inputs, layers)
        old = {name: model.get_submodule(name) for pair in pairs for name in pair}
        for convolution, norm in pairs:
            model.set_submodule(convolution, fuse_conv_bn_eval(old[convolution], old[norm]))  # type: ignore[arg-type,type-var]
            # Norms of other packages may contain further modules, such as an activation: these stay.
            model.set_submodule(norm, nn.Sequential(OrderedDict(old[norm].named_children())).eval())
        if pairs and not _computes(model, run, inputs, layers, before):
            for name, module in old.items():
                model.set_submodule(name, module)
            return 0
    return len(pairs)


def _computes(
    model: nn.Module, run: Run, inputs: Tensor, layers: Sequence[str], outputs: Sequence[Tensor]
) -> bool:
    try:
        found, _ = _watched(model, run, inputs, layers)
    # A model that uses its norm in another way may raise anything.
    except Exception:
        return False
    same = all(is_close(one, before, share=ROUNDING) for one, before in zip(found, outputs, strict=False))
    return len(found) == len(outputs) and same and not any(one.isnan().any() for one in outputs)


@dataclass
class _Watch:
    """Record of one forward: which convolutions' outputs are the inputs of which norms.

    made: convolution, output and its version, by the output's identity. It keeps the output alive, so that no
    other tensor gets the same identity. pairs: norm -> convolution. runs: how often each ran.
    outputs: copies of what the layers, and last the model, returned.
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
        if output is not None and output._version == version:  # else something wrote into it
            self.pairs[name] = convolution

    def after_layer(self, _module: nn.Module, _given: Any, output: Any) -> None:
        for tensor in tensors_of(output):
            self.made.pop(id(tensor), None)  # must stay as it is: no norm may be folded in
            self.outputs.append(tensor.clone())


def _watched(
    model: nn.Module, run: Run, inputs: Tensor, layers: Sequence[str]
) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """Outputs of the layers and the model, and pairs of a convolution and the norm that gets its output."""
    watch = _Watch()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _is_plain(module, nn.Conv2d):
                hook = module.register_forward_hook(OfThread(partial(watch.after_convolution, name)))
                hooks.enter_context(hook)
            elif _is_plain(module, nn.BatchNorm2d) and module.running_mean is not None:
                hook = module.register_forward_pre_hook(OfThread(partial(watch.before_norm, name)))
                hooks.enter_context(hook)
        for layer in layers:
            seeing = OfThread(watch.after_layer)
            hooks.enter_context(find_layer(model, layer)[1].register_forward_hook(seeing))
        watch.outputs += tensors_of(run(inputs))
    once = [
        (convolution, norm)
        for norm, convolution in watch.pairs.items()
        if watch.runs[norm] == watch.runs[convolution] == 1
    ]
    return watch.outputs, once


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """True for a module of this kind that computes what its forward says, without hooks."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, kind) and not hooked and not is_parametrized(module)
