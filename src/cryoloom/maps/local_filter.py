"""Local filtering and sharpening of a map from its two halves; no model and no template enter.

The mean of the halves is taken apart into bands of frequency. In a Gaussian window around each voxel the correlation of
the two halves in a band is the local FSC `F` (Cardone, Heymann and Steven 2013, doi:10.1016/j.jsb.2013.08.002); each
band is weighted by `2F / (1 + F)`, the share of signal in its power (Wiener's weight), up to the first band that the
halves do not share there. The blur that is taken out is the local B-factor of `maps.local_bfactor` less its standard
error (the idea of sharpening place by place is that of LocScale and LocSpiral, whose references and spiral phases are
not used). Where the halves tell little of it that of the whole map takes over. Phases in a band are those of the map.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.local_bfactor import fit_local_bfactors
from cryoloom.maps.windowed import WindowedHalves, raised_cosine

SHARED = 0.143
"""Local FSC below which a band counts as not shared."""


@dataclass(frozen=True)
class RestoredMap:
    """A map filtered and sharpened place by place.

    Attributes
    ----------
    volume
        `(n, n, n)` float32.
    bfactor
        Local B-factor that was taken out, Å2, `(n, n, n)` float32.
    bands
        Centres of the bands in 1/Å.
    """

    volume: Tensor
    bfactor: Tensor
    bands: np.ndarray


@dataclass(frozen=True)
class LocalBands:
    """What two half maps share, band by band and place by place.

    Attributes
    ----------
    centres, width
        Centres of the bands and their spacing, 1/Å.
    weights
        Wiener's weight of each band, `(n, n, n)` each.
    """

    centres: np.ndarray
    width: float
    weights: tuple[Tensor, ...]


def restore_locally(
    pair: WindowedHalves,
    *,
    resolution: float,
    bfactor: float,
    sharpen: bool = True,
    fit_low: float = 10.0,
    prior: float = 60.0,
    step: Callable[[], None] | None = None,
) -> RestoredMap:
    """Filter and sharpen the mean of two half maps place by place.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    resolution
        Of the whole map, Å; bands go some way beyond it.
    bfactor, prior
        Of the whole map, and the spread of local ones about it, Å2.
    sharpen
        Take the local B-factor out.
    fit_low
        Local B-factors are fitted from this resolution on, Å.
    step
        Called after each band, twice.
    """
    bands = measure_bands(pair, resolution=resolution, step=step)
    if sharpen:
        own = fit_local_bfactors(pair, resolution=resolution, bfactor=bfactor, fit_low=fit_low)
        local = own.safe_to_remove(bfactor, prior)
    else:
        local = torch.zeros_like(pair.mask)
    return rebuild(pair, bands, local, step=step)


def measure_bands(pair: WindowedHalves, *, resolution: float, step: Callable[[], None] | None = None) -> LocalBands:
    """What the halves share in each band around each voxel.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    resolution
        Of the whole map, Å; bands go some way beyond it.
    step
        Called after each band.
    """
    box = pair.box
    centres, width = band_centres(box, pair.pixel_size, pair.window, resolution)
    frequency = radial_frequency((box,) * 3, pair.pixel_size)
    blur = pair.blur(frequency)
    dft1, dft2 = pair.spectra()
    inside = (pair.mask > 0.5).float()
    alive = torch.ones_like(inside)
    weights: list[Tensor] = []
    for centre in centres:
        gain = band_gain(frequency, centre, width, first=centre == centres[0])
        a, b = (dft_to_image(d * gain, (box,) * 3) * inside for d in (dft1, dft2))
        cross, power = (_smooth(x, blur) for x in (a * b, 0.5 * (a * a + b * b)))
        shared = (cross / power.clamp_min(1e-30)).clamp(0.0, 0.999)
        alive = alive * (shared / SHARED).clamp(0.0, 1.0)
        weights.append(alive * 2 * shared / (1 + shared))
        if step is not None:
            step()
    return LocalBands(centres, width, tuple(weights))


def rebuild(
    pair: WindowedHalves, bands: LocalBands, bfactor: Tensor, *, step: Callable[[], None] | None = None
) -> RestoredMap:
    """The mean of the halves, each band weighted and freed of the B-factor of each place, Å2 `(n, n, n)`."""
    box = pair.box
    frequency = radial_frequency((box,) * 3, pair.pixel_size)
    dft1, dft2 = pair.spectra()
    mean = 0.5 * (dft1 + dft2)
    out = torch.zeros_like(pair.mask)
    for centre, weight in zip(bands.centres, bands.weights, strict=True):
        gain = band_gain(frequency, centre, bands.width, first=centre == bands.centres[0])
        part = dft_to_image(mean * gain, (box,) * 3)
        out += part * weight * torch.exp(0.25 * bfactor * centre**2)
        if step is not None:
            step()
    return RestoredMap(out * pair.mask, bfactor, bands.centres)


def band_centres(box: int, pixel_size: float, window: float, resolution: float) -> tuple[np.ndarray, float]:
    """Centres of bands in 1/Å and their spacing: as narrow as the window tells apart, to 20 % beyond the resolution."""
    width = max(1 / (2 * math.pi * window), 1.5 / (box * pixel_size))
    last = min(0.5 / pixel_size, 1.2 / resolution)
    n = max(4, math.ceil((last - 1.5 * width) / width) + 1)
    return 1.5 * width + width * np.arange(n), width


def band_gain(frequency: Tensor, centre: float, width: float, *, first: bool) -> Tensor:
    """Raised cosine about a centre, so that neighbouring bands add up to 1; the first one holds all below it."""
    x = (frequency - centre) / width
    gain = raised_cosine(x)
    return torch.where(x < 0, torch.ones_like(gain), gain) if first else gain


def _smooth(values: Tensor, gain: Tensor) -> Tensor:
    return dft_to_image(image_to_dft(values, 3) * gain, tuple(values.shape))
