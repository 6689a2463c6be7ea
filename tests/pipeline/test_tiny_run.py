"""A whole run on a few hundred small particles: what it leaves, what it says, and that it is known again."""

import json
import re

import numpy as np
import pytest
import tiny

from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.pipeline.run import run_pipeline
from cryoloom.scoring.maps import score_map

ALWAYS = {"verdict", "reasons", "n_in", "n_out"}
OF_MAPS = {"resolution", "resolution_interval", "symmetry", "pixel_size"}


class Told:
    """Keeps what a run says."""

    def __init__(self):
        self.messages: list[str] = []

    def message(self, text, *, warning=False):
        self.messages.append(text)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def run(root, particles, sink=None):
    settings = {"symmetry": tiny.SYMMETRY}
    return run_pipeline({"particles": particles}, settings, out=root, device="cpu", threads=1, sink=sink)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "project"
    summary = run(root, tiny.make_data(root))
    return root, summary


def test_the_map_is_found_and_is_the_true_one(project):
    root, summary = project
    assert summary["verdict"] == "found", summary["reasons"]
    truth = read_map(root / "simulate-particles" / "001" / "truth_map.mrc")
    scored = score_map(read_map(root / summary["map"]), truth)
    # 11 Å is the sampling limit of these images
    assert scored.resolution < 13.0
    assert summary["resolution"] <= scored.resolution * 1.1


def test_the_summary_has_its_documented_keys(project):
    root, summary = project
    stored = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    assert ALWAYS | OF_MAPS | {"map", "jobs", "warnings", "left_out"} <= stored.keys()
    assert summary.items() >= stored.items()
    assert stored["n_in"] == tiny.PARTICLES["particles"] and 0 < stored["n_out"] <= stored["n_in"]
    low, high = stored["resolution_interval"]
    assert low <= stored["resolution"] <= high
    for job in stored["jobs"]:
        of_job = json.loads((root / job / "summary.json").read_text(encoding="utf-8"))
        assert of_job.keys() >= ALWAYS, job
        assert of_job["verdict"] in ("found", "not found", "doubtful")
        if job.split("/")[0] in ("refine", "postprocess"):
            assert of_job.keys() >= OF_MAPS, job


def test_the_report_is_one_file_that_needs_no_other(project):
    root, _ = project
    reports = [root / "report.html", *root.glob("*/*/report.html")]
    assert len(reports) > 5
    for report in reports:
        text = report.read_text(encoding="utf-8")
        # names of XML vocabularies look like addresses, but nothing is fetched from them
        text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!["']?(data:|#))|@import|https?://""", text), report
        assert "could not be drawn" not in text, report


def test_nothing_in_the_project_names_its_place_on_this_machine(project):
    root, _ = project
    for path in root.rglob("*"):
        if path.suffix in (".star", ".json", ".jsonl", ".html", ".xml"):
            assert str(root.parent) not in path.read_text(encoding="utf-8"), path


def test_only_whole_files_and_free_locks_are_left(project):
    root, _ = project
    assert not list(root.rglob("*.part"))
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("*/*/job.json")]
    assert {job["state"] for job in jobs} == {"finished"}


def test_a_moved_project_is_known_again_and_its_images_are_found(project):
    root, summary = project
    moved = root.with_name("moved")
    root.rename(moved)
    try:
        told = Told()
        drawn = (moved / "report.html").stat().st_mtime_ns
        again = run(moved, moved / "simulate-particles" / "001" / "particles.star", told)
        for job in summary["jobs"]:
            assert any("was done before" in text and job in text for text in told.messages), (job, told.messages)
        assert again["jobs"] == summary["jobs"] and again["map"] == summary["map"]
        assert (moved / "report.html").stat().st_mtime_ns == drawn
        refined = read_particles(moved / "refine" / "001" / "particles.star")
        assert len(refined) == summary["n_out"]
        assert all(str(path).startswith(str(moved)) for path in np.unique(refined.image_path))
    finally:
        moved.rename(root)
