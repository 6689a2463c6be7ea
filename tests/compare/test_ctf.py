"""The comparison of two estimates of the CTF."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compare.ctf import compare_ctfs, two_ctfs
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.project.runner import run_stage

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ctf_fit"))
from judging import LEAST_CASES, JudgedCase, judge
from micrographs import draw_case, simulate_micrograph

BEAM, GROSS = Beam(300.0, 2.7, 0.1), 300.0
"""A defocus that is wrong by 300 Å (twice the tolerance) is a gross error."""


def judged_case(case: int, n: int = 12, size: int = 1024) -> JudgedCase:
    """A set of `n` micrographs, 0.3 to 3 µm."""
    pairs, true = [], []
    for seed in range(900_000 + n * case, 900_000 + n * (case + 1)):
        rng, u, v, angle, pixel_size, recipe = draw_case(seed, 3_000.0, 30_000.0)
        image = simulate_micrograph(rng, (size, size), pixel_size, u, v, angle, **recipe)
        pairs.append(two_ctfs(torch.from_numpy(image), pixel_size, BEAM, SearchRange()))
        true.append(Defocus.from_uv(u, v, angle).as_array()[:3])
    found = compare_ctfs(np.arange(n), pairs, 150.0)
    errors = [
        np.sqrt(((values - np.array(true)) ** 2).mean(1))
        for values in (found.first.values, found.second.values, found.consensus)
    ]
    return JudgedCase(*errors, found.disagree)


@pytest.mark.slow
@pytest.mark.capability("CMP-2")
def test_the_ctf_by_both_methods_is_as_good_as_the_better_one(measure, evidence):
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in range(i - 1, LEAST_CASES, n):
        if seed not in done:
            case = judged_case(seed)
            errors = {name: np.round(getattr(case, name), 2).tolist() for name in ("first", "second", "consensus")}
            disagree = case.disagree.tolist()
            evidence.append(seed=seed, outcome="good" if case.ratio <= 1.05 else "worse", value=case.ratio,
                            **errors, disagree=disagree)  # fmt: skip
    fields = ("first", "second", "consensus", "disagree")
    found = judge([JudgedCase(*(np.array(case[name]) for name in fields)) for case in evidence.cases()], GROSS)
    note = f"fit to spectra of tiles, demodulated rings; sets of 12 micrographs of 1024² px, 0.3-3 µm; {found.said()}"
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


def test_both_methods_find_the_ctf_of_a_set_and_write_what_they_say_together(tmp_path):
    paths, true = [], []
    for seed in (3, 5):
        rng = np.random.default_rng(seed)
        u = float(rng.uniform(9_000, 20_000))
        image = simulate_micrograph(rng, (768, 768), 1.3, u + 400, u - 400, 0.5)
        paths.append(str(tmp_path / f"m{seed}.mrc"))
        write_mrc(paths[-1], image, 1.3, kind="image")
        true.append(u)
    record = MicrographSet(
        path=np.asarray(paths), optics=(Optics(pixel_size=1.3),), optics_index=np.zeros(2, np.int64)
    )  # fmt: skip
    done = run_stage("compare ctf", {"micrographs": record}, {}, out=tmp_path / "compare")
    found = read_micrographs(done["micrographs"])
    np.testing.assert_allclose(0.5 * (found.defocus_u + found.defocus_v), true, atol=100)
    assert done.summary["n_disagree"] == 0 and done.summary["verdict"] == "found"
    assert (done.folder / "comparison.json").exists()
