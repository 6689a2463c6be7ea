"""The smallest data that honestly become a map: a ring of D7 with few distinct views, as particles and as movies."""

from pathlib import Path

from cryoloom.project.folder import create_project
from cryoloom.project.runner import run_stage

SYMMETRY = "D7"
PARTICLES = {
    "phantom": "ring", "symmetry": SYMMETRY, "mass": 200.0, "particles": 300, "box": 32, "pixel_size": 5.5,
    "snr": 0.3, "junk": 0.0,
}  # fmt: skip
MOVIES = {
    "phantom": "ring", "symmetry": SYMMETRY, "mass": 400.0, "movies": 4, "width": 768, "height": 768, "frames": 5,
    "pixel_size": 2.5, "dose_per_frame": 10.0, "particles": 50, "contamination": 0.0, "carbon": 0.0,
    "ice_thickness": 200.0, "defocus_min": 12000.0, "damage": False,
}  # fmt: skip


def make_data(root: Path) -> Path:
    """Make a project with the particles in it; returns their STAR file."""
    job = run_stage("simulate particles", {}, PARTICLES, project=create_project(root), device="cpu", threads=1)
    return job["particles"]


def make_movies(root: Path) -> Path:
    """Make a project with the movies in it; returns their STAR file."""
    job = run_stage("simulate movies", {}, MOVIES, project=create_project(root), device="cpu", threads=1)
    return job["movies"]
