"""Which items of a job are done, and with what result: one line each, appended when an item is done.

A line that a kill cut short is ignored when the journal is read again, so its item is simply done once more. An item
that is a file and failed is tried again once the file is another one: a torn movie may be copied anew.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

from cryoloom.project.files import plain


class Journal:
    """An append-only list of finished items.

    Parameters
    ----------
    path
        The file, one JSON object per line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            complete = path.read_bytes().rpartition(b"\n")[0]
            for line in complete.splitlines():
                try:
                    entry = json.loads(line)
                    self.done[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
            if complete and path.stat().st_size != len(complete) + 1:
                with path.open("r+b") as file:
                    file.truncate(len(complete) + 1)

    def add(self, key: str, *, result: dict[str, Any] | None = None, cause: str | None = None) -> dict[str, Any]:
        """Record a finished item (`result`) or a failed one (`cause`) and return the entry."""
        entry = {"key": key, "result": plain(result), "cause": cause}
        if cause is not None and (state := _state_of_file(key)) is not None:
            entry["file"] = state
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            # What is handed out now must equal what is read back after a kill.
            self.done[key] = json.loads(line)
            return self.done[key]

    def is_settled(self, key: str) -> bool:
        """Whether an item need not be tried: it is done, or failed and is the same file as then."""
        entry = self.done.get(key)
        if entry is None:
            return False
        return entry["cause"] is None or entry.get("file") == _state_of_file(key)


def _state_of_file(key: str) -> list[int] | None:
    """Size and time of modification of the file that an item is named by, or None if it is no file."""
    try:
        stat = Path(key).stat()
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns]
