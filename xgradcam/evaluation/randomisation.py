"""Does a map depend on what the network has learned? The randomisation check of Adebayo et al. 2018."""

import copy
from collections.abc import Container, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from xgradcam.capture.borrowing import borrowed

# SSIM: side of the window in pixels, and the constants of Wang et al. 2004 for values in [0, 1].
WINDOW, C1, C2 = 7, 0.01**2, 0.03**2


def randomised(
    model: nn.Module, inputs: Tensor, seed: int = 0, counts: Container[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """The name of each module with parameters, last first, and a copy that is random from there on.

    Cascading: what was randomised stays so. The modules' order is that of their definition, which is that of
    the computation in the networks of torchvision and timm. The weights of convolutions and linear layers are
    drawn as He et al. 2015 do, also those computed by a parametrisation, others as the module draws them, or,
    where it does not know how, from a normal distribution of their own mean and deviation. A batch norm from
    there on has the statistics of `inputs` (N, ...), so that values keep their size however deep the network
    is: with those of nothing, as it begins its training, they would vanish. counts: of random modules, at
    which to stop by; None: all.
    The same copy each time: use it before the next. The model itself is left alone.
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
    """The names of the modules that have parameters of their own, in the order of their definition."""
    return [
        name
        for name, module in model.named_modules()
        if (next(module.parameters(False), None) is not None or is_parametrized(module))
        and "parametrizations" not in name.split(".")
    ]


def _unparametrise(model: nn.Module) -> None:
    """Make parameters of the weights that parametrisations compute."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            module.requires_grad_(True)  # else what several tensors make becomes no parameter
            remove_parametrizations(module, name)
            module.requires_grad_(False)


def _draw(module: nn.Module) -> None:
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
            drawn = torch.randn(parameter.shape, dtype=torch.float64)
            parameter.copy_(parameter.mean() + parameter.std(correction=0) * drawn.to(parameter))


def _estimate_statistics(model: nn.Module, modules: Sequence[nn.Module], inputs: Tensor) -> None:
    """Give the batch norms among these modules the means and variances of what they get for `inputs`."""

    def estimate(norm: nn.Module, given: tuple[Tensor]) -> None:
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            places = [0, *range(2, given[0].ndim)]
            if given[0].numel() > given[0].shape[1]:  # else of each channel there is but one value
                norm.running_mean.copy_(given[0].mean(places))
                norm.running_var.copy_(given[0].var(places, correction=0))

    handles = [module.register_forward_pre_hook(estimate) for module in modules]
    try:
        with borrowed(model):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of two heatmaps of one shape, in [-1, 1]; ties share their mean rank, flat ones give 0."""
    first, second = (_mean_ranks(heatmap.flatten()) for heatmap in (one, other))
    first, second = first - first.mean(), second - second.mean()
    size = first.norm() * second.norm()
    return float(first @ second / size) if size > 0 else 0.0


def _mean_ranks(values: Tensor) -> Tensor:
    _, place, count = torch.unique(values, sorted=True, return_inverse=True, return_counts=True)
    end = count.cumsum(0)
    means: Tensor = (end - count + end - 1).double() / 2
    return means[place]


def structural_similarity(one: Tensor, other: Tensor) -> float:
    """SSIM of two heatmaps (H, W) in [0, 1], in [-1, 1]: the mean over windows of 7 x 7. Wang et al. 2004."""
    first, second = one.double()[None, None], other.double()[None, None]

    def mean(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(values, WINDOW, stride=1)

    a, b = mean(first), mean(second)
    # Of a sample, not of all there is.
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    aa, bb, ab = (
        unbiased * (mean(x * y) - mean(x) * mean(y))
        for x, y in ((first, first), (second, second), (first, second))
    )
    similarity = (2 * a * b + C1) * (2 * ab + C2) / ((a**2 + b**2 + C1) * (aa + bb + C2))
    return float(similarity.mean())
