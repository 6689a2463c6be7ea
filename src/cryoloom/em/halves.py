"""Two half maps from two half sums: masks, FSC, and the references of the next iteration.

Nothing of one half enters the other: each half is solved from its own sums and masked by a mask made from its own
map alone. The FSC between the halves sets the resolution and the regularisation of both, as one number per shell.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.place import Place
from cryoloom.em.solve import SolvableSums, box_for_radius, solve, ssnr_of
from cryoloom.fourier import fourier_crop
from cryoloom.fourier.slices import PaddedSpectrum, prepare_volume
from cryoloom.maps.fsc import crossing_shell, fourier_shell_correlation
from cryoloom.maps.mask import soft_mask_from_map, spherical_mask


@dataclass(frozen=True)
class HalfPair:
    """Two independent half maps over the field of the images.

    Attributes
    ----------
    volumes
        Unfiltered half maps within the ball, `(m, m, m)` each.
    masks
        Mask of each half, made from that half alone.
    pixel_size
        Å per voxel of the volumes.
    fsc
        FSC of the masked halves, `(m // 2 + 1,)`.
    fsc_ball
        FSC of the halves within the ball alone.
    radius
        Last shell before the FSC falls below the threshold for good, at most the last one inserted.
    """

    volumes: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]
    pixel_size: float
    fsc: np.ndarray
    fsc_ball: np.ndarray
    radius: int


def ball_mask(box: int, pixel_size: float, diameter: float) -> Tensor:
    """Soft ball of the mask diameter, kept inside the box."""
    edge = min(8.0 / pixel_size + 2.0, 0.1 * box)
    radius = min(0.5 * diameter / pixel_size, 0.5 * box - edge)
    return spherical_mask(box, radius, edge)


def solve_halves(
    halves: tuple[SolvableSums, SolvableSums],
    full_box: int,
    field: float,
    diameter: float,
    executor: Executor,
    *,
    own_masks: bool = True,
    mask_lowpass: float = 15.0,
    threshold: float = 0.143,
) -> HalfPair:
    """Solve both halves without regularisation, mask each by its own mask, and compare them.

    Parameters
    ----------
    halves
        Complete sums of the two halves.
    full_box, field
        Side of the images in pixels and Å.
    diameter
        Of the ball outside which every map is set to zero, Å.
    own_masks
        Find a mask in each half; else the ball alone.
    mask_lowpass
        Resolution at which the masks are found, Å.
    threshold
        FSC at which the resolution is read.
    """
    box = box_for_radius(halves[0].radius, full_box)
    pixel_size = field / box
    ball = ball_mask(box, pixel_size, diameter)
    volumes = list(executor.map(lambda s: solve(s, box) * ball, halves))
    fsc_ball = fourier_shell_correlation(volumes[0], volumes[1]).numpy()
    if own_masks:
        masks = list(
            executor.map(lambda v: soft_mask_from_map(v, pixel_size, lowpass_resolution=mask_lowpass) * ball, volumes)
        )
        fsc = fourier_shell_correlation(volumes[0] * masks[0], volumes[1] * masks[1]).numpy()
    else:
        masks, fsc = [ball, ball], fsc_ball
    crossing = crossing_shell(fsc, threshold)
    radius = int(np.clip(np.floor(crossing), 1, halves[0].radius))
    return HalfPair((volumes[0], volumes[1]), (masks[0], masks[1]), pixel_size, fsc, fsc_ball, radius)


def reference_volumes(
    halves: tuple[SolvableSums, SolvableSums], pair: HalfPair, executor: Executor, *, radius: int
) -> list[Tensor]:
    """Regularised and masked half maps up to `radius`, in the smallest box that holds them."""
    full = pair.volumes[0].shape[0]
    box = box_for_radius(radius + 1, full)
    ssnr = ssnr_of(pair.fsc, both_halves=False)

    def work(h: int) -> Tensor:
        mask = pair.masks[h] if box == full else fourier_crop(pair.masks[h], (box, box, box)).clamp(0.0, 1.0)
        return solve(halves[h], box, ssnr, radius=radius) * mask

    return list(executor.map(work, (0, 1)))


def prepare_references(
    volumes: list[Tensor], executor: Executor, radius: int, place: Place | None = None
) -> list[PaddedSpectrum]:
    """Padded spectra of reference volumes where the engine works; one and the same volume is prepared once."""
    place = place or Place()

    def prepare(volume: Tensor) -> PaddedSpectrum:
        return prepare_volume(volume.to(place.device, place.dtype), radius)

    if all(v is volumes[0] for v in volumes):
        return [prepare(volumes[0])] * len(volumes)
    return list(executor.map(prepare, volumes))
