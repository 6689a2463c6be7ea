"""The error of each step of a project that was made from simulated movies, beside the limit it must keep."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_micrographs, read_particles, read_picks
from cryoloom.project.runner import run_stage
from cryoloom.scoring.defocus import score_defocus
from cryoloom.scoring.maps import score_map
from cryoloom.scoring.oracle import oracle_particles
from cryoloom.scoring.picks import score_picks
from cryoloom.scoring.poses import score_poses

ALLOWED = 1.10  # true resolution over that of the oracle


@dataclass(frozen=True)
class Step:
    """One step and its error.

    Attributes
    ----------
    step, what
        The stage, and what was measured.
    value, limit, unit
        The figure, and the limit that it must keep.
    larger_is_better
        Whether `value` must reach `limit` or stay below it.
    """

    step: str
    what: str
    value: float
    limit: float
    unit: str
    larger_is_better: bool = False

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        return self.value >= self.limit if self.larger_is_better else self.value <= self.limit

    def as_row(self) -> dict[str, Any]:
        """JSON values, the verdict among them."""
        return asdict(self) | {"value": round(self.value, 4), "passed": self.passed}


def newest_job(project: Path, stage: str) -> Path | None:
    """Folder of the last finished job of a stage."""
    done = [
        path.parent
        for path in sorted((project / stage).glob("[0-9]*/job.json"))
        if json.loads(path.read_text(encoding="utf-8")).get("state") == "finished"
    ]
    return done[-1] if done else None


def measure_steps(project: Path, data: Path, symmetry: str, oracle_folder: Path) -> list[Step]:
    """Score what the stages of a project found against the truth of its data; steps without a result are left out.

    Parameters
    ----------
    project
        Project folder.
    data
        Job folder of `simulate movies`.
    symmetry
        Point group of the particle.
    oracle_folder
        Where the map from true poses and CTFs is made.
    """
    truth = read_particles(data / "truth.star")
    micrographs = data / "truth_micrographs.star"
    steps: list[Step] = []
    motion, ctf, pick, refine = (newest_job(project, stage) for stage in ("motion", "ctf", "pick", "refine"))
    if motion is not None:
        scored = run_stage(
            "score",
            {"result": motion / "micrographs.star", "truth": micrographs},
            {},
            out=oracle_folder.parent / "score_motion",
        )
        if "motion" in scored.summary:
            error = scored.summary["motion"]["rms_axis"]
            steps.append(Step("motion", "error of a displacement along one axis, RMS", error, 1.0, "Å"))
    if ctf is not None:
        score = score_defocus(read_micrographs(ctf / "micrographs.star"), read_micrographs(micrographs))
        steps.append(Step("ctf", "median error of the defocus", score.median, 150.0, "Å"))
    if pick is not None:
        picks = read_picks(pick / "picks.star")
        found = score_picks(picks, truth, 40.0 / truth.optics[0].pixel_size)
        steps.append(Step("pick", "F1 within 40 Å", found.f1, 0.75, "", larger_is_better=True))
    if refine is None:
        return steps
    particles = read_particles(refine / "particles.star")
    images = oracle_particles(particles, truth, distance_px=40.0 / truth.optics[0].pixel_size)
    true_map = read_map(data / "truth_map.mrc")
    poses = score_poses(particles, images, symmetry)
    steps.append(Step("refine", "median error of a pose", poses.median_deg, 8.0, "°"))
    oracle = run_stage("reconstruct", {"particles": images}, {"symmetry": symmetry}, out=oracle_folder)
    best = score_map(read_map(oracle["map"]), true_map, superposed=True).resolution
    reached = score_map(read_map(refine / "map.mrc"), true_map)
    steps.append(Step("refine", "true resolution", reached.resolution, ALLOWED * best, "Å"))
    return steps
