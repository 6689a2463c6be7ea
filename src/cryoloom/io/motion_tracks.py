"""Trajectories of a motion file (`interfaces.md` 2.3), of this project or of RELION."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.star import StarTable, read_star


def read_motion_tracks(path: Path | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where content sits in each frame: minus the shifts of the file; the value -9999 (not observed) gives NaN.

    Returns
    -------
    trajectory_px
        Motion of the whole frame, pixels yx, `(t, 2)`.
    position_px
        Places of the local tracks, pixels yx, `(n, 2)`; none if the file lists no local shifts.
    tracks_px
        Common and local motion at those places, `(n, t, 2)`.

    Raises
    ------
    InputError
        If the file holds no shifts.
    """
    star = read_star(path)
    common = star.get("global_shift")
    if not isinstance(common, StarTable) or "rlnMicrographShiftX" not in common:
        raise InputError(f"{path}: no block data_global_shift; this is no motion file.")
    frame = common.numbers("rlnMicrographFrameNumber").astype(np.int64)
    trajectory = np.full((int(frame.max()), 2), np.nan)
    trajectory[frame - 1] = _shift(common)
    local = star.get("local_shift")
    if not isinstance(local, StarTable) or not len(local):
        return trajectory, np.zeros((0, 2)), np.zeros((0, len(trajectory), 2))
    place = np.stack([local.numbers("rlnCoordinateY"), local.numbers("rlnCoordinateX")], axis=1)
    position, owner = np.unique(place, axis=0, return_inverse=True)
    tracks = np.full((len(position), len(trajectory), 2), np.nan)
    tracks[owner.reshape(-1), local.numbers("rlnMicrographFrameNumber").astype(np.int64) - 1] = _shift(local)
    return trajectory, position, tracks


def _shift(table: StarTable) -> np.ndarray:
    shift = np.stack([table.numbers("rlnMicrographShiftY"), table.numbers("rlnMicrographShiftX")], axis=1)
    return np.where(np.abs(shift) >= 9999, np.nan, -shift)
