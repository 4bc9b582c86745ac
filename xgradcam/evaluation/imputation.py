"""Fill in missing pixels from their neighbours: the noisy linear imputation of ROAD, Rong et al. 2022."""

from functools import lru_cache

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from xgradcam.errors import XGradCamError

# Standard deviation of the noise on imputed pixels.
NOISE = 0.01


def imputed(inputs: Tensor, missing: Tensor) -> Tensor:
    """Replace missing pixels by the weighted means of their neighbours, plus Gaussian noise.

    The means depend on each other where neighbours are missing too: a linear system with one unknown per
    missing pixel. If all pixels are missing they become 0, plus the noise.
    inputs: (1, C, H, W). missing: (H, W) bool. Returns (1, C, H, W). Source: Rong et al. 2022.
    """
    if missing.ndim != 2:
        raise XGradCamError(
            f"ROAD imputes pixels from those around them in a picture, (1, C, H, W), not "
            f"{tuple(inputs.shape)}: take deletion and insertion"
        )
    values = inputs[0].flatten(1).double().cpu().numpy()
    unknown = missing.flatten().cpu().numpy()
    filled = np.where(unknown, 0.0, values)
    if unknown.any() and not unknown.all():
        equations = _laplacian(*missing.shape)[unknown]
        matrix = equations[:, unknown].tocsc()
        # For a symmetric matrix that needs no pivoting SuperLU is twice as fast with these settings.
        factors = splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            panel_size=1,
            options={"SymmetricMode": True},
        )
        filled[:, unknown] = factors.solve(-(equations @ filled.T)).T
    noise = torch.randn(
        inputs.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu"
    )
    solution = torch.from_numpy(filled).reshape(inputs.shape) + NOISE * noise
    return torch.where(missing, solution.to(inputs), inputs)


@lru_cache(maxsize=2)
def _laplacian(height: int, width: int) -> sparse.csr_array:
    """Each pixel's total weight minus its neighbours, (H * W, H * W); pixels in row-major order.

    The eight neighbours weigh 1/6 (direct) and 1/12 (diagonal): (1, 2, 1) down times (1, 2, 1) across,
    over 12. Beyond the edges there are no neighbours.
    """
    down, across = (
        sparse.diags_array([np.full(length, 2.0), *[np.ones(length - 1)] * 2], offsets=[0, -1, 1])
        for length in (height, width)
    )
    weights = (sparse.kron(down, across) - 4 * sparse.eye_array(height * width)) / 12
    return sparse.csr_array(sparse.diags_array(weights.sum(axis=1)) - weights)
