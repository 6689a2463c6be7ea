"""Half maps of noise are never better than 20 Å, whatever colour, mask or reference the noise has seen."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import best_of, refine_poses, search_directions, search_poses, shift_grid
from cryoloom.fourier.slices import prepare_volume
from cryoloom.maps import filter_map, lowpass, radial_frequency, spherical_mask
from cryoloom.maps.global_resolution import measure_global_resolution
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.posed import reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed

EXECUTOR = ThreadExecutor(1)


def coloured_noise(seed: int, box: int, pixel_size: float):
    """Two independent volumes of one spectrum: white, with a B-factor, with a rise at low frequency, behind a ball."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    k = radial_frequency((box,) * 3, pixel_size)
    gain = torch.exp(-rng.uniform(0, 150) * k**2 / 4) * (1 + rng.uniform(0, 8) * torch.exp(-((k * 25) ** 2)))
    halves = [filter_map(torch.randn(box, box, box, generator=generator), gain) for _ in range(2)]
    if seed % 3 == 0:
        ball = spherical_mask(box, rng.uniform(0.25, 0.42) * box, 4.0)
        halves = [half * ball for half in halves]
    return halves


def noise_refined_with_a_reference(seed: int):
    """Half maps of noise images, each aligned against one reference and then against their own map (as in `null`)."""
    bed = make_bed(240, seed=seed, snr=0.0)
    posed = bed.posed()
    pixel_size, every = bed.volume.pixel_size, np.ones(len(bed.images), np.int64)
    rows = np.arange(len(every))
    reference = lowpass(torch.from_numpy(bed.volume.data), pixel_size, 40.0)
    volumes, radius, poses = [reference, reference], 6, None
    for radius in (6, 8):
        parts = []
        for half in (1, 2):
            mine = rows[posed.half == half]
            scale = 0.05 * bed.images.shape[-1] / float(volumes[half - 1].std())
            if poses is not None:
                grey = fit_grey_scale(posed, volumes[half - 1], poses[half - 1], EXECUTOR, radius)
                scale = grey if grey > 0 else scale
            spectrum = [prepare_volume(volumes[half - 1] * scale, radius)]
            found = search_poses(
                posed.source, spectrum, every, mine, posed.noise, EXECUTOR, n_rings=radius,
                rotations=search_directions(3, "C1"), shifts_px=shift_grid(2.0, 1.0), top=2,
            )  # fmt: skip
            fitted = refine_poses(posed.source, spectrum, every, found, posed.noise, EXECUTOR, radius=radius, n_steps=3)
            best = fitted.select(best_of(fitted, fitted.log_likelihood))
            parts.append(replace(best, scale=np.ones(len(best)), posterior=np.ones(len(best))))
        poses = parts
        volumes = [reconstruct(posed, part, EXECUTOR) for part in parts]
        shown = volumes
        volumes = [lowpass(v, pixel_size, bed.images.shape[-1] * pixel_size / radius) for v in volumes]
    return shown, pixel_size


@pytest.mark.slow
@pytest.mark.capability("NUL-1")
def test_noise_is_never_better_than_20_angstrom(measure):
    best, n_direct, n_refined = np.inf, 60, 20
    for seed in range(n_direct):
        box, pixel_size = (48, 56, 64)[seed % 3], (1.2, 1.8, 2.6)[seed % 3]
        halves = coloured_noise(seed, box, pixel_size)
        given = spherical_mask(box, 0.2 * box, 3.0) if seed % 4 == 1 else None
        found = measure_global_resolution(*halves, pixel_size, given_mask=given)
        best = min(best, found.resolution)
    best_refined = np.inf
    for seed in range(n_refined):
        halves, pixel_size = noise_refined_with_a_reference(seed)
        found = measure_global_resolution(*halves, pixel_size)
        best_refined = min(best_refined, found.resolution)
    note = f"best of {n_direct} pairs of noise; of {n_refined} sets of noise images refined with a reference at 40 Å: "
    measure(round(best, 1), "Å", "> 20", note=note + f"{best_refined:.1f} Å")
    assert best > 20 and best_refined > 20
