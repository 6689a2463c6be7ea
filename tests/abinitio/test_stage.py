import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map
from cryoloom.project.runner import run_stage
from cryoloom.scoring.maps import score_map
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

PIXEL_SIZE, BOX = 4.0, 64


@pytest.fixture(scope="module")
def specimen():
    atoms = phantom("fork", "C1", mass_kda=200)
    return Specimen(((potential_map(atoms, BOX, PIXEL_SIZE),),), diameter=atoms.diameter)


def run(particles, folder, **settings):
    return run_stage("abinitio", {"particles": observed(particles)}, settings, out=folder, device="cpu", seed=1)


@pytest.mark.slow
def test_a_shape_is_found_from_its_particles_alone(specimen, tmp_path):
    recipe = ParticleRecipe(n=600, snr=0.1, junk=0.0, shift=4.0)
    particles = simulate_particles(specimen, tmp_path / "data", recipe, seed=3)
    job = run(particles, tmp_path / "job", mask_diameter=1.2 * specimen.diameter, starts=4)
    truth: VolumeMap = specimen.states[0][0]
    scored = score_map(read_map(job["class001"]), truth)
    at_20 = scored.fsc[1 : int(BOX * PIXEL_SIZE / 20)]
    assert job.summary["verdict"] == "found", job.summary["reasons"]
    assert float(np.mean(at_20)) > 0.8


def test_noise_is_not_taken_for_a_particle(specimen, tmp_path):
    recipe = ParticleRecipe(n=300, snr=0.0, junk=0.0)
    particles = simulate_particles(specimen, tmp_path / "data", recipe, seed=4)
    job = run(particles, tmp_path / "job", mask_diameter=150.0, starts=2, resolution=25.0)
    assert job.summary["verdict"] == "not found"
    assert torch.isfinite(torch.from_numpy(read_map(job["class001"]).data)).all()
