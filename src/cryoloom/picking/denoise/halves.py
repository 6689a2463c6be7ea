"""Both halves of a micrograph's exposure at the working resolution, and the best linear filter that they tell.

The sums of even and of odd frames hold the same picture with independent noise. So their cross spectrum is the power
of the picture, their own spectra are that plus noise, and the ratio is the Wiener filter of one of them: of all
filters that know nothing but spectra, the one with the least squared error. The filter of each micrograph is its own,
since its defocus and its ice are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.fourier import fourier_crop, irfftn, rfftn, shell_mean, spread_shells
from cryoloom.picking.reduce import reduce_micrograph

_SMOOTH = 2  # shells on either side


@dataclass(frozen=True)
class HalfPair:
    """Two halves of one micrograph, in units of the noise of one of them.

    Attributes
    ----------
    halves
        Even and odd sum, reduced and without their slow trend, `(2, h, w)` float32.
    filtered
        The same through the Wiener filter, `(2, h, w)` float32.
    wiener
        The filter by shell, from 0 to 1, `(n,)`.
    pixel_size
        Å per pixel.
    scale
        Grey values of the files per unit.
    shape
        `(h, w)` of the files.
    """

    halves: Tensor
    filtered: Tensor
    wiener: Tensor
    pixel_size: float
    scale: float
    shape: tuple[int, int]

    def in_full(self, image: Tensor) -> Tensor:
        """An image `(h, w)` of the working grid on that of the files, in their grey values."""
        return fourier_crop(image, self.shape) * self.scale


def half_pair(even: Tensor, odd: Tensor, pixel_size: float, working: float) -> HalfPair:
    """Reduce both halves and filter them.

    Parameters
    ----------
    even, odd
        Sums of even and of odd frames, `(h, w)`.
    pixel_size
        Å per pixel.
    working
        Å per pixel wanted; never finer than `pixel_size`.

    Raises
    ------
    InputError
        If the halves differ in size, or are the same image.
    """
    if even.shape != odd.shape:
        raise InputError(f"even and odd sums of {tuple(even.shape)} and {tuple(odd.shape)} pixels; make them anew.")
    reduced = [reduce_micrograph(half, pixel_size, working, dark=False) for half in (even, odd)]
    halves = torch.stack([one.image for one in reduced])
    noise = (halves[0] - halves[1]).square().mean().sqrt() / 2**0.5
    if not bool(noise > 1e-6 * halves.std()):
        raise InputError("even and odd sums are the same image, so nothing tells noise from picture.")
    halves = halves / noise
    shape = tuple(halves.shape[-2:])
    dft = rfftn(halves, 2)
    both = _smooth(shell_mean((dft[0] * dft[1].conj()).real, shape))
    own = _smooth(shell_mean(dft.abs().square().mean(0), shape))
    wiener = (both / own.clamp_min(1e-12)).clamp(0.0, 1.0)
    filtered = irfftn(dft * spread_shells(wiener, shape).to(dft.real.dtype), shape)
    full = (int(even.shape[0]), int(even.shape[1]))
    return HalfPair(halves, filtered, wiener, reduced[0].mean_pixel_size, float(noise), full)


def _smooth(curve: Tensor) -> Tensor:
    """Moving average over shells, `(n,)`."""
    padded = torch.nn.functional.pad(curve[None, None], [_SMOOTH, _SMOOTH], mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * _SMOOTH + 1, stride=1)[0, 0]
