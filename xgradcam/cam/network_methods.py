"""The methods that ask the network more than one gradient: their weights, as those of `weightings.py`."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from xgradcam.cam.evidence import Evidence, Probe, probe_of
from xgradcam.cam.gradient_methods import plus_plus
from xgradcam.capture.scores import Score, logits_of
from xgradcam.errors import NotApplicableError

# Smooth Grad-CAM++: noisy inputs, and the noise's deviation as a share of the input's range.
NOISY, NOISE = 8, 0.15
# Finer-CAM: how many of the nearest classes are compared with, and how much they count.
REFERENCES, STRENGTH = 3, 1.0
# A map this much flatter than high is constant to rounding, of float32 and of half precision.
FLAT, FLAT_IN_HALF = 1e-4, 2e-2


def cam(evidence: Evidence) -> Tensor:
    """The class's weights in a linear layer on the maps' global average: (N, C, 1, 1). Zhou et al. 2016.

    S = Σ_k w_k mean_xy F^k + b

    Raises NotApplicableError where the score is no linear function of the averages: Grad-CAM is its
    generalisation.
    """
    weights = evidence.gradient.sum(dim=(2, 3), keepdim=True)
    if not _reads_averages(evidence):
        raise NotApplicableError(
            "cam needs a network whose score is a linear function of this layer's averages, as where global "
            "average pooling and a linear layer follow; grad-cam is its generalisation"
        )
    return weights


def _reads_averages(evidence: Evidence) -> bool:
    """Whether S(F) is affine in the averages: the gradient is flat, and right about S far away from F too."""
    probe, gradient = probe_of(evidence), evidence.gradient
    digits = FLAT_IN_HALF if probe.score.dtype in (torch.bfloat16, torch.float16) else FLAT
    spread = gradient.amax(dim=(2, 3)) - gradient.amin(dim=(2, 3))
    if (spread > digits * gradient.abs().amax(dim=(1, 2, 3))[:, None]).any():
        return False
    for sample, maps in enumerate(evidence.activation):
        far = torch.stack([torch.zeros_like(maps), 2 * maps, -maps, maps.roll(1, 0), -2 * maps.roll(2, 0)])
        far = far.to(probe.recording.activation.dtype)
        found, score = probe.scores_of_maps(sample, far), probe.score[sample].detach()
        change = (gradient[sample] * (far - maps)).sum(dim=(1, 2, 3))
        size = score.abs() + found.abs() + (gradient[sample] * far).abs().sum(dim=(1, 2, 3))
        if ((found - score - change).abs() > digits * size).any():
            return False
    return True


def smooth_grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """Grad-CAM++ with derivatives averaged over noisy inputs: (N, C, 1, 1). Omeiza et al. 2019.

    As Grad-CAM++ with mean g, mean g² and mean g³ for g, g² and g³
    """
    probe = probe_of(evidence)
    sums = [torch.zeros_like(evidence.gradient) for _ in range(3)]
    for gradient in probe.gradients_at(_noisy(probe.inputs), NOISY):
        for order, total in enumerate(sums, 1):
            total += gradient**order
    first, second, third = (total / NOISY for total in sums)
    return plus_plus(evidence.activation, first, second, third)


def _noisy(inputs: Tensor) -> Iterator[Tensor]:
    """The inputs with the same noise each time, and for every sample."""
    generator = torch.Generator().manual_seed(0)
    each = tuple(range(1, inputs.ndim))
    deviation = NOISE * (inputs.amax(dim=each, keepdim=True) - inputs.amin(dim=each, keepdim=True))
    for _ in range(NOISY):
        noise = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64)
        yield inputs + deviation * noise.to(inputs)


def ablation_cam(evidence: Evidence) -> Tensor:
    """How much the score drops without the channel: (N, C, 1, 1). Desai and Ramaswamy 2020.

    w_k = (S − S(F^k = 0)) / |S|

    The paper divides by S: for a negative score that would turn the map into its opposite.
    """
    probe = probe_of(evidence)
    score = probe.score.detach()[:, None]
    drops = score - probe.without_channels
    return (drops / torch.where(score == 0, 1, score.abs()))[:, :, None, None]


def score_cam(evidence: Evidence) -> Tensor:
    """The score of the input seen through each map, as a softmax over channels: (N, C, 1, 1).

    w = softmax_k S(input ∘ F^k upsampled and scaled to [0, 1]);  0 for a channel that is constant

    Wang et al. 2020. The paper takes the score of a blank input off first, which the softmax does not see.
    """
    probe = probe_of(evidence)
    inputs, maps = probe.inputs, evidence.activation
    if inputs.ndim != 4:
        raise NotApplicableError("score-cam masks photographs: it needs inputs (N, C, H, W)")
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    constant = high == low
    scaled = (maps - low) / torch.where(constant, 1, high - low)

    def seen_through(sample: int, channels: Tensor) -> Tensor:
        small = scaled[sample, channels, None]
        grown = nn.functional.interpolate(small, inputs.shape[2:], mode="bilinear", align_corners=False)
        return inputs[sample] * grown.to(inputs)

    constant = constant[:, :, 0, 0]
    scores = probe.scores_of(~constant, seen_through).masked_fill(constant, -torch.inf)
    return scores.softmax(dim=1).nan_to_num()[:, :, None, None]


def shapley_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM with a second-order term of the Taylor series, at 0: (N, C, 1, 1). Cai 2025.

    w_k = mean_xy (g − ½ H F),  H the second derivatives of S by F: 0 behind which all is piecewise linear
    """
    product = probe_of(evidence).hessian_product()
    return (evidence.gradient - product / 2).mean(dim=(2, 3), keepdim=True)


def finer_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM of the class against those nearest to it in score: (N, C, 1, 1). Zhang et al. 2025.

    w_k = mean_xy ∂(S − γ Σ_d p_d S_d / Σ_d p_d)/∂F^k,  d the 3 nearest classes, p their probabilities, γ = 1
    """
    probe = probe_of(evidence)
    return probe.gradient_of(against_nearest(probe)).mean(dim=(2, 3), keepdim=True)


def against_nearest(probe: Probe) -> Score:
    """The score of Finer-CAM; the references' probabilities are constants in it."""
    logits, targets = probe.classes()
    distance = (logits - logits.gather(1, targets[:, None])).abs()
    distance = distance.scatter(1, targets[:, None], torch.inf)
    nearest = distance.topk(min(REFERENCES, logits.shape[1] - 1), dim=1, largest=False).indices
    shares = logits.gather(1, nearest).softmax(dim=1)
    output = getattr(probe.score_of, "output", None)

    def score(returned: object) -> Tensor:
        found = logits_of(returned, output)
        own = found.gather(1, targets[:, None])[:, 0]
        return own - STRENGTH * (shares * found.gather(1, nearest)).sum(dim=1)

    return score
