import numpy as np
import pytest
import torch

from cryoloom.abinitio.store import StartStore
from cryoloom.abinitio.tournament import Tournament
from cryoloom.compute.device import choose_device
from cryoloom.data import VolumeMap
from cryoloom.em.extent import estimate_mask_diameter
from cryoloom.io.map_file import read_map
from cryoloom.io.particles import ParticleImages
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
    job = run(particles, tmp_path / "job", starts=4)
    truth: VolumeMap = specimen.states[0][0]
    scored = score_map(read_map(job["class001"]), truth)
    at_20 = scored.fsc[1 : int(BOX * PIXEL_SIZE / 20)]
    assert job.summary["verdict"] == "found", job.summary["reasons"]
    assert float(np.mean(at_20)) > 0.8


def test_a_job_that_was_killed_goes_on_where_it_was_and_ends_alike(specimen, tmp_path, monkeypatch):
    monkeypatch.setattr("cryoloom.abinitio.stage.ROUNDS", 1)
    recipe = ParticleRecipe(n=200, snr=0.2, junk=0.0, shift=4.0)
    particles = simulate_particles(specimen, tmp_path / "data", recipe, seed=5)
    settings = {"mask_diameter": 1.2 * specimen.diameter, "starts": 2, "resolution": 40.0}
    whole = read_map(run(particles, tmp_path / "whole", **settings)["class001"]).data
    done = []

    class Killed(BaseException):
        pass

    def keep(store, level, contender, keep=StartStore.keep):
        if len(done) == 2:
            raise Killed
        done.append((contender.seed, level))
        keep(store, level, contender)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StartStore, "keep", keep)
        run(particles, tmp_path / "job", **settings)
    climbed = []
    monkeypatch.setattr(Tournament, "_climb_now", _noting(Tournament._climb_now, climbed))
    again = read_map(run(particles, tmp_path / "job", **settings)["class001"]).data
    assert not set(done) & set(climbed)
    assert np.array_equal(again, whole)


@pytest.mark.slow
def test_on_a_gpu_the_same_map_is_found(specimen, tmp_path, gpu, monkeypatch):
    monkeypatch.setattr("cryoloom.abinitio.stage.ROUNDS", 1)
    recipe = ParticleRecipe(n=120, snr=0.3, junk=0.0, shift=4.0)
    particles = observed(simulate_particles(specimen, tmp_path / "data", recipe, seed=5))
    settings = {"mask_diameter": 1.2 * specimen.diameter, "starts": 2, "resolution": 50.0}

    def go(name, device):
        job = run_stage("abinitio", {"particles": particles}, settings, out=tmp_path / name, device=device, threads=1)
        assert job.summary["device"] == device
        return read_map(job["class001"]).data

    there = go("gpu", gpu)
    monkeypatch.setattr("cryoloom.project.runner.choose_device", choose_device)
    here = go("cpu", "cpu")
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.99


def test_starts_are_made_from_most_of_the_images_and_judged_on_others(specimen, tmp_path, monkeypatch):
    given = []

    class Seen(BaseException):
        pass

    def look(self, levels, steps, n_classes, training, held_out, *rest, **more):
        given.extend([training, held_out])
        raise Seen

    particles = simulate_particles(specimen, tmp_path / "data", ParticleRecipe(n=120, snr=0.2, junk=0.0), seed=7)
    monkeypatch.setattr(Tournament, "__init__", look)
    with pytest.raises(Seen):
        run(particles, tmp_path / "job")
    training, held_out = given
    assert (len(training), len(held_out)) == (96, 24)
    assert not set(training.tolist()) & set(held_out.tolist())


def _noting(climb, climbed):
    def noted(self, seed, before, i):
        climbed.append((seed, i))
        return climb(self, seed, before, i)

    return noted


@pytest.mark.parametrize("model, snr", [("globule", 0.1), ("ring", 0.1)])
def test_the_mask_holds_the_particle_and_little_more(model, snr, tmp_path):
    atoms = phantom(model, "C1", mass_kda=300)
    specimen = Specimen(((potential_map(atoms, 64, 5.0),),), diameter=atoms.diameter)
    particles = simulate_particles(specimen, tmp_path, ParticleRecipe(n=600, snr=snr, junk=0.0, shift=3.0), seed=6)
    found = estimate_mask_diameter(ParticleImages(particles), len(particles), 5.0)
    assert atoms.diameter < found < 1.6 * atoms.diameter


def test_noise_is_not_taken_for_a_particle(specimen, tmp_path):
    recipe = ParticleRecipe(n=300, snr=0.0, junk=0.0)
    particles = simulate_particles(specimen, tmp_path / "data", recipe, seed=4)
    job = run(particles, tmp_path / "job", mask_diameter=150.0, starts=2, resolution=25.0)
    assert job.summary["verdict"] == "not found"
    assert torch.isfinite(torch.from_numpy(read_map(job["class001"]).data)).all()
