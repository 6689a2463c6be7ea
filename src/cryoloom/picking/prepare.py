"""A micrograph made ready for the search: reduced, without carbon and crystals, flat, and as a weighted spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.picking.exclusion import excluded_regions, fill_excluded, grow_mask
from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.reduce import Reduced, flatten_background, reduce_micrograph

CORE = 0.8
"""Diameter of the ball that fits a particle best over the particle's extent, where only the latter is known."""
PIXELS_PER_CORE = 16
"""Pixels of the reduced image across the dense part of the particle."""


@dataclass(frozen=True)
class Prepared:
    """What the pickers look at.

    Attributes
    ----------
    reduced
        The reduced micrograph, particles bright.
    flat
        The same, flattened, 0 in excluded regions, `(h, w)`.
    spectrum
        Of `flat`, with the CTF.
    excluded
        Where no centre of a particle can be, `(h, w)` bool; None if nothing was looked for.
    """

    reduced: Reduced
    flat: Tensor
    spectrum: Spectrum
    excluded: Tensor | None

    @property
    def valid(self) -> Tensor | None:
        """Where values count for the background, `(h, w)` bool; None if everywhere."""
        return None if self.excluded is None else ~self.excluded

    @property
    def pixel_size(self) -> float:
        """Å per pixel."""
        return self.reduced.mean_pixel_size


def prepare_micrograph(
    image: Tensor,
    pixel_size: float,
    transfer: Transfer | None,
    diameter: float,
    *,
    dark: bool,
    exclude: bool,
    beside: float = 0.5,
) -> Prepared:
    """Reduce, flatten and transform a micrograph.

    Parameters
    ----------
    image
        `(h, w)`, as it is on the disk.
    pixel_size
        Å per pixel.
    transfer
        CTF, or None.
    diameter
        Å of the dense part of the particle.
    dark
        Whether particles are darker than what is around them.
    exclude
        Leave out carbon, crystals and aggregates; see `exclusion`.
    beside
        Diameters around them in which no centre is looked for: a particle there would touch them. Pickers that can
        tell one from the other look there too.
    """
    reduced = reduce_micrograph(image, pixel_size, diameter / PIXELS_PER_CORE, dark=dark)
    px = reduced.mean_pixel_size
    excluded = None
    if exclude:
        mask = excluded_regions(reduced, least_diameter=diameter)
        flat = flatten_background(fill_excluded(reduced.image, mask, px), 2 * diameter / px)
        flat = torch.where(mask, torch.zeros_like(flat), flat)
        excluded = grow_mask(mask, beside * diameter / px)
    else:
        flat = flatten_background(reduced.image, 2 * diameter / px)
    spectrum = Spectrum(flat, reduced.pixel_size, transfer, margin_px=int(diameter / px))
    return Prepared(reduced, flat, spectrum, excluded)
