"""Q-score of atoms: how much the density around each looks like that of a well resolved atom.

Pintilie et al. 2020 (doi:10.1038/s41592-020-0731-1): around each atom, points on spheres of 0 to 2 Å that are nearer to
it than to any other atom; the correlation about the mean of the map there with a Gaussian of 0.6 Å. Candidates for the
points of a sphere are 32 even directions, of which the first 8 that belong to the atom are taken.
"""

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.maps.atoms import MapSampler

SIGMA, REACH, STEP = 0.6, 2.0, 0.1
"""Å: width of the reference Gaussian, largest radius and step between radii."""

N_TRIED, N_TAKEN = 32, 8


def q_scores(position: np.ndarray, sampler: MapSampler, mean: float, deviation: float) -> np.ndarray:
    """Q-score of each atom, `(n,)`; NaN where neighbours leave it too few points.

    Parameters
    ----------
    position
        xyz in Å, `(n, 3)`, all atoms of the model.
    sampler
        The map.
    mean, deviation
        Of all voxels of the map; they set the level of the reference Gaussian.
    """
    tree = cKDTree(position)
    directions = _even_directions(N_TRIED)
    radii = np.arange(0.0, REACH + 1e-6, STEP)
    high, low = mean + 10.0 * deviation, mean - 1.0 * deviation
    n = len(position)
    sums = np.zeros((n, 5))  # weights of u, v, uu, vv, uv
    count = np.zeros(n)
    for radius in radii:
        if radius == 0:
            values, weight = sampler(position)[:, None], np.ones((n, 1))
        else:
            points = position[:, None, :] + radius * directions
            nearest = tree.query(points.reshape(-1, 3))[1].reshape(n, -1)
            own = nearest == np.arange(n)[:, None]
            taken = own & (np.cumsum(own, axis=1) <= N_TAKEN)
            values = np.zeros(taken.shape)
            values[taken] = sampler(points[taken])
            weight = taken.astype(np.float64)
        reference = (high - low) * np.exp(-0.5 * (radius / SIGMA) ** 2) + low
        total = weight.sum(1)
        first = (weight * values).sum(1)
        sums += np.stack(
            [
                first,
                total * reference,
                (weight * values**2).sum(1),
                total * reference**2,
                first * reference,
            ],
            axis=1,
        )
        count += total
    return _correlation(sums, count)


def _correlation(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    safe = np.maximum(count, 1.0)
    u, v = sums[:, 0] / safe, sums[:, 1] / safe
    cross = sums[:, 4] / safe - u * v
    power = (sums[:, 2] / safe - u**2) * (sums[:, 3] / safe - v**2)
    return np.where((count >= 20) & (power > 0), cross / np.sqrt(np.maximum(power, 1e-30)), np.nan)


def _even_directions(n: int) -> np.ndarray:
    """Directions on a spiral, shuffled so that the first few are spread too, `(n, 3)`."""
    i = np.arange(n) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / n), np.pi * (1 + 5**0.5) * i
    spiral = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=-1)
    return spiral[np.random.default_rng(0).permutation(n)]
