"""How far a filter moved the phases of a map: amplitudes may be restored, phases are the measurement."""

import math

import torch
from torch import Tensor

from cryoloom.fourier import half_spectrum_weights, rfftn
from cryoloom.maps.filter import radial_frequency


def phase_change_deg(before: Tensor, after: Tensor, pixel_size: float, resolution: float) -> float:
    """Mean phase difference of two maps up to a resolution, in degrees, weighted by the amplitudes of both.

    The angle whose cosine is the weighted mean cosine: 0 for a filter that acts on amplitudes alone, 90 for maps that
    have nothing in common.

    Parameters
    ----------
    before, after
        `(n, n, n)`.
    pixel_size, resolution
        Å.
    """
    shape = tuple(before.shape)
    one, two = rfftn(before.float().cpu(), 3), rfftn(after.float().cpu(), 3)
    # The mean level has no phase to speak of.
    k = radial_frequency(shape, pixel_size)
    used = (k > 0) & (k <= 1 / resolution)
    weight = half_spectrum_weights(shape[-1])
    along = ((one * two.conj()).real * weight)[used].sum(dtype=torch.float64)
    whole = (one.abs() * two.abs() * weight)[used].sum(dtype=torch.float64)
    return math.degrees(math.acos(float((along / whole.clamp_min(1e-300)).clamp(-1, 1))))
