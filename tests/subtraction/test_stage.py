"""Subtraction leaves what the mask keeps, on its own centre, at poses that still hold."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.maps.mask import spherical_mask
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, simulate_particles

BOX, PIXEL = 40, 4.4
PLACE = np.array([5.0, -4.0, 6.0])  # of the kept part, voxels xyz from the centre


def blobs(centres: np.ndarray) -> torch.Tensor:
    axis = np.arange(BOX) - BOX // 2
    g = [np.exp(-((axis[None] - centres[:, i : i + 1]) ** 2) / (2 * 1.2**2)) for i in range(3)]
    return torch.from_numpy(np.einsum("nz,ny,nx->zyx", g[2], g[1], g[0])).float()


@pytest.fixture(scope="module")
def subtracted(tmp_path_factory):
    rng = np.random.default_rng(0)
    body = blobs(rng.normal(size=(50, 3)) * 3.0 - 0.5 * PLACE)
    part = blobs(rng.normal(size=(12, 3)) * 1.2 + PLACE)
    specimen = Specimen(((VolumeMap((body + part).numpy(), PIXEL),),), diameter=0.8 * BOX * PIXEL)
    folder = tmp_path_factory.mktemp("subtraction")
    truth = simulate_particles(specimen, folder, ParticleRecipe(n=150, snr=1.0, junk=0.0, bfactor=0.0), seed=3)
    truth = truth.replace(half=np.arange(150) % 2 + 1, ctf_bfactor=None)
    mask = spherical_mask(BOX, 6.5, 3.0, centre_px=(PLACE[::-1] + BOX // 2).tolist())
    noise = [0.02 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(h)) for h in (1, 2)]
    halves = [VolumeMap((7.0 * (body + part + n)).numpy(), PIXEL) for n in noise]  # a foreign grey scale
    inputs = {"particles": truth, "half1": halves[0], "half2": halves[1], "mask": VolumeMap(mask.numpy(), PIXEL)}
    result = run_stage("subtract", inputs=inputs, settings={"mask_diameter": specimen.diameter}, out=folder / "job")
    return truth, part, body, mask, result, folder


def test_the_kept_part_is_rebuilt_on_its_own_centre_and_the_rest_is_gone(subtracted):
    _, part, _, _, result, folder = subtracted
    particles = read_particles(result.outputs["particles"])
    side = result.summary["box"]
    assert side < BOX
    rebuilt = run_stage("reconstruct", inputs={"particles": particles}, settings={}, out=folder / "rebuilt")
    found = torch.from_numpy(np.array(read_map(rebuilt.outputs["map"]).data))
    start = np.rint(PLACE[::-1]).astype(int) + BOX // 2 - side // 2
    wanted = torch.nn.functional.pad(part, (20,) * 6)[
        start[0] + 20 : start[0] + 20 + side, start[1] + 20 : start[1] + 20 + side, start[2] + 20 : start[2] + 20 + side
    ]
    both = torch.stack([found.flatten(), wanted.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9
    reference = torch.from_numpy(np.array(read_map(result.outputs["map"]).data))
    assert float(torch.corrcoef(torch.stack([reference.flatten(), wanted.flatten()]))[0, 1]) > 0.9


def test_rows_and_halves_stay_and_the_height_enters_the_defocus(subtracted):
    truth, _, _, _, result, _ = subtracted
    particles = read_particles(result.outputs["particles"])
    np.testing.assert_array_equal(particles.half, truth.half)
    np.testing.assert_allclose(particles.rotation, truth.rotation, atol=1e-5)
    height = np.einsum("nij,i->nj", truth.rotation, PLACE * PIXEL)[:, 2]
    np.testing.assert_allclose(particles.defocus_u - truth.defocus_u, height, atol=4.5)
    assert np.abs(particles.shift).max() <= 0.51 * PIXEL


def test_particles_without_poses_are_refused(subtracted, tmp_path):
    truth, _, _, mask, _, _ = subtracted
    volume = VolumeMap(mask.numpy(), PIXEL)
    inputs = {"particles": truth.replace(rotation=None), "half1": volume, "half2": volume, "mask": volume}
    with pytest.raises(InputError, match="poses and halves"):
        run_stage("subtract", inputs=inputs, settings={}, out=tmp_path / "job")
