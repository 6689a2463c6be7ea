"""Fourier shell correlation and its relatives: resolution, SSNR, differential phase residual.

`FSC(s) = Σ Re(A conj(B)) / sqrt(Σ|A|² Σ|B|²)` over shell `s` of the full spectrum (Harauz and van Heel 1986), the
Fourier ring correlation for images. Sums are float64; half spectra count their columns as `fourier.shells` says.
"""

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import half_spectrum_weights, rfftn, shell_index, shell_sum, spread_shells

Curve = Tensor | np.ndarray | Sequence[float]


def fourier_shell_correlation(a: Tensor, b: Tensor, ndim: int | None = None) -> Tensor:
    """FSC of real volumes (or FRC of images).

    Parameters
    ----------
    a, b
        Real, `(*batch, [d,] h, w)`, equal shapes.
    ndim
        Number of axes to transform; by default all.

    Returns
    -------
    fsc
        `(*batch, box // 2 + 1)` float64; a shell without power gives 0.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
    ndim = a.ndim if ndim is None else ndim
    return fsc_from_dft(rfftn(a, ndim), rfftn(b, ndim), a.shape[-ndim:])


def fsc_from_dft(dft_a: Tensor, dft_b: Tensor, image_shape: Sequence[int]) -> Tensor:
    """FSC of half spectra `(*batch, [d,] h, w // 2 + 1)`, `(*batch, box // 2 + 1)` float64."""
    cross, power_a, power_b = cross_and_powers(dft_a, dft_b, image_shape)
    return _ratio(cross, (power_a * power_b).sqrt())


def cross_and_powers(dft_a: Tensor, dft_b: Tensor, image_shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """`Σ Re(A conj(B))`, `Σ|A|²` and `Σ|B|²` per shell of the full spectrum, each `(*batch, box // 2 + 1)` float64."""
    same = dft_a.shape == dft_b.shape and dft_a.dtype == dft_b.dtype
    if dft_a.device.type == "cpu" and same and not (dft_a.requires_grad or dft_b.requires_grad):
        return _cross_and_powers_cpu(dft_a, dft_b, tuple(int(n) for n in image_shape))
    real_a, imag_a, real_b, imag_b = dft_a.real, dft_a.imag, dft_b.real, dft_b.imag
    cross = shell_sum(real_a * real_b + imag_a * imag_b, image_shape)
    power_a = shell_sum(real_a**2 + imag_a**2, image_shape)
    power_b = shell_sum(real_b**2 + imag_b**2, image_shape)
    return cross, power_a, power_b


def _cross_and_powers_cpu(dft_a: Tensor, dft_b: Tensor, image_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """`cross_and_powers` in one pass over both spectra, without copies of them."""
    ndim, n_shells = len(image_shape), max(image_shape) // 2 + 1
    index = shell_index(image_shape).reshape(-1).numpy()
    columns = half_spectrum_weights(image_shape[-1]).double().numpy()
    batch = dft_a.shape[:-ndim]
    pairs = [
        torch.view_as_real(dft.detach().resolve_conj().contiguous()).reshape(-1, len(index), 2).numpy()
        for dft in (dft_a, dft_b)
    ]
    sums = np.zeros((len(pairs[0]), n_shells + 1, 3))
    _add_shells(pairs[0], pairs[1], index, columns, sums)
    found = torch.from_numpy(sums[:, :n_shells]).reshape(*batch, n_shells, 3)
    return found[..., 0].contiguous(), found[..., 1].contiguous(), found[..., 2].contiguous()


@numba.njit(nogil=True, cache=True)
def _add_shells(a: np.ndarray, b: np.ndarray, index: np.ndarray, columns: np.ndarray, sums: np.ndarray) -> None:
    """Add `(batch, m, 2)` coefficients to `sums` `(batch, shells, 3)`, each as often as its column counts."""
    width = len(columns)
    for i in range(a.shape[0]):
        for row in range(a.shape[1] // width):
            for column in range(width):
                j = row * width + column
                weight = columns[column]
                ar, ai = np.float64(a[i, j, 0]), np.float64(a[i, j, 1])
                br, bi = np.float64(b[i, j, 0]), np.float64(b[i, j, 1])
                s = index[j]
                sums[i, s, 0] += weight * (ar * br + ai * bi)
                sums[i, s, 1] += weight * (ar * ar + ai * ai)
                sums[i, s, 2] += weight * (br * br + bi * bi)


def shell_counts(image_shape: Sequence[int]) -> Tensor:
    """Voxels of each shell of the full spectrum, `(box // 2 + 1,)` float64.

    Half of them are independent complex coefficients. The FSC of independent white noise has variance `1 / count`.
    """
    return shell_sum(torch.ones(*image_shape[:-1], image_shape[-1] // 2 + 1), image_shape)


def resolution_at(fsc: Curve, threshold: float, box: int, pixel_size: float) -> float:
    """Resolution in Å at which the curve first falls below `threshold`.

    The crossing is interpolated linearly between shells. Shell 0 counts as 1. A curve that never falls gives the
    Nyquist length (that of the last shell).

    Parameters
    ----------
    fsc
        One value per shell from shell 0, `(n,)`.
    threshold
        For instance 0.143 (half maps) or 0.5 (map against truth).
    box, pixel_size
        Pixels along the axis, Å per pixel; shell `s` is the frequency `s / (box * pixel_size)`.
    """
    crossing = crossing_shell(fsc, threshold)
    return math.inf if crossing <= 0 else box * pixel_size / crossing


def crossing_shell(fsc: Curve, threshold: float | Curve) -> float:
    """Shell, interpolated, at which the curve first falls below a threshold (a number or one per shell)."""
    values = torch.as_tensor(fsc, dtype=torch.float64).cpu().numpy().copy()
    if values.ndim != 1:
        raise ValueError(f"fsc: expected one curve (n,), got shape {values.shape}")
    limit = np.broadcast_to(torch.as_tensor(threshold, dtype=torch.float64).cpu().numpy(), values.shape)
    values = np.nan_to_num(values, nan=0.0)
    values[0] = max(1.0, float(limit[0]))
    above = values - limit
    below = np.flatnonzero(above < 0)
    if len(below) == 0:
        return float(len(values) - 1)
    s = int(below[0])
    return s - 1 + float(above[s - 1] / (above[s - 1] - above[s]))


def ssnr_from_fsc(fsc: Curve, *, halves: bool = True) -> Tensor:
    """Spectral signal-to-noise ratio from an FSC.

    Parameters
    ----------
    halves
        True: the FSC is that of two half maps and the ratio that of their sum, `2 FSC / (1 - FSC)`. False: the ratio
        of one half, `FSC / (1 - FSC)`. Negative FSC gives 0, FSC 1 infinity.
    """
    fsc = torch.as_tensor(fsc, dtype=torch.float64).clamp(0.0, 1.0)
    return (2.0 if halves else 1.0) * fsc / (1.0 - fsc)


def fsc_of_full_map(fsc: Curve) -> Tensor:
    """Expected FSC of the full map with the truth, `sqrt(2 FSC / (1 + FSC))` (Rosenthal and Henderson 2003).

    At a half-map FSC of 1/7 = 0.143 it is 0.5.
    """
    fsc = torch.as_tensor(fsc, dtype=torch.float64).clamp(0.0, 1.0)
    return (2.0 * fsc / (1.0 + fsc)).sqrt()


def differential_phase_residual(dft_a: Tensor, dft_b: Tensor, image_shape: Sequence[int]) -> Tensor:
    """DPR of Frank et al. 1981 in degrees, `(*batch, box // 2 + 1)`.

    `sqrt(Σ Δφ² (|A| + |B|) / Σ (|A| + |B|))`; the second spectrum is first scaled to the power of the first, per
    shell. Equal maps give 0, independent noise 104 (= 180 / √3); the usual limit is 45 degrees.
    """
    _, power_a, power_b = cross_and_powers(dft_a, dft_b, image_shape)
    scale = _ratio(power_a, power_b).sqrt()
    weight = dft_a.abs() + dft_b.abs() * spread_shells(scale, image_shape)
    difference = torch.angle(dft_a * dft_b.conj())
    return torch.rad2deg(_ratio(shell_sum(difference**2 * weight, image_shape), shell_sum(weight, image_shape)).sqrt())


def half_bit_threshold(counts: Curve, *, bits: float = 0.5) -> Tensor:
    """Information threshold of van Heel and Schatz 2005 (doi:10.1016/j.jsb.2005.05.009), half a bit by default.

    Parameters
    ----------
    counts
        Effective number of voxels of each full shell, `(n,)`.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    snr = (2.0**bits - 1.0) / 2.0  # of one half map; SNR 0.2071 for half a bit
    root = counts.clamp_min(1.0).rsqrt()
    return (snr + 2 * math.sqrt(snr) * root + root) / (1 + snr + 2 * math.sqrt(snr) * root)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient, 0 where the denominator is 0."""
    safe = torch.where(denominator > 0, denominator, torch.ones_like(denominator))
    return torch.where(denominator > 0, numerator / safe, torch.zeros_like(numerator))
