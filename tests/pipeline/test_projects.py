"""The simulated projects of PLT-3: what was measured of them so far.

A project takes ten minutes or more, so `benchmarks/projects/run_project.py` runs one at a time and keeps its result in
the evidence of the row; the test here judges what was gathered.
"""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "projects"


@pytest.fixture(scope="module")
def projects():
    spec = importlib.util.spec_from_file_location("run_project", FOLDER / "run_project.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_a_line_for_each_project_that_was_run(projects):
    lines = projects.table().splitlines()
    assert len(lines) == 2 + len(projects.recorded())
    assert all(line.count("|") == 10 for line in lines)


@pytest.mark.slow
@pytest.mark.capability("PLT-3")
def test_movies_become_maps_as_good_as_the_oracle_without_a_decision(projects, measure, evidence):
    cases = evidence.cases()
    passed = [case["project"] for case in cases if case["passed"]]
    silent = [case["project"] for case in cases if case["silently_wrong"]]
    told = "; ".join(f"{c['project']} {c.get('ratio_to_oracle', c['verdict'])}" for c in cases)
    share = 100 * len(passed) / max(len(cases), 1)
    measure(round(share, 1), "% of the projects", ">= 90", note=f"{len(cases)} of 20 run, ratio to the oracle: {told}")
    measure(len(silent), "silent wrong maps", "0", note=", ".join(silent))
    assert len(cases) >= 20
    assert share >= 90
    assert not silent
