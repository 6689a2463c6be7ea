"""Stage `subtract`: new images that show only what lies inside a mask, centred on it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import PoseTable, empty_poses
from cryoloom.em.start import particle_diameter
from cryoloom.fourier import good_size
from cryoloom.io.mrc import write_mrc
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.rotate import transform_map
from cryoloom.subtraction.outside import outside_of, subtracted_images, window
from cryoloom.subtraction.settings import SUBTRACT, SubtractSettings


@stage(SUBTRACT)
def subtract_signal(
    particles: ParticleSet, half1: VolumeMap, half2: VolumeMap, mask: VolumeMap, settings: SubtractSettings, run: Run
) -> dict[str, Any]:
    """Subtract what lies outside the mask."""
    reader = ParticleImages(particles)
    box, pixel_size = reader.shape[-1], float(particles.optics[0].pixel_size)
    _check(particles, (half1, half2, mask), box, pixel_size)
    maps = tuple(torch.from_numpy(np.ascontiguousarray(m.data, np.float32)) for m in (half1, half2))
    kept = torch.from_numpy(np.ascontiguousarray(mask.data, np.float32)).clamp(0.0, 1.0)
    diameter = settings.mask_diameter or 1.1 * particle_diameter(0.5 * (maps[0] + maps[1]), pixel_size) + 10.0
    source = ImageSource(reader, particles, min(diameter, 0.98 * box * pixel_size), cache_bytes=0)
    poses = _poses(particles, pixel_size)
    outside = outside_of(source, (maps[0], maps[1]), kept, poses, run.executor)
    centre, extent = _middle(kept, pixel_size) if settings.recentre else (np.zeros(3), 0.0)
    side = settings.box or (good_size(int(np.ceil(1.5 * extent / pixel_size))) if extent else box)
    side = min(side + side % 2, box)
    moved = np.einsum("nij,i->nj", poses.rotation, centre)  # the new centre in the frame of each image, xyz Å
    place = poses.shift_px + moved[:, 1::-1] / pixel_size
    whole = np.rint(place).astype(np.int64)
    folder = run.folder / "particles"
    folder.mkdir(exist_ok=True)
    chunks = [np.arange(i, min(i + 500, len(particles))) for i in range(0, len(particles), 500)]

    def work(rows: np.ndarray) -> dict[str, Any]:
        images = window(subtracted_images(source, outside, poses, rows), whole[rows], side)
        write_mrc(folder / f"subtracted_{rows[0] // 500 + 1:04d}.mrcs", images, pixel_size, kind="stack")
        return {"n": len(rows)}

    run.each(chunks, work, key=lambda rows: str(rows[0]), label="subtracting", max_failed_fraction=0.0)
    rows = np.arange(len(particles))
    paths = np.array([str(folder / f"subtracted_{i + 1:04d}.mrcs") for i in range(len(chunks))])
    height = particles.per_row("hand") * moved[:, 2]
    position = particles.position_px
    if position is not None:
        micrograph_px = np.array([o.original_pixel_size or o.pixel_size for o in particles.optics])
        position = position + whole * (pixel_size / micrograph_px[particles.optics_index])[:, None]
    new = particles.replace(
        image_path=paths[rows // 500],
        image_index=rows % 500,
        optics=tuple(replace(o, box=side) for o in particles.optics),
        shift=(place - whole) * pixel_size,
        defocus_u=None if particles.defocus_u is None else particles.defocus_u + height,
        defocus_v=None if particles.defocus_v is None else particles.defocus_v + height,
        position_px=position,
    )
    run.summarise(
        verdict="found",
        reasons=[f"subtracted what lies outside the mask; the centre moved by {np.linalg.norm(centre):.1f} Å"],
        n_in=len(particles),
        n_out=len(new),
        box=side,
        pixel_size=pixel_size,
        centre=[round(float(c), 2) for c in centre],
        gain=round(outside.gain, 4),
    )
    return {
        "particles": new,
        "map": VolumeMap(_moved(outside.inside, centre, pixel_size, side), pixel_size),
        "mask": VolumeMap(np.clip(_moved(kept, centre, pixel_size, side), 0.0, 1.0), pixel_size),
    }


def _check(particles: ParticleSet, maps: tuple[VolumeMap, ...], box: int, pixel_size: float) -> None:
    if particles.rotation is None or particles.half is None:
        raise InputError("The particles need poses and halves; give the particles of a refinement.")
    for m in maps:
        if m.data.shape != (box, box, box) or abs(m.pixel_size / pixel_size - 1) > 1e-3:
            raise InputError(
                f"A map has {m.data.shape[0]} voxels of {m.pixel_size:.3f} Å, the images {box} pixels of "
                f"{pixel_size:.3f} Å; give halves and mask in the box of the images."
            )


def _poses(particles: ParticleSet, pixel_size: float) -> PoseTable:
    assert particles.half is not None and particles.rotation is not None
    poses = empty_poses(len(particles), particles.half)
    poses.rotation[:] = particles.rotation
    poses.shift_px[:] = 0.0 if particles.shift is None else particles.shift / pixel_size
    if particles.scale is not None:
        poses.scale[:] = np.where(np.isfinite(particles.scale), particles.scale, 1.0)
    return poses


def _middle(mask: torch.Tensor, pixel_size: float) -> tuple[np.ndarray, float]:
    """Centre of the mask's ball from the centre of the map, xyz Å, and the ball's diameter."""
    inside = torch.nonzero(mask > 0.5).to(torch.float64)
    if len(inside) == 0:
        raise InputError("The mask is empty: no voxel is above 0.5.")
    middle = 0.5 * (inside.amin(0) + inside.amax(0))
    extent = 2.0 * float((inside - middle).norm(dim=1).max()) * pixel_size
    centre = (middle - mask.shape[0] // 2).flip(0) * pixel_size
    return centre.numpy(), extent


def _moved(volume: torch.Tensor, centre: np.ndarray, pixel_size: float, box: int) -> np.ndarray:
    """The volume with the point `centre` (xyz Å) in the middle, cut to `box`."""
    shift = torch.from_numpy(-centre[::-1].copy() / pixel_size)
    moved = transform_map(volume, torch.eye(3, dtype=torch.float64), shift) if np.any(centre) else volume
    start = volume.shape[0] // 2 - box // 2
    cut = slice(start, start + box)
    return moved[cut, cut, cut].numpy().astype(np.float32)
