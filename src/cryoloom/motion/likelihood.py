"""Likelihood of the motion, its gradient and its information, from whitened tile spectra.

Frames show one unknown specimen and independent noise. With the specimen's power `p` (in units of the noise) as its
prior, the specimen integrates out and the log-likelihood of the displacements of one tile is

`L = Σ_k w(k) |Σ_t F_t(k) exp(2πi k·d_t)|²,  w = p / (1 + T p)`,

a sum over all pairs of frames of their weighted cross-correlations at `d_t - d_s`: the weights are those of a Wiener
filter, so nothing has to be guessed (the B-factor of other programs). The expected information on one axis is
`h (T I - 1 1ᵀ)` with `h = 2 Σ_k w p (2π k)²`. Pairs can be given weights `u_ts`; `T I - 1 1ᵀ` then becomes the
Laplacian of `u`. (All pairs: Brilot 2012, doi:10.1016/j.jsb.2012.02.003, and Li 2013, doi:10.1038/nmeth.2472; the
likelihood is that of a Gaussian specimen.)
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.tiles import TileSpectra


def align_spectra(spectra: TileSpectra, tile: int, residual_px: np.ndarray) -> Tensor:
    """Spectra of one tile with the displacements `residual_px` `(t, 2)` taken out, `(t, ny, nx)` complex64."""
    if spectra.dft.is_cuda:
        return spectra.dft[tile] * phase_factors(spectra, residual_px)
    aligned = torch.empty_like(spectra.dft[tile])
    _align_kernel(spectra.dft[tile].numpy(), np.asarray(residual_px, np.float64), *_steps(spectra), aligned.numpy())
    return aligned


def phase_factors(spectra: TileSpectra, shift_px: np.ndarray) -> Tensor:
    """`exp(2πi k·s)` for shifts `(t, 2)`, `(t, ny, nx)` complex64."""
    shift = torch.as_tensor(shift_px, dtype=torch.float32, device=spectra.dft.device)
    along_y = torch.exp(2j * math.pi * shift[:, :1] * spectra.ky_per_px)
    along_x = torch.exp(2j * math.pi * shift[:, 1:] * spectra.kx_per_px)
    return along_y[:, :, None] * along_x[:, None, :]


def likelihood_weight(ssnr: np.ndarray, n_effective: np.ndarray | float) -> np.ndarray:
    """`p / (1 + T p)` for signal-to-noise ratios `p` of one frame and the number `T` of frames that count."""
    return np.asarray(ssnr / (1 + n_effective * ssnr))


def gradient(
    spectra: TileSpectra, dft: Tensor, residual_px: np.ndarray, weight: Tensor, pair_weight: np.ndarray | None = None
) -> tuple[np.ndarray, Tensor]:
    """Gradient of `L` by the displacement of each frame, and the sum of the aligned spectra.

    Parameters
    ----------
    dft
        Spectra of one tile, `(t, ny, nx)`.
    residual_px
        Displacements beyond the whole pixels by which the tile was moved, `(t, 2)`.
    weight
        `w` on the coefficients, `(ny, nx)`, multiplicity included.
    pair_weight
        `u`, `(t, t)`, or None for ones.

    Returns
    -------
    slope
        `(t, 2)` float64, per pixel.
    total
        `Σ_t` of the aligned spectra, `(ny, nx)`.
    """
    if dft.is_cuda:
        return gradient_torch(spectra, dft, residual_px, weight, pair_weight)
    n = spectra.n_frames
    deficit = np.zeros((n, n)) if pair_weight is None else 1.0 - pair_weight
    np.fill_diagonal(deficit, 0.0)
    frame, other = np.nonzero(deficit > 1e-3)
    start = np.searchsorted(frame, np.arange(n + 1))
    total = np.zeros(dft.shape[1:], np.complex64)
    slope = np.zeros((n, 2))
    _gradient_kernel(
        dft.numpy(), np.asarray(residual_px, np.float64), *_steps(spectra), weight.numpy(),
        start, other, deficit[frame, other].astype(np.float32), total, slope,
    )  # fmt: skip
    return 4 * math.pi * slope, torch.from_numpy(total)


def _steps(spectra: TileSpectra) -> tuple[float, float]:
    """Steps of the frequencies along y and x, cycles per pixel."""
    return float(spectra.ky_per_px[1]), float(spectra.kx_per_px[1])


def gradient_torch(
    spectra: TileSpectra, dft: Tensor, residual_px: np.ndarray, weight: Tensor, pair_weight: np.ndarray | None = None
) -> tuple[np.ndarray, Tensor]:
    """The twin of `gradient` in plain torch; used on a GPU."""
    aligned = dft * phase_factors(spectra, residual_px)
    flat = aligned.reshape(aligned.shape[0], -1)
    total = aligned.sum(0)
    others = total.reshape(1, -1)
    if pair_weight is not None:
        u = torch.as_tensor(pair_weight, dtype=flat.dtype, device=flat.device)
        others = u @ flat
    slopes = []
    for k in (spectra.ky_per_px[:, None], spectra.kx_per_px[None, :]):
        factor = (4 * math.pi * weight * k).reshape(-1)
        slopes.append((others * flat.conj()).imag @ factor)
    return torch.stack(slopes, -1).to(torch.float64).cpu().numpy(), total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _gradient_kernel(dft, shift, step_y, step_x, weight, start, other, deficit, total, slope):
    n, ny, nx = dft.shape
    ramp_y, ramp_x = np.empty((n, ny), np.complex64), np.empty((n, nx), np.complex64)
    _ramps(shift, step_y, step_x, ramp_y, ramp_x)
    k_x = np.arange(nx).astype(np.float32)
    aligned = np.empty_like(dft)
    for t in range(n):
        phase = ramp_x[t]
        for i in range(ny):
            factor = ramp_y[t, i]
            source, target, sums = dft[t, i], aligned[t, i], total[i]
            for j in range(nx):
                value = source[j] * (factor * phase[j])
                target[j] = value
                sums[j] += value
    rest = np.empty(nx, np.complex64)
    for t in range(n):
        slope_y, slope_x = 0.0, 0.0
        for i in range(ny):
            own, w = aligned[t, i], weight[i]
            for j in range(nx):
                rest[j] = total[i, j]
            for pair in range(start[t], start[t + 1]):
                part, theirs = deficit[pair], aligned[other[pair], i]
                for j in range(nx):
                    rest[j] -= part * theirs[j]
            sum_y, sum_x = np.float32(0), np.float32(0)
            for j in range(nx):
                value = w[j] * (rest[j].imag * own[j].real - rest[j].real * own[j].imag)
                sum_y += value
                sum_x += value * k_x[j]
            slope_y += step_y * (i if 2 * i < ny else i - ny) * sum_y
            slope_x += float(sum_x)
        slope[t, 0] = slope_y
        slope[t, 1] = step_x * slope_x


@numba.njit(nogil=True, cache=True, fastmath=True)
def _align_kernel(dft, shift, step_y, step_x, out):
    n, ny, nx = dft.shape
    ramp_y, ramp_x = np.empty((n, ny), np.complex64), np.empty((n, nx), np.complex64)
    _ramps(shift, step_y, step_x, ramp_y, ramp_x)
    for t in range(n):
        phase = ramp_x[t]
        for i in range(ny):
            factor, source, target = ramp_y[t, i], dft[t, i], out[t, i]
            for j in range(nx):
                target[j] = source[j] * (factor * phase[j])


@numba.njit(nogil=True, fastmath=True)
def _ramps(shift, step_y, step_x, ramp_y, ramp_x):
    """`exp(2πi k s)` along y `(t, ny)` in FFT order and along x `(t, nx)`, by recurrence in double precision."""
    n, ny = ramp_y.shape
    for t in range(n):
        turn, value = np.exp(2j * np.pi * step_y * shift[t, 0]), 1.0 + 0.0j
        for i in range(ny // 2 + 1):
            ramp_y[t, i] = value
            if i:
                ramp_y[t, ny - i] = value.conjugate()
            value *= turn
        turn, value = np.exp(2j * np.pi * step_x * shift[t, 1]), 1.0 + 0.0j
        for j in range(ramp_x.shape[1]):
            ramp_x[t, j] = value
            value *= turn


def information(weight: np.ndarray, ssnr: np.ndarray, shell_k2: np.ndarray) -> float:
    """`h`: information of one pair of frames on their relative shift along one axis, per pixel².

    Parameters
    ----------
    weight, ssnr
        Per shell, `(n_shells,)`.
    shell_k2
        Sum of `k²` of one axis over each shell, `(n_shells,)`.
    """
    return float(2 * (2 * math.pi) ** 2 * (weight * ssnr * shell_k2).sum())


def pair_laplacian(n_frames: int, pair_weight: np.ndarray | None = None) -> np.ndarray:
    """`T I - 1 1ᵀ`, or the Laplacian of `pair_weight` `(t, t)`."""
    if pair_weight is None:
        return n_frames * np.eye(n_frames) - np.ones((n_frames, n_frames))
    u = pair_weight * (1 - np.eye(n_frames))
    return np.asarray(np.diag(u.sum(1)) - u)


def measure_ssnr(spectra: TileSpectra, excess: np.ndarray, n_pairs: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio of one frame per shell, smoothed, zero where it cannot be told from none.

    Parameters
    ----------
    excess
        `Σ |Σ_t Y_t|² - Σ_t |Y_t|²` per shell over all tiles, `(n_shells,)`.
    n_pairs
        How often the signal of one frame is in `excess`, for each coefficient of a shell, `(n_shells,)`: `T (T - 1)`,
        less where a pattern was taken out.
    """
    n, t = spectra.n_shells, spectra.n_frames
    counts = spectra.shell_counts() * spectra.n_tiles
    raw_sum = excess / n_pairs
    smooth = np.zeros(n)
    error = np.full(n, np.inf)
    for s in range(n):
        half = max(1, round(0.06 * s))
        window = slice(max(0, s - half), min(n, s + half + 1))
        if counts[window].sum() > 0:
            smooth[s] = raw_sum[window].sum() / counts[window].sum()
            error[s] = t / (n_pairs[s] * math.sqrt(counts[window].sum()))
    ratio = np.where(smooth > 0, 2 * error / np.maximum(smooth, 1e-30), np.inf)
    return np.where(ratio < 1, smooth * (1 - np.minimum(ratio, 1) ** 2), 0.0)
