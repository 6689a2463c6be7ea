"""How likely each particle's pose is right.

A right pose gains about the log-likelihood that the model itself predicts, half the norm term: the ratio of the two
is near 1. Junk and lost particles gain what the best of many wrong poses gains, whatever the model predicts, and
form a second, lower population. Two Gaussians with a common origin in the data tell them apart.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from cryoloom.em.poses import Candidates, best_of, group_starts
from cryoloom.geometry import pose_distance

LEAST_RIGHT = 0.5
"""Mean share of right poses from which the shares of single particles are believed."""
APART = np.deg2rad(20.0)
"""Angle from the best pose of a particle beyond which another is taken to be wrong if the best is right."""


def gain_ratio(log_likelihood: np.ndarray, expected_gain: np.ndarray) -> np.ndarray:
    """Gained over predicted log-likelihood, `(n,)`."""
    return log_likelihood / np.maximum(expected_gain, 1e-9)


def pose_reliability(log_likelihood: np.ndarray, expected_gain: np.ndarray, posterior_max: np.ndarray) -> np.ndarray:
    """Probability that each pose is right, `(n,)`: that of the upper population times the posterior of the best mode.

    Where the ratios do not fall into two populations, the posterior of the mode alone is given.
    """
    return np.clip(fitting_share(gain_ratio(log_likelihood, expected_gain)) * posterior_max, 0.0, 1.0)


def fitting_share(ratio: np.ndarray) -> np.ndarray:
    """Probability that each particle fits the map at all, `(n,)`, from its `gain_ratio`.

    It is the posterior of the upper of two Gaussians fitted by EM; ones where two describe the data no better than one.
    """
    n = len(ratio)
    if n < 50:
        return np.ones(n)
    low, high = np.quantile(ratio, [0.02, 0.7])
    mean = np.array([low, high])
    spread = np.full(2, max(0.5 * (high - low), 1e-6))
    weight = np.array([0.15, 0.85])
    share = np.ones(n)
    for _ in range(200):
        log_density = np.log(weight) - np.log(spread) - 0.5 * ((ratio[:, None] - mean) / spread) ** 2
        top = log_density.max(1, keepdims=True)
        density = np.exp(log_density - top)
        both = density.sum(1, keepdims=True)
        posterior = density / both
        total = posterior.sum(0)
        if total.min() < 3:
            return np.ones(n)
        before = mean.copy()
        mean = posterior.T @ ratio / total
        spread = np.sqrt(np.maximum((posterior * (ratio[:, None] - mean) ** 2).sum(0) / total, 1e-8))
        weight = total / n
        share = posterior[:, 1]
        if np.abs(mean - before).max() < 1e-5:
            break
    # A skew tail is no second population: the two must lie apart (Ashman's D, 1994), the lower clearly below.
    apart = np.sqrt(2.0) * (mean[1] - mean[0]) / np.hypot(spread[0], spread[1])
    if apart < 2.5 or mean[0] > 0.75 * mean[1]:
        return np.ones(n)
    return np.where(ratio > mean[1], 1.0, np.where(ratio < mean[0], np.minimum(share, 0.5), share))


def wrong_level(candidates: Candidates, symmetry: str) -> tuple[float, float] | None:
    """Mean and spread of the log-likelihood that the best of many wrong poses gains; None where too little is known.

    Where the best pose of a particle is right, the best of those far from it is the best of many wrong ones: what a
    lost particle, or an image of something else, is left with. It is the decoy of target-decoy searches (Elias and
    Gygi 2007, doi:10.1038/nmeth1019), taken from the particle itself.

    Parameters
    ----------
    candidates
        Poses of a search, several per particle, those that fit badly among them; rows ascending.
    """
    best = best_of(candidates, candidates.log_likelihood)
    counts = np.diff(np.r_[group_starts(candidates.row), len(candidates)])
    own = np.repeat(best, counts)
    turn = pose_distance(
        torch.from_numpy(candidates.rotation), torch.from_numpy(candidates.rotation[own]), symmetry
    ).numpy()
    rival = np.where(turn > APART, candidates.log_likelihood, -np.inf)
    highest = np.maximum.reduceat(rival, group_starts(candidates.row))
    known = highest[np.isfinite(highest)]
    if len(known) < 30:
        return None
    low, middle, high = np.quantile(known, [0.16, 0.5, 0.84])
    return float(middle), float(max(0.5 * (high - low), 1e-3))


def right_share(log_likelihood: np.ndarray, wrong: tuple[float, float]) -> np.ndarray:
    """Probability that each particle gained more than the best of wrong poses does, `(n,)`.

    One minus the local false discovery rate (Efron 2004, doi:10.1198/016214504000000089): the density of what wrong
    poses gain is known (`wrong_level`), that of all particles is estimated, and the share of the wrong follows from the
    particles below the middle of the wrong, where hardly one is right. Where that leaves fewer than half, right poses
    do not stand out from wrong ones yet, and nothing is said: ones.
    """
    mean, spread = wrong
    share = min(2.0 * float(np.mean(log_likelihood < mean)), 1.0)
    low, high = log_likelihood.min(), log_likelihood.max()
    if share == 0.0 or low == high:
        return np.ones(len(log_likelihood))
    counts, edges = np.histogram(log_likelihood, 256, (low - spread, high + spread))
    grid, step = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    quartiles = np.subtract(*np.quantile(log_likelihood, [0.75, 0.25])) / 1.34
    width = 0.9 * min(log_likelihood.std(), quartiles) * len(log_likelihood) ** -0.2  # Silverman's rule
    width = max(width, 0.3 * spread)
    density = gaussian_filter1d(counts / (len(log_likelihood) * step), width / step, mode="constant")
    wrongly = np.exp(-0.5 * ((grid - mean) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    right = np.clip(1.0 - share * wrongly / np.maximum(density, 1e-12), 0.0, 1.0)
    right[grid < mean] = np.minimum(right[grid < mean], right[np.searchsorted(grid, mean) - 1])
    found = np.interp(log_likelihood, grid, np.maximum.accumulate(right))
    return found if found.mean() >= LEAST_RIGHT else np.ones(len(log_likelihood))
