"""Particle images: signal, noise, junk, states, motion, and truth that matches the pixels."""

import math

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.fourier.exact import exact_spectrum, project_dft
from cryoloom.fourier.shells import shell_mean
from cryoloom.geometry import grid_rotations
from cryoloom.io.mrc import read_mrc
from cryoloom.simulate.beds import BEDS, bed_recipe, bed_specimen, simulate_bed
from cryoloom.simulate.imaging import image_dfts
from cryoloom.simulate.noise import coloured_noise, ice_spectrum
from cryoloom.simulate.particles import (
    ParticleRecipe,
    Specimen,
    chunk_size,
    observed,
    particle_images,
    simulate_particles,
)
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.views import sample_rotations

CLEAN = ParticleRecipe(n=6, snr=1e6, junk=0.0, shift=4.0)


@pytest.fixture(scope="module")
def specimen():
    atoms = phantom("globule", mass_kda=60)
    return Specimen(((potential_map(atoms, 48, 3.0),),), diameter=atoms.diameter)


def rebuilt(specimen, truth, recipe):
    """Images from the truth, the CTF written out once more."""
    optics = truth.optics[0]
    box = specimen.box
    fy, fx = np.meshgrid(np.fft.fftfreq(box, 3.0), np.fft.rfftfreq(box, 3.0), indexing="ij")
    k2, theta = fx**2 + fy**2, np.arctan2(fy, fx)
    wavelength = 0.0196875
    images = []
    slices = project_dft(exact_spectrum(torch.from_numpy(specimen.truth().data)), torch.from_numpy(truth.rotation))
    for i in range(len(truth)):
        u, v, angle = truth.defocus_u[i], truth.defocus_v[i], truth.defocus_angle[i]
        defocus = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (theta - angle))
        chi = -np.pi * wavelength * defocus * k2 + 0.5 * np.pi * optics.cs_mm * 1e7 * wavelength**3 * k2**2
        ctf = -np.sin(chi - math.asin(optics.amplitude_contrast)) * np.exp(-recipe.bfactor * k2 / 4)
        ramp = np.exp(-2j * np.pi * (fy * truth.shift[i, 0] + fx * truth.shift[i, 1]))
        images.append(dft_to_image(slices[i] * torch.from_numpy(ctf * ramp).to(torch.complex64), (box, box)))
    return torch.stack(images)


def test_images_are_what_the_truth_says(specimen):
    images, truth = particle_images(specimen, CLEAN, seed=1)
    expected = rebuilt(specimen, truth, CLEAN)
    for image, model in zip(images, expected, strict=True):
        a, b = image - image.mean(), model - model.mean()
        assert float((a * b).sum() / (a.norm() * b.norm())) > 0.99999


def test_noise_has_variance_one_and_the_signal_the_ratio_asked_for(specimen):
    recipe = ParticleRecipe(n=200, snr=0.2, junk=0.0, shift=0.0)
    images, truth = particle_images(specimen, recipe, seed=2)
    silent, _ = particle_images(specimen, ParticleRecipe(n=200, snr=0.0, junk=0.0), seed=2)
    assert abs(float(silent.var()) - 1) < 0.01
    axis = torch.arange(48) - 24
    circle = axis[:, None] ** 2 + axis**2 <= (0.5 * specimen.diameter / 3.0) ** 2
    # the noise of both sets is the same stream
    signal = (images - silent)[:, circle]
    assert float(signal.var(dim=1, correction=0).mean()) == pytest.approx(0.2, rel=0.03)
    assert (truth.class_number == 1).all()


def test_noise_has_the_spectrum_of_ice():
    spectrum = ice_spectrum((64, 64), 1.5, rise=4.0)
    noise = coloured_noise(400, (64, 64), spectrum, torch.Generator().manual_seed(0))
    power = shell_mean((image_to_dft(noise).abs() ** 2).mean(0), (64, 64)) / 64**2
    expected = shell_mean(spectrum, (64, 64))
    np.testing.assert_allclose(power[1:], expected[1:], rtol=0.12)
    assert expected[1] > 2 * expected[-1]


def test_stacks_on_disk_hold_the_images_whatever_runs_the_chunks(specimen, tmp_path):
    class Backwards:
        n_workers = 1

        def map(self, fn, chunks):
            chunks = list(chunks)
            done = {c: fn(c) for c in reversed(chunks)}
            return iter([done[c] for c in chunks])

    n = chunk_size(specimen.box) + 5
    recipe = ParticleRecipe(n=n, snr=0.1)
    truth = simulate_particles(specimen, tmp_path / "a", recipe, seed=4)
    simulate_particles(specimen, tmp_path / "b", recipe, seed=4, executor=Backwards())
    images, _ = particle_images(specimen, recipe, seed=4)
    paths = sorted((tmp_path / "a").iterdir())
    assert len(paths) == 2
    stacks = [read_mrc(p)[0] for p in paths]
    np.testing.assert_array_equal(np.concatenate(stacks), images.numpy())
    np.testing.assert_array_equal(np.concatenate([read_mrc(tmp_path / "b" / p.name)[0] for p in paths]), images.numpy())
    for row in (0, n - 1):
        stack, _ = read_mrc(truth.image_path[row])
        np.testing.assert_array_equal(stack[truth.image_index[row]], images[row].numpy())


def test_junk_and_states_come_in_their_shares(specimen):
    two = Specimen((specimen.states[0], specimen.states[0]), diameter=specimen.diameter, weights=(0.8, 0.2))
    _, truth = particle_images(two, ParticleRecipe(n=600, snr=0.0, junk=0.2), seed=5)
    kind = truth.extra["cryoloomKind"]
    assert abs((kind > 0).mean() - 0.2) < 0.05
    assert (truth.class_number[kind > 0] == 0).all() and (truth.class_number[kind == 0] > 0).all()
    assert abs((truth.class_number == 2).sum() / (kind == 0).sum() - 0.2) < 0.05


def test_what_a_pipeline_sees_holds_no_truth(specimen):
    _, truth = particle_images(specimen, ParticleRecipe(n=150, snr=0.0), seed=6)
    seen = observed(truth)
    assert seen.rotation is None and seen.shift is None and seen.class_number is None and not seen.extra
    height = truth.defocus_u - seen.defocus_u
    assert 200 < np.abs(height).max() <= 300
    for name in np.unique(seen.micrograph):
        assert len(np.unique(seen.defocus_u[seen.micrograph == name])) == 1


def test_preferred_views_crowd_around_their_axis():
    rotations = sample_rotations(1000, torch.Generator().manual_seed(0), preferred_fraction=0.7)
    tilt = torch.rad2deg(torch.arccos(rotations[:, 2, 2].abs()))
    assert 0.68 < float((tilt < 40).double().mean()) < 0.8
    assert float((tilt > 60).double().mean()) > 0.1


def test_height_on_the_ewald_sphere_is_defocus(specimen):
    """A point at height z, imaged with the sphere, looks like a point in the middle at `defocus + hand z`."""
    box, pixel_size, height = 48, 2.0, 30.0
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_size

    def blob(z0):
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        return exact_spectrum(torch.exp(-(x**2 + y**2 + (z - z0) ** 2) / 8).to(torch.float32))

    def image(spectrum, defocus, optics, ewald):
        one = torch.ones(1, dtype=torch.float64)
        dft = image_dfts(
            [spectrum], torch.eye(3, dtype=torch.float64)[None], optics=optics, box=box, defocus_u=defocus * one,
            defocus_v=defocus * one, defocus_angle=0 * one, phase_shift=0 * one,
            shift=torch.zeros(1, 2, dtype=torch.float64), ewald=ewald,
        )  # fmt: skip
        return dft_to_image(dft, (box, box))[0]

    from cryoloom.data import Optics

    for hand in (1, -1):
        optics = Optics(pixel_size=pixel_size, hand=hand, amplitude_contrast=0.1)
        curved = image(blob(height), 1000.0, optics, True)
        same = image(blob(0.0), 1000.0 + hand * height, optics, False)
        other = image(blob(0.0), 1000.0 - hand * height, optics, False)
        assert (curved - same).norm() < 0.02 * same.norm()
        assert (curved - other).norm() > 4 * (curved - same).norm()


def test_a_moving_body_is_where_the_map_of_its_coordinate_says():
    bed = bed_specimen("hinge")
    coordinate = 0.9
    truth_map = bed.truth(0, coordinate)
    direction = grid_rotations(torch.tensor([[0.3, 0.5, 0.8]], dtype=torch.float64))
    whole = project_dft(exact_spectrum(torch.from_numpy(truth_map.data)), direction)
    rotation, translation = bed.motion(np.array([coordinate]))
    zero = torch.zeros(1, dtype=torch.float64)
    from cryoloom.data import Optics

    parts = image_dfts(
        [exact_spectrum(torch.from_numpy(b.data)) for b in bed.states[0]], direction,
        optics=Optics(pixel_size=bed.pixel_size, amplitude_contrast=0.5, cs_mm=0.0), box=bed.box,
        defocus_u=zero, defocus_v=zero, defocus_angle=zero, phase_shift=zero,
        shift=torch.zeros(1, 2, dtype=torch.float64),
        body_rotation=torch.from_numpy(rotation), body_translation=torch.from_numpy(translation),
    )  # fmt: skip
    # at zero defocus and Cs the CTF is the amplitude contrast
    low = slice(0, 30)
    error = (parts / 0.5 - whole)[:, low, low].abs().pow(2).mean().sqrt()
    assert error < 0.01 * whole[:, low, low].abs().pow(2).mean().sqrt()


@pytest.mark.parametrize(
    "name",
    [
        "o",
        "hinge",
        "two",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("c1", "null", "d2", "d7", "small", "four")),
    ],
)
def test_every_bed_runs_as_a_phantom(name, tmp_path):
    truth = simulate_bed(name, tmp_path, phantom=True, n=8)
    images, header = read_mrc(truth.image_path[0])
    assert images.shape == (8, BEDS[name].box, BEDS[name].box)
    assert header.pixel_size == pytest.approx(BEDS[name].pixel_size)
    assert np.isfinite(images).all()


def test_a_bed_without_its_model_says_what_to_do(monkeypatch):
    monkeypatch.delenv("CRYOLOOM_DATA", raising=False)
    with pytest.raises(InputError, match="CRYOLOOM_DATA"):
        bed_specimen("c1")


def test_beds_are_those_of_the_table():
    assert {n: (b.pixel_size, b.box, b.recipe.n, b.recipe.snr, b.recipe.junk) for n, b in BEDS.items()} == {
        "c1": (1.5, 160, 3000, 0.05, 0.1),
        "d2": (1.4, 192, 3000, 0.03, 0.1),
        "d7": (1.6, 192, 2000, 0.03, 0.0),
        "o": (1.4, 128, 1500, 0.03, 0.0),
        "small": (1.2, 192, 20_000, 0.02, 0.2),
        "two": (1.9, 128, 4000, 0.05, 0.0),
        "four": (1.9, 128, 8000, 0.05, 0.0),
        "hinge": (1.5, 128, 20_000, 0.05, 0.0),
        "null": (1.5, 160, 3000, 0.0, 0.0),
    }
    assert bed_recipe("c1", n=5).n == 5


def test_a_bare_map_is_a_specimen(tmp_path):
    volume = VolumeMap(np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32), 3.0)
    assert len(simulate_particles(volume, tmp_path, n=3)) == 3
