"""Local maxima of a score map that keep their distance from each other."""

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree
from torch import Tensor


def find_peaks(score: Tensor, distance_px: float, *, lowest: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima, the highest first; a lower one closer than `distance_px` to a higher one is dropped.

    Parameters
    ----------
    score
        `(h, w)`.
    distance_px
        Smallest distance between two peaks in pixels.
    lowest
        Peaks below are ignored.

    Returns
    -------
    position
        `(n, 2)` float64 yx with sub-pixel precision.
    value
        `(n,)` float64.
    """
    pooled = _local_maximum(score, max(1, int(0.4 * distance_px)))
    place = torch.nonzero((score == pooled) & (score > lowest))
    value = score[place[:, 0], place[:, 1]].double().cpu().numpy()
    position = place.cpu().numpy()
    order = np.argsort(-value, kind="stable")
    position, value = position[order], value[order]
    kept = keep_distance(position.astype(float), distance_px)
    position, value = position[kept], value[kept]
    return refine_peaks(score.cpu().numpy(), position), value


def keep_distance(position: np.ndarray, distance_px: float) -> np.ndarray:
    """Indices of points to keep, walking down the list, so that no two are closer than `distance_px`."""
    if not len(position):
        return np.zeros(0, dtype=np.int64)
    neighbours = cKDTree(position).query_ball_point(position, distance_px)
    alive = np.ones(len(position), dtype=bool)
    kept = []
    for i, near in enumerate(neighbours):
        if alive[i]:
            kept.append(i)
            alive[near] = False
    return np.asarray(kept, dtype=np.int64)


def refine_peaks(score: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Vertices of parabolas through each peak and its neighbours, per axis, `(n, 2)`."""
    refined = position.astype(np.float64)
    h, w = score.shape
    y, x = position[:, 0], position[:, 1]
    inner = (y > 0) & (y < h - 1) & (x > 0) & (x < w - 1)
    y, x = y[inner], x[inner]
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        low, mid, high = score[y - dy, x - dx], score[y, x], score[y + dy, x + dx]
        curvature = low - 2 * mid + high
        offset = np.where(curvature < 0, 0.5 * (low - high) / np.minimum(curvature, -1e-12), 0.0)
        refined[inner, axis] += np.clip(offset, -0.5, 0.5)
    return refined


def normalise_by_background(score: Tensor) -> Tensor:
    """Shift and scale so that the background, judged by the lower half of all values, has mean 0 and deviation 1."""
    low, middle = _quantiles(score, (0.1587, 0.5))
    return (score - middle) / max(middle - low, 1e-6)


def noise_level(residual: Tensor) -> tuple[float, float]:
    """Median and standard deviation of noise, the latter from the middle two thirds of all values."""
    low, middle, high = _quantiles(residual, (0.1587, 0.5, 0.8413))
    return middle, max(0.5 * (high - low), 1e-6)


def _quantiles(values: Tensor, at: tuple[float, ...]) -> list[float]:
    """Quantiles of a sample of some 40,000 of the values."""
    sample = values.reshape(-1)[:: max(1, values.numel() // 40_000)].cpu().numpy()
    places = [int(q * len(sample)) for q in at]
    ranked = np.partition(sample, places)
    return [float(ranked[i]) for i in places]


def _local_maximum(score: Tensor, reach: int) -> Tensor:
    """Largest value within a square of `2 reach + 1` pixels."""
    if not score.is_cuda:
        return torch.from_numpy(maximum_filter(score.numpy(), 2 * reach + 1, mode="nearest"))
    pooled = torch.nn.functional.max_pool2d(score[None, None], (2 * reach + 1, 1), 1, (reach, 0))
    return torch.nn.functional.max_pool2d(pooled, (1, 2 * reach + 1), 1, (0, reach))[0, 0]
