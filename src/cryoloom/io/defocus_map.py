"""STAR file with the defocus of places of one micrograph."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.star import StarTable, read_star, write_star


def write_defocus_map(path: Path, place_px: np.ndarray, defocus: np.ndarray, error: np.ndarray) -> None:
    """Write one row per place, with coordinates as RELION's picks have them.

    Parameters
    ----------
    place_px
        Pixels yx, `(n, 2)`.
    defocus, error
        Mean of U and V and its standard error, Å, `(n,)`.
    """
    columns = {
        "rlnCoordinateX": np.round(place_px[:, 1], 1),
        "rlnCoordinateY": np.round(place_px[:, 0], 1),
        "cryoloomDefocus": np.round(defocus, 1),
        "cryoloomDefocusError": np.round(error, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_star(path, {"defocus_map": columns})


def read_defocus_map(path: Path | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read what `write_defocus_map` wrote: `place_px` `(n, 2)` yx, `defocus` and `error` `(n,)` in Å.

    Raises
    ------
    InputError
        If the file is something else.
    """
    table = read_star(Path(path)).get("defocus_map")
    if not isinstance(table, StarTable):
        raise InputError(f"{path}: no block 'defocus_map'; this is no map of the defocus.")
    place = np.stack([table.numbers("rlnCoordinateY"), table.numbers("rlnCoordinateX")], -1)
    return place, table.numbers("cryoloomDefocus"), table.numbers("cryoloomDefocusError")
