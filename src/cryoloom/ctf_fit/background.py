"""Smooth radial mean of a spectrum: falls over orders of magnitude, and never follows the rings.

A penalised cubic spline through the logarithm of the radial mean over `sqrt(k)`, fitted robustly, gives the scale by
which spectra are whitened. Its job is the large dynamic range only: what is left of the background is part of the fit.
"""

import numpy as np

from cryoloom.ctf_fit.model import spline_basis
from cryoloom.ctf_fit.spectrum import TileSpectra


def radial_mean(spectra: TileSpectra, power: np.ndarray | None = None) -> np.ndarray:
    """Mean power of each shell, `(n_shells,)`; `power` per bin `(n_bins,)` in place of the mean over tiles."""
    bins = spectra.bins
    values = spectra.mean if power is None else power
    shape = (bins.n_shells, bins.n_sectors)
    count = bins.count.reshape(shape)
    return (values.reshape(shape) * count).sum(1) / np.maximum(count.sum(1), 1)


def smooth_mean(k: np.ndarray, power: np.ndarray, *, n_knots: int = 9, stiffness: float = 1e-3) -> np.ndarray:
    """Smooth curve through `power > 0` over `k` (1/Å); where `power` is not positive it is interpolated.

    Parameters
    ----------
    n_knots
        B-splines over `sqrt(k)`.
    stiffness
        Weight of squared second differences against the mean squared misfit of the logarithm.
    """
    good = (power > 0) & (k > 0)
    x = np.sqrt(np.maximum(k, 0))
    low, high = x[good].min(), x[good].max()
    basis = spline_basis(x, low, high, n_knots)
    target = np.log(np.where(good, power, 1.0))
    weight = good * 1.0
    bend = np.diff(np.eye(n_knots), 2, axis=0)
    penalty = stiffness * good.sum() * bend.T @ bend
    for _ in range(3):
        weighted = basis * weight[:, None]
        coefficients = np.linalg.solve(weighted.T @ basis + penalty, weighted.T @ target)
        misfit = target - basis @ coefficients
        scale = 1.4826 * np.median(np.abs(misfit[good])) + 1e-12
        weight = good / np.maximum(1.0, np.abs(misfit) / (2 * scale))
    return np.exp(basis @ coefficients)
