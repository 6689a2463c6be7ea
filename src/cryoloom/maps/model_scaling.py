"""Amplitudes of a model, phases of the map: local scaling after a fitted model.

Where a model is fitted, it says how strong each band of frequency should be around each place: the amplitudes of its
atoms there. Each band of the mean map, weighted by what the halves share (`maps.local_filter`), is multiplied by the
ratio of the model's amplitude to the map's, both averaged in the same Gaussian window (the idea of LocScale, Jakobi,
Wilmanns and Sachse 2017, doi:10.7554/eLife.27131, there with radial profiles in cubes). The ratio is positive and
varies no faster than the window: no finer feature of the model comes in, and nothing where the halves share nothing.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.local_filter import SHARED, LocalBands, band_gain
from cryoloom.maps.windowed import WindowedHalves

LARGEST_GAIN = math.exp(0.25 * 500.0 / 3.0**2)
"""Of a band over the first one: what a B-factor of 500 Å2 takes at 3 Å."""


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
    shape = (pair.box,) * 3
    inside = (pair.mask > 0.5).float()
    if not float((density * inside).abs().sum()) > 0:
        raise ValueError("density: the model lies outside of the map; expected the same origin and hand")
    frequency = radial_frequency(shape, pair.pixel_size)
    blur = pair.blur(frequency)
    first, second = pair.spectra()
    theirs = image_to_dft(density.float(), 3)
    out = torch.zeros(shape)
    scale = 0.0
    for centre, weight in zip(bands.centres, bands.weights, strict=True):
        gain = band_gain(frequency, float(centre), bands.width, first=centre == bands.centres[0])
        a, b, model = (dft_to_image(dft * gain, shape) * inside for dft in (first, second, theirs))
        shared, power, wanted = (
            dft_to_image(image_to_dft(x, 3) * blur, shape).clamp_min(0)
            for x in (a * b, 0.5 * (a * a + b * b), model**2)
        )
        ratio = (wanted / torch.maximum(shared, SHARED * power).clamp_min(1e-30)).sqrt()
        if not scale:
            # grey values keep the scale of the map: in the first band both are equally strong on average
            scale = float((shared * inside).sum().sqrt() / (wanted * inside).sum().sqrt().clamp_min(1e-30))
        out += 0.5 * (a + b) * weight * (scale * ratio).clamp_max(LARGEST_GAIN)
        if step is not None:
            step()
    return out * pair.mask
