"""Phases of the map, amplitudes of something better known: local scaling after a fitted model, or a protein's profile.

Where a model is fitted, it says how strong each band of frequency should be around each place: the amplitudes of its
atoms there. Each band of the mean map, weighted by what the halves share (`maps.local_filter`), is multiplied by the
ratio of the model's amplitude to the map's, both averaged in the same Gaussian window (the idea of LocScale, Jakobi,
Wilmanns and Sachse 2017, doi:10.7554/eLife.27131, there with radial profiles in cubes). The ratio is positive and
varies no faster than the window: no finer feature of the model comes in, and nothing where the halves share nothing.

Without a model the same is done after the radial profile of an average protein, with the strength that the map has
around each place near 10 Å: every band is lifted to it on its own, so no shape of the blur is assumed (in that like
LocSpiral, Kaur and others 2021, doi:10.1038/s41467-021-21509-5, whose spiral phases are not used).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.local_filter import SHARED, LocalBands, band_gain
from cryoloom.maps.protein import protein_log_amplitude
from cryoloom.maps.windowed import WindowedHalves

LARGEST_GAIN = math.exp(0.25 * 500.0 / 3.0**2)
"""Of a band over the first one: what a B-factor of 500 Å2 takes at 3 Å."""

FROM = 10.0
"""Å; coarser bands know the solvent and keep the amplitudes of the map without a model."""


def scale_to_model(
    pair: WindowedHalves, bands: LocalBands, density: Tensor, *, step: Callable[[], None] | None = None
) -> Tensor:
    """Mean of the halves with the local amplitudes of a model, `(n, n, n)` float32.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    bands
        What the halves share (`measure_bands`).
    density
        Of the model on the grid of the halves, `(n, n, n)`.
    step
        Called after each band.

    Raises
    ------
    ValueError
        If no density of the model lies where the particle is.
    """
    inside = (pair.mask > 0.5).float()
    if not float((density * inside).abs().sum()) > 0:
        raise ValueError("density: the model lies outside of the map; expected the same origin and hand")
    theirs = image_to_dft(density.float(), 3)
    scale = 0.0

    def wanted(centre: float, gain: Tensor, blur: Tensor, shared: Tensor) -> Tensor:
        nonlocal scale
        power = _smooth((dft_to_image(theirs * gain, tuple(inside.shape)) * inside) ** 2, blur)
        if not scale:
            # grey values keep the scale of the map: in the first band both are equally strong on average
            scale = float((shared * inside).sum() / (power * inside).sum().clamp_min(1e-30))
        return scale * power

    return _scaled(pair, bands, wanted, step)


def scale_to_protein(pair: WindowedHalves, bands: LocalBands, *, step: Callable[[], None] | None = None) -> Tensor:
    """Mean of the halves with the local amplitudes of an average protein beyond 10 Å, `(n, n, n)` float32.

    Parameters
    ----------
    pair, bands, step
        As in `scale_to_model`.
    """
    strength = torch.zeros_like(pair.mask)
    since = 0.0

    def wanted(centre: float, gain: Tensor, blur: Tensor, shared: Tensor) -> Tensor:
        nonlocal strength, since
        if centre < 1 / FROM:
            return shared
        profile = centre**2 * math.exp(2 * float(protein_log_amplitude(np.array(centre))))
        if not since:
            strength, since = shared / profile, centre
        return strength * profile

    return _scaled(pair, bands, wanted, step)


def _scaled(
    pair: WindowedHalves,
    bands: LocalBands,
    wanted: Callable[[float, Tensor, Tensor, Tensor], Tensor],
    step: Callable[[], None] | None,
) -> Tensor:
    """Bands of the mean map, weighted, with the local power that `wanted(centre, gain, blur, shared)` tells."""
    shape = (pair.box,) * 3
    inside = (pair.mask > 0.5).float()
    frequency = radial_frequency(shape, pair.pixel_size)
    blur = pair.blur(frequency)
    first, second = pair.spectra()
    out = torch.zeros(shape)
    for centre, weight in zip(bands.centres, bands.weights, strict=True):
        gain = band_gain(frequency, float(centre), bands.width, first=centre == bands.centres[0])
        a, b = (dft_to_image(dft * gain, shape) * inside for dft in (first, second))
        shared, power = (_smooth(x, blur) for x in (a * b, 0.5 * (a * a + b * b)))
        believed = torch.maximum(shared, SHARED * power).clamp_min(1e-30)
        ratio = (wanted(float(centre), gain, blur, shared) / believed).sqrt()
        out += 0.5 * (a + b) * weight * ratio.clamp_max(LARGEST_GAIN)
        if step is not None:
            step()
    return out * pair.mask


def _smooth(values: Tensor, gain: Tensor) -> Tensor:
    return dft_to_image(image_to_dft(values, 3) * gain, tuple(values.shape)).clamp_min(0)
