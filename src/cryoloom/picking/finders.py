"""What finds peaks on a prepared micrograph: a round template, or a bank of templates.

A finder is given the micrograph and the smallest distance of two peaks, and returns the peaks with the map in which
decoys are looked for. All of them speak in standard deviations of the background.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.picking.bank import BankMaker
from cryoloom.picking.bank_match import match_bank
from cryoloom.picking.deblend import deblend
from cryoloom.picking.peaks import normalise_by_background
from cryoloom.picking.prepare import CORE, Prepared
from cryoloom.picking.template import RoundTemplate

LOWEST = 2.0  # peaks below this many standard deviations of the background are not kept


@dataclass(frozen=True)
class Peaks:
    """Peaks of one micrograph, the highest first.

    Attributes
    ----------
    position, value
        Pixels yx of the prepared image `(n, 2)`, and standard deviations of the background `(n,)`.
    decoy
        Map of what noise would give, on the scale of `value`, `(h, w)`.
    labels
        Further columns (`psi`, `class_number`).
    """

    position: np.ndarray
    value: np.ndarray
    decoy: Tensor
    labels: dict[str, np.ndarray]


Finder = Callable[[Prepared, float], Peaks]


def round_finder(template: RoundTemplate) -> Finder:
    """Finder of round particles."""

    def find(prepared: Prepared, reach_px: float) -> Peaks:
        spectrum = prepared.spectrum
        spread = spectrum.point_spread(template, 2 * spectrum.margin_px)
        (score,) = normalise_by_background(spectrum.score_map(template), valid=prepared.valid)
        found = deblend(score, spread.cpu().numpy(), reach_px, lowest=LOWEST, valid=prepared.valid)
        return Peaks(found.position, found.value, -found.residual, {})

    return find


def bank_finder(bank_at: BankMaker, diameter: float) -> Finder:
    """Finder of particles like the templates of a bank.

    Parameters
    ----------
    bank_at
        Gives the bank for a pixel size.
    diameter
        Å of the dense part of the particle.
    """

    def find(prepared: Prepared, reach_px: float) -> Peaks:
        bank = bank_at(prepared.pixel_size)
        found = match_bank(
            prepared.spectrum,
            bank,
            distance_px=reach_px,
            apart_px=max(reach_px, diameter / CORE / prepared.pixel_size),
            lowest=LOWEST,
            valid=prepared.valid,
        )
        rows = found.template
        labels = {"psi": bank.psi.numpy()[rows], "class_number": bank.class_number.numpy()[rows]}
        return Peaks(found.position, found.value, found.decoy, labels)

    return find
