"""The stage as a user runs it: states are found from poses, from maps of each, and not where there are none."""

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage


def test_two_states_are_found_from_poses_alone(states, tmp_path):
    data = states(n=600, weights=(0.65, 0.35), snr=0.3)
    result = run_stage(
        "class3d",
        inputs={"particles": data.posed, "reference": None, "mask": None},
        settings={"classes": 2, "alignment": False, "mask_diameter": data.diameter, "starts": 5},
        out=tmp_path / "job",
    )
    particles = read_particles(result.outputs["particles"])
    assert data.accuracy(particles.class_number) > 0.93
    share = np.stack([particles.extra[f"cryoloomClassProbability{k:03d}"] for k in (1, 2)], axis=1).astype(float)
    np.testing.assert_allclose(share.sum(1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(share.argmax(1) + 1, particles.class_number)
    true = np.mean(data.truth.class_number == 1)
    low, high = result.summary["population_intervals"][0]
    assert low < true < high
    assert result.summary["verdict"] == "found"
    np.testing.assert_array_equal(particles.rotation.shape, (600, 3, 3))
    assert (result.folder / "class002_half1.mrc").exists()


def test_on_a_gpu_the_same_states_are_found(states, tmp_path, gpu):
    data = states(n=240, weights=(0.6, 0.4), snr=1.0)
    result = run_stage(
        "class3d",
        inputs={"particles": data.posed, "reference": None, "mask": None},
        settings={"classes": 2, "alignment": False, "mask_diameter": data.diameter, "starts": 2},
        out=tmp_path / "job",
        device=gpu,
        threads=1,
    )
    assert result.summary["device"].startswith("cuda:0")
    assert data.accuracy(read_particles(result.outputs["particles"]).class_number) > 0.93


@pytest.mark.slow
def test_one_state_is_not_split_in_two(states, tmp_path):
    data = states(n=500, weights=(1.0,), snr=0.2, off=0.0)
    result = run_stage(
        "class3d",
        inputs={"particles": data.posed, "reference": None, "mask": None},
        settings={"classes": 2, "alignment": False, "mask_diameter": data.diameter, "starts": 5},
        out=tmp_path / "job",
    )
    assert result.summary["verdict"] == "not found"


@pytest.mark.slow
def test_particles_without_poses_are_aligned_to_a_map_of_each_state(states, tmp_path):
    data = states(n=600, weights=(0.65, 0.35), snr=1.0)
    result = run_stage(
        "class3d",
        inputs={"particles": data.bare, "reference": list(data.maps), "mask": None},
        settings={"mask_diameter": data.diameter},
        out=tmp_path / "job",
    )
    particles = read_particles(result.outputs["particles"])
    # references keep their order
    assert np.mean(particles.class_number == data.truth.class_number) > 0.9


@pytest.mark.slow
def test_particles_without_poses_are_told_apart_from_one_map(states, tmp_path):
    data = states(n=700, weights=(0.5, 0.5), snr=0.3)
    result = run_stage(
        "class3d",
        inputs={"particles": data.bare, "reference": [data.maps[0]], "mask": None},
        settings={"classes": 2, "mask_diameter": data.diameter},
        out=tmp_path / "job",
    )
    assert data.accuracy(read_particles(result.outputs["particles"]).class_number) > 0.9
    assert result.summary["verdict"] == "found"
    true = np.sort([np.mean(data.truth.class_number == k) for k in (1, 2)])[::-1]
    np.testing.assert_allclose(result.summary["populations"], true, atol=0.05)


def test_without_poses_and_reference_it_says_what_is_missing(states, tmp_path):
    data = states(n=600, weights=(0.65, 0.35), snr=0.3)
    with pytest.raises(InputError, match="--reference"):
        run_stage("class3d", inputs={"particles": data.bare}, settings={}, out=tmp_path / "job")
