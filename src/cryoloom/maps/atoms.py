"""Density of atoms on the grid of a map, and values of a map at points: what a model is compared by.

Each atom is one Gaussian: its B-factor and that of a light atom's electron form factor (`exp(-B k² / 4)` with
B = 14 Å2, good to a few per cent at 2 Å and coarser), weighted by its atomic number. For a correlation by shells the
common shape does not matter. Solvent, hydrogens and charges are left out.
"""

import math

import numba
import numpy as np
import torch
from scipy.ndimage import map_coordinates, spline_filter
from torch import Tensor

FORM_FACTOR_B = 14.0
"""Å2 of the electron form factor of carbon, nitrogen and oxygen as one Gaussian."""


def atom_density(
    position: np.ndarray,
    element: np.ndarray,
    bfactor: np.ndarray,
    shape: tuple[int, int, int],
    pixel_size: float,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Sum of Gaussians, `(d, h, w)` float32.

    Parameters
    ----------
    position
        xyz in Å, `(n, 3)`; atoms outside of the map are left out.
    element
        Atomic numbers, `(n,)`.
    bfactor
        Å2, `(n,)`; at least so much is used that a Gaussian spans 0.7 pixels.
    shape, pixel_size, origin
        Grid of the map: Å per voxel, and place of its first voxel, xyz Å.
    """
    xyz = (np.asarray(position, np.float64) - np.asarray(origin)) / pixel_size
    # exp(-B k² / 4) is a Gaussian of variance B / (8 π²) in real space.
    sigma = np.sqrt((np.maximum(bfactor, 0.0) + FORM_FACTOR_B) / (8 * math.pi**2)) / pixel_size
    sigma = np.maximum(sigma, 0.7)
    grid = np.zeros(shape, np.float32)
    _add_gaussians(grid, xyz, sigma, np.asarray(element, np.float64))
    return torch.from_numpy(grid)


class MapSampler:
    """Cubic-spline values of a map at points in Å.

    Parameters
    ----------
    volume
        `(d, h, w)`.
    pixel_size, origin
        Grid of the map.
    """

    def __init__(self, volume: np.ndarray, pixel_size: float, origin: tuple[float, float, float]) -> None:
        self._spline = spline_filter(np.asarray(volume, np.float32), order=3, output=np.float32, mode="nearest")
        self._pixel_size, self._origin = pixel_size, np.asarray(origin)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values at xyz Å, `(..., 3)` to `(...)` float32; beyond the map those of its border."""
        index = ((points - self._origin) / self._pixel_size)[..., ::-1]
        flat = np.ascontiguousarray(index.reshape(-1, 3).T)
        values = map_coordinates(self._spline, flat, order=3, mode="nearest", prefilter=False)
        return values.reshape(points.shape[:-1])


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_gaussians(grid: np.ndarray, xyz: np.ndarray, sigma: np.ndarray, weight: np.ndarray) -> None:
    """Add normalised Gaussians at positions xyz in voxels, cut at 4.5 sigma."""
    depth, height, width = grid.shape
    for i in range(xyz.shape[0]):
        s = sigma[i]
        reach = 4.5 * s
        x, y, z = xyz[i, 0], xyz[i, 1], xyz[i, 2]
        amplitude = weight[i] / (2 * math.pi * s * s) ** 1.5
        for iz in range(max(0, math.ceil(z - reach)), min(depth - 1, math.floor(z + reach)) + 1):
            gz = math.exp(-((iz - z) ** 2) / (2 * s * s)) * amplitude
            for iy in range(max(0, math.ceil(y - reach)), min(height - 1, math.floor(y + reach)) + 1):
                gy = gz * math.exp(-((iy - y) ** 2) / (2 * s * s))
                for ix in range(max(0, math.ceil(x - reach)), min(width - 1, math.floor(x + reach)) + 1):
                    grid[iz, iy, ix] += np.float32(gy * math.exp(-((ix - x) ** 2) / (2 * s * s)))
