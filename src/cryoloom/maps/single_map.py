"""Resolution of one map without halves: where the power of the particle sinks into that of the solvent.

Noise is alike in the particle and in the solvent around it, signal is in the particle only, so with the power per
volume of both `SSNR(k) = P_inside / P_solvent - 1`, and `FSC = SSNR / (SSNR + 2)` is that of the halves which this map
would have had. It needs a map whose solvent was not set to zero and whose noise is as strong there as in the particle.
A low-pass filter dims both alike, so the noise that is left beyond it is still compared.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.maps.freedom import fsc_noise_covariance
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.mask import find_mask, spherical_mask
from cryoloom.maps.spectrum import radial_power

MARGIN, SOFT = 10.0, 8.0
"""Å around the particle that are not counted as solvent, and width of the soft edges."""

LEAST = 0.02
"""Fraction of the box that the solvent must fill."""


@dataclass(frozen=True)
class SingleMapResolution:
    """Resolution of one map.

    Attributes
    ----------
    resolution, interval
        Å and its 95 % interval `(best, worst)`; NaN if the solvent is empty or too small to tell.
    fsc
        FSC that halves of the map would have, one value per shell, `(n,)`.
    reason
        Why there is no number, or empty.
    """

    resolution: float
    interval: tuple[float, float]
    fsc: np.ndarray
    reason: str = ""


def estimate_single_map(volume: Tensor, pixel_size: float, *, threshold: float = 0.143) -> SingleMapResolution:
    """Estimate the resolution of a map `(n, n, n)` that has no halves.

    Parameters
    ----------
    volume
        Unmasked map; its filter and sharpening do not matter.
    pixel_size
        Å.
    threshold
        FSC of the halves at which the resolution is read.
    """
    box = volume.shape[0]
    volume = volume.float()
    smooth_to = max(15.0, 4 * pixel_size)
    inside = find_mask(volume, pixel_size, lowpass_resolution=smooth_to, extend=3.0, edge=SOFT).mask
    grown = find_mask(volume, pixel_size, lowpass_resolution=smooth_to, extend=MARGIN, edge=SOFT).mask
    edge_px = min(SOFT / pixel_size, 0.1 * box)
    ball = spherical_mask(box, 0.5 * box - edge_px - 1, edge_px)
    outside = (1.0 - grown) * ball
    nothing = np.full(box // 2 + 1, np.nan)

    def failed(reason: str) -> SingleMapResolution:
        return SingleMapResolution(float("nan"), (float("nan"), float("nan")), nothing, reason)

    if float((outside**2).sum()) < LEAST * box**3:
        return failed("The box holds too little solvent beside the particle.")
    core = outside > 0.5
    if float(volume[core].std()) < 1e-3 * float(volume[inside > 0.5].std()):
        return failed("The solvent was set to zero, so its noise cannot be compared with the particle's.")
    level = float(volume[core].mean())
    signal, noise = (
        radial_power((volume - level) * window).numpy() / float((window**2).sum()) for window in (inside, outside)
    )
    ssnr = signal / np.maximum(noise, 1e-30) - 1.0
    fsc = ssnr / np.maximum(ssnr + 2.0, 0.5)
    fsc[0] = 1.0
    covariance = fsc_noise_covariance((box,) * 3, inside)
    # The power of two regions scatters about twice as much as the FSC of halves would.
    crossing = locate_crossing(fsc, 2 * covariance, threshold)
    if not crossing.bounded:
        return failed(
            "The particle stands out from the solvent up to the sampling limit: noise was taken out of the solvent, or "
            "the pixel is too coarse."
        )
    worst, best = (box * pixel_size / shell for shell in crossing.interval(len(fsc)))
    return SingleMapResolution(box * pixel_size / max(crossing.shell, 0.5), (best, worst), fsc)
