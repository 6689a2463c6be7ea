"""Directional resolution: the FSC in cones, and what follows from it.

All coefficients are binned once by shell and by direction on an even grid of the half sphere; the sums of a cone are
sums of such bins, so hundreds of cones cost as much as one. Sphericity follows Tan et al. 2017
(doi:10.1038/nmeth.4347),
the occupancy of shells (FSO) Vilas and Tagare 2023 (doi:10.1038/s41592-023-01874-3).
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.geometry import direction_grid
from cryoloom.maps.direction_cells import sums_by_direction
from cryoloom.maps.interval import robust_crossing


@dataclass(frozen=True)
class DirectionalFsc:
    """FSC of cones.

    Attributes
    ----------
    directions
        Axes of the cones on the half sphere `z >= 0`, xyz, `(m, 3)`.
    fsc
        `(m, n_shells)`.
    resolution
        Å of each cone at the threshold, `(m,)`.
    sphericity
        Of the volume of Fourier space inside the threshold, 1 for equal resolution everywhere.
    worst_over_best
        Ratio of the area under the worst cone's FSC to that under the best one's (cFAR).
    occupancy
        Fraction of directions whose cone is above the threshold, per shell (FSO), `(n_shells,)`.
    """

    directions: np.ndarray
    fsc: np.ndarray
    resolution: np.ndarray
    sphericity: float
    worst_over_best: float
    occupancy: np.ndarray


def directional_fsc(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    *,
    cone_deg: float = 20.0,
    threshold: float = 0.143,
    dof_fraction: float = 1.0,
) -> DirectionalFsc:
    """FSC in cones around directions evenly spread over the half sphere.

    Parameters
    ----------
    half1, half2
        Half maps behind a soft mask, `(n, n, n)`.
    pixel_size
        Å.
    cone_deg
        Half angle of the cones.
    threshold
        Of the FSC.
    dof_fraction
        Independent values behind the mask over voxels of Fourier space.
    """
    box = half1.shape[0]
    cells = direction_grid(10).numpy()
    cells = cells[(cells[:, 2] > 1e-9) | ((np.abs(cells[:, 2]) <= 1e-9) & (cells[:, 1] >= 0))]
    sums = sums_by_direction(half1, half2, cells)  # (4, shells, cells)
    axes = direction_grid(6).numpy()
    axes = axes[(axes[:, 2] > 1e-9) | ((np.abs(axes[:, 2]) <= 1e-9) & (axes[:, 1] >= 0))]
    inside = np.abs(axes @ cells.T) >= math.cos(math.radians(cone_deg))
    cross, power1, power2, counts = (inside @ part.T for part in sums)
    few = counts < 4
    few[:, 0] = True
    # A cone holds too few voxels of the lowest shells to say anything about them.
    fsc = np.where(few, 1.0, cross / np.maximum(np.sqrt(power1 * power2), 1e-30))
    variance = np.where(few, 1.0, 1.0 / np.maximum(counts * dof_fraction, 1.0))
    smooth = fsc.copy()
    smooth[:, 1:-1] = 0.25 * fsc[:, :-2] + 0.5 * fsc[:, 1:-1] + 0.25 * fsc[:, 2:]
    crossings = np.array([robust_crossing(c, v, threshold) for c, v in zip(smooth, variance, strict=True)])
    crossings = np.maximum(crossings, 1.0)
    area = np.clip(fsc, 0, 1).sum(axis=1)
    return DirectionalFsc(
        directions=axes,
        fsc=fsc,
        resolution=box * pixel_size / crossings,
        sphericity=_sphericity(axes, crossings),
        worst_over_best=float(area.min() / max(area.max(), 1e-30)),
        occupancy=(smooth > threshold).mean(axis=0),
    )


def _sphericity(axes: np.ndarray, crossings: np.ndarray) -> float:
    """Of the body whose radius along each axis is the crossing: area of the equal ball over its own area."""
    volume = float(np.mean(crossings**3)) * 4 * math.pi / 3
    # Area of a star-shaped body: mean of r² sqrt(1 + |grad r|² / r²); gradients from the nearest neighbours.
    both, radius = np.concatenate([axes, -axes]), np.concatenate([crossings, crossings])
    order = np.argsort(-(axes @ both.T), axis=1)[:, 1:7]
    slopes = []
    for i, neighbours in enumerate(order):
        offset = both[neighbours] - axes[i]
        gradient, *_ = np.linalg.lstsq(offset, radius[neighbours] - crossings[i], rcond=None)
        gradient = gradient - axes[i] * (gradient @ axes[i])
        slopes.append(float(gradient @ gradient))
    area = 4 * math.pi * float(np.mean(crossings**2 * np.sqrt(1 + np.array(slopes) / crossings**2)))
    return min(1.0, math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)
