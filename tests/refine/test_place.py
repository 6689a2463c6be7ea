"""A whole refinement wherever the engine may work: on a (pretended) GPU and in double precision, to the same map."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.project.runner import run_stage


def _refined(data, out, **options):
    settings = {"symmetry": "D2", "max_iterations": 4} | options.pop("settings", {})
    inputs = {"particles": data.particles, "reference": data.volume}
    return run_stage("refine", inputs, settings, out=out, threads=1, **options)


def _agreement(one, other, part=0.95):
    a, b = (torch.from_numpy(np.ascontiguousarray(read_map(job["map"]).data)) for job in (one, other))
    fsc = fourier_shell_correlation(a, b)
    return float(fsc[1 : int(part * len(fsc))].min())


@pytest.fixture(scope="module")
def compiled(small_set, tmp_path_factory):
    data = small_set(symmetry="D2", n=120)
    return data, _refined(data, tmp_path_factory.mktemp("place") / "cpu", device="cpu")


def test_on_a_gpu(compiled, gpu, tmp_path):
    data, expected = compiled
    found = _refined(data, tmp_path / "gpu", device=gpu)
    assert _agreement(found, expected) > 0.999
    a, b = (read_particles(job["particles"]) for job in (found, expected))
    assert np.median(np.linalg.norm(a.rotation - b.rotation, axis=(1, 2))) < 5e-3


def test_in_double_precision(compiled, tmp_path):
    data, expected = compiled
    found = _refined(data, tmp_path / "double", device="cpu", settings={"precision": "double"})
    assert _agreement(found, expected) > 0.999


def test_branch_and_bound_asks_for_the_cpu(compiled, gpu, tmp_path):
    data, _ = compiled
    with pytest.raises(InputError, match="--device cpu"):
        _refined(data, tmp_path / "branch", device=gpu, settings={"search": "branch"})
