"""Names of micrographs: which row of a set a pick or a particle means."""

import numpy as np

from cryoloom.contract import InputError


def stem_of(path: str) -> str:
    """Name of a file without its folder and suffix."""
    return path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def match_rows(paths: np.ndarray, names: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Row of the micrograph of each name, by path and, failing that, by a stem that only one has.

    Parameters
    ----------
    paths
        Files of the micrographs, `(m,)` str.
    names
        What picks or particles call theirs, `(n,)` str.

    Returns
    -------
    row
        `(n,)` int64, -1 where there is none.
    known
        Where there is one, `(n,)` bool.

    Raises
    ------
    InputError
        If there are no names.
    """
    if names is None:
        raise InputError("The picks do not name their micrographs.")
    by_path = {str(path): i for i, path in enumerate(paths)}
    stems, n_of = np.unique([stem_of(str(path)) for path in paths], return_counts=True)
    single = set(stems[n_of == 1].tolist())
    by_stem = {stem: i for i, path in enumerate(paths) if (stem := stem_of(str(path))) in single}
    unique, inverse = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    found = np.asarray([by_path.get(str(u), by_stem.get(stem_of(str(u)), -1)) for u in unique], dtype=np.int64)
    row = found[inverse] if len(unique) else np.zeros(0, dtype=np.int64)
    return row, row >= 0
