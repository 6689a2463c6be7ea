"""Sharpening: the B-factor of a pair of half maps, and the map with its amplitudes restored.

The Guinier fit compares the amplitude that both halves share with that of an unblurred protein (an average profile
by default, or the profile of a known model) and takes the slope of the logarithm of their ratio over `k²`
(Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013). The map is multiplied by `exp(+B k² / 4)` and by
`sqrt(2 FSC / (1 + FSC))`, its expected correlation with the truth, up to its resolution. Phases are never changed.
"""

import numpy as np
from torch import Tensor

from cryoloom.maps.filter import bfactor_gain, filter_map, lowpass_gain, shell_gain
from cryoloom.maps.fsc import fsc_of_full_map
from cryoloom.maps.protein import CORRELATION_LENGTH, protein_log_amplitude, protein_log_amplitude_spread
from cryoloom.maps.spectrum import (
    GuinierFit,
    fit_bfactor,
    log_power_variance,
    shell_frequencies,
    signal_and_noise_power,
)


def estimate_bfactor(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    mask: Tensor | None = None,
    *,
    resolution: float,
    low_resolution: float = 10.0,
    profile: np.ndarray | None = None,
    effective_counts: np.ndarray | None = None,
) -> GuinierFit:
    """B-factor of two half maps `(d, h, w)` with its standard error.

    Parameters
    ----------
    half1, half2
        Half maps, unfiltered.
    pixel_size
        Å.
    mask
        By which both are multiplied, `(d, h, w)`.
    resolution, low_resolution
        The fit runs from `low_resolution` to `resolution`, Å.
    profile
        Logarithm of the amplitude of the unblurred structure per shell up to a constant, `(box // 2 + 1,)`; the
        average protein when None, whose spread then enters the standard error.
    effective_counts
        Effective voxels of each full shell (`maps.freedom`); those of the whole box when None.

    Raises
    ------
    ValueError
        If fewer than three shells lie between the two resolutions.
    """
    shape = tuple(half1.shape)
    if mask is not None:
        half1, half2 = half1 * mask, half2 * mask
    signal, noise = (power.cpu().numpy() for power in signal_and_noise_power(half1, half2))
    frequency = shell_frequencies(shape, pixel_size)
    if effective_counts is None:
        shells = np.arange(len(frequency))
        effective_counts = np.maximum(4 * np.pi * shells**2, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_amplitude = 0.5 * np.log(np.where(signal > 0, signal, np.nan))
        # Weights from a smoothed FSC: those of the noisy one would prefer the shells that chance made strong.
        fsc = _smooth(signal / np.maximum(signal + noise, 1e-30), effective_counts)
    # The logarithm of a noisy power is low on average by half its variance; both are those of half the logarithm.
    variance_power = log_power_variance(fsc, effective_counts / 2)
    if profile is None:
        log_amplitude = log_amplitude - protein_log_amplitude(frequency) + 0.25 * np.minimum(variance_power, 1.0)
        spread = protein_log_amplitude_spread(frequency)
    else:
        log_amplitude = log_amplitude - profile + 0.25 * np.minimum(variance_power, 1.0)
        spread = None
    bfactor = 0.0
    for _ in range(3):
        fit = fit_bfactor(
            frequency,
            log_amplitude - 0.5 * _within_shell(frequency, bfactor),
            0.25 * variance_power,
            low=1 / low_resolution,
            high=1 / resolution,
            model_spread=spread,
            correlation_length=CORRELATION_LENGTH,
        )
        bfactor = fit.bfactor
    return fit


def _within_shell(frequency: np.ndarray, bfactor: float) -> np.ndarray:
    """Logarithm of the mean of `exp(-B k² / 2)` over each shell relative to that at its frequency, `(n,)`."""
    node, weight = np.polynomial.legendre.leggauss(7)
    k = np.maximum(frequency[:, None] + 0.5 * frequency[1] * node, 0.0)
    share = weight * k**2
    return np.log((share * np.exp(-0.5 * bfactor * (k**2 - frequency[:, None] ** 2))).sum(1) / share.sum(1))


def sharpen_map(
    volume: Tensor, pixel_size: float, *, bfactor: float, fsc: np.ndarray | None = None, resolution: float | None = None
) -> Tensor:
    """Map with `exp(+B k² / 4)` applied, weighted by its FSC and cut at its resolution.

    Parameters
    ----------
    volume
        Mean of the half maps, `(d, h, w)`.
    bfactor
        Of the map, Å2, positive for a blurred one: it is taken out.
    fsc
        Of the halves per shell, `(box // 2 + 1,)`; the map is weighted by `sqrt(2 FSC / (1 + FSC))`.
    resolution
        Low-pass in Å, with a soft edge.
    """
    shape = tuple(volume.shape)
    gain = bfactor_gain(shape, pixel_size, -bfactor, device=volume.device)
    if resolution is not None:
        gain = gain * lowpass_gain(shape, pixel_size, resolution, device=volume.device)
    if fsc is not None:
        gain = gain * shell_gain(fsc_of_full_map(fsc), shape).to(gain.device)
    return filter_map(volume, gain)


def _smooth(curve: np.ndarray, weight: np.ndarray, reach: int = 4) -> np.ndarray:
    """Weighted straight-line fit in a sliding window of `2 reach + 1` shells, `(n,)`."""
    n = len(curve)
    smooth = np.empty(n)
    for s in range(n):
        window = np.arange(max(0, s - reach), min(n, s + reach + 1))
        u, w, y = window - s, weight[window], curve[window]
        total, first, second = w.sum(), (w * u).sum(), (w * u * u).sum()
        determinant = total * second - first**2
        smooth[s] = (second * (w * y).sum() - first * (w * u * y).sum()) / determinant if determinant > 0 else y.mean()
    return smooth
