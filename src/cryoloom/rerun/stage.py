"""Stage `rerun`: a result made once more from its records, and compared with what it was.

The job that made a result names its inputs, each of which lies in the folder of another job, and so on to the files
that came from outside. All of them are run again in that order, with the settings, the seed and the number of threads
of their records, in a project of their own; then files are compared byte by byte, and maps that differ by their voxels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.io.map_file import read_map
from cryoloom.project.folder import Project, create_project, find_project, read_record
from cryoloom.project.identity import file_identity
from cryoloom.project.registry import find_stage
from cryoloom.project.runner import run_stage
from cryoloom.rerun.settings import RERUN, RerunSettings


@dataclass(frozen=True)
class Compared:
    """One result of a job, first and second time.

    Attributes
    ----------
    file
        Relative to its project.
    same
        Whether both agree.
    text
        How far.
    """

    file: str
    same: bool
    text: str


@stage(RERUN)
def rerun_job(job: Path, settings: RerunSettings, run: Run) -> dict[str, Any]:
    """Make the results of a job again and compare them."""
    project = find_project(job)
    record = read_record(job)
    if project is None or record is None or record.get("state") != "finished":
        raise InputError(f"{job}: no finished job of a project; give a folder such as project/refine/001.")
    order = ancestry(project, job.resolve())
    again = create_project(run.folder / "project")
    made: dict[Path, Path] = {}
    with run.progress(len(order), "jobs") as line:
        for folder in order:
            found = read_record(folder) or {}
            result = run_stage(
                str(found["stage"]),
                {name: [_moved(p, project, made) for p in paths] for name, paths in _inputs(found).items()},
                _settings(found),
                project=again,
                device=_device(found),
                threads=int(found.get("threads") or 1),
                seed=int(found.get("seed") or 0),
            )
            made[folder] = result.folder
            run.log(f"{folder.relative_to(project.root)} again: {result.folder.relative_to(again.root)}")
            line.advance()
    compared = compare_outputs(job.resolve(), made[job.resolve()], settings.tolerance)
    wrong = [one for one in compared if not one.same]
    for one in wrong:
        run.warn(f"{one.file}: {one.text}")
    run.summarise(
        verdict="found" if compared and not wrong else "doubtful",
        reasons=[f"{len(compared) - len(wrong)} of {len(compared)} results of {len(order)} jobs are as they were."],
        n_in=len(order),
        n_out=len(compared) - len(wrong),
        jobs=[str(folder.relative_to(project.root)) for folder in order],
        results={one.file: one.text for one in compared},
    )
    run.show(
        Figure(
            name="results",
            kind="table",
            title="Results, first and second time",
            caption="Files are compared byte by byte, maps that differ voxel by voxel.",
            data={"columns": {"file": [c.file for c in compared], "comparison": [c.text for c in compared]}},
        )
    )
    return {}


def ancestry(project: Project, job: Path) -> list[Path]:
    """The jobs that a job rests on, each after its inputs, the job itself last.

    Raises
    ------
    InputError
        If a job on the way is not finished.
    """
    order: list[Path] = []
    open_jobs: set[Path] = set()

    def visit(folder: Path) -> None:
        if folder in order or folder in open_jobs:
            return
        record = read_record(folder)
        if record is None or record.get("state") != "finished":
            raise InputError(f"{folder}: this job was not finished; run it to its end first.")
        open_jobs.add(folder)
        for paths in _inputs(record).values():
            for path in paths:
                before = job_of(project, (project.root / path).resolve())
                if before is not None:
                    visit(before)
        order.append(folder)

    visit(job)
    return order


def job_of(project: Project, path: Path) -> Path | None:
    """The job folder of a project that a file lies in, or None."""
    for folder in path.parents:
        if folder == project.root:
            return None
        if (folder / "job.json").exists():
            return folder
    return None


def compare_outputs(first: Path, second: Path, tolerance: float) -> list[Compared]:
    """Compare the results that the records of two runs of one job list."""
    compared = []
    for file in (read_record(first) or {}).get("outputs", {}).values():
        a, b = first / file, second / file
        if not a.is_file() or not b.is_file():
            compared.append(Compared(str(file), False, "one of the files is missing"))
        elif file_identity(a, full=True) == file_identity(b, full=True):
            compared.append(Compared(str(file), True, "equal to the byte"))
        elif a.suffix == ".mrc":
            one, two = read_map(a).data, read_map(b).data
            worst = (
                float(np.abs(one - two).max() / max(float(np.abs(one).max()), 1e-30)) if one.shape == two.shape else 1.0
            )
            compared.append(Compared(str(file), worst <= tolerance, f"differs by {worst:.1e} of the largest value"))
        else:
            compared.append(Compared(str(file), False, "the contents differ"))
    return compared


def _inputs(record: dict[str, Any]) -> dict[str, list[str]]:
    """Input name -> recorded paths."""
    found = {}
    for name, paths in (record.get("inputs") or {}).items():
        if paths == "record":
            raise InputError(
                f"{record.get('stage')}: its input {name} was given as an object, not as a file; no rerun."
            )
        if paths:
            found[name] = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    return found


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings that the stage of this version still has."""
    known = find_stage(str(record["stage"])).settings.model_fields
    return {name: value for name, value in (record.get("settings") or {}).items() if name in known}


def _device(record: dict[str, Any]) -> str:
    return "auto" if "cuda" in str(record.get("device", "")).lower() else "cpu"


def _moved(path: str, project: Project, made: dict[Path, Path]) -> str:
    """Where a recorded input lies for the second run: in the job that was run again, else where it lay."""
    old = (project.root / path).resolve()
    before = job_of(project, old)
    if before is not None and before in made:
        return str(made[before] / old.relative_to(before))
    if not old.exists():
        raise InputError(f"{old}: this input of the first run is gone; without it nothing can be rebuilt.")
    return str(old)
