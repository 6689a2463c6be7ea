"""Bands of frequency that are alike in its logarithm, and what a window tells of one.

A band of half width `h` around the frequency `k` passes the amplitude `½ + ½ cos(π x)` with `x = ln(f / k) / h`. The
number of coefficients at `f` grows as `f²` and the ratio of signal to noise falls about as `f⁻⁶` around the resolution,
so in white noise both sums over such a band stand in the ratio that they have at `k`: the band has no bias to first
order, however wide it is. Wide bands are wanted: their wave packets reach over `1 / (6 h)` wavelengths only, and more
independent values lie in a window.
"""

import math

import numpy as np
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, good_size
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.windowed import raised_cosine

HALF_WIDTH = 0.35
"""Of a band in the logarithm of frequency. Noise falls as its root; beyond it, steep spectra begin to matter."""

STEP = 0.15
"""Between centres in the logarithm of frequency."""

NARROWEST = 0.08
"""Half width of the last band, which ends at the Nyquist frequency as all do: many maps hold nothing beyond it."""

LEAST_SHELLS = 1.5
"""Half width of a band in shells at least."""


def choose_bands(box: int, pixel_size: float, coarsest: float) -> tuple[np.ndarray, np.ndarray]:
    """Bands from `coarsest` Å to near the Nyquist frequency: centres in 1/Å and half widths in ln frequency."""
    finest = 2 * pixel_size * math.exp(NARROWEST)
    n = max(4, math.ceil(math.log(max(coarsest / finest, 1.1)) / STEP) + 1)
    centres = np.geomspace(1 / max(coarsest, 1.1 * finest), 1 / finest, n)
    half_widths = np.minimum(HALF_WIDTH, -np.log(2 * pixel_size * centres))
    return centres, np.maximum(half_widths, LEAST_SHELLS / (box * pixel_size * centres))


def band_gain(frequency: Tensor, centre: float, half_width: float) -> Tensor:
    """Gain of a band on frequencies in 1/Å: 1 at its centre, 0 at `exp(±half_width)` times it."""
    return raised_cosine((frequency.clamp_min(1e-9) / centre).log() / half_width)


class BandView:
    """Maps of one size in one band, at the sampling that it needs.

    Parameters
    ----------
    box, pixel_size
        Of the maps; Å.
    centre, half_width
        Of the band, 1/Å and in ln frequency.
    """

    def __init__(self, box: int, pixel_size: float, centre: float, half_width: float) -> None:
        self.box = box
        finest = centre * math.exp(half_width)
        self.size = min(box, good_size(math.ceil(2.2 * finest * box * pixel_size) + 8))
        self.frequency = radial_frequency((self.size,) * 3, box * pixel_size / self.size)
        self.gain = band_gain(self.frequency, centre, half_width)

    def image(self, dft: Tensor) -> Tensor:
        """Band of a half spectrum `(box, box, box // 2 + 1)`, `(size, size, size)`, values as in the whole map."""
        held = crop_dft(dft, (self.box,) * 3, (self.size,) * 3) * self.gain
        return dft_to_image(held, (self.size,) * 3) * (self.size / self.box) ** 3


def packet_reach(half_width: float) -> float:
    """Standard deviation along an axis of the power of one wave packet of a band, in wavelengths.

    A raised cosine of half width `d` has `∫ g'² / ∫ g² = π² / (3 d²)`, and a third of `1 / (12 d²)` is along an axis.
    """
    return 1 / (6 * half_width)


def independent_values(waves: float, half_width: float) -> float:
    """Independent values of a band in a Gaussian window of standard deviation `waves` wavelengths.

    Twice the inverse of the relative variance of the mean power of white noise there, `1 / ∫ g(r) ρ(r)² dV` with `ρ`
    the correlation of the noise in the band at a distance `r` and `g` the autocorrelation of the window.
    """
    x = np.linspace(-1, 1, 81)
    k = np.exp(half_width * x)
    power = (0.5 + 0.5 * np.cos(np.pi * x)) ** 2 * k**3
    r = np.linspace(0, max(6.0 * waves, 2.0), 600)
    correlation = np.sinc(2 * np.outer(r, k)) @ (power / power.sum())
    window = np.exp(-(r**2) / (4 * waves**2)) * r**2
    return float(window.sum() / (window @ correlation**2))
