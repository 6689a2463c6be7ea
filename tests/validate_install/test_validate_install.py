"""`validate-install`: every step with its error and its limit, and the verdict that follows from them."""

import json
import os

import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.project.files import write_json
from cryoloom.project.runner import run_stage
from cryoloom.validate_install.stage import EXPECTED, SYMMETRY
from cryoloom.validate_install.steps import ALLOWED, Step, newest_job


@pytest.mark.parametrize(
    "value, larger, passed", [(0.9, False, True), (1.0, False, True), (1.1, False, False), (0.9, True, False)]
)
def test_a_step_passes_on_the_right_side_of_its_limit(value, larger, passed):
    step = Step("pick", "F1", value, 1.0, "", larger_is_better=larger)
    assert step.passed is passed and step.as_row()["passed"] is passed
    json.dumps(step.as_row())


def test_a_figure_that_is_no_number_does_not_pass():
    assert not Step("ctf", "median error", float("nan"), 150.0, "Å").passed


def test_the_last_job_that_ended_is_measured(tmp_path):
    for number, state in (("001", "finished"), ("002", "finished"), ("003", "failed")):
        write_json(tmp_path / "pick" / number / "job.json", {"state": state})
    assert newest_job(tmp_path, "pick") == tmp_path / "pick" / "002"
    assert newest_job(tmp_path, "refine") is None


def test_too_small_a_check_is_refused():
    with pytest.raises(InputError, match="movies"):
        run_stage("validate-install", {}, {"movies": 1}, out="never")


@pytest.mark.slow
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.capability("SIM-3")), "cuda"])
def test_a_known_structure_is_rebuilt_and_every_step_keeps_its_limit(tmp_path, measure, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device on this machine")
    threads = len(os.sched_getaffinity(0))
    job = run_stage("validate-install", {}, {}, out=tmp_path / "check", device=device, threads=threads)
    steps = job.summary["steps"]
    told = "; ".join(f"{s['step']}: {s['what']} {s['value']:.3g} {s['unit']} (limit {s['limit']:.3g})" for s in steps)
    end = next((s for s in steps if s["what"] == "true resolution"), None)
    ratio = None if end is None else ALLOWED * end["value"] / end["limit"]
    measure(ratio, "end resolution / oracle", "1.10, every step passed", note=f"{device}, {SYMMETRY}: {told}")
    assert {s["step"] for s in steps} == set(EXPECTED)
    assert ratio is not None and ratio <= 1.10
    assert job.summary["passed"], [s for s in steps if not s["passed"]]
