"""Pictures of the rings: the measured spectrum on the left half, its fit on the right."""

import math

import numpy as np

from cryoloom.ctf_fit.estimate import CtfEstimate
from cryoloom.ctf_fit.model import Beam, double_phase

SMOOTH_SECTORS = 3


def ring_picture(estimate: CtfEstimate, beam: Beam, *, size: int = 320, k_edge: float | None = None) -> np.ndarray:
    """Measured rings (left) beside the fit (right).

    Both are scaled by the depth of the fitted rings, so that all rings are equally strong; beyond the limit of the fit
    the right half fades out.

    Parameters
    ----------
    size
        Edge of the picture in pixels.
    k_edge
        Frequency at the middle of an edge, 1/Å; the frequency at which the fit ends, and a third more, if None.

    Returns
    -------
    picture
        `(size, size)` float32, about -1 to 1, zero frequency at `size // 2`; row 0 is the most negative `ky`.
    """
    bins = estimate.spectra.bins
    highest = float(bins.shell_k.max())
    k_edge = min(highest, 1.33 * max(estimate.k_limit, 1 / 12)) if k_edge is None else k_edge
    axis = (np.arange(size) - size // 2) * (k_edge / (size // 2))
    ky, kx = axis[:, None], axis[None, :]
    k2 = ky**2 + kx**2
    k = np.sqrt(k2)
    model = -np.cos(double_phase(beam, estimate.defocus, k2, kx**2 - ky**2, 2 * kx * ky))
    end = max(estimate.k_limit, 1 / 20)
    model = model * np.clip((1.1 * end - k) / (0.1 * end), 0, 1)
    measured = _cartesian(_whitened(estimate), estimate, ky, kx)
    picture = np.where(kx < 0, measured, model)
    picture[(k > highest) | (k < float(estimate.rings.k[0]))] = 0.0
    return np.clip(picture, -2, 2).astype(np.float32)


def _whitened(estimate: CtfEstimate) -> np.ndarray:
    """Ripple of the spectrum over the smoothed depth of the rings, `(n_shells, n_sectors)`; NaN where not used."""
    bins, rings, fit = estimate.spectra.bins, estimate.rings, estimate.fit
    ripple = np.full(len(bins.count), np.nan)
    error = 1 / np.sqrt(np.maximum(bins.count[rings.column], 1) * estimate.spectra.n_independent)
    scale = np.maximum(fit.depth, 0.35 * error)
    ripple[rings.column] = (rings.ratio - fit.background) / scale
    polar = ripple.reshape(bins.n_shells, bins.n_sectors)
    # Along the rings little changes within some degrees: a short mean lets the eye see them.
    known = np.isfinite(polar)
    total, count = np.zeros(polar.shape), np.zeros(polar.shape)
    for offset in range(-SMOOTH_SECTORS, SMOOTH_SECTORS + 1):
        total += np.roll(np.where(known, polar, 0.0), offset, axis=1)
        count += np.roll(known, offset, axis=1)
    return np.where(known, total / np.maximum(count, 1), np.nan)


def _cartesian(polar: np.ndarray, estimate: CtfEstimate, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    """Linear interpolation of a polar picture with half-turn symmetry."""
    n_shells, n_sectors = polar.shape
    polar = np.nan_to_num(polar)
    step = 1.0 / (estimate.spectra.tile * estimate.spectra.pixel_size)
    shell = np.clip(np.hypot(ky, kx) / step, 0, n_shells - 1.001)
    sector = ((np.arctan2(ky, kx) + 0.5 * math.pi) / math.pi * n_sectors - 0.5) % n_sectors
    s0, t0 = np.floor(shell).astype(int), np.floor(sector).astype(int)
    fs, ft = shell - s0, sector - t0
    t1 = (t0 + 1) % n_sectors
    inner = polar[s0, t0] * (1 - ft) + polar[s0, t1] * ft
    outer = polar[s0 + 1, t0] * (1 - ft) + polar[s0 + 1, t1] * ft
    return inner * (1 - fs) + outer * fs
