"""Groups of maps that look at the same places: the strategies of a classifier, by spectral clustering.

As spectral relevance analysis finds them: Lapuschkin et al. 2019, "Unmasking Clever Hans predictors". The
number of groups is the one of the best silhouette (Rousseeuw 1987), and one group if none is good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError

# Side of the maps that are kept, and of those that are compared: evidence is compared by region, not by cell.
SIDE, COARSE = 32, 8
# A class of fewer maps is one group, and so are maps of a lower silhouette: blobs around one place, of any
# spread, have up to 0.33 by chance (50 maps), and around two places 0.37 and more.
FEWEST, LEAST_SILHOUETTE = 16, 0.35
MOST_GROUPS, SMALLEST_GROUP = 5, 3
# Maps that are compared with one another; the others join the group of the nearest centre.
MOST_COMPARED = 1000
# Neighbours whose distance tells how dense the maps lie around one (Zelnik-Manor and Perona 2004).
NEIGHBOURS = 7

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Groups of N maps. of: the group of each, (N,), the largest first. silhouette: None for one group."""

    of: NDArray[np.int64]
    silhouette: float | None = None

    @property
    def count(self) -> int:
        """The number of groups."""
        return int(self.of.max()) + 1 if len(self.of) else 0

    def members(self, group: int) -> list[int]:
        """The places of a group's maps."""
        return [int(place) for place in np.flatnonzero(self.of == group)]


def require_clustering() -> None:
    """Raise XGradCamError where scikit-learn is not installed."""
    if find_spec("sklearn") is None:
        raise XGradCamError("the report needs scikit-learn: pip install 'xgradcam[report]'")


def kept_map(signed: NDArray[np.floating]) -> Maps:
    """The positive evidence of a map (h, w) as shares of all of it, (32, 32); all 0 if there is none."""
    positive = np.clip(np.nan_to_num(np.asarray(signed, np.float32)), 0, None)
    largest = positive.max(initial=0)
    if not largest:
        return np.zeros((SIDE, SIDE), np.float32)
    # Sums of the largest numbers overflow.
    positive = positive / largest
    way = cv2.INTER_AREA if SIDE < min(positive.shape) else cv2.INTER_LINEAR
    resized = cv2.resize(positive, (SIDE, SIDE), interpolation=way)
    return np.asarray(resized / resized.sum(), np.float32)


def group(maps: Maps) -> Groups:
    """Groups of kept maps (N, 32, 32), the largest first. The same maps give the same groups."""
    points = _points(maps)
    if len(points) < FEWEST:
        return Groups(np.zeros(len(points), np.int64))
    chosen = _compared(points)
    labels, silhouette = _labels(points[chosen])
    if silhouette is None:
        return Groups(np.zeros(len(points), np.int64))
    centres = np.stack([points[chosen][labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    every = _distances(points, centres).argmin(axis=1)
    every[chosen] = labels
    largest_first = np.argsort(-np.bincount(every, minlength=len(centres)), kind="stable")
    return Groups(np.argsort(largest_first)[every], silhouette)


def _labels(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], float | None]:
    """The group of each point, and the silhouette of these; None if there is one group."""
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import silhouette_score

    distances = _distances(points, points)
    best, highest = np.zeros(len(points), np.int64), LEAST_SILHOUETTE
    if not distances.any():
        return best, None
    affinity = _affinity(distances)
    for count in range(2, MOST_GROUPS + 1):
        clustering = SpectralClustering(count, affinity="precomputed", random_state=0, assign_labels="kmeans")
        labels = clustering.fit_predict(affinity).astype(np.int64)
        if np.bincount(labels, minlength=count).min() < SMALLEST_GROUP:
            continue
        silhouette = float(silhouette_score(distances, labels, metric="precomputed"))
        if silhouette > highest:
            best, highest = labels, silhouette
    return best, highest if best.any() else None


def _affinity(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(−d² / (s_i s_j)), where s is the distance to the seventh neighbour: it follows the density."""
    nearest = np.sort(distances, axis=1)[:, min(NEIGHBOURS, len(distances) - 1)]
    scales = np.maximum(nearest, 1e-3 * distances.max())
    return np.asarray(np.exp(-(distances**2) / np.outer(scales, scales)))


def typical(maps: Maps, members: Sequence[int], count: int) -> list[int]:
    """Those of the members whose maps are nearest to the mean of all of them, the nearest first."""
    points = _points(maps[list(members)])
    order = np.argsort(_distances(points, points.mean(axis=0)[None])[:, 0], kind="stable")
    return [members[int(place)] for place in order[:count]]


def unusual(maps: Maps, count: int) -> list[int]:
    """The places of the maps that are farthest from their nearest others, the farthest first."""
    points = _points(maps)
    if len(points) < 2:
        return []
    chosen = _compared(points)
    near = np.sort(_distances(points, points[chosen]), axis=1)
    # The nearest of those that are compared is the point itself.
    apart = near[:, 1 : 1 + min(NEIGHBOURS, len(chosen) - 1)].mean(axis=1)
    return [int(place) for place in np.argsort(-apart, kind="stable")[:count]]


def _compared(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The places of the points that are compared with one another: evenly spread, at most `MOST_COMPARED`."""
    return np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_COMPARED)).astype(np.int64))


def _points(maps: Maps) -> NDArray[np.float64]:
    """Points whose distance is Hellinger's between the maps by region: from 0 to √2, (N, 64)."""
    whole = maps.reshape(len(maps), COARSE, SIDE // COARSE, COARSE, SIDE // COARSE).sum(axis=(2, 4))
    return np.asarray(np.sqrt(whole.reshape(len(maps), COARSE * COARSE)), np.float64)


def _distances(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance of each point to each of the others."""
    from sklearn.metrics import pairwise_distances

    return np.asarray(pairwise_distances(points, others))
