"""Each kind of refinement and reconstruction that people know by name is one command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.records import write_particles
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

BOX, PIXEL_SIZE = 48, 4.4


@pytest.fixture(scope="module")
def two_states(tmp_path_factory):
    """Particles of a globule, four in ten of which lack the domains above a plane; files and truth."""
    folder = tmp_path_factory.mktemp("states")
    whole = phantom("globule", "C1", mass_kda=250.0)
    part = whole.select(whole.position[:, 2] < np.quantile(whole.position[:, 2], 0.75))
    maps = tuple((potential_map(atoms, BOX, PIXEL_SIZE),) for atoms in (whole, part))
    specimen = Specimen(maps, diameter=whole.diameter, weights=(0.6, 0.4))
    truth = simulate_particles(specimen, folder, ParticleRecipe(n=500, snr=0.4, junk=0.0), seed=4)
    write_particles(observed(truth), folder / "particles.star")
    write_particles(truth, folder / "placed.star")
    for k in (0, 1):
        write_map(specimen.truth(k), folder / f"state{k + 1}.mrc")
    return folder


def run(folder, *words):
    """One command; returns its folder of results."""
    out = folder / "_".join(w.strip("-").replace("/", "") for w in words if "." not in w)
    program = [sys.executable, "-c", "from cryoloom.cli.main import main; main()"]
    command = [*program, *words, "--out", str(out), "--device", "cpu", "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def agreement(path: Path, truth: Path) -> float:
    """Mean FSC with the truth to 12 Å, both in one frame."""
    a, b = (torch.from_numpy(np.ascontiguousarray(read_map(p).data)) for p in (path, truth))
    return float(fourier_shell_correlation(a, b)[1 : int(BOX * PIXEL_SIZE / 12)].mean())


@pytest.mark.slow
@pytest.mark.capability("REF-4")
def test_each_named_refinement_and_reconstruction_is_one_command(two_states, measure):
    particles, placed = ("--particles", "particles.star"), ("--particles", "placed.star")
    one = ("--reference", "state1.mrc")
    found = {
        "homogeneous refinement": [(run(two_states, "refine", *particles, *one) / "map.mrc", 1)],
        "non-uniform refinement": [
            (run(two_states, "refine", *particles, *one, "--regularisation", "local") / "map.mrc", 1)
        ],
        "homogeneous reconstruction": [(run(two_states, "reconstruct", *placed) / "map.mrc", 1)],
    }
    out = run(two_states, "class3d", *particles, *one, "--reference", "state2.mrc")
    found["heterogeneous refinement"] = [(out / f"class00{k}.mrc", k) for k in (1, 2)]
    out = run(two_states, "reconstruct", *placed, "--by-class")
    found["heterogeneous reconstruction"] = [(out / f"class00{k}_map.mrc", k) for k in (1, 2)]
    worst = {
        name: min(agreement(path, two_states / f"state{k}.mrc") for path, k in maps) for name, maps in found.items()
    }
    # what true poses and classes give is what a refinement can reach
    whole, sorted_out = worst["homogeneous reconstruction"], worst["heterogeneous reconstruction"]
    reached = {
        "homogeneous refinement": worst["homogeneous refinement"] / whole,
        "non-uniform refinement": worst["non-uniform refinement"] / whole,
        "heterogeneous refinement": worst["heterogeneous refinement"] / sorted_out,
    }
    measure(
        round(min(reached.values()), 3), "of the oracle's FSC", ">= 0.95",
        note="mean FSC with truth to 12 Å: " + "; ".join(f"{k} {v:.3f}" for k, v in worst.items()),
    )  # fmt: skip
    assert min(whole, sorted_out) > 0.7
    assert min(reached.values()) >= 0.95, worst
    # the classes are told apart: each map is nearer to its own state than to the other
    for name in ("heterogeneous refinement", "heterogeneous reconstruction"):
        for path, k in found[name]:
            assert agreement(path, two_states / f"state{k}.mrc") > agreement(path, two_states / f"state{3 - k}.mrc")
