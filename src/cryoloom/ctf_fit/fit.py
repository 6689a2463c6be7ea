"""Continuous fit of defocus, astigmatism and phase shift to a spectrum in polar bins.

A periodogram averaged over `n` coefficients of `m` independent tiles scatters about its mean `P` by `P / sqrt(n m)`,
so the log-likelihood is a weighted sum of squares of `power / M - model` with `M` the smooth radial mean. Background
and depth of the rings are solved for exactly at every step (variable projection, Golub and Pereyra 1973, with a
Gauss-Newton step for the rest). Shells whose radial mean is not explained by the smooth model (structure of
the particles, an ice ring) lose weight in proportion. Standard errors come from the scatter between tiles
(sandwich estimate), so they hold whatever the noise is.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t as student

from cryoloom.ctf_fit.model import Beam, Defocus, double_phase, spline_basis
from cryoloom.ctf_fit.spectrum import TileSpectra

# Weight of the theoretical variance against the scatter of the tiles, in degrees of freedom.
PRIOR_FREEDOM = 20.0


@dataclass(frozen=True)
class RingData:
    """One spectrum prepared for fitting.

    Attributes
    ----------
    ratio
        Power over its smooth radial mean, `(n,)`, one entry per used bin.
    weight
        Inverse variance of `ratio`, `(n,)`.
    k, k2, k2_cos, k2_sin
        Frequencies, 1/Å and 1/Å², `(n,)`.
    shell
        Shell of each bin, `(n,)`.
    scale
        The smooth radial mean at each bin, `(n,)`.
    column
        Column of each bin in `TileSpectra.power`, `(n,)`.
    """

    ratio: np.ndarray
    weight: np.ndarray
    k: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    shell: np.ndarray
    scale: np.ndarray
    column: np.ndarray


@dataclass(frozen=True)
class RingFit:
    """Result of a fit.

    Attributes
    ----------
    defocus
        The maximum.
    cost
        Weighted sum of squares there.
    gain
        By how much rings lower it, compared with the background alone.
    background, depth
        `b` and `a` of the model at the bins, `(n,)`.
    jacobian
        Derivatives of the model: parameters of the phase first, then the linear ones, `(n, p)`.
    n_free
        Number of phase parameters fitted.
    """

    defocus: Defocus
    cost: float
    gain: float
    background: np.ndarray
    depth: np.ndarray
    jacobian: np.ndarray
    n_free: int


def prepare_rings(
    spectra: TileSpectra,
    smooth_mean: np.ndarray,
    k_min: float,
    k_max: float,
    avoid: tuple[tuple[float, float], ...] = (),
) -> RingData:
    """Choose the bins between `k_min` and `k_max` outside of `avoid` (1/Å) and whiten them.

    Parameters
    ----------
    smooth_mean
        Smooth radial mean of the power, `(n_shells,)`.
    """
    bins = spectra.bins
    shell = np.arange(len(bins.count)) // bins.n_sectors
    k_shell = bins.shell_k[shell]
    use = (bins.count > 0) & (k_shell >= k_min) & (k_shell <= k_max)
    for low, high in avoid:
        use &= ~((k_shell >= low) & (k_shell <= high))
    column = np.flatnonzero(use)
    scale = smooth_mean[shell[column]]
    ratio = spectra.mean[column] / scale
    weight = bins.count[column] * spectra.n_independent
    k2 = bins.k2[column]
    return RingData(
        ratio, weight, np.sqrt(k2), k2, bins.k2_cos[column], bins.k2_sin[column], shell[column], scale, column
    )


def fit_rings(
    data: RingData,
    beam: Beam,
    start: Defocus,
    *,
    fit_phase_shift: bool = False,
    n_iterations: int = 12,
    tolerance: float = 0.05,
) -> RingFit:
    """Fit from a start that lies within a ring of the truth.

    Parameters
    ----------
    tolerance
        Ends when the defocus moves by less, Å.
    """
    background, rings_basis = _linear_bases(data, start.mean, beam)
    n_free = 4 if fit_phase_shift else 3
    theta = start.as_array()
    bend = -2 * math.pi * beam.wavelength
    slopes = np.stack([bend * data.k2, bend * data.k2_cos, bend * data.k2_sin, np.full_like(data.k2, -2.0)], 1)
    at_focus = beam.double_phase_at_focus(data.k2)
    state = _solve(data, background, rings_basis, at_focus + slopes @ theta)
    damping = 1e-3
    for _ in range(n_iterations):
        coefficients, active, residual, cost, depth, phase = state
        jac = np.concatenate([(depth * np.sin(phase))[:, None] * slopes[:, :n_free], background, active[0]], 1)
        weighted = jac * data.weight[:, None]
        normal, right = weighted.T @ jac, weighted.T @ residual
        moved = False
        for _ in range(6):
            damped = normal.copy()
            damped[np.arange(n_free), np.arange(n_free)] *= 1 + damping
            step = np.linalg.lstsq(damped, right, rcond=1e-12)[0][:n_free]
            trial = theta.copy()
            trial[:n_free] += step
            new = _solve(data, background, rings_basis, at_focus + slopes @ trial)
            if new[3] <= cost:
                theta, state, moved = trial, new, True
                damping = max(damping * 0.2, 1e-9)
                break
            damping = max(10 * damping, 1e-3)
        if not moved or (np.abs(step[:3]).max() < tolerance and (n_free == 3 or abs(step[3]) < 1e-4)):
            break
    coefficients, active, residual, cost, depth, phase = state
    flat = _solve_linear(background, data.ratio, data.weight)
    cost_flat = float((data.weight * (data.ratio - background @ flat) ** 2).sum())
    jacobian = np.concatenate([(depth * np.sin(phase))[:, None] * slopes[:, :n_free], background, active[0]], 1)
    level = background @ coefficients[: background.shape[1]]
    return RingFit(Defocus(*map(float, theta)), cost, cost_flat - cost, level, depth, jacobian, n_free)


def reweigh(data: RingData, fit: RingFit, beam: Beam, n_shells_smooth: int = 9) -> RingData:
    """Lower the weight of shells whose radial mean the smooth model misses by more than chance."""
    model = fit.background - fit.depth * np.cos(double_phase(beam, fit.defocus, data.k2, data.k2_cos, data.k2_sin))
    n = int(data.shell.max()) + 1
    total = np.bincount(data.shell, data.weight, minlength=n)
    mean = np.bincount(data.shell, data.weight * (data.ratio - model), minlength=n) / np.maximum(total, 1e-30)
    chi2 = np.where(total > 0, mean**2 * total, 0.0)
    kernel = np.ones(n_shells_smooth)
    smooth = np.convolve(chi2, kernel, "same") / np.maximum(np.convolve((total > 0) * 1.0, kernel, "same"), 1)
    factor = 1 / np.maximum(1.0, smooth)
    return RingData(**{**data.__dict__, "weight": data.weight * factor[data.shell]})


def covariance(data: RingData, fit: RingFit, beam: Beam, spectra: TileSpectra) -> tuple[np.ndarray, float]:
    """Covariance of the phase parameters from the scatter between tiles, and its degrees of freedom.

    Returns
    -------
    covariance
        Of `(mean, cos, sin[, phase_shift])`, `(n_free, n_free)`.
    degrees_of_freedom
        For Student's t.
    """
    model = fit.background - fit.depth * np.cos(double_phase(beam, fit.defocus, data.k2, data.k2_cos, data.k2_sin))
    weighted = fit.jacobian * data.weight[:, None]
    normal = weighted.T @ fit.jacobian
    inverse = np.linalg.pinv(normal, rcond=1e-13, hermitian=True)
    lever = (weighted @ inverse)[:, : fit.n_free]  # (n, n_free): influence of one bin
    # From the model: each coefficient is exponentially distributed, neighbours are correlated by the taper.
    lag = 2 * beam.wavelength * abs(fit.defocus.mean) * data.k
    lags = np.linspace(0.0, float(lag.max()) + 1.0, 16)
    factor = np.interp(lag, lags, [spectra.variance_factor(x) for x in lags])
    expected = (lever * (factor * model**2 / spectra.bins.count[data.column])[:, None]).T @ lever
    # From the scatter of the tiles.
    n_tiles = len(spectra.power)
    whole, single = spectra.variance_factor(), spectra.tile_variance_factor()
    freedom = max(single / whole - 1, 0.0)
    if n_tiles < 4:
        return expected, PRIOR_FREEDOM
    scaled = lever / data.scale[:, None]
    pull = spectra.power[:, data.column].astype(np.float64) @ scaled - (model * data.scale) @ scaled
    pull *= (spectra.weight * n_tiles)[:, None]
    pull -= pull.mean(axis=0)
    shared = (n_tiles * whole / single - 1) / (n_tiles - 1)  # mean correlation of two tiles
    scatter = pull.T @ pull / (n_tiles - 1) / (1 - shared) * whole / single
    found = float(np.trace(np.linalg.solve(expected, scatter))) / fit.n_free
    weight = fit.n_free * freedom / (fit.n_free * freedom + PRIOR_FREEDOM)
    return expected * (1 + weight * (found - 1)), PRIOR_FREEDOM + fit.n_free * freedom


def interval_factor(freedom: float, level: float = 0.95) -> float:
    """Half width of a two-sided interval in standard errors."""
    return float(student.ppf(0.5 + 0.5 * level, freedom))


def _linear_bases(data: RingData, defocus: float, beam: Beam) -> tuple[np.ndarray, np.ndarray]:
    """Background functions (with a slow dependence on direction) and depth functions at the bins."""
    low, high = float(data.k.min()), float(data.k.max())
    # Background functions must be slower than the rings: count rings in the range.
    rings = abs(beam.wavelength * defocus * (high**2 - low**2) - 0.5 * beam.cs_mm * 1e7 * beam.wavelength**3 * high**4)
    n_background = int(np.clip(round(1.2 * rings), 5, 12))
    x, x_low, x_high = np.sqrt(data.k), math.sqrt(low), math.sqrt(high)
    radial = spline_basis(x, x_low, x_high, n_background)
    slow = spline_basis(x, x_low, x_high, 4)
    cos, sin = data.k2_cos / data.k2, data.k2_sin / data.k2
    background = np.concatenate([radial, slow * cos[:, None], slow * sin[:, None]], 1)
    n_depth = int(np.clip(round(0.8 * rings), 4, 9))
    return background, spline_basis(x, x_low, x_high, n_depth) @ _falling(data.k, n_depth)


def _solve_linear(basis: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weighted = basis * weight[:, None]
    normal = weighted.T @ basis
    normal[np.diag_indices_from(normal)] *= 1 + 1e-9
    return np.linalg.lstsq(normal, weighted.T @ target, rcond=1e-13)[0]


def _solve(data: RingData, background: np.ndarray, rings_basis: np.ndarray, phase: np.ndarray) -> tuple:
    """Background and non-negative depth for given phases: non-negative least squares on what the background leaves."""
    n = background.shape[1]
    rings = -np.cos(phase)[:, None] * rings_basis
    design = np.concatenate([background, rings], 1)
    weighted = design * data.weight[:, None]
    normal, right = weighted.T @ design, weighted.T @ data.ratio
    normal[np.diag_indices_from(normal)] *= 1 + 1e-9
    through = np.linalg.solve(normal[:n, :n], np.column_stack([normal[:n, n:], right[:n]]))
    left = normal[n:, n:] - normal[n:, :n] @ through[:, :-1]
    root = np.linalg.cholesky(left)
    depth = nnls(root.T, np.linalg.solve(root, right[n:] - normal[n:, :n] @ through[:, -1]))[0]
    coefficients = np.concatenate([through[:, -1] - through[:, :-1] @ depth, depth])
    residual = data.ratio - design @ coefficients
    cost = float((data.weight * residual**2).sum())
    return coefficients, (rings[:, depth > 0],), residual, cost, rings_basis @ depth, phase


def _falling(k: np.ndarray, n: int, k_falls: float = 0.08) -> np.ndarray:
    """Combinations of `n` splines over `sqrt(k)` whose non-negative sums fall beyond `k_falls` (1/Å), `(n, n)`."""
    low, high = math.sqrt(float(k.min())), math.sqrt(float(k.max()))
    centre = low + (high - low) * np.arange(n) / (n - 1)
    first = int(np.searchsorted(centre, math.sqrt(k_falls)))
    combine = np.eye(n)
    for j in range(first, n):
        combine[first : j + 1, j] = 1.0
    return combine
