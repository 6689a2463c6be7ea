"""Resolution of two half maps with its interval, behind a mask of standard width around their density."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.maps.corrected import CorrectedFsc, corrected_fsc
from cryoloom.maps.fsc import crossing_shell, half_bit_threshold
from cryoloom.maps.interval import Crossing, locate_crossing
from cryoloom.maps.mask import MaskFromMap
from cryoloom.maps.standard_mask import standard_mask


@dataclass(frozen=True)
class GlobalResolution:
    """How far two half maps agree.

    Attributes
    ----------
    resolution, interval
        Å at the threshold, and the 95 % interval `(best, worst)`.
    at_half, at_half_bit
        Å at 0.5 and at the half-bit curve of the corrected FSC.
    curves
        The FSC curves behind `mask`.
    covariance
        Of the noise of the corrected curve, copies by symmetry counted once, `(n, n)`.
    crossing
        In shells.
    mask
        The mask and how it came about.
    """

    resolution: float
    interval: tuple[float, float]
    at_half: float
    at_half_bit: float
    curves: CorrectedFsc
    covariance: np.ndarray
    crossing: Crossing
    mask: MaskFromMap


def measure_global_resolution(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    *,
    given_mask: Tensor | None = None,
    threshold: float = 0.143,
    n_copies: int = 1,
) -> GlobalResolution:
    """Resolution of half maps `(n, n, n)` behind the standard mask around their density.

    Parameters
    ----------
    half1, half2
        Unfiltered and unmasked.
    pixel_size
        Å.
    given_mask
        Chooses which density is meant; see `standard_mask`.
    threshold
        Of the FSC.
    n_copies
        Operators of the point group imposed on the maps: so many Fourier coefficients are copies of one.
    """
    found = standard_mask(half1, half2, pixel_size, given_mask)
    return resolution_behind(half1, half2, pixel_size, found, threshold=threshold, n_copies=n_copies)


def resolution_behind(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    mask: MaskFromMap,
    *,
    threshold: float = 0.143,
    n_copies: int = 1,
) -> GlobalResolution:
    """The same behind a mask that is taken as it is."""
    box = max(half1.shape)
    curves = corrected_fsc(half1, half2, mask.mask)
    covariance = curves.covariance * n_copies
    crossing = locate_crossing(curves.corrected, covariance, threshold)
    worst, best = (box * pixel_size / shell for shell in crossing.interval(len(curves.corrected)))
    half_bit = half_bit_threshold(curves.effective_counts / n_copies).numpy()
    return GlobalResolution(
        resolution=box * pixel_size / max(crossing.shell, 1e-3),
        interval=(best, worst),
        at_half=box * pixel_size / max(crossing_shell(curves.corrected, 0.5), 1e-3),
        at_half_bit=box * pixel_size / max(crossing_shell(curves.corrected, half_bit), 1e-3),
        curves=curves,
        covariance=covariance,
        crossing=crossing,
        mask=mask,
    )
