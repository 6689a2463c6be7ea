"""Matched filter for pieces of filament: how well a short tube fits at each place and in each direction.

The template is the projection of a solid cylinder, faded along its axis by a Gaussian, seen through the CTF; the
correlation is weighted by the micrograph's spectrum as in `matched.py`. A piece long enough to be seen in noise but
short enough to follow bends has a standard deviation of one diameter along the axis.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import j1
from torch import Tensor

from cryoloom.fourier import irfftn
from cryoloom.picking.exclusion import excluded_regions, fill_excluded, grow_mask
from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.peaks import normalise_by_background
from cryoloom.picking.prepare import Prepared
from cryoloom.picking.reduce import flatten_background, reduce_micrograph

N_ANGLES = 30
"""Directions over half a turn."""
PIXELS_PER_DIAMETER = 12
_LENGTH = 1.0  # diameters, standard deviation along the axis
_FRINGES = 50.0  # Å around carbon and crystals, in which the fringes of their edges look like filaments
_EXPONENT = 0.7  # of the spectrum that weights the correlation; see `matched.py`
_EXCLUSION = 6.0  # Å per pixel at which carbon and crystals are looked for: their texture is lost on coarser ones
_HOLES = 60.0  # Å, half the width of gaps in carbon that belong to it
_WIDE = 1.0  # diameters, radius of the disc that fits into carbon and crystals but not into filaments


@dataclass(frozen=True)
class Oriented:
    """Scores of all directions.

    Attributes
    ----------
    score
        Standard deviations of the background, `(N_ANGLES, h, w)` float32; direction `i` runs along
        `(sin, cos)(π i / N_ANGLES)` in yx.
    prepared
        The micrograph that was searched.
    """

    score: Tensor
    prepared: Prepared

    @property
    def pixel_size(self) -> float:
        """Å per pixel."""
        return self.prepared.pixel_size


def prepare_for_filaments(
    image: Tensor, pixel_size: float, transfer: Transfer, diameter: float, *, exclude: bool
) -> Prepared:
    """Reduce, flatten and transform a micrograph `(h, w)`; what is dense and wider than a filament is left out.

    Parameters
    ----------
    pixel_size, diameter
        Å.
    exclude
        Leave out carbon and crystals.
    """
    reduced = reduce_micrograph(image, pixel_size, diameter / PIXELS_PER_DIAMETER, dark=True)
    px = reduced.mean_pixel_size
    excluded = None
    plain = reduced.image
    if exclude:
        fine = reduce_micrograph(image, pixel_size, _EXCLUSION, dark=True)
        mask = _resampled(excluded_regions(fine), plain.shape)
        mask = ~grow_mask(~grow_mask(mask, _HOLES / px), _HOLES / px)
        reach = _WIDE * diameter / px
        mask = mask & grow_mask(~grow_mask(~mask, reach), 1.3 * reach)
        if bool(mask.any()):
            plain = fill_excluded(plain, mask, px)
        excluded = mask
    flat = flatten_background(plain, 2 * diameter / px)
    if excluded is not None:
        flat = torch.where(excluded, torch.zeros_like(flat), flat)
        excluded = grow_mask(excluded, (0.25 * diameter + _FRINGES) / px)
    spectrum = Spectrum(flat, reduced.pixel_size, transfer, margin_px=int(2 * diameter / px), exponent=_EXPONENT)
    return Prepared(reduced, flat, spectrum, excluded)


def oriented_scores(prepared: Prepared, diameter: float) -> Oriented:
    """Scores of tubes of a diameter in Å in all directions; 0 where nothing is looked for."""
    spectrum = prepared.spectrum
    h, w = spectrum.image_shape
    m = spectrum.margin_px
    seen = spectrum.weighted * spectrum.ctf
    maps = []
    for number in range(N_ANGLES):
        template = tube_transform(spectrum.frequency, diameter, math.pi * number / N_ANGLES)
        correlation = irfftn(seen * template, spectrum.shape)[m : m + h, m : m + w]
        (one,) = normalise_by_background(correlation, valid=prepared.valid)
        maps.append(one if prepared.excluded is None else torch.where(prepared.excluded, torch.zeros_like(one), one))
    return Oriented(torch.stack(maps), prepared)


def tube_transform(frequency: Tensor, diameter: float, angle: float) -> Tensor:
    """Transform of a projected cylinder along `(sin, cos)(angle)` (yx), centred, 1 at frequency zero.

    Parameters
    ----------
    frequency
        yx in 1/Å, `(..., 2)`.
    diameter
        Å.
    """
    sin, cos = math.sin(angle), math.cos(angle)
    along = frequency[..., 0] * sin + frequency[..., 1] * cos
    across = frequency[..., 0] * cos - frequency[..., 1] * sin
    x = (math.pi * diameter * across.abs()).clamp_min(1e-6)
    profile = torch.from_numpy(2 * j1(x.double().cpu().numpy())).to(x) / x
    return profile * torch.exp(-2 * (math.pi * _LENGTH * diameter * along).square())


def _resampled(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask on another grid over the same field, `(h, w)` bool."""
    return torch.nn.functional.interpolate(mask[None, None].float(), size=shape, mode="bilinear")[0, 0] > 0.5
