"""Where in a project the parts of a deposition lie: its last sharpened map, the halves behind it, what was recorded.

Only records of jobs are read (`job.json`, `summary.json`), so a project that was moved or copied works as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoloom.contract import InputError
from cryoloom.project.files import read_json
from cryoloom.project.folder import Project, find_project, read_record


@dataclass(frozen=True)
class Sources:
    """Files and records that a deposition is made of.

    Attributes
    ----------
    project
        The project.
    job
        Folder of the postprocess job.
    files
        `map`, `half1`, `half2`, `mask`, `fsc_xml` and, where there are, `unsharpened` and `particles`.
    summary
        `summary.json` of the postprocess job.
    stages
        Newest finished job of each stage: its record and its summary.
    micrographs
        STAR file of the aligned micrographs, or None.
    """

    project: Project
    job: Path
    files: Mapping[str, Path]
    summary: Mapping[str, Any]
    stages: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=dict)
    micrographs: Path | None = None


def find_sources(folder: Path, job: str | None = None) -> Sources:
    """Find the parts of a deposition.

    Parameters
    ----------
    folder
        A project folder, or a folder inside of one.
    job
        Postprocess job relative to the project; the newest finished one by default.

    Raises
    ------
    InputError
        If there is no finished postprocess job, or one of its files is gone.
    """
    project = find_project(folder)
    if project is None:
        raise InputError(f"{folder} lies in no cryoloom project; give the folder that holds cryoloom.json.")
    finished = _finished_jobs(project)
    if job is not None:
        chosen = next((f for f, _ in finished if f == (project.root / job).resolve()), None)
        if chosen is None or chosen.parent.name != "postprocess":
            raise InputError(f"{job}: no finished postprocess job of {project.root}; list the jobs by `cryoloom jobs`.")
    else:
        candidates = [f for f, _ in finished if f.parent.name == "postprocess"]
        if not candidates:
            raise InputError(
                f"{project.root}: no finished postprocess job, so there is no sharpened map; run `cryoloom "
                "postprocess --half1 ... --half2 ...` first."
            )
        chosen = candidates[-1]
    record = dict(finished)[chosen]
    files = {
        "map": chosen / record["outputs"]["map_sharpened"],
        "mask": chosen / record["outputs"]["mask"],
        "fsc_xml": chosen / "fsc.xml",
        "half1": _input(project, record, "half1"),
        "half2": _input(project, record, "half2"),
    }
    refined = files["half1"].parent
    for name, file in (("unsharpened", "map.mrc"), ("particles", "particles.star")):
        if (refined / file).exists():
            files[name] = refined / file
    if "particles" not in files:
        made_from = read_record(refined) or {}
        if made_from.get("inputs", {}).get("particles"):
            files["particles"] = _input(project, made_from, "particles")
    for name, path in files.items():
        if not path.is_file():
            raise InputError(f"{path}: the {name} of {chosen} is gone; repeat the job that made it.")
    stages: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    micrographs = None
    for path, found in finished:
        stages[str(found.get("stage"))] = (found, _summary(path))
        if "micrographs" in found.get("outputs", {}) and found.get("stage") in ("motion", "import", "simulate movies"):
            micrographs = path / found["outputs"]["micrographs"]
    return Sources(project, chosen, files, _summary(chosen), stages, micrographs)


def _finished_jobs(project: Project) -> list[tuple[Path, dict[str, Any]]]:
    """Folders and records of finished jobs, oldest first."""
    found = [(folder.resolve(), read_record(folder) or {}) for folder in project.jobs()]
    done = [(folder, record) for folder, record in found if record.get("state") == "finished"]
    return sorted(done, key=lambda item: (str(item[1].get("started", "")), str(item[0])))


def _input(project: Project, record: Mapping[str, Any], name: str) -> Path:
    given = record.get("inputs", {}).get(name)
    first = given[0] if isinstance(given, list) else given
    if not first or first == "record":
        raise InputError(f"{record.get('stage')}: its input {name} was no file, so it cannot be deposited.")
    return (project.root / str(first)).resolve()


def _summary(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "summary.json")) if (folder / "summary.json").exists() else {}
