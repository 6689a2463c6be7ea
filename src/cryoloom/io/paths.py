"""Paths in STAR and `.cs` files: found when they are read, made relative to the project when they are written."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np


class PathFinder:
    """Finds the files that a table names.

    A relative path may start at the project folder, at the working folder, at the folder of the table, or at one of
    the folders above it (RELION and cryoSPARC write paths from their project folder, and tables lie some floors down).

    Parameters
    ----------
    table
        The file that names the paths.
    root
        Project folder, tried first.
    """

    def __init__(self, table: Path | str, root: Path | str | None = None) -> None:
        folder = Path(table).absolute().parent
        bases = [] if root is None else [Path(root).absolute()]
        bases += [Path.cwd(), folder, *list(folder.parents)[:5]]
        self.bases = list(dict.fromkeys(str(base) for base in bases))
        self._known: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Absolute path of a file that exists; else the text unchanged (a leading `>` is dropped)."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def find_all(self, names: np.ndarray) -> np.ndarray:
        """`find` over `(n,)` texts; equal results share one object."""
        return map_unique(names, self.find)

    def _find(self, name: str) -> str:
        text = name.strip().lstrip(">")
        if not text or "\0" in text:
            return name
        if text.startswith(os.sep):
            return text
        for number, base in enumerate(self.bases):
            candidate = f"{base}{os.sep}{text}"
            if ".." not in text:  # "link/.." is not where the link lies
                candidate = os.path.normpath(candidate)
            if _exists(candidate):
                if number:  # the next file is likely to lie under the same folder
                    self.bases.insert(0, self.bases.pop(number))
                return candidate
        return text


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long for the file system
        return False


def map_unique(names: np.ndarray, convert: Callable[[str], str]) -> np.ndarray:
    """Apply `convert` once to each different text, `(n,)` to `(n,)` objects."""
    if len(names) == 0:
        return np.zeros(0, dtype=object)
    known: dict[str, str] = {}
    out = np.empty(len(names), dtype=object)
    for i, name in enumerate(names):
        text = str(name)
        found = known.get(text)
        if found is None:
            found = known[text] = convert(text)
        out[i] = found
    return out


def relative_to_root(root: Path | str | None) -> Callable[[str], str]:
    """A function that writes an absolute path inside `root` relative to it, and any other path as it is."""
    if root is None:
        return lambda name: name
    prefix = os.path.normpath(Path(root).absolute()).rstrip(os.sep) + os.sep

    def shorten(name: str) -> str:
        return name[len(prefix) :] if name.startswith(prefix) else name

    return shorten
