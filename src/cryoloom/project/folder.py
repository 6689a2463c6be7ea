"""A project folder: where it begins, its jobs, and the next free job folder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoloom.contract import InputError
from cryoloom.project.files import read_json, write_json

MARKER = "cryoloom.json"
SCHEMA = 1


@dataclass(frozen=True)
class Project:
    """A project folder; all paths in it are relative to `root`."""

    root: Path

    def jobs(self) -> list[Path]:
        """Folders of all jobs, by stage and number."""
        return sorted(path.parent for path in self.root.glob("*/[0-9][0-9][0-9]*/job.json"))

    def next_job(self, stage: str) -> Path:
        """The next free folder of a stage: `<root>/<stage>/001`, `002`, ..."""
        parent = self.root / stage.replace(" ", "-")
        numbers = [int(p.name) for p in parent.glob("*") if re.fullmatch(r"\d{3,}", p.name) and not is_unused(p)]
        return parent / f"{max(numbers, default=0) + 1:03d}"

    def find_job(self, key: str) -> Path | None:
        """The newest job with the same stage, settings and inputs, or None."""
        for folder in reversed(self.jobs()):
            record = read_record(folder)
            if record is not None and record.get("key") == key:
                return folder
        return None


def create_project(root: Path, **about: Any) -> Project:
    """Make a folder a project (or open it when it is one).

    Raises
    ------
    InputError
        If a newer version of the program made it.
    """
    root = root.resolve()
    marker = root / MARKER
    if not marker.exists():
        write_json(marker, {"schema": SCHEMA, **about})
    return open_project(root)


def open_project(root: Path) -> Project:
    """Open a project folder.

    Raises
    ------
    InputError
        If it is not a project, or a newer version of the program made it.
    """
    marker = root / MARKER
    if not marker.exists():
        raise InputError(f"{root} is not a cryoloom project: it has no {MARKER}.")
    schema = read_json(marker).get("schema", SCHEMA)
    if schema > SCHEMA:
        raise InputError(
            f"{root} was made by a newer version of cryoloom (schema {schema}, this version knows {SCHEMA}); "
            "install the newer version to continue it."
        )
    return Project(root.resolve())


def find_project(start: Path) -> Project | None:
    """The project that a path lies in, or None."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / MARKER).exists():
            return open_project(folder)
    return None


def is_unused(folder: Path) -> bool:
    """Whether a job folder holds no more than a job leaves that was killed before its record was written."""
    return folder.is_dir() and all(path.name == ".state" or is_leftover(path) for path in folder.iterdir())


def is_leftover(path: Path) -> bool:
    """Whether a file was being written beside its place, under a hidden name, when its process was killed."""
    return path.name.startswith(".") and (path.suffix == ".part" or path.stem.endswith(".part"))


def read_record(folder: Path) -> dict[str, Any] | None:
    """`job.json` of a job folder, or None when there is none that can be read."""
    try:
        record = read_json(folder / "job.json")
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
