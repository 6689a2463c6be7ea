"""What the voxels of a map say about it: solvent flatness, contrast, skewness, and its Wilson plot."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.maps.filter import lowpass
from cryoloom.maps.protein import (
    CORRELATION_LENGTH,
    protein_log_amplitude,
    protein_log_amplitude_spread,
)
from cryoloom.maps.spectrum import fit_bfactor, shell_frequencies, signal_and_noise_power

WILSON_LIMIT = 3.0
"""Root mean square of the deviations from a protein's profile, in standard deviations, from which on they are told."""


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of the mean of two half maps, low-passed to its resolution.

    Attributes
    ----------
    contrast
        Mean inside the mask minus mean of the solvent, in standard deviations of the solvent; negative where the
        contrast is inverted.
    flatness
        Standard deviation of the solvent over that inside.
    skewness
        Of the density inside; proteins at better than 8 Å have a positive one.
    solvent_zero
        Fraction of the solvent's voxels that are exactly 0: of masked maps, 1.
    """

    contrast: float
    flatness: float
    skewness: float
    solvent_zero: float


@dataclass(frozen=True)
class WilsonPlot:
    """Spectrum of the signal beside that of an average protein.

    Attributes
    ----------
    bfactor, bfactor_error
        Å2 of the fit; positive for a blurred map.
    deviation
        Root mean square of the residuals over the spread among proteins and chance; about 1 for a protein.
    frequency, log_amplitude, line
        The points (relative to the protein's profile) and the fit, `(n,)`; NaN where not used.
    """

    bfactor: float
    bfactor_error: float
    deviation: float
    frequency: np.ndarray
    log_amplitude: np.ndarray
    line: np.ndarray


def map_statistics(half1: Tensor, half2: Tensor, mask: Tensor, pixel_size: float, resolution: float) -> MapStatistics:
    """Statistics of half maps `(n, n, n)`; the mask in [0, 1], lengths in Å."""
    mean = 0.5 * (half1 + half2)
    smooth = lowpass(mean, pixel_size, max(resolution, 2 * pixel_size))
    inside, solvent = smooth[mask > 0.9].double(), smooth[mask < 0.01].double()
    spread = float(solvent.std()) if len(solvent) > 10 else float("nan")
    level = float(solvent.mean()) if len(solvent) > 10 else 0.0
    centred = inside - inside.mean()
    deviation = float(centred.std().clamp_min(1e-30))
    raw = mean[mask < 0.01]
    return MapStatistics(
        contrast=(float(inside.mean()) - level) / max(spread, 1e-30),
        flatness=spread / deviation,
        skewness=float((centred**3).mean()) / deviation**3,
        solvent_zero=float((raw == 0).double().mean()) if len(raw) else 0.0,
    )


def wilson_plot(
    half1: Tensor, half2: Tensor, mask: Tensor, pixel_size: float, resolution: float, variance: np.ndarray
) -> WilsonPlot | None:
    """Compare the signal's spectrum with a protein's between 10 Å and the resolution; None where that is too short.

    Parameters
    ----------
    variance
        Of the FSC of noise per shell behind the mask, `(n,)`.
    """
    if resolution > 7.0:
        return None
    shape = tuple(half1.shape)
    signal, noise = (p.numpy() for p in signal_and_noise_power(half1 * mask, half2 * mask))
    frequency = shell_frequencies(shape, pixel_size)
    positive = signal > 0
    log_amplitude = np.full(len(signal), np.nan)
    log_amplitude[positive] = 0.5 * np.log(signal[positive]) - protein_log_amplitude(frequency[positive])
    fsc = np.clip(signal / np.maximum(signal + noise, 1e-30), 0.05, 1.0)
    # The estimate of a shell's power scatters as the power itself does (few coefficients) and by the noise.
    chance = 0.25 * variance * (1.0 + 1.0 / fsc**2)
    spread = protein_log_amplitude_spread(frequency)
    try:
        fit = fit_bfactor(
            frequency,
            log_amplitude,
            chance,
            low=0.1,
            high=1 / resolution,
            model_spread=spread,
            correlation_length=CORRELATION_LENGTH,
        )
    except ValueError:
        return None
    line = np.where(fit.used, fit.line(), np.nan)
    residual = (log_amplitude - line)[fit.used] / np.sqrt(spread[fit.used] ** 2 + chance[fit.used])
    return WilsonPlot(
        bfactor=fit.bfactor,
        bfactor_error=fit.standard_error,
        deviation=float(np.sqrt(np.mean(residual**2))),
        frequency=frequency,
        log_amplitude=np.where(fit.used, log_amplitude, np.nan),
        line=line,
    )


def duplicate_rows(image: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows whose image occurred before in the set, `(m,)`, from stack names and places `(n,)`."""
    codes = np.unique(image.astype(str), return_inverse=True)[1].astype(np.int64)
    span = int(index.max()) + 1 if len(index) else 1
    _, first = np.unique(codes * span + index, return_index=True)
    return np.setdiff1d(np.arange(len(image)), first)


def near_rows(micrograph: np.ndarray, position: np.ndarray, distance: float) -> np.ndarray:
    """Rows that lie within `distance` of an earlier row of the same micrograph, `(m,)`; positions `(n, 2)`."""
    found = []
    codes = np.unique(micrograph.astype(str), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        rows = rows[np.isfinite(position[rows]).all(1)]
        if len(rows) > 1:
            pairs = cKDTree(position[rows]).query_pairs(distance, output_type="ndarray")
            found.append(rows[pairs.max(1)] if len(pairs) else np.zeros(0, np.int64))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
