"""Local resolution by significance: where signal stands out of the noise of the mean map, on the scale of its waves.

The mean of the halves is filtered to one band after the other, and the power in a window of less than one wavelength is
held against the noise of that band (the idea of MonoRes, Vilas et al. 2018, doi:10.1016/j.str.2017.12.018, with power
in a window in place of the monogenic amplitude). The noise is that of the difference of the halves: its spectrum from
the whole particle, its level from all frequencies around each place. So it hardly scatters, but its spectrum must be
alike everywhere; the FSC of `maps.local_resolution` measures it in each place and band, within a window that is larger.
The two methods fail for different reasons.

The window is so large that power which chance exceeds with `1 - significance` is that of a signal whose FSC is
`threshold`: both methods then read the resolution on one scale. With noise power 1 in the mean map a signal of FSC `F`
has `2 F / (1 - F)`; the power of noise in a window of `n` independent values follows a χ² of `n` over `n`. In the mean
its logarithm is `1 / n` too low, which is made good.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, good_size, image_to_dft, shell_mean, spread_shells
from cryoloom.maps.change_point import CrossingTracker, blur_cube, resample_cube
from cryoloom.maps.filter import filter_map, radial_frequency
from cryoloom.maps.fsc import shell_counts
from cryoloom.maps.windowed import WindowedHalves, raised_cosine, window_transform

BAND = 0.15
"""Half width of a band over its centre."""

AVERAGED_OVER = 0.6
"""Wavelengths over which answers are averaged in the end (standard deviation): less than the window, to calm chance."""


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
        The halves and where the particle is; its window is not used.
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
    window = window_in_waves(least, significance)
    bands = significance_bands(pixel_size, coarsest)
    dft = image_to_dft(0.5 * (pair.half1.float() + pair.half2.float()), 3)
    noise = _noise_power(pair)
    level = _noise_level(pair, noise)
    shells = np.arange(len(noise)) / (box * pixel_size)
    # Answers are averaged over half a wavelength in the end: they are kept on a grid of 0.3 windows of the pair,
    # about half a wavelength at the resolution of the map.
    grid = min(box, good_size(math.ceil(box * pixel_size / (0.3 * pair.window))))
    level = resample_cube(level, grid)
    tracker = CrossingTracker((grid,) * 3, bands, 0.0)
    for centre in bands:
        width = BAND * centre
        size = min(box, good_size(math.ceil(2.2 * (centre + width) * box * pixel_size) + 8))
        frequency = radial_frequency((size,) * 3, box * pixel_size / size)
        band = crop_dft(dft, (box,) * 3, (size,) * 3) * raised_cosine((frequency - centre) / width)
        power = dft_to_image(band, (size,) * 3) ** 2 * (size / box) ** 6
        weight = (resample_cube(pair.mask.float(), size) > 0.5).float()
        blur = window_transform(frequency, window / float(centre))
        inside, held = (blur_cube(x, blur, grid) for x in (weight, power * weight))
        gain = raised_cosine(torch.from_numpy((shells - centre) / width)).numpy()
        expected = max(float((gain**2 * noise).sum()), 1e-30) * level
        ratio = held / (inside.clamp_min(1e-3 * float(inside.max())) * expected)
        tracker.add(ratio.clamp(0.01, 100).log() + 1 / independent_values(window) - math.log(least))
        if step is not None:
            step()
    return _averaged(resample_cube(torch.from_numpy(tracker.resolution()), box), pair)


def noise_limit(threshold: float) -> float:
    """Power of the mean map over that of its noise where the FSC of the halves is `threshold`."""
    return 1 + 2 * threshold / (1 - threshold)


def independent_values(waves: float) -> float:
    """Independent values of a band in a window of that many wavelengths (`WindowedHalves.independent_values`)."""
    return (4 * math.pi) ** 2.5 * waves**3 * BAND


def window_in_waves(least: float, significance: float) -> float:
    """Standard deviation of the window in wavelengths at which chance exceeds the power `least` so often."""
    low, high = 1.0, 1e6
    for _ in range(60):
        n = math.sqrt(low * high)
        low, high = (n, high) if chi2.ppf(significance, n) / n > least else (low, n)
    return float((high / independent_values(1.0)) ** (1 / 3))


def significance_bands(pixel_size: float, coarsest: float) -> np.ndarray:
    """Centres of the bands in 1/Å: each a half width from the next, up to Nyquist."""
    last = 0.5 / (pixel_size * (1 + BAND))
    n = max(4, math.ceil(math.log(last * coarsest) / math.log(1 + BAND)) + 1)
    return np.geomspace(1 / coarsest, last, n)


def _averaged(resolution: Tensor, pair: WindowedHalves) -> np.ndarray:
    """Geometric mean over neighbours within the particle, a Gaussian `AVERAGED_OVER` median wavelengths wide."""
    inside = pair.mask > 0.5
    if not inside.any():
        return resolution.numpy()
    frequency = radial_frequency((pair.box,) * 3, pair.pixel_size)
    blur = window_transform(frequency, AVERAGED_OVER * float(resolution[inside].median()))
    held, whole = (_smooth(x, blur) for x in (resolution.log() * inside, inside.float()))
    return torch.where(inside, (held / whole.clamp_min(1e-3)).exp(), resolution).numpy()


def _noise_power(pair: WindowedHalves) -> np.ndarray:
    """What each shell brings to the noise power per voxel of the mean map within the particle, `(box // 2 + 1,)`."""
    shape = (pair.box,) * 3
    difference = 0.5 * (pair.half1.float() - pair.half2.float()) * pair.mask
    dft = image_to_dft(difference, 3)
    mean = shell_mean(dft.real**2 + dft.imag**2, shape)
    return (mean * shell_counts(shape) / pair.box**3 / (pair.mask.double() ** 2).sum()).numpy()


def _noise_level(pair: WindowedHalves, noise: np.ndarray) -> Tensor:
    """Power of the noise around each voxel over that of the whole particle, all frequencies alike, cube of float32.

    The difference of the halves is made white, so that every frequency counts; the window is that of the pair.
    """
    shape = (pair.box,) * 3
    per_voxel = torch.from_numpy(noise) / shell_counts(shape).clamp_min(1)
    white = per_voxel.clamp_min(1e-6 * float(per_voxel.max())).rsqrt()
    gain = spread_shells(white.float(), shape)
    inside = (pair.mask > 0.5).float()
    power = filter_map(0.5 * (pair.half1.float() - pair.half2.float()), gain) ** 2 * inside
    blur = pair.blur(radial_frequency(shape, pair.pixel_size))
    held, whole = _smooth(power, blur), _smooth(inside, blur)
    local = held / whole.clamp_min(1e-3)
    mean = float(power.sum() / inside.sum().clamp_min(1))
    return torch.where(whole > 1e-3, local / max(mean, 1e-30), torch.ones_like(local)).clamp(0.05, 20.0)


def _smooth(values: Tensor, gain: Tensor) -> Tensor:
    return dft_to_image(image_to_dft(values, 3) * gain, tuple(values.shape))
