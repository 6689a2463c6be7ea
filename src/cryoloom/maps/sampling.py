"""How evenly the views sample Fourier space, and whether tilting the stage would help.

A view along `v` samples the directions perpendicular to it. The sampling compensation factor of Baldwin and Lyumkis
2020 (doi:10.1016/j.pbiomolbio.2019.09.002) is the harmonic mean of the sampling over all directions relative to its
mean: 1 for even views, 8/π² = 0.81 for side views only, near 0 where directions are not sampled at all.

The efficiency of the orientations says the same in real space: an image of a point is narrow along directions that are
sampled well. With `R` the radius of the point spread function along each direction it is `1 - 2 sd(R) / mean(R)`
(Naydenova and Russo 2017, doi:10.1038/s41467-017-00782-3): 1 for even views. Here the transfer is taken as the sampling
of a direction times a Gaussian envelope, and `R` as where the function falls to half of its centre.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.geometry import direction_grid

GRID_SIDE = 16
FLOOR = 0.02
"""Sampling relative to the mean below which a direction counts as not sampled."""

ENOUGH = 0.8
"""Compensation factor from which on no tilt is advised: side views alone reach it."""


@dataclass(frozen=True)
class Sampling:
    """Sampling of the directions of Fourier space.

    Attributes
    ----------
    directions, density
        Even grid of directions `(m, 3)` and the sampling there relative to the mean, `(m,)`.
    scf
        Sampling compensation factor.
    unsampled
        Fraction of directions that are (nearly) not sampled.
    efficiency
        Of the orientations, at most 1; 0 where the point spread function has no width along some direction.
    best_tilt_deg, scf_at_best
        Tilt of the stage that would serve best (0 if none would), and the factor there.
    """

    directions: np.ndarray
    density: np.ndarray
    scf: float
    unsampled: float
    efficiency: float
    best_tilt_deg: float
    scf_at_best: float


def measure_sampling(views: np.ndarray, *, advise: bool = True) -> Sampling:
    """Sampling by views along unit vectors `(n, 3)`, copies by symmetry included."""
    grid = direction_grid(GRID_SIDE).numpy()
    cell_tree = cKDTree(grid)
    coarse = direction_grid(8).numpy()
    density = sampling_density(views, grid, cell_tree)
    scf = compensation_factor(density)
    best_tilt, best = 0.0, scf
    if advise and scf < ENOUGH:
        _, cell = cKDTree(coarse).query(views)
        counts = np.bincount(cell, minlength=len(coarse)).astype(np.float64)
        plain = compensation_factor(sampling_density(coarse, grid, cell_tree, weights=counts))
        gains = {}
        for tilt in (10.0, 20.0, 30.0, 40.0):
            turned, weights = tilted_views(coarse, counts, tilt)
            gains[tilt] = compensation_factor(sampling_density(turned, grid, cell_tree, weights=weights)) / max(
                plain, 1e-6
            )
        # Ice is thicker by 1 / cos at a tilt; the gain has to pay for it.
        tilt = max(gains, key=lambda t: gains[t] * np.cos(np.deg2rad(t)))
        if gains[tilt] * np.cos(np.deg2rad(tilt)) > 1.1:
            best_tilt, best = tilt, min(1.0, scf * gains[tilt])
    efficiency = orientation_efficiency(grid, density)
    return Sampling(grid, density, scf, float((density < FLOOR).mean()), efficiency, best_tilt, best)


def sampling_density(
    views: np.ndarray, grid: np.ndarray, tree: cKDTree, weights: np.ndarray | None = None, n_points: int = 120
) -> np.ndarray:
    """Sampling at grid directions relative to the mean: great circles perpendicular to the views, `(m,)`."""
    weights = np.ones(len(views)) if weights is None else weights
    helper = np.where(np.abs(views[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(views, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(views, first)
    density = np.zeros(len(grid))
    rng = np.random.default_rng(0)
    for start in range(0, len(views), 4096):
        part = slice(start, start + 4096)
        angle = 2 * np.pi * (np.arange(n_points) + rng.random((len(views[part]), 1))) / n_points
        points = np.cos(angle)[..., None] * first[part, None] + np.sin(angle)[..., None] * second[part, None]
        _, cell = tree.query(points.reshape(-1, 3))
        density += np.bincount(cell, weights=np.repeat(weights[part], n_points), minlength=len(grid))
    return density / max(density.mean(), 1e-30)


def compensation_factor(density: np.ndarray) -> float:
    """Harmonic mean of the relative sampling; directions that are not sampled count as `FLOOR`."""
    return float(1.0 / np.mean(1.0 / np.maximum(density, FLOOR)))


def orientation_efficiency(directions: np.ndarray, density: np.ndarray) -> float:
    """`1 - 2 sd(R) / mean(R)` of the point spread function's radii, from 0 to 1.

    Along a direction `u` the function at `r` is the mean over directions `d` of `density (1 - c²) exp(-c² / 2)` with
    `c = r d.u`: the transform of a Gaussian envelope of unit width, radius by radius in closed form.

    Parameters
    ----------
    directions, density
        Even grid of unit vectors `(m, 3)` and the sampling there relative to the mean, `(m,)`.
    """
    along = (directions @ direction_grid(4).numpy().T) ** 2
    radii = np.linspace(0.0, 6.0, 121)
    spread = np.stack([density @ ((1 - r**2 * along) * np.exp(-0.5 * r**2 * along)) for r in radii])
    below = spread < 0.5 * spread[0]
    if not below.any(0).all():
        return 0.0
    first = below.argmax(0)
    column = np.arange(spread.shape[1])
    before, after = spread[first - 1, column], spread[first, column]
    radius = radii[first - 1] + (before - 0.5 * spread[0]) / (before - after) * (radii[1] - radii[0])
    return float(np.clip(1 - 2 * radius.std() / radius.mean(), 0.0, 1.0))


def tilted_views(views: np.ndarray, weights: np.ndarray, tilt_deg: float, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Views after tilting the stage: each spreads over a ring around itself, since its in-plane angle is any."""
    tilt = np.deg2rad(tilt_deg)
    helper = np.where(np.abs(views[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(views, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(views, first)
    angle = 2 * np.pi * np.arange(n) / n
    ring = np.cos(angle)[:, None, None] * first + np.sin(angle)[:, None, None] * second
    turned = np.cos(tilt) * views + np.sin(tilt) * ring
    return turned.reshape(-1, 3), np.tile(weights / n, n)
