"""The search itself: every view of a template at every pixel of a whitened micrograph.

A micrograph of noise power S and its templates are both divided by the root of S, templates are multiplied by the CTF
and brought to unit length, so that each value of the correlation is a normal deviate where there is no particle
(Rickgauer et al. 2017, doi:10.7554/eLife.25648; Lucas et al. 2021, doi:10.7554/eLife.68946). At each pixel the highest
value and its view are kept, with the first two moments over all views: where the micrograph is not as its mean
spectrum, mean and variance over all views and a neighbourhood are not 0 and 1, and the highest value is counted from
them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, frequency_grid, irfftn, rfftn, shell_mean, spread_shells
from cryoloom.fourier.slices import PaddedSpectrum, extract_slices
from cryoloom.picking.matched import Transfer, smooth_spectrum
from cryoloom.picking.reduce import Reduced, flatten_background, reduce_micrograph

BYTES_PER_PIXEL = 28
"""Memory of one view over a micrograph: the padded template, two spectra, the correlation and its square."""


@dataclass(frozen=True)
class Whitened:
    """A micrograph as the search sees it.

    Attributes
    ----------
    dft
        Half spectrum of the whitened image of variance 1, phase origin at the first pixel, `(h, w // 2 + 1)`.
    reduced
        The reduced micrograph.
    power
        Power spectrum by shell of `shape`, `(n,)` float64.
    """

    dft: Tensor
    reduced: Reduced
    power: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (int(self.reduced.image.shape[0]), int(self.reduced.image.shape[1]))

    @property
    def pixel_size(self) -> float:
        """Å per pixel."""
        return self.reduced.mean_pixel_size


def whiten(image: Tensor, pixel_size: float, working: float, diameter: float) -> Whitened:
    """Reduce a micrograph `(h, w)` to about `working` Å per pixel and whiten it; particles become bright."""
    reduced = reduce_micrograph(image, pixel_size, working, dark=True)
    flat = flatten_background(reduced.image, 2 * diameter / reduced.mean_pixel_size, limit=8.0)
    h, w = (int(n) for n in flat.shape)
    dft = rfftn(flat, 2)
    power = smooth_spectrum(shell_mean(dft.abs() ** 2, (h, w)))
    power = power.clamp_min(1e-6 * float(power.max()))
    white = dft * (spread_shells((h * w / power) ** 0.5, (h, w)).to(dft.real.dtype))
    white[0, 0] = 0
    return Whitened(white, reduced, power)


def template_filters(white: Whitened, transfer: Transfer, box: int, offsets: Sequence[float], bfactor: float) -> Tensor:
    """CTF over the root of the noise power, for each offset of the defocus (Å), `(m, box, box // 2 + 1)`."""
    device = white.dft.device
    frequency = frequency_grid((box, box), 1.0, device=device)
    frequency = frequency / torch.tensor(white.reduced.pixel_size, device=device, dtype=frequency.dtype)
    radius = frequency.square().sum(-1).sqrt()
    # shells of a rectangle are counted on its longest axis
    shells = radius * (max(white.shape) * white.pixel_size)
    low = shells.floor().long().clamp_max(len(white.power) - 1)
    high = (low + 1).clamp_max(len(white.power) - 1)
    power = white.power.to(device)
    share = (shells - low).double()
    weight = ((1 - share) * power[low] + share * power[high]) ** -0.5
    envelope = torch.exp(-bfactor * radius.square() / 4)
    filters = []
    for offset in offsets:
        moved = Transfer(
            transfer.defocus_u + offset, transfer.defocus_v + offset, transfer.defocus_angle, transfer.phase_shift,
            transfer.voltage_kv, transfer.cs_mm, transfer.amplitude_contrast,
        )  # fmt: skip
        one = moved.on_grid(frequency) * envelope * weight
        one[0, 0] = 0
        filters.append(one / weight.max())
    return torch.stack(filters).to(torch.float32)


def view_images(spectrum: PaddedSpectrum, rotations: Tensor, filters: Tensor) -> Tensor:
    """Templates of unit length, `(p * m, box, box)` for `p` views and `m` filters, filters running fastest."""
    box = int(filters.shape[-2])
    slices = extract_slices(spectrum, rotations, (box, box))
    images = dft_to_image((slices[:, None] * filters).flatten(0, 1), (box, box))
    images = images - images.mean((-2, -1), keepdim=True)
    return images / images.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-20)


@dataclass(frozen=True)
class Searched:
    """Of all views, at each pixel, `(h, w)` each.

    Attributes
    ----------
    best
        Highest correlation in standard deviations of noise.
    which
        The view and filter that gave it: `view * n_filters + filter`.
    mean, square
        Mean of the correlation and of its square over all views.
    n
        Number of views times filters.
    """

    best: Tensor
    which: Tensor
    mean: Tensor
    square: Tensor
    n: int

    def score(self, window_px: float) -> Tensor:
        """The highest correlation counted from mean and deviation around each pixel, `(h, w)`."""
        mean, square = (_blur(plane, window_px) for plane in (self.mean, self.square))
        return (self.best - mean) / (square - mean.square()).clamp_min(1e-6).sqrt()


def search(white: Whitened, spectrum: PaddedSpectrum, rotations: Tensor, filters: Tensor, *, at_once: int) -> Searched:
    """Correlate all views with a micrograph, `at_once` of them at a time."""
    h, w = white.shape
    device, n_filters, box = white.dft.device, len(filters), int(filters.shape[-2])
    best = torch.full((h, w), -math.inf, device=device)
    which = torch.zeros((h, w), dtype=torch.int32, device=device)
    total = torch.zeros_like(white.dft)
    squares = torch.zeros((h, w), dtype=torch.float64, device=device)
    per_chunk = max(1, at_once // n_filters)
    for start in range(0, len(rotations), per_chunk):
        images = view_images(spectrum, rotations[start : start + per_chunk], filters)
        padded = images.new_zeros(len(images), h, w)
        padded[:, :box, :box] = images
        answer = rfftn(padded, 2).conj() * white.dft
        total += answer.sum(0)
        values = irfftn(answer, (h, w))
        squares += values.square().sum(0)
        high, row = values.max(0)
        better = high > best
        best = torch.where(better, high, best)
        which = torch.where(better, (row + start * n_filters).to(torch.int32), which)
    n = len(rotations) * n_filters
    mean = irfftn(total, (h, w)) / n
    square = (squares / n).to(mean.dtype)
    # a template in the corner answers where its corner lies; what counts is where its centre does
    best, which, mean, square = (
        torch.roll(plane, (box // 2, box // 2), (0, 1)) for plane in (best, which, mean, square)
    )
    return Searched(best, which, mean, square, n)


def _blur(plane: Tensor, sigma_px: float) -> Tensor:
    """Gaussian mean around each pixel, wrapping around as the correlation does."""
    h, w = plane.shape
    k2 = frequency_grid((h, w), 1.0, device=plane.device).square().sum(-1)
    return irfftn(rfftn(plane, 2) * torch.exp(-2 * (math.pi * sigma_px) ** 2 * k2), (h, w))
