"""Defocus of each particle from the map of its micrograph: tilts are followed, errors of flat ones are not."""

import numpy as np
import pytest

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.extraction.local_defocus import interpolate_difference
from cryoloom.io.defocus_map import read_defocus_map, write_defocus_map
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage

TILT = np.asarray([0.8, -0.5])  # Å per pixel, yx


def _grid(step=40, size=240):
    axis = np.arange(step / 2, size, step)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def test_a_plane_is_followed_between_the_places_of_its_map():
    place = _grid()
    at = np.random.default_rng(0).uniform(20, 220, (50, 2))
    found = interpolate_difference(place, (place - 120) @ TILT, np.full(len(place), 1e-3), at)
    np.testing.assert_allclose(found, (at - 120) @ TILT, atol=1e-3)
    outside = interpolate_difference(place, (place - 120) @ TILT, np.full(len(place), 1e-3), np.asarray([[0.0, 0.0]]))
    np.testing.assert_allclose(outside, (place[0] - 120) @ TILT, atol=1e-3)


def test_errors_of_a_flat_micrograph_do_not_reach_its_particles():
    rng = np.random.default_rng(1)
    place = _grid(16)
    error = np.full(len(place), 80.0)
    found = interpolate_difference(place, error * rng.standard_normal(len(place)), error, place)
    assert np.sqrt((found**2).mean()) < 15


@pytest.mark.parametrize("n_places", [0, 1, 2])
def test_maps_of_few_places_are_taken_as_they_are(n_places):
    place = np.asarray([[10.0, 10.0], [200.0, 200.0]])[:n_places]
    found = interpolate_difference(place, np.asarray([50.0, -50.0])[:n_places], np.zeros(n_places), np.eye(2))
    np.testing.assert_allclose(found, 50.0 if n_places else 0.0)


def test_extracted_particles_carry_the_defocus_of_their_place(tmp_path):
    rng = np.random.default_rng(2)
    paths = [str(tmp_path / f"mic{i}.mrc") for i in range(2)]
    for path in paths:
        write_mrc(path, rng.standard_normal((240, 240)).astype(np.float32), 1.5)
    place = _grid()
    tilted = tmp_path / "maps" / "mic0.star"
    write_defocus_map(tilted, place, 15_000 + (place - 120) @ TILT, np.full(len(place), 1.0))
    np.testing.assert_allclose(read_defocus_map(tilted)[1], 15_000 + (place - 120) @ TILT, atol=0.1)
    micrographs = MicrographSet(
        path=np.asarray(paths), optics=(Optics(pixel_size=1.5),), optics_index=np.zeros(2, int),
        defocus_u=np.full(2, 15_200.0), defocus_v=np.full(2, 14_800.0), defocus_angle=np.full(2, 0.3),
        defocus_map=np.asarray([str(tilted), ""]),
    )  # fmt: skip
    position = rng.uniform(40, 200, (20, 2)).round()
    picks = PickSet(position_px=position, micrograph=np.repeat(paths, 10), diameter=36.0)
    inputs = {"micrographs": micrographs, "picks": picks}
    job = run_stage("extract", inputs, {"box": 32, "axes": "as-given"}, out=tmp_path / "job", threads=1)
    particles = read_particles(job["particles"])
    expected = np.where(np.arange(20) < 10, (position - 120) @ TILT, 0.0)
    np.testing.assert_allclose(particles.defocus_u - 15_200, expected, atol=1.0)
    np.testing.assert_allclose(particles.defocus_u - particles.defocus_v, 400.0, atol=1e-3)
    assert job.summary["n_with_local_defocus"] == 10
    assert 20 < job.summary["local_defocus_spread"] < 100
