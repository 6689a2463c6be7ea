"""The motion file of one movie (`interfaces.md` 2.3): written as RELION's polishing reads it, read from either program.

RELION's shifts are what moves a frame back: minus our trajectory, in pixels of the movie. What RELION has no label for
stands in blocks of our own beside its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.star import StarTable, read_star, write_star

_NOT_OBSERVED = -9999.0
"""RELION's shift of a frame that was not used."""


@dataclass(frozen=True)
class MovieFacts:
    """How one movie was taken and corrected.

    Attributes
    ----------
    path
        The movie.
    pixel_size
        Å per pixel of its frames.
    voltage_kv
        Acceleration voltage.
    gain_path
        Gain reference, or None.
    binning
        Pixel of the corrected sum over that of the frames.
    dose_per_frame, pre_exposure
        e-/Å2, the latter before the first frame of the file; 0 where it is not known.
    first_frame, n_frames
        First frame that was used, from 1, and frames in the file; None: none behind those that were used.
    defect_path
        List or image of known defects, or None.
    eer
        Raw frames in one frame, and upsampling, of an EER movie; None for other formats.
    """

    path: str
    pixel_size: float
    voltage_kv: float
    gain_path: str | None = None
    binning: float = 1.0
    dose_per_frame: float = 0.0
    pre_exposure: float = 0.0
    first_frame: int = 1
    n_frames: int | None = None
    defect_path: str | None = None
    eer: tuple[int, int] | None = None


def write_motion_tracks(
    path: Path | str,
    movie: MovieFacts,
    shape: tuple[int, int],
    trajectory_px: np.ndarray,
    *,
    modes_px: np.ndarray,
    polynomial: np.ndarray | None = None,
    hot_px: np.ndarray | None = None,
    position_px: np.ndarray | None = None,
    tracks_px: np.ndarray | None = None,
    error_px: np.ndarray | None = None,
) -> None:
    """Write a motion file.

    Parameters
    ----------
    path
        STAR file.
    movie
        How the movie was taken.
    shape
        Rows and columns of a frame.
    trajectory_px
        Motion of the whole frame, where content sits in each, pixels yx, `(t, 2)`.
    modes_px
        Coefficients of the motion field over the frame, `(modes, t, 2)` yx.
    polynomial
        Coefficients of RELION's local model, `(36,)`; None writes a global model.
    hot_px
        Repaired pixels `(n, 2)` yx.
    position_px, tracks_px
        Places of local tracks, pixels yx `(j, 2)`, and common and local motion there, `(j, t, 2)`.
    error_px
        Standard error of the motion in each frame, `(t,)`.
    """
    h, w = shape
    n_frames = len(trajectory_px)
    number = movie.first_frame + np.arange(n_frames)
    n_stored = max(movie.n_frames or 0, int(number[-1]))
    general: dict[str, Any] = {"rlnImageSizeX": w, "rlnImageSizeY": h, "rlnImageSizeZ": n_stored}
    general["rlnMicrographMovieName"] = movie.path
    if movie.gain_path is not None:
        general["rlnMicrographGainName"] = movie.gain_path
    if movie.defect_path is not None:
        general["rlnMicrographDefectFile"] = movie.defect_path
    general |= {
        "rlnMicrographBinning": movie.binning,
        "rlnMicrographOriginalPixelSize": movie.pixel_size,
        "rlnMicrographDoseRate": movie.dose_per_frame,
        "rlnMicrographPreExposure": movie.pre_exposure,
        "rlnVoltage": movie.voltage_kv,
        "rlnMicrographStartFrame": movie.first_frame,
    }
    if movie.eer is not None:
        general |= {"rlnEERUpsampling": movie.eer[1], "rlnEERGrouping": movie.eer[0]}
    general["rlnMotionModelVersion"] = 0 if polynomial is None else 1
    blocks: dict[str, Any] = {"general": general}
    stored = np.full((n_stored, 2), -_NOT_OBSERVED)
    stored[number - 1] = trajectory_px
    blocks["global_shift"] = {"rlnMicrographFrameNumber": np.arange(1, n_stored + 1)} | _shift_columns(stored)
    if polynomial is not None:
        blocks["local_motion_model"] = {
            "rlnMotionModelCoeffsIdx": np.arange(len(polynomial)),
            "rlnMotionModelCoeff": polynomial,
        }
    if hot_px is not None and len(hot_px):
        blocks["hot_pixels"] = {
            "rlnCoordinateX": hot_px[:, 1].astype(float),
            "rlnCoordinateY": hot_px[:, 0].astype(float),
        }
    if position_px is not None and tracks_px is not None:
        blocks["local_shift"] = {
            "rlnMicrographFrameNumber": np.tile(number, len(position_px)),
            "rlnCoordinateX": np.repeat(position_px[:, 1], n_frames),
            "rlnCoordinateY": np.repeat(position_px[:, 0], n_frames),
        } | _shift_columns(tracks_px)
    if error_px is not None:
        blocks["cryoloom_shift_error"] = {
            "rlnMicrographFrameNumber": number,
            "cryoloomShiftError": np.round(error_px, 5),
        }
    blocks["cryoloom_motion_field"] = {
        "cryoloomModeIndex": np.repeat(np.arange(len(modes_px)), n_frames),
        "rlnMicrographFrameNumber": np.tile(number, len(modes_px)),
        "cryoloomTrajectoryX": np.round(modes_px[..., 1].reshape(-1), 6),
        "cryoloomTrajectoryY": np.round(modes_px[..., 0].reshape(-1), 6),
    }
    write_star(path, blocks)


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
    return np.where(np.abs(shift) >= -_NOT_OBSERVED, np.nan, -shift)


def _shift_columns(trajectory_px: np.ndarray) -> dict[str, np.ndarray]:
    """RELION's shifts of a trajectory `(..., 2)` yx, row after row."""
    shift = np.round(-trajectory_px, 5)
    return {"rlnMicrographShiftX": shift[..., 1].reshape(-1), "rlnMicrographShiftY": shift[..., 0].reshape(-1)}
