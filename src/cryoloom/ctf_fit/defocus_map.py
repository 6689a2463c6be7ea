"""Defocus of each place of a micrograph, from the spectra of the tiles about it.

A single tile is too noisy to be fitted by itself. The log-likelihood of every defocus is tabulated for each tile, with
astigmatism, envelope and phase shift of the whole micrograph, and that of a place is the sum over the tiles about it,
each with a Gaussian weight of its distance (local likelihood: Tibshirani, Hastie 1987). Mean and width of what this
leaves open are the defocus of the place and its standard error. What changes within a tile is not resolved.
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.fit import RingFit
from cryoloom.ctf_fit.spectrum import TileSpectra
from cryoloom.ctf_fit.tilt import radial_depth, tile_curves

STEP = 10.0
REACH = 1_500.0  # Å on either side of the mean defocus
WIDTH = 0.6  # of the Gaussian, in edges of a tile


@dataclass(frozen=True)
class DefocusMap:
    """Defocus over a micrograph.

    Attributes
    ----------
    place_px
        Where, yx pixels, `(n, 2)`.
    defocus
        Mean of U and V there, Å, `(n,)`.
    error
        Standard error, Å, `(n,)`; neighbours share tiles, so their errors are alike.
    """

    place_px: np.ndarray
    defocus: np.ndarray
    error: np.ndarray


def map_defocus(fit: RingFit, spectra: TileSpectra) -> DefocusMap:
    """Defocus at the centre of each tile."""
    beam = fit.profile.beam
    k, ripple, weight = tile_curves(fit, spectra)
    depth = np.interp(k, fit.profile.data.k, radial_depth(fit))
    grid = fit.defocus.mean + np.arange(-REACH, REACH + STEP, STEP)
    grid = grid[grid > 0.3 * fit.defocus.mean]
    phase = beam.double_phase_at_focus(k**2)[:, None] - 2 * math.pi * beam.wavelength * k[:, None] ** 2 * grid
    rings = -depth[:, None] * np.cos(phase - 2 * fit.defocus.phase_shift)  # (n, n_grid)
    likelihood = (ripple * weight) @ rings - 0.5 * weight @ rings**2  # (n_tiles, n_grid)
    place = spectra.centre_px
    apart2 = ((place[:, None] - place[None]) ** 2).sum(-1) / (WIDTH * spectra.tile) ** 2
    near = np.exp(-0.5 * apart2)
    # neighbouring coefficients and tiles that share pixels are alike
    lag = 2 * beam.wavelength * abs(fit.defocus.mean) * float(np.average(k, weights=weight * depth**2 + 1e-12))
    alike = len(place) * spectra.variance_factor(lag)
    local = near @ likelihood / alike
    posterior = np.exp(local - local.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    mean = posterior @ grid
    spread = np.sqrt(np.maximum(posterior @ grid**2 - mean**2, STEP**2 / 12))
    # tiles of small weight say less than the sum takes them for, but err less too
    return DefocusMap(place, mean, spread * np.sqrt((near**2).sum(1) / near.sum(1)))
