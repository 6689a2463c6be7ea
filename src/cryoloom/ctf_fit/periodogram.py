"""Periodogram of a whole image in polar bins (Daniell's estimate: neighbouring frequencies averaged, no tiles)."""

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import rfftn

N_SECTORS = 36
EXTENT = 1536.0  # Å; shells are no finer than one over this
EDGE = 0.03  # part of the image that fades at each side


@dataclass(frozen=True)
class PolarPeriodogram:
    """Periodogram of an image in polar bins, only those that hold coefficients.

    Attributes
    ----------
    ratio
        Mean power over the smooth radial mean, minus 1, `(n,)`.
    weight
        Inverse variance of `ratio` where it is 0, `(n,)`.
    k2, k2_cos, k2_sin
        Means of `k²`, `k² cos 2θ`, `k² sin 2θ`, 1/Å², `(n,)`.
    shell, sector
        Frequency and direction, `(n,)` int64.
    """

    ratio: np.ndarray
    weight: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    shell: np.ndarray
    sector: np.ndarray


def polar_periodogram(image: Tensor, pixel_size: float, k_min: float, k_max: float) -> PolarPeriodogram:
    """Periodogram of the whole image, averaged in polar bins and divided by its smooth radial mean."""
    h, w = (int(n) for n in image.shape[-2:])
    fade = [torch.from_numpy(_fade(n)) for n in (h, w)]
    level = image.to(torch.float32)
    dft = rfftn(((level - level.mean()) * fade[0][:, None] * fade[1]).cpu(), 2).numpy()
    per_shell = min(EXTENT, min(h, w) * pixel_size)
    n_shells = int(k_max * per_shell) + 1
    sums = np.zeros((5, n_shells * N_SECTORS))
    _gather(dft, h, w, pixel_size, per_shell, n_shells, sums)
    count = np.maximum(sums[0], 1)
    shell = np.arange(sums.shape[1]) // N_SECTORS
    radial = sums[1].reshape(n_shells, -1).sum(1) / np.maximum(sums[0].reshape(n_shells, -1).sum(1), 1)
    k = (np.arange(n_shells)) / per_shell
    smooth = _smooth_radial(k, radial, k_min)
    use = (sums[0] > 0) & (k[shell] >= k_min) & (k[shell] <= k_max)
    if not use.any() or not np.all(np.isfinite(smooth[shell[use]])):
        raise ValueError("the power spectrum is flat or empty: this is no image of ice")
    # the taper makes neighbouring coefficients alike
    alike = float(np.prod([len(f) * float((f**4).sum()) / float((f**2).sum()) ** 2 for f in fade]))
    mean = [sums[i][use] / count[use] for i in range(1, 5)]
    return PolarPeriodogram(
        mean[0] / smooth[shell[use]] - 1, count[use] / alike, mean[1], mean[2], mean[3],
        shell[use], np.flatnonzero(use) % N_SECTORS,
    )  # fmt: skip


def _smooth_radial(k: np.ndarray, radial: np.ndarray, k_min: float) -> np.ndarray:
    """Polynomial of `log k` through the logarithm of the radial mean, robust against rings and spikes."""
    good = (k >= k_min) & (radial > 0)
    if good.sum() < 16:
        raise ValueError("the power spectrum is flat or empty: this is no image of ice")
    x = np.log(np.maximum(k, k[1]))
    low, high = x[good].min(), x[good].max()
    basis = np.polynomial.chebyshev.chebvander((2 * x - low - high) / (high - low), 5)
    target, weight = np.log(np.where(good, radial, 1.0)), good * k
    for _ in range(3):
        root = np.sqrt(weight)[:, None]
        found = np.linalg.lstsq(basis * root, target * root[:, 0], rcond=None)[0]
        misfit = np.abs(target - basis @ found)
        weight = good * k / np.maximum(1.0, misfit / (3 * np.median(misfit[good]) + 1e-9))
    return np.exp(np.where(k >= 0.5 * k_min, basis @ found, 0.0))


def _fade(n: int) -> np.ndarray:
    """Cosine edges, `(n,)` float32."""
    width = max(2, round(EDGE * n))
    ramp = np.sin(0.5 * math.pi * (np.arange(width) + 0.5) / width)
    out = np.ones(n, np.float32)
    out[:width], out[-width:] = ramp, ramp[::-1]
    return out


@numba.njit(nogil=True, cache=True)
def _gather(dft, h, w, pixel_size, per_shell, n_shells, sums):  # pragma: no cover - compiled
    """Count, power, `k²`, `k² cos 2θ`, `k² sin 2θ` summed over the coefficients of each bin."""
    n_sectors = sums.shape[1] // n_shells
    for i in range(h):
        ky = (i if 2 * i < h else i - h) / (h * pixel_size)
        for j in range(1, dft.shape[1] - 1):
            kx = j / (w * pixel_size)
            k2 = kx * kx + ky * ky
            shell = int(math.sqrt(k2) * per_shell + 0.5)
            if shell >= n_shells:
                break
            sector = min(int((math.atan2(ky, kx) / math.pi + 0.5) * n_sectors), n_sectors - 1)
            b = shell * n_sectors + sector
            value = dft[i, j]
            sums[0, b] += 1
            sums[1, b] += value.real * value.real + value.imag * value.imag
            sums[2, b] += k2
            sums[3, b] += kx * kx - ky * ky
            sums[4, b] += 2 * kx * ky
