"""B-factors place by place: what the halves share in a window, fitted as an average protein behind a blur.

In a Gaussian window around each place the two halves, taken apart into bands, share the power `S P(k) exp(-B k² / 2)`
plus noise: `P` is that of an average protein, `S` and `B` are fitted (the Guinier fit of Rosenthal and Henderson 2003,
doi:10.1016/j.jmb.2003.07.013, in a window). The power itself is fitted and not its logarithm, by Fisher scoring with
the variance that the model says: so a band in which chance hid the signal counts as one in which there is little, where
a logarithm would have left it out and found the rest too strong. The blur is averaged over the width of each band.

A window that holds parts of different blur is ruled by the sharper one at high frequency: across a border the B-factor
of the blurred side comes out too small, over about two windows.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, good_size
from cryoloom.maps.change_point import blur_cube, resample_cube
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.protein import protein_log_amplitude
from cryoloom.maps.windowed import WindowedHalves, raised_cosine

LOCAL_SPREAD = 0.15
"""Standard deviation with which the logarithm of the amplitudes of a part differs from that of an average protein."""

LARGEST_ERROR = 1000.0
"""Å2; a local B-factor that is told no better than this is no answer."""

LARGEST_B = 500.0

HOLD = 300.0
"""Å2; spread of a prior about the start that keeps the fit finite where there is no signal."""

STEPS = 12


@dataclass(frozen=True)
class LocalBfactors:
    """B-factors in every voxel.

    Attributes
    ----------
    bfactor, error
        Å2 and standard error, `(n, n, n)` float32; NaN and infinite where the halves tell nothing.
    window
        Standard deviation of the window, Å.
    """

    bfactor: Tensor
    error: Tensor
    window: float

    def drawn_to(self, bfactor: float, spread: float) -> Tensor:
        """The same, drawn to a B-factor about which local ones have this standard deviation, within 0 and 500 Å2."""
        return self._drawn(bfactor, spread)[0].clamp(0.0, LARGEST_B)

    def safe_to_remove(self, bfactor: float, spread: float) -> Tensor:
        """The same less one standard error: blur that is left costs less than noise that is blown up."""
        value, information = self._drawn(bfactor, spread)
        return (value - information.rsqrt()).clamp(0.0, LARGEST_B)

    def _drawn(self, bfactor: float, spread: float) -> tuple[Tensor, Tensor]:
        """Value drawn to a B-factor, and its inverse variance."""
        information = self.error**-2
        draw = spread**-2
        own = torch.where(information > 0, self.bfactor, torch.zeros_like(self.bfactor))
        return (information * own + draw * bfactor) / (information + draw), information + draw


def fit_local_bfactors(
    pair: WindowedHalves, *, resolution: float, bfactor: float, fit_low: float = 10.0
) -> LocalBfactors:
    """Fit the B-factor around each voxel of two half maps.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    resolution
        Of the whole map, Å; the fit runs from `fit_low` to it.
    bfactor
        From which the fit starts, Å2.
    fit_low
        Å.

    Raises
    ------
    ValueError
        If there is no room between `fit_low` and the resolution.
    """
    if resolution >= 0.9 * fit_low:
        raise ValueError(f"resolution: expected better than {0.9 * fit_low:.1f} Å, got {resolution:.1f}")
    centres, width = _bands(pair, resolution, fit_low)
    shared, noise, told = _powers(pair, centres, width)
    n_values = torch.tensor([max(pair.independent_values(float(c), width), 1.0) for c in centres])
    value, error = _fit(shared[:, told], noise[:, told], centres, width, n_values, max(bfactor, 0.0))
    maps = []
    for values, otherwise in ((value, max(bfactor, 0.0)), (error.clamp_min(1e-3).reciprocal(), 0.0)):
        cube = torch.full(told.shape, otherwise, dtype=torch.float32)
        cube[told] = values
        maps.append(resample_cube(cube, pair.box))
    known = maps[1] > 1 / LARGEST_ERROR
    nothing, endless = torch.tensor(math.nan), torch.tensor(math.inf)
    return LocalBfactors(
        torch.where(known, maps[0], nothing), torch.where(known, 1 / maps[1].clamp_min(1e-9), endless), pair.window
    )


def _bands(pair: WindowedHalves, resolution: float, fit_low: float) -> tuple[np.ndarray, float]:
    """Centres and half width of bands twice as wide as the window tells apart: narrower ones would smear the map."""
    width = max(1 / (math.pi * pair.window), 1.5 / (pair.box * pair.pixel_size))
    first, last = 1 / fit_low, min(1 / resolution, 0.5 / pair.pixel_size)
    n = max(3, round((last - first) / width))
    return np.linspace(first, last, n + 1), (last - first) / n


def _powers(pair: WindowedHalves, centres: np.ndarray, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Power the halves share and noise power of one, per band and place, and where they can be told, on a coarse grid.

    `(bands, m, m, m)` twice, `(m, m, m)` bool.
    """
    shape = (pair.box,) * 3
    frequency = radial_frequency(shape, pair.pixel_size)
    blur = pair.blur(frequency)
    first, second = pair.spectra()
    inside = (pair.mask > 0.5).float()
    coarse = min(pair.box, good_size(math.ceil(2.0 * pair.box * pair.pixel_size / pair.window)))
    held = blur_cube(inside, blur, coarse)
    told = held > 0.02 * float(held.max())
    cover = held.clamp_min(0.02 * float(held.max()))
    shared, noise = [], []
    for centre in centres:
        gain = raised_cosine((frequency - float(centre)) / width)
        a, b = (dft_to_image(dft * gain, shape) * inside for dft in (first, second))
        shared.append(blur_cube(a * b, blur, coarse) / cover)
        noise.append(0.5 * blur_cube((a - b) ** 2, blur, coarse) / cover)
    power = torch.stack(noise)
    return torch.stack(shared), power.clamp_min(1e-6 * float(power.max())), told


def _fit(
    shared: Tensor, noise: Tensor, centres: np.ndarray, width: float, n_values: Tensor, start: float
) -> tuple[Tensor, Tensor]:
    """B-factor and its standard error of `m` places from `(bands, m)` powers, by Fisher scoring in ln S and B."""
    node, share = np.polynomial.legendre.leggauss(5)
    k = centres[:, None] + width * node
    weight = share * (0.5 + 0.5 * np.cos(np.pi * node)) ** 2 * k**2 * np.exp(2 * protein_log_amplitude(k))
    profile = torch.from_numpy(weight / weight.mean()).float()[..., None]  # (bands, nodes, 1)
    half_k2 = torch.from_numpy(0.5 * k**2).float()[..., None]
    unit = shared.abs().mean().clamp_min(1e-30)
    shared, noise, n = shared / unit, noise / unit, n_values[:, None]
    bfactor = torch.full(shared.shape[1:], start)
    model, _ = _model(profile, half_k2, bfactor)
    trust = n / noise**2
    strength = ((shared * model * trust).sum(0) / (model**2 * trust).sum(0)).clamp_min(1e-9).log()
    hold = HOLD**-2
    for _ in range(STEPS):
        model, fall = (strength.exp() * x for x in _model(profile, half_k2, bfactor))
        variance = (2 * model * noise + noise**2) / n + (2 * LOCAL_SPREAD * model) ** 2
        rest = (shared - model) / variance
        ss, sb, bb = (model**2 / variance).sum(0), (model * fall / variance).sum(0), (fall**2 / variance).sum(0)
        ss = 1.001 * ss + 1e-9
        push_s, push_b = (model * rest).sum(0), (fall * rest).sum(0) - (bfactor - start) * hold
        determinant = (ss * (bb + hold) - sb**2).clamp_min(1e-30)
        strength = strength + (((bb + hold) * push_s - sb * push_b) / determinant).clamp(-1.0, 1.0)
        bfactor = (bfactor + ((ss * push_b - sb * push_s) / determinant).clamp(-60.0, 60.0)).clamp(-200.0, 800.0)
    return bfactor, (bb - sb**2 / ss).clamp_min(1e-12).rsqrt()


def _model(profile: Tensor, half_k2: Tensor, bfactor: Tensor) -> tuple[Tensor, Tensor]:
    """Power of each band behind the blur, and its derivative by B, `(bands, m)` each."""
    parts = profile * torch.exp(-bfactor * half_k2)
    return parts.sum(1), -(parts * half_k2).sum(1)
