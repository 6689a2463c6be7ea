"""The stage `reconstruct` as a user runs it."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.io.map_file import read_map
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

HALVES = ("half1", "half2")


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """Particles of two states that lie mirrored to each other, with true poses."""
    one = potential_map(phantom("globule", "C1", mass_kda=120.0), 44, 4.6)
    other = potential_map(phantom("fork", "C1", mass_kda=60.0), 44, 4.6)
    specimen = Specimen(((one,), (other,)), diameter=150.0)
    truth = simulate_particles(
        specimen, tmp_path_factory.mktemp("particles"), ParticleRecipe(n=300, snr=1.0, junk=0.0), seed=2
    )
    return truth, one, other


def _mean_fsc(path, truth, shells=slice(2, 13)):
    volume = torch.from_numpy(np.array(read_map(path).data))
    return float(fourier_shell_correlation(volume, torch.from_numpy(truth.data))[shells].mean())


def test_classes_are_told_apart_by_their_number(posed, tmp_path):
    truth, one, other = posed
    result = run_stage("reconstruct", inputs={"particles": truth}, settings={"by_class": True}, out=tmp_path / "a")
    for name, state, wrong in (("class001", one, other), ("class002", other, one)):
        right = _mean_fsc(result.outputs[f"{name}_map"], state)
        # the noise of the images sets the limit: sqrt(2 F / (1 + F)) of the halves (Rosenthal and Henderson 2003)
        half1, half2 = (torch.from_numpy(np.array(read_map(result.outputs[f"{name}_{h}"]).data)) for h in HALVES)
        between = fourier_shell_correlation(half1, half2)[2:13]
        assert right > float((2 * between / (1 + between)).sqrt().mean()) - 0.02
        assert right > 0.8 and _mean_fsc(result.outputs[f"{name}_map"], wrong) < 0.7


def test_one_map_and_two_halves_come_out(posed, tmp_path):
    truth, one, _ = posed
    first = truth.select(truth.class_number == 1)
    result = run_stage("reconstruct", inputs={"particles": first}, settings={"resolution": 12.0}, out=tmp_path / "b")
    assert set(result.outputs) == {"map", "half1", "half2"}
    assert _mean_fsc(result.outputs["map"], one) > 0.92
    assert result.summary["verdict"] == "found" and result.summary["n_out"] == len(first)


def test_particles_without_poses_are_refused(posed, tmp_path):
    with pytest.raises(InputError, match="no poses"):
        run_stage("reconstruct", inputs={"particles": posed[0].replace(rotation=None)}, settings={}, out=tmp_path / "c")
