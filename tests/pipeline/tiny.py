"""The smallest particle stack that honestly becomes a map: a ring of D7 with few distinct views."""

from pathlib import Path

from cryoloom.project.folder import create_project
from cryoloom.project.runner import run_stage

SYMMETRY = "D7"
PARTICLES = {
    "phantom": "ring", "symmetry": SYMMETRY, "mass": 200.0, "particles": 300, "box": 32, "pixel_size": 5.5,
    "snr": 0.3, "junk": 0.0,
}  # fmt: skip


def make_data(root: Path) -> Path:
    """Make a project with the particles in it; returns their STAR file."""
    job = run_stage("simulate particles", {}, PARTICLES, project=create_project(root), device="cpu", threads=1)
    return job["particles"]
