"""The comparison of two refinements."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cryoloom.io.map_file import write_map
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage
from cryoloom.scoring.poses import score_rotations
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
from judging import LEAST_CASES, JudgedCase, figures_of, judge_figures

GROSS_DEG = 15.0
PIXEL, REACH = 5.0, 1.15
SHAPES = (("globule", "C1"), ("fork", "C1"), ("tripod", "C3"), ("rod", "D2"))


def compared(seed: int, folder: Path, n: int = 180):
    """A set of particles refined by both methods: the truth, the group, what the methods and both together say."""
    rng = np.random.default_rng([6, seed])
    shape, symmetry = SHAPES[seed % len(SHAPES)]
    atoms = phantom(shape, symmetry, mass_kda=400.0, seed=seed)
    box = 4 * int(np.ceil(REACH * 2 * (np.abs(atoms.position).max() + 4.0) / PIXEL / 4))
    specimen = Specimen(((potential_map(atoms, box, PIXEL),),), symmetry=symmetry, diameter=atoms.diameter)
    recipe = ParticleRecipe(n=n, snr=float(rng.uniform(0.15, 0.5)), junk=0.0)
    truth = simulate_particles(specimen, folder / "data", recipe, seed=seed)
    write_map(specimen.truth(0), folder / "truth.mrc")
    done = run_stage(
        "compare refinement",
        {"particles": observed(truth), "reference": folder / "truth.mrc"},
        {"symmetry": symmetry, "initial_lowpass": 40.0, "max_iterations": 5},
        out=folder / "compare",
        seed=seed,
    )
    return truth, symmetry, done


def judged_case(seed: int) -> JudgedCase:
    with tempfile.TemporaryDirectory() as name:
        truth, symmetry, done = compared(seed, Path(name))
        sets = [read_particles(done[which]) for which in ("first", "second", "particles")]
    errors = [np.rad2deg(score_rotations(s.rotation, truth.rotation, symmetry).angle) for s in sets]
    return JudgedCase(*errors, sets[2].extra["cryoloomMethodsDisagree"] > 0.5)


@pytest.mark.slow
@pytest.mark.capability("CMP-6")
def test_poses_by_both_searches_are_as_good_as_the_better_one(measure, evidence):
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in range(i - 1, LEAST_CASES, n):
        if seed not in done:
            evidence.append(seed=seed, outcome="measured", **figures_of(judged_case(seed), GROSS_DEG))
    found = judge_figures(evidence.cases())
    note = f"marginalised EM, branch and bound; sets of 180 particles, SNR 0.15 to 0.5 at 5 Å per pixel; {found.said()}"
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


def test_both_searches_say_together_what_each_says_alone(tmp_path):
    truth, symmetry, done = compared(3, tmp_path, n=60)
    found = read_particles(done["particles"])
    error = np.rad2deg(score_rotations(found.rotation, truth.rotation, symmetry).angle)
    assert np.median(error) < 6.0
    assert done.summary["methods"] == ["all likely poses", "branch and bound"]
    assert done.summary["n_in"] == 60
