"""The methods that ask the network again, each with its formula; symbols as in `gradient_methods.py`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from xgradcam.cam.evidence import Evidence, Probe, probe_of
from xgradcam.cam.gradient_methods import plus_plus
from xgradcam.errors import NotApplicableError
from xgradcam.layouts.axes import channel_axis
from xgradcam.layouts.padding import over_padding, share_of_image
from xgradcam.layouts.sides import of_channels, space, upsampled
from xgradcam.lending.precision import is_coarse
from xgradcam.lending.varying import require_image
from xgradcam.scores.outputs import logits_of
from xgradcam.scores.probability import probability_rule
from xgradcam.scores.score import Score

# Smooth Grad-CAM++: the number of noisy inputs, and the noise's deviation as a share of the input's range.
NOISY, NOISE = 8, 0.15
# Finer-CAM: the number of nearest classes to compare with, and their share γ.
REFERENCES, STRENGTH = 3, 1.0
# CAM: relative errors that float32, and TF32 or half precision, may cause.
ROUNDING, COARSE_ROUNDING = 1e-4, 2e-2


def cam(evidence: Evidence) -> Tensor:
    """The class's weights in a linear layer on the channels' averages: (N, C, 1, 1). Zhou et al. 2016.

    S = Σ_k w_k mean_xy F^k + b,  so that w_k = Σ_xy g_k

    Raises NotApplicableError if the score is no such function: Grad-CAM is the generalisation.
    """
    if not _is_linear_in_averages(evidence):
        raise NotApplicableError(
            "cam needs a network whose score is a linear function of this layer's averages, as where global "
            "average pooling and a linear layer follow; grad-cam is its generalisation"
        )
    return evidence.gradient.sum(dim=space(evidence.gradient), keepdim=True)


def _is_linear_in_averages(evidence: Evidence) -> bool:
    """True if the gradient is constant over space, and predicts the score far away from F too."""
    probe, gradient = probe_of(evidence), evidence.gradient
    tolerance = COARSE_ROUNDING if is_coarse(probe.score) else ROUNDING
    places = gradient.flatten(2)
    spread = places.amax(dim=2) - places.amin(dim=2)
    if (spread > tolerance * gradient.abs().flatten(1).amax(dim=1, keepdim=True)).any():
        return False
    for sample, maps in enumerate(evidence.activation):
        far = torch.stack([torch.zeros_like(maps), 2 * maps, -maps, maps.roll(1, 0), -2 * maps.roll(2, 0)])
        far = far.to(probe.recording.activation.dtype)
        score, score_far = probe.score[sample].detach(), probe.scores_with_maps(sample, far)
        change = (gradient[sample] * (far - maps)).flatten(1).sum(dim=1)
        size = score.abs() + score_far.abs() + (gradient[sample] * far).abs().flatten(1).sum(dim=1)
        if ((score_far - score - change).abs() > tolerance * size).any():
            return False
    return True


def smooth_grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """Grad-CAM++ with derivatives averaged over noisy inputs: (N, C, 1, 1). Omeiza et al. 2019.

    w_k as in Grad-CAM++, with mean g, mean g² and mean g³ for g, g² and g³
    """
    probe = probe_of(evidence)
    require_image(probe.recording.model, probe.inputs, probe.layer)
    sums = [torch.zeros_like(evidence.gradient) for _ in range(3)]
    for gradient in probe.gradients_at(_noisy(probe.inputs), NOISY):
        for order, total in enumerate(sums, 1):
            total += gradient**order
    first, second, third = (total / NOISY for total in sums)
    return plus_plus(evidence.activation, first, second, third)


def _noisy(inputs: Tensor) -> Iterator[Tensor]:
    """The inputs with noise, `NOISY` times; the noise is the same for every sample and call."""
    generator = torch.Generator("cpu").manual_seed(0)
    each = tuple(range(1, inputs.ndim))
    deviation = NOISE * (inputs.amax(dim=each, keepdim=True) - inputs.amin(dim=each, keepdim=True))
    for _ in range(NOISY):
        noise = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
        yield inputs + deviation * noise.to(inputs)


def ablation_cam(evidence: Evidence) -> Tensor:
    """The relative drop of the score without the channel: (N, C, 1, 1). Desai and Ramaswamy 2020.

    w_k = (S − S(F^k = 0)) / |S|

    The paper divides by S, which reverses the map of a negative score.
    """
    probe = probe_of(evidence)
    score = probe.score.detach()[:, None]
    drops = score - probe.without_channels
    return of_channels(drops / torch.where(score == 0, 1, score.abs()), evidence.activation)


def score_cam(evidence: Evidence) -> Tensor:
    """Softmax over channels of the score of the input masked by each map: (N, C, 1, 1). Wang et al. 2020.

    w = softmax_k S(input ∘ M^k),  M^k the map F^k scaled to [0, 1] and upsampled;  0 for a constant map

    The paper first subtracts the score of a blank input, which leaves the softmax as it is.
    """
    probe, sides = probe_of(evidence), evidence.activation.ndim - 2
    axis = channel_axis(probe.recording.model, probe.inputs)
    if axis is None or probe.inputs.ndim != sides + 2:
        raise NotApplicableError(
            "score-cam masks photographs: it needs inputs (N, C, H, W), or others of as many sides as the "
            f"maps have, {sides}, whose channels the first convolution tells, not {tuple(probe.inputs.shape)}"
        )
    require_image(probe.recording.model, probe.inputs, probe.layer)
    scaled, varies = _scaled(evidence.activation)
    scores = probe.scores_at("masked", varies, lambda *chosen: _masked(probe, scaled, axis, *chosen))
    weights = scores.masked_fill(~varies, -torch.inf).softmax(dim=1).nan_to_num()
    return of_channels(weights, evidence.activation)


def _scaled(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Each map scaled to [0, 1], (N, C, h, w), and True for those that are not constant, (N, C)."""
    low, high = (ends(dim=space(maps), keepdim=True) for ends in (maps.amin, maps.amax))
    constant = high == low
    return (maps - low) / torch.where(constant, 1, high - low), ~constant.flatten(1)


def _masked(probe: Probe, masks: Tensor, axis: int, sample: int, channels: Tensor) -> Tensor:
    """One sample's input masked by some of its channels (M,), each upsampled: (M, ...).

    axis: of the input's channels.
    """
    inputs = probe.inputs
    sides = tuple(inputs.movedim(axis, 1).shape[2:])
    size = over_padding(sides, share_of_image(probe.recording.model, inputs, probe.layer))
    large = upsampled(masks[sample, channels, None], size)
    for side, length in enumerate(sides, 2):
        large = large.narrow(side, 0, length)
    return inputs[sample] * large.to(inputs).movedim(1, axis)


def shapley_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM less a second-order term: (N, C, 1, 1). Cai 2025.

    w_k = mean_xy (g − ½ H F)_k,  H the second derivatives of S by F: 0 if S is piecewise linear in F

    From the Taylor series about F, S(F) − S(0) ≈ (g − ½ H F) · F.
    """
    product = probe_of(evidence).hessian_product()
    return (evidence.gradient - product / 2).mean(dim=space(product), keepdim=True)


def finer_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM of the class against those nearest to it in score: (N, C, 1, 1). Zhang et al. 2025.

    w_k = mean_xy ∂(S − γ Σ_d p_d S_d / Σ_d p_d)/∂F^k,  d the 3 nearest classes, p their probabilities, γ = 1
    """
    probe = probe_of(evidence)
    gradient = probe.gradient_of(against_nearest(probe))
    return gradient.mean(dim=space(gradient), keepdim=True)


def against_nearest(probe: Probe) -> Score:
    """The score that Finer-CAM explains; the probabilities in it are constants."""
    logits, targets = probe.classes()
    distance = (logits - logits.gather(1, targets[:, None])).abs()
    distance = distance.scatter(1, targets[:, None], torch.inf)
    nearest = distance.topk(min(REFERENCES, logits.shape[1] - 1), dim=1, largest=False).indices
    output = getattr(probe.score_of, "output", None)
    rule, _ = probability_rule(logits_of(probe.recording.output, output))
    found = logits.gather(1, nearest)
    # The logarithms of probabilities are logits.
    found = found.clamp(min=torch.finfo(found.dtype).tiny).log() if rule == "none" else found
    shares = found.softmax(dim=1)

    def score(returned: object) -> Tensor:
        all_logits = logits_of(returned, output)
        own = all_logits.gather(1, targets[:, None])[:, 0]
        return own - STRENGTH * (shares * all_logits.gather(1, nearest)).sum(dim=1)

    return score
