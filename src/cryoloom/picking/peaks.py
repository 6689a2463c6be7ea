"""Local maxima of a score map that keep their distance from each other."""

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree
from torch import Tensor

_LEAST_VALID = 400  # pixels; fewer do not tell what the background is


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


def normalise_by_background(*scores: Tensor, valid: Tensor | None = None) -> tuple[Tensor, ...]:
    """Shift and scale so that the background, judged by the lower half of all values, has mean 0 and deviation 1.

    Maps given together are put on one scale, that of all their values: peaks of a map and of its inverted twin can
    then be counted against each other.

    Parameters
    ----------
    scores
        Maps, `(h, w)` each.
    valid
        Where values count for the background, `(h, w)` bool; masked regions hold nothing. By default everywhere.
    """
    middle, deviation = background_level(*scores, valid=valid)
    return tuple((score - middle) / deviation for score in scores)


def background_level(*scores: Tensor, valid: Tensor | None = None) -> tuple[float, float]:
    """Median of all (valid) values, and the standard deviation that their lower half tells."""
    low, middle = _quantiles([_valid_values(score, valid) for score in scores], (0.1587, 0.5))
    return middle, max(middle - low, 1e-6)


def noise_level(residual: Tensor, valid: Tensor | None = None) -> tuple[float, float]:
    """Median and standard deviation of noise, the latter from the middle two thirds of all (valid) values."""
    low, middle, high = _quantiles([_valid_values(residual, valid)], (0.1587, 0.5, 0.8413))
    return middle, max(0.5 * (high - low), 1e-6)


def _valid_values(values: Tensor, valid: Tensor | None) -> Tensor:
    """The values that count, all where hardly any would."""
    if valid is None or int(valid.sum()) < _LEAST_VALID:
        return values.reshape(-1)
    return values[valid]


def _quantiles(values: list[Tensor], at: tuple[float, ...]) -> list[float]:
    """Quantiles of a sample of some 40,000 of each list of values."""
    sample = np.concatenate([v[:: max(1, v.numel() // 40_000)].cpu().numpy() for v in values])
    places = [int(q * len(sample)) for q in at]
    ranked = np.partition(sample, places)
    return [float(ranked[i]) for i in places]


def _local_maximum(score: Tensor, reach: int) -> Tensor:
    """Largest value within a square of `2 reach + 1` pixels."""
    if not score.is_cuda:
        return torch.from_numpy(maximum_filter(score.numpy(), 2 * reach + 1, mode="nearest"))
    pooled = torch.nn.functional.max_pool2d(score[None, None], (2 * reach + 1, 1), 1, (reach, 0))
    return torch.nn.functional.max_pool2d(pooled, (1, 2 * reach + 1), 1, (0, reach))[0, 0]
