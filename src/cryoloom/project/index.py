"""A disposable SQLite index over the job folders, for the web page and for searches.

Rebuilt from the folders whenever it is missing, damaged or older than a folder; nothing in it is truth.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from cryoloom.project.files import read_json
from cryoloom.project.folder import Project, read_record

FILE = ".index.sqlite"
_COLUMNS = ("folder", "stage", "state", "key", "started", "ended", "verdict", "resolution", "n_in", "n_out")


def rebuild_index(project: Project) -> Path:
    """Write the index anew from the job folders and return its file."""
    rows = [_row(project, folder) for folder in project.jobs()]
    path = project.root / FILE
    beside = path.with_suffix(".part")
    beside.unlink(missing_ok=True)
    with closing(sqlite3.connect(beside)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute(f"CREATE TABLE jobs ({', '.join(_COLUMNS)}, PRIMARY KEY (folder))")
        connection.executemany(f"INSERT INTO jobs VALUES ({', '.join('?' * len(_COLUMNS))})", rows)
        connection.commit()
    beside.replace(path)
    return path


def list_jobs(project: Project) -> list[dict[str, Any]]:
    """All jobs of a project, oldest first, from the index; it is rebuilt when a folder is newer or it is damaged."""
    path = project.root / FILE
    newest = max((folder.joinpath("job.json").stat().st_mtime_ns for folder in project.jobs()), default=0)
    if not path.exists() or path.stat().st_mtime_ns <= newest:
        rebuild_index(project)
    try:
        rows = _read(path)
    except sqlite3.DatabaseError:
        rebuild_index(project)
        rows = _read(path)
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def _read(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs ORDER BY started, folder").fetchall()


def _row(project: Project, folder: Path) -> tuple[Any, ...]:
    record = read_record(folder) or {}
    try:
        summary = read_json(folder / "summary.json")
    except (OSError, ValueError):
        summary = {}
    found = {**record, **summary, "folder": str(folder.relative_to(project.root))}
    return tuple(found.get(column) for column in _COLUMNS)
