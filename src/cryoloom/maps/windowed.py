"""Two half maps seen through a Gaussian window that moves from voxel to voxel.

Local resolution and local sharpening take the halves apart into bands of frequency and compare them in such a window;
what both need to know of it stands here: its spectrum, the shape of a band, and how many independent values they hold.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryoloom.fourier import image_to_dft, shell_mean, spread_shells


@dataclass(frozen=True)
class WindowedHalves:
    """Half maps that are compared place by place.

    Attributes
    ----------
    half1, half2
        Half maps, unfiltered, `(n, n, n)`.
    pixel_size
        Å.
    mask
        Where the particle is, `(n, n, n)` in [0, 1]; noise and signal are measured there.
    window
        Standard deviation of the Gaussian window in Å.
    """

    half1: Tensor
    half2: Tensor
    pixel_size: float
    mask: Tensor
    window: float

    @property
    def box(self) -> int:
        """Voxels on a side."""
        return int(self.half1.shape[0])

    def spectra(self) -> tuple[Tensor, Tensor]:
        """Half spectra of both halves, `(n, n, n // 2 + 1)`."""
        return image_to_dft(self.half1.float(), 3), image_to_dft(self.half2.float(), 3)

    @cached_property
    def white_spectra(self) -> tuple[Tensor, Tensor]:
        """Half spectra of both halves, each shell over the amplitude of its noise, `(n, n, n // 2 + 1)`.

        The noise is that of the difference of the halves within the particle; behind it each half holds noise of
        variance 1 per voxel, alike at all frequencies.
        """
        shape = (self.box,) * 3
        difference = image_to_dft((self.half1.float() - self.half2.float()) * self.mask, 3)
        power = shell_mean(difference.real**2 + difference.imag**2, shape)
        noise = 0.5 * power / (self.mask.double() ** 2).sum().clamp_min(1e-30)
        gain = noise.clamp_min(max(1e-6 * float(noise.max()), 1e-30)).rsqrt().float()
        spread = spread_shells(gain, shape, beyond=float(gain[-1]))
        first, second = self.spectra()
        return first * spread, second * spread

    def blur(self, frequency: Tensor) -> Tensor:
        """Transform of the window at frequencies in 1/Å: multiplied with it, a map is averaged in the window."""
        return window_transform(frequency, self.window)

    def independent_values(self, centre: float, width: float) -> float:
        """Independent values of a band in a window: `(4 π)^1.5 window³` Å3 times `4 π centre² width` 1/Å3.

        Volumes are `(∫p)² / ∫p²` of the window and of the power `p` that a raised cosine of half width `width` passes;
        for the latter that is 1.03 `width` (taken as 1).
        """
        return (4 * math.pi) ** 1.5 * self.window**3 * 4 * math.pi * centre**2 * width


def window_transform(frequency: Tensor, window: float) -> Tensor:
    """Transform of a Gaussian window of standard deviation `window` Å, 1 at frequency 0."""
    return torch.exp(-2 * (math.pi * window) ** 2 * frequency**2)


def raised_cosine(x: Tensor) -> Tensor:
    """Shape of a band: 1 at 0, falling to 0 at ±1; neighbours one unit apart add up to 1."""
    return torch.where(x.abs() < 1, 0.5 + 0.5 * torch.cos(math.pi * x), torch.zeros((), dtype=x.dtype))
