"""The spectrum of one micrograph, whitened and weighted for fitting.

A periodogram averaged over `n` coefficients of `m` independent tiles scatters about its mean `P` by `P / sqrt(n m)`, so
the log-likelihood is a weighted sum of squares of `power / M - model`, with `M` the smooth radial mean.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.spectrum import TileSpectra

BEYOND_CHANCE = 2.4  # the mean of 9 squared standard normal numbers is larger in 1 % of cases


@dataclass(frozen=True)
class RingData:
    """One spectrum prepared for fitting; one entry per used bin, ordered by shell.

    Attributes
    ----------
    ratio
        Power over its smooth radial mean, `(n,)`.
    weight
        Inverse variance of `ratio`, `(n,)`.
    k2, k2_cos, k2_sin
        Squared frequencies, 1/Å², `(n,)`.
    row
        Number of the shell among those used, `(n,)` int64.
    k
        Frequency of each used shell, 1/Å, `(n_rows,)`.
    scale
        The smooth radial mean at each bin, `(n,)`.
    column
        Column of each bin in `TileSpectra.power`, `(n,)`.
    excess
        Variance of a bin over that of a periodogram, `(n,)`.
    """

    ratio: np.ndarray
    weight: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    row: np.ndarray
    k: np.ndarray
    scale: np.ndarray
    column: np.ndarray
    excess: np.ndarray


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
    shells, row = np.unique(shell[column], return_inverse=True)
    scale = smooth_mean[shell[column]]
    return RingData(
        ratio=spectra.mean[column] / scale,
        weight=bins.count[column] * spectra.n_independent,
        k2=bins.k2[column],
        k2_cos=bins.k2_cos[column],
        k2_sin=bins.k2_sin[column],
        row=row.astype(np.int64),
        k=bins.shell_k[shells],
        scale=scale,
        column=column,
        excess=np.ones(len(column)),
    )


def reweigh(data: RingData, spectra: TileSpectra, model: np.ndarray, phase: np.ndarray, lag: float) -> RingData:
    """Weights of every bin by the noise that a first fit leaves over.

    A periodogram scatters in proportion to its expectation, so bright rings count less than dark ones. Beyond that,
    where `excess_noise` or the radial mean show more than chance, the bins say less than their statistics promise.

    Parameters
    ----------
    model
        Expected `ratio`, `(n,)`.
    phase
        `2χ` of the fit, `(n,)`.
    lag
        `2 λ Δf` of the fit, Å²: rings ripple with the period `1 / (lag k)`.
    """
    floor = 0.2 * float(np.median(model))
    model = np.maximum(model, floor)
    plain = spectra.bins.count[data.column] * spectra.n_independent
    residual = data.ratio / model - 1
    base = spectra.variance_factors(abs(lag) * data.k) * spectra.n_independent
    excess = np.maximum(_radial_excess(data, plain, residual), excess_noise(data, plain, residual, phase, base))
    return dataclasses.replace(data, weight=plain / (model**2 * excess[data.row]), excess=excess[data.row])


def excess_noise(
    data: RingData, weight: np.ndarray, residual: np.ndarray, phase: np.ndarray, base: np.ndarray, n_bands: int = 12
) -> np.ndarray:
    """How much more than chance the residual scatters on patterns that ripple as the rings do, `(n_rows,)`, >= 1.

    A micrograph holds a finite number of particles, each with a transform that fluctuates over frequencies of one over
    its diameter; rings that are no finer than that are blurred by it. No CTF has rings with 4, 6, 8 or 10 lobes, so
    the residual on such patterns is all noise, of the kind that spoils the rings themselves.

    Parameters
    ----------
    weight
        Inverse variance of `residual` by the statistics of periodograms, `(n,)`.
    residual
        Power over model, minus 1, `(n,)`.
    phase
        `2χ` of the fit, `(n,)`.
    base
        Variance of a weighted sum over a shell, against independent bins, `(n_rows,)`.
    """
    n = len(data.k)
    place = (data.k - data.k[0]) / (data.k[-1] - data.k[0]) * (n_bands - 1)
    hats = np.clip(1 - np.abs(place[None, :] - np.arange(n_bands)[:, None]), 0, None)  # (n_bands, n_rows)
    turn = (data.k2_cos + 1j * data.k2_sin) / data.k2  # exp(2iθ)
    ratio = []
    for pattern in (np.sin(phase), np.cos(phase)):
        chance = hats**2 @ (base * np.bincount(data.row, weight * pattern**2, minlength=n))
        lobes = turn.copy()
        for _ in range(4):
            lobes = lobes * turn
            pull = weight * pattern * residual * lobes
            total = hats @ (np.bincount(data.row, pull.real, minlength=n) + 1j * np.bincount(data.row, pull.imag, n))
            ratio.append(np.abs(total) ** 2 / np.maximum(chance, 1e-30))
    band = np.mean(ratio, axis=0)
    padded = np.concatenate([band[:1], band, band[-1:]])
    band = 0.25 * padded[:-2] + 0.5 * band + 0.25 * padded[2:]
    # Some 30 real numbers per band, against 10 that say 1.
    return np.maximum(1.0, np.interp(place, np.arange(n_bands), (30 * band + 10) / 40))


def _radial_excess(data: RingData, weight: np.ndarray, residual: np.ndarray, width: int = 9) -> np.ndarray:
    """Squared misfit of the mean of a shell over chance, averaged over `width` shells, `(n_rows,)`; 1 where it may be.

    The structure of the particles, an ice ring or contamination are not in the smooth model.
    """
    n = len(data.k)
    total = np.bincount(data.row, weight, minlength=n)
    mean = np.bincount(data.row, weight * residual, minlength=n) / total
    kernel = np.ones(min(width, n))
    squared = np.convolve(mean**2 * total, kernel, "same") / np.convolve(np.ones(n), kernel, "same")
    return np.where(squared > BEYOND_CHANCE, squared, 1.0)
