"""Local resolution by significance: where signal stands out of the noise of the mean map, on the scale of its waves.

The mean of the halves is filtered to one band after the other, and the power in a window of half a wavelength is
held against the noise of that band (the idea of MonoRes, Vilas et al. 2018, doi:10.1016/j.str.2017.12.018, with power
in a window in place of the monogenic amplitude). The noise is that of the difference of the halves: its spectrum from
the whole particle, its level from all frequencies around each place. So it hardly scatters, but its spectrum must be
alike everywhere; the FSC of `maps.local_resolution` measures it in each place and band, within a window that is larger.
The two methods fail for different reasons, and where the map changes within the larger window they differ.

The window is so large that power which chance exceeds with `1 - significance` is that of a signal whose FSC is
`threshold`: both methods then read the resolution on one scale. With noise power 1 in the mean map a signal of FSC `F`
has `2 F / (1 - F)`; the power of noise in a window of `n` independent values follows a χ² of `n` over `n`. In the mean
its logarithm is `1 / n` too low, which is made good. What is left of chance is averaged out of the logarithms of the
answers: there a good place does not outweigh a bad one, as it does in a mean of powers.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from cryoloom.fourier import dft_to_image, good_size, half_spectrum_weights, image_to_dft
from cryoloom.maps.change_point import CrossingTracker, blur_cube, resample_cube
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.log_bands import HALF_WIDTH, BandView, choose_bands, independent_values
from cryoloom.maps.windowed import WindowedHalves, window_transform

AVERAGED_OVER = 1.2
"""Wavelengths over which the logarithms of answers are averaged in the end (standard deviation)."""

GRID = 0.3
"""Spacing of the answers over the window of the pair: about half a wavelength at the resolution of the map."""


def measure_local_significance(
    pair: WindowedHalves,
    *,
    threshold: float = 0.143,
    significance: float = 0.95,
    coarsest: float = 30.0,
    step: Callable[[], None] | None = None,
) -> np.ndarray:
    """Finest resolution at which signal is significant around each voxel.

    Parameters
    ----------
    pair
        The halves and where the particle is; its window is that of the level of the noise alone.
    threshold
        FSC that significant power stands for.
    significance
        Quantile of the noise.
    coarsest
        Å of the first band.
    step
        Called after each band.

    Returns
    -------
    resolution
        Å per voxel, `(d, h, w)` float32.
    """
    box, pixel_size = pair.box, pair.pixel_size
    least = noise_limit(threshold)
    waves = window_in_waves(least, significance)
    bands, half_widths = choose_bands(box, pixel_size, coarsest)
    first, second = pair.white_spectra
    dft = 0.5 * (first + second)
    grid = _grid(pair)
    level = resample_cube(_noise_level(pair), grid)
    tracker = CrossingTracker((grid,) * 3, bands, 0.0)
    for centre, half_width in zip(bands, half_widths, strict=True):
        view = BandView(box, pixel_size, float(centre), float(half_width))
        window = max(waves / float(centre), finest_window(pair))
        weight = (resample_cube(pair.mask.float(), view.size) > 0.5).float()
        blur = window_transform(view.frequency, window)
        inside, held = (blur_cube(x, blur, grid) for x in (weight, view.image(dft) ** 2 * weight))
        expected = 0.5 * float((view.gain**2 * half_spectrum_weights(view.size)).sum()) / box**3
        ratio = held / (inside.clamp_min(1e-3 * float(inside.max())) * expected * level)
        chance = 1 / independent_values(window * float(centre), float(half_width))
        tracker.add(ratio.clamp(0.01, 100).log() + chance - math.log(least))
        if step is not None:
            step()
    return _averaged(resample_cube(torch.from_numpy(tracker.resolution()), box), pair)


def noise_limit(threshold: float) -> float:
    """Power of the mean map over that of its noise where the FSC of the halves is `threshold`."""
    return 1 + 2 * threshold / (1 - threshold)


def window_in_waves(least: float, significance: float) -> float:
    """Standard deviation of the window in wavelengths at which chance exceeds the power `least` so often."""
    low, high = 0.05, 50.0
    for _ in range(30):
        waves = math.sqrt(low * high)
        n = independent_values(waves, HALF_WIDTH)
        low, high = (waves, high) if chi2.ppf(significance, n) / n > least else (low, waves)
    return high


def finest_window(pair: WindowedHalves) -> float:
    """Standard deviation of the smallest window in Å: one spacing of the grid on which answers are kept."""
    return pair.box * pair.pixel_size / _grid(pair)


def _grid(pair: WindowedHalves) -> int:
    """Points on a side of the grid on which answers are kept."""
    return min(pair.box, good_size(math.ceil(pair.box * pair.pixel_size / (GRID * pair.window))))


def _averaged(resolution: Tensor, pair: WindowedHalves) -> np.ndarray:
    """Geometric mean over neighbours within the particle, a Gaussian `AVERAGED_OVER` median wavelengths wide."""
    inside = pair.mask > 0.5
    if not inside.any():
        return resolution.numpy()
    frequency = radial_frequency((pair.box,) * 3, pair.pixel_size)
    blur = window_transform(frequency, AVERAGED_OVER * float(resolution[inside].median()))
    held, whole = (_smooth(x, blur) for x in (resolution.log() * inside, inside.float()))
    return torch.where(inside, (held / whole.clamp_min(1e-3)).exp(), resolution).numpy()


def _noise_level(pair: WindowedHalves) -> Tensor:
    """Power of the noise around each voxel over that of the whole particle, all frequencies alike, cube of float32.

    The difference of the halves is made white, so that every frequency counts; the window is that of the pair.
    """
    shape = (pair.box,) * 3
    first, second = pair.white_spectra
    inside = (pair.mask > 0.5).float()
    power = dft_to_image(first - second, shape) ** 2 * inside
    blur = pair.blur(radial_frequency(shape, pair.pixel_size))
    held, whole = _smooth(power, blur), _smooth(inside, blur)
    local = held / whole.clamp_min(1e-3)
    mean = float(power.sum() / inside.sum().clamp_min(1))
    return torch.where(whole > 1e-3, local / max(mean, 1e-30), torch.ones_like(local)).clamp(0.05, 20.0)


def _smooth(values: Tensor, gain: Tensor) -> Tensor:
    return dft_to_image(image_to_dft(values, 3) * gain, tuple(values.shape))
