"""The stage as a user runs it: it finds poses and map, keeps the halves apart, and survives a kill."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.em.start import place_reference
from cryoloom.fourier import fourier_crop
from cryoloom.geometry import pose_distance, symmetry_matrices
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.project.runner import run_stage


def true_resolution(path, truth: VolumeMap) -> float:
    fsc = fourier_shell_correlation(torch.from_numpy(np.array(read_map(path).data)), torch.from_numpy(truth.data))
    return resolution_at(fsc, 0.5, truth.data.shape[0], truth.pixel_size)


@pytest.fixture(scope="module", params=["D2", pytest.param("C1", marks=pytest.mark.slow)])
def refined(request, small_set, tmp_path_factory, half_column):
    data = small_set(symmetry=request.param, n=160 if request.param == "D2" else 300)
    result = run_stage(
        "refine",
        inputs={"particles": data.particles.replace(half=half_column(len(data.particles))), "reference": data.volume},
        settings={"symmetry": data.symmetry},
        out=tmp_path_factory.mktemp("jobs") / f"refine {request.param}",
    )
    return data, result


def test_it_finds_poses_shifts_and_map(refined, half_column):
    data, result = refined
    particles = read_particles(result.outputs["particles"])
    error = pose_distance(
        torch.from_numpy(data.truth.rotation), torch.from_numpy(particles.rotation), data.symmetry
    ).numpy()
    assert np.rad2deg(np.median(error)) < 2.0
    assert np.mean(np.rad2deg(error) < 10) > 0.97
    assert np.median(np.linalg.norm(particles.shift - data.truth.shift, axis=1)) < 0.8
    resolution = true_resolution(result.outputs["map"], data.volume)
    assert resolution < 10.5
    assert result.summary["verdict"] == "found"
    assert abs(result.summary["resolution"] / resolution - 1) < 0.15
    assert (particles.pose_error > 0).all() and (particles.reliability > 0.4).mean() > 0.9
    np.testing.assert_array_equal(particles.half, half_column(len(particles)))
    assert (result.folder / "fsc.star").exists()


def test_the_map_has_the_symmetry_it_was_asked_for(refined):
    data, result = refined
    if data.symmetry == "D2":
        volume = read_map(result.outputs["map"]).data[1:, 1:, 1:]
        assert np.corrcoef(volume.ravel(), volume[:, ::-1, ::-1].ravel())[0, 1] > 0.999


def test_a_killed_job_goes_on_to_the_same_bits(small_set, tmp_path, monkeypatch):
    import cryoloom.refine.stage as stage_module

    data = small_set(symmetry="D2", n=160)
    inputs = {"particles": data.particles.select(np.arange(60)), "reference": data.volume}
    settings = {"max_iterations": 2, "symmetry": "D2"}
    whole = run_stage("refine", inputs=inputs, settings=settings, out=tmp_path / "whole")
    calls = []
    real = stage_module.iterate

    def dies(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(stage_module, "iterate", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage("refine", inputs=inputs, settings=settings, out=tmp_path / "cut")
    monkeypatch.setattr(stage_module, "iterate", real)
    resumed = run_stage("refine", inputs=inputs, settings=settings, out=tmp_path / "cut")
    assert len(calls) == 1
    for name in ("map", "half1", "half2"):
        np.testing.assert_array_equal(read_map(whole.outputs[name]).data, read_map(resumed.outputs[name]).data)
    a, b = (read_particles(r.outputs["particles"]) for r in (whole, resumed))
    np.testing.assert_array_equal(a.rotation, b.rotation)


def test_wrong_input_is_refused_in_a_sentence(small_set, tmp_path):
    data = small_set(symmetry="D2", n=160)
    flat = VolumeMap(np.zeros((16, 16, 16), np.float32), 10.0)
    with pytest.raises(InputError, match="empty"):
        run_stage("refine", inputs={"particles": data.particles, "reference": flat}, settings={}, out=tmp_path / "a")
    few = data.particles.select(np.arange(3))
    with pytest.raises(InputError, match="at least 20"):
        run_stage("refine", inputs={"particles": few, "reference": data.volume}, settings={}, out=tmp_path / "b")


@pytest.mark.slow
def test_noise_alone_is_not_found(small_set, tmp_path):
    data = small_set(snr=0.0, n=120)
    reference = small_set(symmetry="D2", n=160).volume
    result = run_stage(
        "refine", inputs={"particles": data.particles, "reference": reference}, settings={}, out=tmp_path / "noise"
    )
    assert result.summary["verdict"] == "not found"
    assert result.summary["resolution"] > 20


def test_a_reference_of_another_box_and_pixel_size_lands_on_the_field_of_the_images(small_set):
    data = small_set(symmetry="D2", n=160)
    box, pixel_size = data.volume.data.shape[0], data.volume.pixel_size
    padded = torch.nn.functional.pad(torch.from_numpy(data.volume.data), (4,) * 6)
    coarse = fourier_crop(padded, (40,) * 3).numpy() * 37.0 + 5.0
    foreign = VolumeMap(coarse, pixel_size * (box + 8) / 40)
    field = box * pixel_size
    ours = place_reference(data.volume, field, box, 30.0).numpy()
    theirs = place_reference(foreign, field, box, 30.0).numpy()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.995


@pytest.mark.slow
def test_branch_and_bound_ends_at_the_same_poses(refined, tmp_path, half_column):
    data, exhaustive = refined
    result = run_stage(
        "refine",
        inputs={"particles": data.particles.replace(half=half_column(len(data.particles))), "reference": data.volume},
        settings={"symmetry": data.symmetry, "search": "branch"},
        out=tmp_path / "branch",
    )
    one, other = (torch.from_numpy(read_particles(r.outputs["particles"]).rotation) for r in (exhaustive, result))
    error = torch.rad2deg(pose_distance(torch.from_numpy(data.truth.rotation), other, data.symmetry))
    assert error.median() < 2.0 and (error < 10).double().mean() > 0.97
    assert torch.rad2deg(pose_distance(one, other, data.symmetry)).median() < 0.5


def test_poses_of_a_symmetry_that_is_not_there_are_put_right(small_set, tmp_path, half_column):
    """Each particle was posed with C3 on an object without symmetry: two of three poses are wrong by 120 degrees."""
    data = small_set(symmetry="C1", n=240)
    operators = symmetry_matrices("C3").numpy()
    which = np.random.default_rng(0).integers(3, size=240)
    posed = data.particles.replace(
        rotation=operators[which] @ data.truth.rotation, shift=data.truth.shift, half=half_column(240)
    )
    settings = {"local": True, "initial_lowpass": 30.0, "max_iterations": 4}
    right = {}
    for relax in (None, "C3"):
        result = run_stage(
            "refine",
            inputs={"particles": posed, "reference": data.volume},
            settings=settings | {"relax_symmetry": relax},
            out=tmp_path / str(relax),
        )
        rotation = torch.from_numpy(read_particles(result.outputs["particles"]).rotation)
        error = np.rad2deg(pose_distance(torch.from_numpy(data.truth.rotation), rotation, "C1").numpy())
        right[relax] = float(np.mean(error < 10.0))
    assert right[None] < 0.5
    assert right["C3"] > 0.9
    with pytest.raises(InputError, match="local"):
        run_stage(
            "refine",
            inputs={"particles": posed, "reference": data.volume},
            settings={"relax_symmetry": "C3"},
            out=tmp_path / "wrong",
        )
