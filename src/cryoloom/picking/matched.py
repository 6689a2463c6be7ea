"""Matched filter for round particles: a micrograph becomes a map of scores.

The template is the projection of a ball or of a mixture of balls, seen through the micrograph's CTF; its correlation
with the micrograph is weighted by a power of the micrograph's own spectrum (exponent 1 is the whitening filter for
dense particles, 0 the plain correlation). Between the two, the square root suppresses coloured noise without
suppressing the particles that make up part of the spectrum. The map is scaled to unit variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.fourier import frequency_grid, good_size, irfftn, rfftn, shell_mean, spread_shells
from cryoloom.optics.ctf import ctf
from cryoloom.picking.template import RoundTemplate


@dataclass(frozen=True)
class Transfer:
    """CTF of one micrograph: defocus in Å, angles in radians."""

    defocus_u: float
    defocus_v: float
    defocus_angle: float
    phase_shift: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    def on_grid(self, frequency: Tensor) -> Tensor:
        """Values at frequencies `(..., 2)` yx in 1/Å."""
        return ctf(
            frequency[..., 0],
            frequency[..., 1],
            defocus_u=self.defocus_u,
            defocus_v=self.defocus_v,
            defocus_angle=self.defocus_angle,
            phase_shift=self.phase_shift,
            voltage_kv=self.voltage_kv,
            cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast,
        )


class Spectrum:
    """A padded micrograph in Fourier space, ready to be filtered by many templates.

    Parameters
    ----------
    image
        Flattened image `(h, w)`, particles bright.
    pixel_size
        Å per pixel, yx.
    transfer
        CTF, or None when the image has none.
    margin_px
        Zeros added around the image, so that templates do not wrap around.
    exponent
        Power of the spectrum that weights the correlation.
    """

    def __init__(
        self,
        image: Tensor,
        pixel_size: tuple[float, float],
        transfer: Transfer | None,
        *,
        margin_px: int,
        exponent: float = 0.5,
    ) -> None:
        self.image_shape = (int(image.shape[0]), int(image.shape[1]))
        self.margin_px = margin_px
        self.shape = (good_size(image.shape[0] + 2 * margin_px), good_size(image.shape[1] + 2 * margin_px))
        beyond = [n - m - margin_px for n, m in zip(self.shape, self.image_shape, strict=True)]
        padded = torch.nn.functional.pad(image, [margin_px, beyond[1], margin_px, beyond[0]])
        dft = rfftn(padded, 2)
        power = smooth_spectrum(shell_mean(dft.abs() ** 2, self.shape))
        power = power.clamp_min(1e-3 * float(power.max()))
        # beyond the last shell nothing is used
        self.weight = spread_shells(power**-exponent, self.shape).float()
        self.power_weight = spread_shells(power ** (1 - exponent), self.shape).float()
        frequency = frequency_grid(self.shape, 1.0, device=image.device)
        self.frequency = frequency / torch.tensor(pixel_size, device=image.device)
        self.radius = self.frequency.square().sum(-1).sqrt()
        self.ctf = transfer.on_grid(self.frequency) if transfer is not None else torch.ones_like(self.radius)
        self.weighted = dft * self.weight

    def score_map(self, template: RoundTemplate) -> Tensor:
        """Correlation with a round template, `(h, w)` of the image; its variance is one."""
        return self._filter(template.transform(self.radius) * self.ctf)

    def point_spread(self, template: RoundTemplate, half: int) -> Tensor:
        """`score_map` of a lone particle like the template, 1 at its centre, `(2 half + 1, 2 half + 1)`."""
        seen = template.transform(self.radius) * self.ctf
        answer = irfftn((self.weight * seen * seen).to(self.weighted.dtype), self.shape)
        answer = torch.roll(answer, (half, half), (0, 1))[: 2 * half + 1, : 2 * half + 1]
        return answer / answer[half, half]

    def _filter(self, template: Tensor) -> Tensor:
        score = irfftn(self.weighted * template, self.shape)
        m = self.margin_px
        score = score[m : m + self.image_shape[0], m : m + self.image_shape[1]]
        return score / score.std().clamp_min(1e-12)


def smooth_spectrum(power: Tensor, width: int = 2) -> Tensor:
    """Moving average of a spectrum over shells, float64 `(n,)`; the zeroth shell takes the value of the first."""
    power = power.clone()
    power[0] = power[1]
    padded = torch.nn.functional.pad(power[None, None], [width, width], mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * width + 1, stride=1)[0, 0]


def default_transfer(voltage_kv: float, cs_mm: float, amplitude_contrast: float) -> Transfer:
    """CTF that stands for an unknown one: 1.5 µm under focus, as most micrographs are taken."""
    return Transfer(15_000.0, 15_000.0, 0.0, 0.0, voltage_kv, cs_mm, amplitude_contrast)


def scales(smallest: float, largest: float, per_octave: int = 6) -> Sequence[float]:
    """Diameters in Å in a geometric row from `smallest` to `largest`."""
    n = max(2, math.ceil(per_octave * math.log2(largest / smallest)) + 1)
    return [smallest * (largest / smallest) ** (i / (n - 1)) for i in range(n)]
