"""The randomisation check of Adebayo et al. 2018: does a map depend on what the network has learned?"""

import copy
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from xgradcam.lending.borrowing import borrowed
from xgradcam.lending.hooks import OfThread


def randomised(
    model: nn.Module, inputs: Tensor, seed: int = 0, counts: Container[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Randomise a copy of the model module by module, from the output down; yield each name and the copy.

    The order is that in which modules are defined, reversed: in the networks of torchvision and timm, modules
    are defined in the order of computation. A random module stays random (cascading randomisation).
    New weights: for convolutions and linear layers as in He et al. 2015, also if a parametrisation computes
    them; for other modules by their `reset_parameters`, or, if they have none, from a normal distribution
    with the old mean and standard deviation. The batch norms behind get the statistics of `inputs` (N, ...)
    under the new weights; with their initial statistics, values would vanish in a deep network.
    counts: yield only when this many modules are random; None: always.
    It is the same copy each time: use it before asking for the next. The model itself does not change.
    """
    changed = copy.deepcopy(model)
    _unparametrise(changed)
    modules = dict(changed.named_modules())
    order = list(modules)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
    for count, name in enumerate(reversed(with_parameters(changed)), 1):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.set_rng_state(state)
            _draw(modules[name])
            state = torch.get_rng_state()
        if counts is None or count in counts:
            _estimate_statistics(changed, [modules[later] for later in order[order.index(name) :]], inputs)
            yield name, changed


def with_parameters(model: nn.Module) -> list[str]:
    """The names of the modules with parameters of their own, in the order of definition."""
    return [
        name
        for name, module in model.named_modules()
        if (next(module.parameters(False), None) is not None or is_parametrized(module))
        and "parametrizations" not in name.split(".")
    ]


def _unparametrise(model: nn.Module) -> None:
    """Replace parametrised weights by plain parameters of the same value."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            # Without gradients, a weight computed from several tensors would become no parameter.
            module.requires_grad_(True)
            remove_parametrizations(module, name)
            module.requires_grad_(False)


def _draw(module: nn.Module) -> None:
    """Give the module's own parameters random values."""
    has_kernel = isinstance(module, (nn.Linear, _ConvNd))
    reset = getattr(module, "reset_parameters", None)
    if reset is not None and not has_kernel:
        reset()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if has_kernel and name == "weight":
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif has_kernel and name == "bias":
            nn.init.zeros_(parameter)
        else:
            drawn = torch.randn(parameter.shape, dtype=torch.float64, device="cpu")
            parameter.copy_(parameter.mean() + parameter.std(correction=0) * drawn.to(parameter))


def _estimate_statistics(model: nn.Module, modules: Sequence[nn.Module], inputs: Tensor) -> None:
    """Set the statistics of the batch norms among these modules to those of their input for `inputs`."""

    def estimate(norm: nn.Module, given: tuple[Tensor]) -> None:
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            all_but_channels = [0, *range(2, given[0].ndim)]
            if given[0].numel() > given[0].shape[1]:  # one value per channel has no variance
                norm.running_mean.copy_(given[0].mean(all_but_channels))
                norm.running_var.copy_(given[0].var(all_but_channels, correction=0))

    with ExitStack() as hooks, borrowed(model) as run:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(OfThread(estimate)))
        run(inputs)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two heatmaps of one shape, in [-1, 1]; 0 if one of them is flat."""
    values = [heatmap.flatten().cpu().numpy() for heatmap in (first, second)]
    if any(one.min() == one.max() for one in values):
        return 0.0
    return float(spearmanr(*values).statistic)
