"""The spectrum of one micrograph, whitened and weighted for fitting.

A periodogram averaged over `n` coefficients of `m` independent tiles scatters about its mean `P` by `P / sqrt(n m)`, so
the log-likelihood is a weighted sum of squares of `power / M - model`, with `M` the smooth radial mean.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.spectrum import TileSpectra


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
    )


def reweigh(data: RingData, model: np.ndarray, width: int = 9) -> RingData:
    """Lower the weight of shells whose radial mean a model misses by more than chance.

    The structure of the particles, an ice ring or contamination are not in the smooth model; where they are, the shell
    says less than its statistics promise.

    Parameters
    ----------
    model
        Expected `ratio`, `(n,)`.
    width
        Shells over which the misfit is averaged.
    """
    n = len(data.k)
    total = np.bincount(data.row, data.weight, minlength=n)
    mean = np.bincount(data.row, data.weight * (data.ratio - model), minlength=n) / total
    kernel = np.ones(min(width, n))
    smooth = np.convolve(mean**2 * total, kernel, "same") / np.convolve(np.ones(n), kernel, "same")
    return dataclasses.replace(data, weight=data.weight / np.maximum(1.0, smooth)[data.row])
