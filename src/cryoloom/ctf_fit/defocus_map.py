"""Defocus of each place of a micrograph, from the spectra of the tiles about it.

A single tile is too noisy to be fitted by itself. The log-likelihood of every defocus is tabulated for each tile, with
astigmatism, envelope and phase shift of the whole micrograph, and that of a place is the sum over the tiles about it,
each with a Gaussian weight of its distance (local likelihood: Tibshirani, Hastie 1987). Mean and width of what this
leaves open are the defocus of the place and its standard error. Such sums pull a slope in at its ends; so a plane is
fitted to what they say, and once more tabulated are the differences from it, which leaves no slope to be pulled in.
What changes within a tile is not resolved.
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.fit import RingFit
from cryoloom.ctf_fit.spectrum import TileSpectra
from cryoloom.ctf_fit.tilt import aligned_depth, radial_depth, tile_curves

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


def map_defocus(fit: RingFit, spectra: TileSpectra, supposed: np.ndarray | None = None) -> DefocusMap:
    """Defocus at the centre of each tile.

    Parameters
    ----------
    fit, spectra
        Fit of the whole micrograph and the spectra of its tiles.
    supposed
        Defocus to start from at each tile, as a tilt fit found it, Å, `(n_tiles,)`; None: the same everywhere.
    """
    beam = fit.profile.beam
    k, ripple, weight = tile_curves(fit, spectra)
    depth = np.interp(k, fit.profile.data.k, radial_depth(fit))
    place = spectra.centre_px
    base = np.full(len(place), fit.defocus.mean) if supposed is None else supposed
    apart2 = ((place[:, None] - place[None]) ** 2).sum(-1) / (WIDTH * spectra.tile) ** 2
    near = np.exp(-0.5 * apart2)
    # neighbouring coefficients and tiles that share pixels are alike
    lag = 2 * beam.wavelength * abs(fit.defocus.mean) * float(np.average(k, weights=weight * depth**2 + 1e-12))
    alike = len(place) * spectra.variance_factor(lag)
    change = np.arange(-REACH, REACH + STEP, STEP)
    inward = near @ place / near.sum(1, keepdims=True) - place  # of such sums no place is at the edge
    for last in (False, True):
        if base.std() > 0:
            depth = aligned_depth(fit, k, ripple, weight, base)
        local = near @ _tabulate_changes(fit, k, ripple, weight, depth, base, change) / alike
        posterior = np.exp(local - local.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        mean = posterior @ change
        spread = np.sqrt(np.maximum(posterior @ change**2 - mean**2, STEP**2 / 12))
        centred = place + inward - place.mean(0)
        design = np.concatenate([np.ones((len(place), 1)), centred], 1)
        if not last and len(place) >= 4:
            slope = np.linalg.lstsq(design / spread[:, None], mean / spread, rcond=None)[0]
            base = base + slope[0] + (place - place.mean(0)) @ slope[1:]
    # tiles of small weight say less than the sum takes them for, but err less too
    variance = spread**2 * (near**2).sum(1) / near.sum(1)
    # and the plane is what brings the sum from the middle of its tiles to the place
    single = 1 / float(np.median(spread**2 * near.sum(1)))
    moments = single * (place - place.mean(0)).T @ (place - place.mean(0))
    variance += ((inward @ np.linalg.pinv(moments, hermitian=True)) * inward).sum(1)
    return DefocusMap(place, base + mean, np.sqrt(variance))


def _tabulate_changes(
    fit: RingFit, k: np.ndarray, ripple: np.ndarray, weight: np.ndarray, depth: np.ndarray, base: np.ndarray,
    change: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Log-likelihood of each tile for each change of its defocus from `base`, `(n_tiles, n_changes)`."""
    beam = fit.profile.beam
    bend = 2 * math.pi * beam.wavelength * k[:, None] ** 2
    at_focus = beam.double_phase_at_focus(k**2)[:, None] - 2 * fit.defocus.phase_shift
    out = np.empty((len(base), len(change)))
    for tile, level in enumerate(base):
        rings = -depth[:, None] * np.cos(at_focus - bend * (level + change))
        out[tile] = (ripple[tile] * weight) @ rings - 0.5 * weight @ rings**2
        # rings of far lower defocus are so wide that any background looks like them
        out[tile, level + change < 0.3 * fit.defocus.mean] = -np.inf
    return out
