"""The table of the methods: name, function, description and source of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor

from xgradcam.cam import gradient_methods, network_methods
from xgradcam.cam.attention_methods import chefer, legrad
from xgradcam.cam.evidence import Evidence
from xgradcam.errors import XGradCamError, did_you_mean, shortened, shown


@dataclass(frozen=True)
class Method:
    """A way to weigh a layer's activation.

    title: the name as the field writes it. weigh: from the evidence to weights that broadcast against the
    activation. says: the weights in a line. source: authors and year. asks_again: True if it runs the network
    again, or parts of it. needs_gradient: False if it works without one by the activation. complete: True if
    the map of all constants behind the layer is added, so that the map sums to the score. of_attention: True
    if `weigh` gives parts of the map by blocks of attention, (N, blocks, h, w), instead.
    """

    title: str
    weigh: Callable[[Evidence], Tensor]
    says: str
    source: str
    asks_again: bool = False
    needs_gradient: bool = True
    complete: bool = False
    of_attention: bool = False

    def __call__(self, evidence: Evidence) -> Tensor:
        """The weights, (N, C, 1, 1) or (N, C, h, w)."""
        return self.weigh(evidence)

    def map(self, evidence: Evidence, weights: Tensor) -> Tensor:
        """The signed map, (N, h, w): Σ_k w_k F^k, and all constants if the method is complete."""
        signed = weights.sum(dim=1) if self.of_attention else weighted_map(weights, evidence.activation)
        if not self.complete:
            return signed
        if evidence.terms is None:
            raise XGradCamError(
                f"{self.title} needs the terms of Eq. 5: use explain, or evidence_of(complete=True)"
            )
        return (signed.double() + sum(evidence.terms.constants.values())).to(signed)


_of_attention = partial(Method, asks_again=True, needs_gradient=False, of_attention=True)
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "grad-cam": Method(
            "Grad-CAM", gradient_methods.grad_cam, "mean gradient of each channel", "Selvaraju et al. 2017"
        ),
        "xgrad-cam": Method(
            "XGrad-CAM",
            gradient_methods.xgrad_cam,
            "mean gradient, weighted by the activation",
            "Fu et al. 2020",
        ),
        "cam": Method(
            "CAM",
            network_methods.cam,
            "weights of a linear layer on global averages; applies nowhere else",
            "Zhou et al. 2016",
            asks_again=True,
        ),
        "grad-cam++": Method(
            "Grad-CAM++",
            gradient_methods.grad_cam_plus_plus,
            "positive gradients, weighted by higher derivatives",
            "Chattopadhay et al. 2018",
        ),
        "smooth-grad-cam++": Method(
            "Smooth Grad-CAM++",
            network_methods.smooth_grad_cam_plus_plus,
            "grad-cam++ averaged over 8 noisy inputs",
            "Omeiza et al. 2019",
            asks_again=True,
        ),
        "hires-cam": Method(
            "HiResCAM",
            gradient_methods.hires_cam,
            "the gradient itself, position by position",
            "Draelos and Carin 2020",
        ),
        "complete-cam": Method(
            "Complete CAM",
            gradient_methods.hires_cam,
            "hires-cam plus all constants behind the layer: sums to the score",
            "this project",
            complete=True,
        ),
        "complete-xgrad-cam": Method(
            "Complete XGrad-CAM",
            gradient_methods.xgrad_cam,
            "xgrad-cam plus all constants behind the layer; for activations that are not negative",
            "this project",
            complete=True,
        ),
        "grad-cam-elementwise": Method(
            "Element-wise Grad-CAM",
            gradient_methods.grad_cam_elementwise,
            "the gradient where gradient times activation is positive",
            "Pillai and Pirsiavash 2021",
        ),
        "layer-cam": Method(
            "LayerCAM",
            gradient_methods.layer_cam,
            "the positive gradient, position by position",
            "Jiang et al. 2021",
        ),
        "ablation-cam": Method(
            "Ablation-CAM",
            network_methods.ablation_cam,
            "the relative drop of the score without each channel",
            "Desai and Ramaswamy 2020",
            asks_again=True,
            needs_gradient=False,
        ),
        "score-cam": Method(
            "Score-CAM",
            network_methods.score_cam,
            "the score of the photograph seen through each channel",
            "Wang et al. 2020",
            asks_again=True,
            needs_gradient=False,
        ),
        "eigen-cam": Method(
            "Eigen-CAM",
            gradient_methods.eigen_cam,
            "first principal component of the activation; the same for every class",
            "Muhammad and Yeasin 2020",
            needs_gradient=False,
        ),
        "eigen-grad-cam": Method(
            "Eigen-Grad-CAM",
            gradient_methods.eigen_grad_cam,
            "first principal component of gradient times activation",
            "Gildenblat 2021",
        ),
        "shapley-cam": Method(
            "ShapleyCAM",
            network_methods.shapley_cam,
            "mean gradient less a second-order term",
            "Cai 2025",
            asks_again=True,
        ),
        "finer-cam": Method(
            "Finer-CAM",
            network_methods.finer_cam,
            "grad-cam of the class against the three nearest to it",
            "Zhang et al. 2025",
            asks_again=True,
        ),
        "legrad": _of_attention(
            "LeGrad", legrad, "positive gradients by attention; vision transformers", "Bousselham et al. 2024"
        ),
        "chefer": _of_attention(
            "Chefer", chefer, "relevance from block to block; vision transformers", "Chefer et al. 2021"
        ),
        "random-cam": Method(
            "random", gradient_methods.random_cam, "random weights: the baseline", "-", needs_gradient=False
        ),
    }
)


def weighted_map(weights: Tensor, activation: Tensor) -> Tensor:
    """Σ_k w_k F^k, signed: (N, h, w). `weights` broadcast against the activation (N, C, h, w)."""
    return (weights * activation).sum(dim=1)


def title_of(method: str) -> str:
    """A method's name as the field writes it; a name that is not in `METHODS` is returned as it is."""
    return METHODS[method].title if method in METHODS else method


def known_methods(methods: Sequence[str]) -> Sequence[str]:
    """The methods, one given as a word too; XGradCamError for a name that is not in `METHODS`."""
    if not isinstance(methods, str) and (callable(methods) or not isinstance(methods, Iterable)):
        raise XGradCamError(
            f"the methods are {shown(methods)}: give names, such as ['xgrad-cam', 'layer-cam']"
        )
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    for method in methods:
        if not isinstance(method, str) or method not in METHODS:
            hint = did_you_mean(method, METHODS, count=1) if isinstance(method, str) else ""
            name = shortened(method, 30) if isinstance(method, str) else method
            raise XGradCamError(f"no method {shown(name)}{hint or ';'} there are: {', '.join(METHODS)}")
    return methods
