"""Distance of voxels to a set of points, such as the atoms of a model: exact, within a reach."""

import math

import numba
import numpy as np


def distance_to_points(points_px: np.ndarray, shape: tuple[int, int, int], reach: float) -> np.ndarray:
    """Distance in voxels from each voxel to the nearest point, `(d, h, w)` float32; `reach + 1` beyond the reach.

    Parameters
    ----------
    points_px
        Positions zyx in voxels, `(n, 3)`; they may lie outside of the box.
    shape
        Of the box.
    reach
        Largest distance of interest, voxels.
    """
    squared = np.full(shape, np.float32((reach + 1.0) ** 2), np.float32)
    _spread(np.ascontiguousarray(points_px, np.float64), float(reach), squared)
    return np.sqrt(squared)


@numba.njit(nogil=True, cache=True)
def _spread(points, reach, squared):  # type: ignore[no-untyped-def] # pragma: no cover
    d, h, w = squared.shape
    for i in range(points.shape[0]):
        z, y, x = points[i, 0], points[i, 1], points[i, 2]
        for iz in range(max(0, math.ceil(z - reach)), min(d - 1, math.floor(z + reach)) + 1):
            for iy in range(max(0, math.ceil(y - reach)), min(h - 1, math.floor(y + reach)) + 1):
                flat = (iz - z) ** 2 + (iy - y) ** 2
                for ix in range(max(0, math.ceil(x - reach)), min(w - 1, math.floor(x + reach)) + 1):
                    value = np.float32(flat + (ix - x) ** 2)
                    if value < squared[iz, iy, ix]:
                        squared[iz, iy, ix] = value
