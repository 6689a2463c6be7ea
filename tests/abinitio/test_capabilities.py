"""Rows of the capability table that belong to first maps."""

import numpy as np
import pytest
import torch

from cryoloom.io.map_file import read_map
from cryoloom.maps.filter import lowpass
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.maps.superpose import superpose
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import SHAPES, phantom
from cryoloom.simulate.potential import potential_map

STARTS, CASES_PER_SHARD = 20, 3
PIXEL_SIZE, BOX = 1.5, 160
RECIPE = ParticleRecipe(n=1500)  # bed c1 with half of its images: SNR 0.05, 10 % junk


def correlation_at_20(volume, truth) -> float:
    """Real-space correlation in the soft mask of the truth, both at 20 Å, best superposition of either hand."""
    target = lowpass(torch.from_numpy(np.ascontiguousarray(truth.data)), truth.pixel_size, 20.0)
    moving = lowpass(torch.from_numpy(np.ascontiguousarray(volume.data)), volume.pixel_size, 20.0)
    laid = superpose(target, moving, truth.pixel_size, resolution=20.0).apply(moving)
    mask = soft_mask_from_map(target, truth.pixel_size)
    a, b = (x - (x * mask).sum() / mask.sum() for x in (laid, target))
    return float((a * b * mask).sum() / ((a * a * mask).sum() * (b * b * mask).sum()).sqrt())


@pytest.mark.slow
@pytest.mark.capability("INI-2")
def test_six_shapes_are_found_from_random_starts(tmp_path, measure, evidence):
    """A few starts per run (a shard); the row asks for twenty of each of six shapes."""
    done = {(case["shape"], case["seed"]) for case in evidence.cases()}
    waiting = [(shape, seed) for seed in range(1, STARTS + 1) for shape in SHAPES if (shape, seed) not in done]
    i, n = evidence.shard
    for shape, seed in waiting[i - 1 :: n][:CASES_PER_SHARD]:
        atoms = phantom(shape, mass_kda=400.0)
        specimen = Specimen(
            ((potential_map(atoms, BOX, PIXEL_SIZE),),), symmetry=SHAPES[shape], diameter=atoms.diameter
        )
        particles = simulate_particles(specimen, tmp_path / f"{shape}_{seed}", RECIPE, seed=seed)
        job = run_stage(
            "abinitio", {"particles": observed(particles)}, {"symmetry": SHAPES[shape]},
            out=tmp_path / f"job_{shape}_{seed}", device="cpu", seed=seed,
        )  # fmt: skip
        evidence.append(
            shape=shape, seed=seed,
            correlation=round(correlation_at_20(read_map(job["class001"]), specimen.truth(0)), 3),
            verdict=job.summary["verdict"], cpu_seconds=job.summary["cpu_seconds"],
        )  # fmt: skip
    cases = evidence.cases()
    right = np.array([case["correlation"] > 0.8 for case in cases])
    false = [c for c in cases if c["correlation"] <= 0.8 and c["verdict"] == "found"]
    measure(
        round(100 * float(right.mean()), 1), "%", ">= 95",
        note=f"{right.sum()} of {len(cases)} starts with correlation above 0.8 at 20 Å; {len(false)} wrong maps called "
        f"found; median {np.median([c['cpu_seconds'] for c in cases]):.0f} CPU s",
    )  # fmt: skip
    assert len(cases) >= STARTS * len(SHAPES)
    assert right.mean() >= 0.95
