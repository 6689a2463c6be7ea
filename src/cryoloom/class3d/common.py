"""The map of all particles at their poses, the noise about it, and where states may differ."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.accumulate import accumulate
from cryoloom.em.halves import prepare_references, solve_halves
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel, estimate_image_power, estimate_noise
from cryoloom.em.poses import PoseTable, empty_poses
from cryoloom.em.solve import prepare_sums, solve, ssnr_of
from cryoloom.fourier import fourier_crop
from cryoloom.maps.mask import soft_mask_from_map

MARGIN = 10.0
"""Å by which the mask of the common map is grown further: parts that few particles have are faint in it."""


@dataclass(frozen=True)
class CommonMap:
    """Map of all particles.

    Attributes
    ----------
    volume
        Over the field of the images.
    mask
        Where states may differ, over the same field.
    support
        Where there is anything but solvent, over the same field.
    noise
        Noise from the residuals.
    radius
        Shell at which its halves' FSC falls below 0.143.
    """

    volume: Tensor
    mask: Tensor
    support: Tensor
    noise: NoiseModel
    radius: int


def given_poses(particles: ParticleSet, half: np.ndarray, pixel_size: float) -> PoseTable:
    """Poses, shifts and grey scales that particles came with."""
    poses = empty_poses(len(particles), half)
    poses.rotation[:] = particles.rotation
    poses.shift_px[:] = 0.0 if particles.shift is None else particles.shift / pixel_size
    if particles.scale is not None:
        poses.scale[:] = np.where(np.isfinite(particles.scale), particles.scale, 1.0)
    poses.known[:] = True
    return poses


def common_map(
    source: ImageSource,
    poses: PoseTable,
    diameter: float,
    executor: Executor,
    *,
    symmetry: str = "C1",
    finest: float | None = None,
    focus: VolumeMap | None = None,
) -> CommonMap:
    """Insert every particle at its pose; measure noise and resolution; find or place the mask."""
    rows, field = np.arange(len(source)), source.field
    noise = estimate_image_power(source, executor, rows)
    radius = source.points.radius
    if finest is not None:
        radius = int(np.clip(round(field / finest) + 4, 6, radius))
    target = poses.half - 1
    sums = accumulate(source, poses.candidates(rows), target, 2, noise, executor, radius=radius)
    halves = (prepare_sums(sums[0], symmetry, executor), prepare_sums(sums[1], symmetry, executor))
    del sums
    pair = solve_halves(halves, source.box, field, diameter, executor, mask_lowpass=15.0)
    reached = int(np.clip(pair.radius, 4, radius))
    box = pair.volumes[0].shape[0]
    volume = solve(halves[0].plus(halves[1]), box, ssnr_of(pair.fsc, both_halves=True), radius=reached + 1)
    pixel_size = field / box
    found = soft_mask_from_map(
        volume, pixel_size, lowpass_resolution=max(15.0, 1.5 * field / reached), extend=6.0 + MARGIN
    )
    spectra = prepare_references([volume * found], executor, reached, source.place)
    noise = estimate_noise(source, spectra, _one_reference(poses), rows, noise, executor, radius=reached)
    mask = found if focus is None else place_mask(focus, box, pixel_size)
    support = torch.maximum(found, mask)
    return CommonMap(volume * support, mask, support, noise, reached)


def mask_in_box(mask: Tensor, box: int) -> Tensor:
    """The mask over the same field in a smaller box."""
    return mask if mask.shape[0] == box else fourier_crop(mask, (box,) * 3).clamp(0.0, 1.0)


def place_mask(mask: VolumeMap, box: int, pixel_size: float) -> Tensor:
    """A mask of any box and pixel size on the grid of the engine, centre on centre."""
    step = pixel_size / mask.pixel_size
    lines = [(np.arange(box) - box // 2) * step + n // 2 for n in mask.data.shape]
    grid = np.meshgrid(*lines, indexing="ij")
    placed = scipy.ndimage.map_coordinates(mask.data.astype(np.float32), grid, order=1, mode="constant", cval=0.0)
    return torch.from_numpy(np.clip(placed, 0.0, 1.0).astype(np.float32))


def _one_reference(poses: PoseTable) -> PoseTable:
    return replace(poses, reference=np.zeros_like(poses.reference))
