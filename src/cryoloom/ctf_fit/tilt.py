"""Tilt of the specimen: a plane of defocus through the tiles of one micrograph.

The spectra of single tiles are too noisy to be fitted one by one, but their agreement with rings of every defocus can
be tabulated, and the table entries added along every plane (compare goCTF: Su 2019, doi:10.1016/j.jsb.2018.11.012,
and CTFFIND5: Elferich et al. 2024, doi:10.7554/eLife.97227). All planes of a grid are tried, so no tilt need be known;
the best one is polished, once more with the envelope that the aligned rings then show.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

from cryoloom.ctf_fit.fit import RingFit
from cryoloom.ctf_fit.model import spline_basis
from cryoloom.ctf_fit.quality import equiphase_k2
from cryoloom.ctf_fit.spectrum import TileSpectra

TABLE_STEP = 20.0


@dataclass(frozen=True)
class TiltFit:
    """Plane of defocus.

    Attributes
    ----------
    defocus
        Mean of U and V at the centre of the micrograph, Å.
    gradient
        Å of defocus per Å along y and x, `(2,)`.
    tilt
        Angle between specimen and image plane, radians.
    axis
        Direction in which the defocus stays the same, radians from +x towards +y, in [0, π).
    improvement
        Gain over the best level plane, in units of its expected noise.
    """

    defocus: float
    gradient: np.ndarray
    tilt: float
    axis: float
    improvement: float

    def at(self, place_px: np.ndarray, shape: tuple[int, int], pixel_size: float) -> np.ndarray:
        """Defocus at places `(n, 2)` yx of a micrograph of `shape`, Å, `(n,)`."""
        centre = 0.5 * (np.asarray(shape) - 1)
        return self.defocus + (place_px - centre) * pixel_size @ self.gradient


def fit_tilt(fit: RingFit, spectra: TileSpectra, shape: tuple[int, int], *, steepest_deg: float = 65.0) -> TiltFit:
    """Fit a plane of defocus to the tiles.

    Parameters
    ----------
    fit, spectra
        Fit of the level specimen and the spectra of the tiles.
    shape
        Pixels of the micrograph, yx.
    steepest_deg
        Largest tilt tried, degrees.
    """
    place = (spectra.centre_px - 0.5 * (np.asarray(shape) - 1)) * spectra.pixel_size  # (n_tiles, 2)
    steepest = math.tan(math.radians(steepest_deg))
    reach = float(np.hypot(*place.T).max())
    span = steepest * reach + 1_000.0
    start = fit.defocus.mean
    # Rings of far lower defocus are so wide that any background looks like them.
    grid = np.arange(max(start - span, 0.3 * start), start + span, TABLE_STEP)
    k, ripple, weight = tile_curves(fit, spectra)
    envelope = np.sqrt(np.maximum(np.interp(k, fit.profile.data.k, radial_depth(fit)), 1e-6))
    plane = np.asarray([start, 0.0, 0.0])
    for round_ in range(3):
        table = _tabulate(fit, k, ripple, weight * envelope, grid)

        def score(p: np.ndarray, table: np.ndarray = table) -> float:
            if math.hypot(p[1], p[2]) > steepest or not grid[0] <= p[0] <= grid[-1]:
                return math.inf
            return -_along_plane(table, grid, place, p)

        if round_ == 0:
            plane = _best_of_grid(table, grid, place, start, steepest, reach)
        for _ in range(2):
            simplex = plane + np.asarray([[0, 0, 0], [80, 0, 0], [0, 80 / reach, 0], [0, 0, 80 / reach]])
            plane = minimize(score, plane, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-4}).x
        envelope = aligned_depth(fit, k, ripple, weight, plane[0] + place @ plane[1:])
    level = max(-score(np.asarray([d, 0.0, 0.0])) for d in grid)
    # Variance of the score when there are no rings: factors ripple, tiles share pixels.
    noise = (
        float((weight * envelope**2).sum() * 0.5 * len(place))
        * spectra.variance_factor()
        / spectra.tile_variance_factor()
    )
    gradient = plane[1:]
    return TiltFit(
        defocus=float(plane[0]),
        gradient=gradient,
        tilt=math.atan(float(np.hypot(*gradient))),
        axis=math.atan2(gradient[1], -gradient[0]) % math.pi,
        improvement=float((-score(plane) - level) / math.sqrt(max(noise, 1e-30))),
    )


def radial_depth(fit: RingFit) -> np.ndarray:
    """Depth of the rings at each shell used, `(n_rows,)`."""
    return fit.profile.depth_basis @ fit.solution.depth


def tile_curves(fit: RingFit, spectra: TileSpectra) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ripple of each tile along lines of equal phase: frequencies `(n,)`, ripple `(n_tiles, n)`, weight `(n,)`."""
    data = fit.profile.data
    q = equiphase_k2(data.k2, data.k2_cos, data.k2_sin, fit.defocus, fit.profile.beam)
    step = 1.0 / (spectra.tile * spectra.pixel_size)
    index = np.rint(np.sqrt(np.maximum(q, 0)) / step).astype(np.int64)
    count = spectra.bins.count[data.column]
    total = np.bincount(index, count)
    present = np.flatnonzero(total > 0)
    # Per tile: mean over the bins of each line of power over the smooth mean.
    lever = count / data.scale
    curves = (
        np.stack(
            [
                np.bincount(index, lever * power, minlength=len(total))[present]
                for power in spectra.power[:, data.column]
            ]
        )
        / total[present]
    )
    k = np.bincount(index, count * np.sqrt(data.k2))[present] / total[present]
    x = spline_basis(np.sqrt(k), math.sqrt(k[0]), math.sqrt(k[-1]), 6)
    weight = total[present]
    root = np.sqrt(weight)[:, None]
    level = x @ np.linalg.lstsq(x * root, curves.T * root, rcond=None)[0]  # (n, n_tiles): tiles differ in brightness
    return k, curves / np.maximum(level.T, 1e-6) - 1, weight


def _tabulate(fit: RingFit, k: np.ndarray, ripple: np.ndarray, weight: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Agreement of each tile with rings of each defocus, `(n_tiles, n_grid)`."""
    beam = fit.profile.beam
    phase = beam.double_phase_at_focus(k**2)[:, None] - 2 * math.pi * beam.wavelength * k[:, None] ** 2 * grid[None, :]
    rings = -np.cos(phase - 2 * fit.defocus.phase_shift)
    return (ripple * weight) @ rings


def _along_plane(table: np.ndarray, grid: np.ndarray, place: np.ndarray, plane: np.ndarray) -> float:
    """Sum of the table along a plane `(defocus, slope y, slope x)`."""
    at = (plane[0] + place @ plane[1:] - grid[0]) / TABLE_STEP
    return float(map_coordinates(table, [np.arange(len(table)), at], order=1, mode="nearest").sum())


def _best_of_grid(
    table: np.ndarray, grid: np.ndarray, place: np.ndarray, start: float, steepest: float, reach: float
) -> np.ndarray:
    """Best plane of a grid over all slopes, with the defocus at the centre near the start."""
    step = 120.0 / reach
    n = math.ceil(steepest / step)
    shifts = np.rint(np.arange(-500.0, 501.0, 2 * TABLE_STEP) / TABLE_STEP).astype(int)
    centre = round((start - grid[0]) / TABLE_STEP)
    tiles = np.arange(len(table))[:, None]
    best, plane = -np.inf, np.asarray([start, 0.0, 0.0])
    for i in range(-n, n + 1):
        for j in range(-n, n + 1):
            slope = np.asarray([i, j]) * step
            if math.hypot(*slope) > steepest:
                continue
            at = centre + np.rint(place @ slope / TABLE_STEP).astype(int)[:, None] + shifts[None, :]
            total = table[tiles, np.clip(at, 0, len(grid) - 1)].sum(axis=0)
            top = int(np.argmax(total))
            if total[top] > best:
                best, plane = float(total[top]), np.asarray([start + shifts[top] * TABLE_STEP, *slope])
    return plane


def aligned_depth(
    fit: RingFit, k: np.ndarray, ripple: np.ndarray, weight: np.ndarray, defocus: np.ndarray
) -> np.ndarray:
    """Depth of the rings when each tile has its own defocus: smoothed projection on them, never negative."""
    beam = fit.profile.beam
    phase = (
        beam.double_phase_at_focus(k**2)[None, :] - 2 * math.pi * beam.wavelength * k[None, :] ** 2 * defocus[:, None]
    )
    rings = -np.cos(phase - 2 * fit.defocus.phase_shift)
    kernel = np.hanning(33)[1:-1]
    top = np.convolve(weight * (ripple * rings).sum(0), kernel, "same")
    return np.maximum(top / np.convolve(weight * (rings**2).sum(0), kernel, "same"), 1e-6)
