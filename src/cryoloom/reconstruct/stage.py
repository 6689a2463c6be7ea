"""Stage `reconstruct`: insert every particle at its pose, solve the halves and the whole."""

import numpy as np
import torch

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.accumulate import accumulate
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.images import ImageSource, cache_bytes
from cryoloom.em.noise import estimate_image_power
from cryoloom.em.place import Place
from cryoloom.em.poses import single_candidates
from cryoloom.em.solve import prepare_sums, solve, ssnr_of
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.maps.mask import spherical_mask
from cryoloom.reconstruct.settings import RECONSTRUCT, ReconstructSettings


@stage(RECONSTRUCT)
def reconstruct_map(particles: ParticleSet, settings: ReconstructSettings, run: Run) -> dict[str, VolumeMap]:
    """Map and half maps of particles with poses."""
    if particles.rotation is None:
        raise InputError("The particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run refine first.")
    half = half_sets(particles, run.generator("halves"))
    reader = ParticleImages(particles)
    box = reader.shape[-1]
    pixel_size = float(particles.optics[0].pixel_size)
    diameter = settings.mask_diameter or 0.8 * box * pixel_size
    source = ImageSource(
        reader,
        particles,
        diameter,
        noise_group=noise_groups(particles, settings.noise),
        cache_bytes=cache_bytes(run.memory_budget),
        place=Place(run.devices),
    )
    radius = source.points.radius
    if settings.resolution is not None:
        radius = int(np.clip(round(source.field / settings.resolution), 2, radius))
    classes = np.zeros(len(particles), np.int64)
    names = [""]
    if settings.by_class:
        if particles.class_number is None:
            raise InputError("by_class needs a class number (rlnClassNumber) for each particle; there is none.")
        numbers = np.unique(particles.class_number[particles.class_number > 0])
        if len(numbers) == 0:
            raise InputError("by_class: no particle belongs to a class.")
        classes = np.where(particles.class_number > 0, np.searchsorted(numbers, particles.class_number), -1)
        names = [f"class{int(n):03d}_" for n in numbers]
    rows = np.arange(len(particles))
    noise = estimate_image_power(source, run.executor, rows)
    shift_px = np.zeros((len(rows), 2)) if particles.shift is None else particles.shift / pixel_size
    scale = np.ones(len(rows)) if particles.scale is None else np.nan_to_num(particles.scale, nan=1.0)
    usable = np.isfinite(particles.rotation).all((1, 2)) & np.isfinite(shift_px).all(1) & (classes >= 0)
    candidates = single_candidates(rows, particles.rotation, shift_px, scale).select(usable)
    results: dict[str, VolumeMap] = {}
    resolutions = []
    # one class at a time: memory holds two volumes, however many classes there are
    for c, name in enumerate(names):
        mine = candidates.select(classes[candidates.row] == c)
        if len(np.unique(half[mine.row])) < 2:
            run.warn(f"{name or 'the map'}: {len(mine)} particles do not fill two halves; left out")
            continue
        sums = accumulate(source, mine, half[mine.row] - 1, 2, noise, run.executor, radius=radius)
        halves = [prepare_sums(s, settings.symmetry, run.executor) for s in sums]
        del sums
        ball = spherical_mask(box, min(0.5 * diameter / pixel_size, 0.5 * box - 4), 4.0)
        volumes = [solve(h, box) for h in halves]
        fsc = fourier_shell_correlation(volumes[0] * ball, volumes[1] * ball).numpy()
        whole = solve(halves[0].plus(halves[1]), box, ssnr_of(fsc, both_halves=True))
        resolutions.append(resolution_at(fsc, 0.143, box, pixel_size))
        key = name if settings.by_class else ""
        results[f"{key}map"] = _as_map(whole, pixel_size)
        results[f"{key}half1"], results[f"{key}half2"] = (_as_map(v, pixel_size) for v in volumes)
    if not results:
        raise InputError("No class has particles in both halves, so no map can be made.")
    best = min(resolutions)
    run.summarise(
        verdict="found" if best < 40.0 else "doubtful",
        reasons=[f"half maps agree to {best:.1f} Å within a ball of {diameter:.0f} Å"],
        n_in=len(particles),
        n_out=int(usable.sum()),
        resolution=best,
        symmetry=settings.symmetry,
        pixel_size=pixel_size,
    )
    return results


def _as_map(volume: torch.Tensor, pixel_size: float) -> VolumeMap:
    return VolumeMap(volume.numpy().astype(np.float32), pixel_size)
