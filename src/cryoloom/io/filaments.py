"""Filaments as RELION knows them: columns of segments, and files of starts and ends.

A filament whose axis runs in the image at an angle α from +x towards +y has `rlnAnglePsi` -α: with a tilt of 90° the
axis z of the reference lies in the image plane, at that angle up to half a turn (see `io.relion_columns`).
"""

from pathlib import Path

import numpy as np

from cryoloom.io.relion_columns import to_degrees
from cryoloom.io.star import write_star


def segment_columns(filament: np.ndarray, direction: np.ndarray, along: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of segments for `PickSet.extra`.

    Parameters
    ----------
    filament
        Number of the filament on its micrograph, from 1, `(n,)`.
    direction
        Of its axis in the image, radians from +x towards +y, `(n,)`.
    along
        Å from the start of the filament, `(n,)`.
    """
    n = len(filament)
    return {
        "filament": np.asarray(filament, np.int64),
        "rlnAngleTiltPrior": np.full(n, 90.0),
        "rlnAnglePsiPrior": to_degrees(-np.asarray(direction)),
        "rlnHelicalTrackLengthAngst": np.asarray(along, np.float64),
        "rlnAnglePsiFlipRatio": np.full(n, 0.5),  # which end is which is not known
    }


def write_start_end(path: Path | str, ends_px: np.ndarray) -> None:
    """Write starts and ends of straight filaments as RELION's helical extraction reads them: two rows each.

    Parameters
    ----------
    ends_px
        Start and end of each, pixels yx, `(n, 2, 2)`.
    """
    rows = np.asarray(ends_px, np.float64).reshape(-1, 2)
    write_star(path, {"": {"rlnCoordinateX": rows[:, 1], "rlnCoordinateY": rows[:, 0]}})
