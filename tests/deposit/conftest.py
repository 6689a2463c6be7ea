"""A small project made by real stages: particles of a phantom, a reconstruction in halves, and its sharpened map."""

import pytest

from cryoloom.io.records import read_particles, write_particles
from cryoloom.project.folder import create_project
from cryoloom.project.runner import run_stage

RECIPE = {
    "phantom": "ring", "symmetry": "D7", "mass": 300.0, "particles": 240, "box": 40, "pixel_size": 5.0, "snr": 0.1,
    "junk": 0.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory):
    """Root of a project that ends in a finished postprocess job."""
    root = tmp_path_factory.mktemp("project") / "my project"
    root.mkdir()
    project = create_project(root)
    options = {"project": project, "device": "cpu", "threads": 1}
    data = run_stage("simulate particles", {}, RECIPE, **options)
    truth = read_particles(data["truth"], root=root)
    posed = truth.replace(half=[1 + i % 2 for i in range(len(truth))])
    write_particles(posed, root / "posed.star", root=root)
    made = run_stage("reconstruct", {"particles": root / "posed.star"}, {"symmetry": "D7"}, **options)
    halves = {"half1": made["half1"], "half2": made["half2"]}
    run_stage("postprocess", halves, {"symmetry": "D7"}, **options)
    return root
