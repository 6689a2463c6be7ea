"""Radial spectra of maps, and the Guinier fit of a B-factor.

A blur damps amplitudes by `exp(-B k² / 4)`, so the logarithm of the signal's power falls as `-B k² / 2` below that of
the unblurred structure (Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013). The power of the signal in two
half maps is their cross power, which noise does not bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.fourier import rfftn, shell_mean
from cryoloom.maps.fsc import cross_and_powers, shell_counts


def radial_power(volume: Tensor, ndim: int = 3) -> Tensor:
    """Mean power `|F|²` of the plain forward DFT per shell, `(*batch, box // 2 + 1)` float64."""
    dft = rfftn(volume, ndim)
    return shell_mean(dft.real**2 + dft.imag**2, volume.shape[-ndim:])


def signal_and_noise_power(half1: Tensor, half2: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power per shell of what two half maps share, and of the noise of one of them.

    Both are unbiased; the signal's may come out negative where there is none.

    Returns
    -------
    signal, noise
        `(*batch, box // 2 + 1)` float64, plain forward DFT.
    """
    shape = half1.shape[-3:]
    cross, power1, power2 = cross_and_powers(rfftn(half1, 3), rfftn(half2, 3), shape)
    counts = shell_counts(shape).to(cross.device)
    signal = cross / counts
    return signal, 0.5 * (power1 + power2) / counts - signal


def shell_frequencies(image_shape: Sequence[int], pixel_size: float) -> np.ndarray:
    """Frequency of each shell in 1/Å, `(box // 2 + 1,)`."""
    box = max(int(n) for n in image_shape)
    return np.arange(box // 2 + 1) / (box * pixel_size)


@dataclass(frozen=True)
class GuinierFit:
    """A straight line through logarithms of amplitudes over `k²`.

    Attributes
    ----------
    bfactor
        Å2; positive where high frequencies are damped. Sharpening applies `-bfactor`.
    standard_error
        Of `bfactor`, Å2.
    intercept
        Logarithm of the amplitude at `k = 0`.
    frequency, log_amplitude, used
        The points, and which of them the line was fitted to.
    """

    bfactor: float
    standard_error: float
    intercept: float
    frequency: np.ndarray
    log_amplitude: np.ndarray
    used: np.ndarray

    def line(self) -> np.ndarray:
        """Values of the line at `frequency`."""
        return self.intercept - 0.25 * self.bfactor * self.frequency**2


def fit_bfactor(
    frequency: np.ndarray,
    log_amplitude: np.ndarray,
    variance: np.ndarray,
    *,
    low: float,
    high: float,
    model_spread: np.ndarray | None = None,
    correlation_length: float = 0.0,
) -> GuinierFit:
    """Weighted straight line of `log_amplitude` over `k²` between two frequencies.

    Parameters
    ----------
    frequency
        1/Å, `(n,)`.
    log_amplitude
        Logarithm of the signal's amplitude minus that of the unblurred profile, `(n,)`; points that are not finite
        are left out.
    variance
        Of each point, independent from shell to shell, `(n,)`.
    low, high
        Limits of the fit in 1/Å.
    model_spread
        Standard deviation by which true profiles differ from the assumed one, `(n,)`; these differences are alike in
        neighbouring shells.
    correlation_length
        1/Å over which such differences decay, `exp(-½ (Δk / length)²)`.

    Raises
    ------
    ValueError
        If fewer than three points lie in the range.
    """
    used = (frequency >= low) & (frequency <= high) & np.isfinite(log_amplitude) & np.isfinite(variance)
    if used.sum() < 3:
        raise ValueError(f"low, high: expected at least 3 shells between {low:.4f} and {high:.4f} 1/Å")
    k, y = frequency[used], log_amplitude[used]
    covariance = np.diag(np.maximum(variance[used], 1e-12))
    if model_spread is not None:
        spread = model_spread[used]
        if correlation_length > 0:
            alike = np.exp(-0.5 * ((k[:, None] - k[None, :]) / correlation_length) ** 2)
        else:
            alike = np.eye(len(k))
        covariance = covariance + spread[:, None] * spread[None, :] * alike
    design = np.stack([np.ones_like(k), -0.25 * k**2], axis=1)
    whitened = np.linalg.solve(covariance, design)
    normal = np.linalg.inv(design.T @ whitened)
    intercept, bfactor = normal @ (whitened.T @ y)
    return GuinierFit(
        bfactor=float(bfactor),
        standard_error=float(np.sqrt(normal[1, 1])),
        intercept=float(intercept),
        frequency=frequency,
        log_amplitude=log_amplitude,
        used=used,
    )


def log_power_variance(fsc: np.ndarray, n_independent: np.ndarray) -> np.ndarray:
    """Variance of the logarithm of the cross power of two halves per shell, `(n,)`.

    For a fixed signal of power S and noise N in each half, `(2 S N + N²) / (S² n)` with n voxels of the full shell
    and `N / S = (1 - FSC) / FSC`.

    Parameters
    ----------
    fsc
        Of the halves, `(n,)`.
    n_independent
        Independent complex coefficients of each shell, half the voxels of the full shell, `(n,)`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(fsc > 0, (1 - fsc) / np.maximum(fsc, 1e-12), np.inf)
        return (2 * ratio + ratio**2) / np.maximum(2 * n_independent, 1.0)
