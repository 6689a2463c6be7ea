"""Local resolution of two half maps by two methods, each with its standard error, and by both together.

FSC: both halves are filtered to one band after the other; in a Gaussian window around each voxel the correlation of the
two is the local FSC of that band (Cardone, Heymann and Steven 2013, doi:10.1016/j.jsb.2013.08.002). Significance: the
power of the mean map on the scale of its own waves against that of the noise (`maps.local_significance`). Both use the
bands of `maps.log_bands`, in maps whose noise was made white, each at the sampling it needs.

Their errors have two parts. Chance: that of the FSC or power at the crossing over the slope with which it falls. Blur:
where the resolution changes within a window, it is off by about the change of its logarithm over the window, `|∇ ln r|
w`, which is the same mistake in both methods. Both together are not their mean but the resolution that both read
through their windows (`maps.unmixing`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cryoloom.fourier import dft_to_image, good_size, image_to_dft
from cryoloom.maps.change_point import CrossingTracker, blur_cube, resample_cube
from cryoloom.maps.combine import error_of_mean, weight_of_first
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.local_significance import (
    AVERAGED_OVER,
    finest_window,
    measure_local_significance,
    noise_limit,
    window_in_waves,
)
from cryoloom.maps.log_bands import HALF_WIDTH, BandView, choose_bands, independent_values
from cryoloom.maps.unmixing import Reading, unmix_readings
from cryoloom.maps.windowed import WindowedHalves, window_transform

SHARED = 0.7
"""Correlation of what chance does to the two methods, which see the same maps: 0.6 to 0.8 in maps that are alike
everywhere."""

ROUGHNESS = 2.0
"""Mean square gradient of chance in the FSC's answer times `w²` over its variance, measured on maps alike all over."""

SLOPES = (2.0, 20.0)
"""Range of the slope of ln SSNR over ln frequency that is believed."""


@dataclass(frozen=True)
class LocalResolution:
    """Local resolution by both methods.

    Attributes
    ----------
    fsc, significance
        Å per voxel, `(d, h, w)` float32.
    fsc_error, significance_error
        Standard errors of their logarithms, `(d, h, w)` float32.
    correlation
        Of these errors, `(d, h, w)` float32: chance is shared in part, blur is the same in both.
    bands
        Centre frequencies of the bands of the FSC in 1/Å.
    window, significance_window
        Standard deviations of the windows of both in Å; the second grows with the resolution and is that of its median.
    fsc_chance, significance_chance
        The part of the errors that is chance, `(d, h, w)` float32.
    inside
        Where the particle is, `(d, h, w)` bool.
    pixel_size
        Å.
    """

    fsc: np.ndarray
    significance: np.ndarray
    fsc_error: np.ndarray
    significance_error: np.ndarray
    correlation: np.ndarray
    bands: np.ndarray
    window: float
    significance_window: float
    fsc_chance: np.ndarray
    significance_chance: np.ndarray
    inside: np.ndarray
    pixel_size: float

    @cached_property
    def consensus(self) -> np.ndarray:
        """The resolution that both methods read through their windows, Å, `(d, h, w)` float32.

        Outside the particle it is their geometric mean of least variance.
        """
        readings = (
            Reading(self.fsc, self.fsc_chance, self.window),
            Reading(self.significance, self.significance_chance, self.significance_window),
        )
        unmixed = unmix_readings(readings, self.inside, self.pixel_size)
        return np.where(self.inside, unmixed, self._mean()).astype(np.float32)

    @property
    def consensus_error(self) -> np.ndarray:
        """Standard error of the logarithm of the consensus: of the mean of both, and what unmixing changed."""
        weight = self._weight()
        error = error_of_mean(weight, self.fsc_error, self.significance_error, self.correlation)
        return np.hypot(error, np.log(self.consensus / self._mean())).astype(np.float32)

    def _weight(self) -> np.ndarray:
        return weight_of_first(self.fsc_error, self.significance_error, self.correlation)

    def _mean(self) -> np.ndarray:
        weight = self._weight()
        return self.fsc**weight * self.significance ** (1 - weight)

    def disagreement(self) -> np.ndarray:
        """Root mean square of the logarithm of the ratio of the methods in the window of the FSC, `(d, h, w)`.

        Only voxels inside count. 0.1 means that around a voxel the methods differ by about 10 %.
        """
        return self._around(np.log(self.significance / self.fsc) ** 2)

    def contradiction(self) -> np.ndarray:
        """How far both readings lie from their consensus: root mean square of the logarithm in the window of the FSC.

        `(d, h, w)`; at least half of `disagreement`. Near a border both methods err alike and hardly differ; what
        explains both contradicts them there.
        """
        return self._around(0.5 * sum(np.log(values / self.consensus) ** 2 for values in (self.fsc, self.significance)))

    def _around(self, squared: np.ndarray) -> np.ndarray:
        """Root mean square in the window of the FSC, of what is inside."""
        shape = self.fsc.shape
        where = torch.from_numpy(self.inside.astype(np.float32))
        gain = window_transform(radial_frequency(shape, self.pixel_size), self.window)
        parts = (torch.from_numpy(squared.astype(np.float32)) * where, where)
        held, whole = (dft_to_image(image_to_dft(x, 3) * gain, shape).clamp_min(0) for x in parts)
        return (held / whole.clamp_min(1e-3)).sqrt().numpy()


def measure_local_resolution(
    pair: WindowedHalves,
    *,
    threshold: float = 0.143,
    significance: float = 0.95,
    coarsest: float = 30.0,
    step: Callable[[], None] | None = None,
) -> LocalResolution:
    """Local resolution of half maps.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window; the noise is measured from the difference of the halves.
    threshold
        Of the local FSC.
    significance
        Quantile of the noise that the signal must exceed.
    coarsest
        Å of the first band.
    step
        Called after each band.
    """
    box, pixel_size, window = pair.box, pair.pixel_size, pair.window
    bands, half_widths = choose_bands(box, pixel_size, coarsest)
    dft1, dft2 = pair.white_spectra
    # Results vary no faster than the window: they are kept on a grid of two fifths of its standard deviation.
    coarse = min(box, good_size(math.ceil(2.5 * box * pixel_size / window)))
    tracker = CrossingTracker((coarse,) * 3, bands, threshold)
    for centre, half_width in zip(bands, half_widths, strict=True):
        view = BandView(box, pixel_size, float(centre), float(half_width))
        a, b = view.image(dft1), view.image(dft2)
        # The mask keeps solvent out of the windows, so that edges are not called worse than they are.
        weight = (resample_cube(pair.mask.float(), view.size) > 0.5).float()
        blur = pair.blur(view.frequency)
        cross, power1, power2 = (blur_cube(x * weight, blur, coarse) for x in (a * b, a * a, b * b))
        fsc = cross / (power1.clamp_min(0) * power2.clamp_min(0)).sqrt().clamp_min(1e-30)
        tracker.add(fsc)
        if step is not None:
            step()
    by_fsc = resample_cube(torch.from_numpy(tracker.resolution()), box).numpy()
    by_power = measure_local_significance(
        pair, threshold=threshold, significance=significance, coarsest=coarsest, step=step
    )
    values_in_window = [independent_values(window * c, h) for c, h in zip(bands, half_widths, strict=True)]
    n = np.interp(1 / by_fsc, bands, values_in_window)
    chance = (1 - threshold**2) / (np.sqrt(n) * threshold * (1 - threshold))
    least = noise_limit(threshold)
    usual = float(np.median(by_power[pair.mask.numpy() > 0.5])) if (pair.mask > 0.5).any() else coarsest
    waves = max(window_in_waves(least, significance), finest_window(pair) / usual)
    reach = math.hypot(waves, AVERAGED_OVER)
    by_chance = math.sqrt(2 / independent_values(reach, HALF_WIDTH)) * least / (least - 1)
    inside = pair.mask.numpy() > 0.5
    slope = _slope(np.log(by_fsc / by_power)[inside], chance[inside], np.full(int(inside.sum()), by_chance))
    chance, by_chance = chance / slope, by_chance / slope
    change = _change_in_window(by_fsc, chance, pair)
    mixed, by_mixed = change * window, change * by_power * reach
    fsc_error, significance_error = np.hypot(chance, mixed), np.hypot(by_chance, by_mixed)
    together = SHARED * chance * by_chance + mixed * by_mixed
    return LocalResolution(
        fsc=by_fsc,
        significance=by_power,
        fsc_error=fsc_error.astype(np.float32),
        significance_error=significance_error.astype(np.float32),
        correlation=(together / (fsc_error * significance_error)).astype(np.float32),
        bands=bands,
        window=window,
        significance_window=reach * usual,
        fsc_chance=chance.astype(np.float32),
        significance_chance=np.full_like(by_power, by_chance),
        inside=inside,
        pixel_size=pixel_size,
    )


def default_window(resolution: float, pixel_size: float) -> float:
    """Standard deviation in Å of the window for a map of that global resolution."""
    return max(1.8 * resolution, 4 * pixel_size)


def _slope(ratio: np.ndarray, chance: np.ndarray, by_chance: np.ndarray) -> float:
    """Fall of ln SSNR over ln frequency at which chance explains how the methods differ in most places.

    Parameters
    ----------
    ratio
        Logarithm of the ratio of the methods, `(n,)`.
    chance, by_chance
        What chance does to them if the slope is 1, `(n,)`.
    """
    if not len(ratio):
        return SLOPES[0]
    expected = np.median(np.sqrt(chance**2 + by_chance**2 - 2 * SHARED * chance * by_chance))
    found = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
    return float(np.clip(expected / max(found, 1e-6), *SLOPES))


def _change_in_window(values: np.ndarray, chance: np.ndarray, pair: WindowedHalves) -> np.ndarray:
    """Root mean square gradient of the logarithm in the window, without what chance brings to it, 1/Å, `(d, h, w)`.

    Half of the mean square is that of the whole particle, since in one window chance in it is large.

    Chance is alike over about the window `w`. Were its correlation at a distance `d` that of white noise in the window,
    `exp(-d² / (4 w²))`, the mean square of its gradient would be 1.5 times its variance over `w²`; crossings of noisy
    curves jump more than that, `ROUGHNESS` times in maps that are alike everywhere.
    """
    squared = np.zeros_like(values)
    for gradient in np.gradient(np.log(values), pair.pixel_size):
        squared += gradient**2
    squared -= ROUGHNESS * chance**2 / pair.window**2
    inside = (pair.mask > 0.5).float()
    gain = pair.blur(radial_frequency(values.shape, pair.pixel_size))
    parts = (torch.from_numpy(squared.astype(np.float32)) * inside, inside)
    held, whole = (dft_to_image(image_to_dft(x, 3) * gain, values.shape) for x in parts)
    mean = parts[0].sum() / inside.sum().clamp_min(1)
    return (0.5 * (held / whole.clamp_min(1e-3) + mean)).clamp_min(0).sqrt().numpy()
