"""Trajectories against the truth, up to the place that each is counted from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre


@dataclass(frozen=True)
class MotionScore:
    """Errors of trajectories.

    Attributes
    ----------
    error
        Difference of each position after the offset of each track is taken off, Å, `(*tracks, frames, 2)`.
    rms
        Root mean square length of the error of a position in Å.
    rms_axis
        The same along one axis.
    global_only_rms
        RMS length if the tracks were known by their common motion alone, Å (0 for one track).
    """

    error: np.ndarray
    rms: float
    rms_axis: float
    global_only_rms: float

    def summary(self) -> dict[str, float]:
        """The figures a report shows."""
        names = ("rms", "rms_axis", "global_only_rms")
        return {name: round(getattr(self, name), 4) for name in names}


def score_motion(estimated: np.ndarray, truth: np.ndarray) -> MotionScore:
    """Compare trajectories `(*tracks, frames, 2)` in Å, yx: where content sits in each frame.

    Each track may be counted from another place (the first frame, the mean): the mean over frames of the difference is
    taken off per track.
    """
    estimated, truth = np.asarray(estimated, np.float64), np.asarray(truth, np.float64)
    if estimated.shape != truth.shape:
        raise ValueError(f"estimated: expected the shape of the truth {truth.shape}, got {estimated.shape}")
    error = _centred(estimated) - _centred(truth)
    square = (error**2).sum(-1)
    local = _centred(truth) - _centred(truth).reshape(-1, *truth.shape[-2:]).mean(0)
    return MotionScore(
        error=error,
        rms=float(np.sqrt(square.mean())),
        rms_axis=float(np.sqrt(0.5 * square.mean())),
        global_only_rms=float(np.sqrt((local**2).sum(-1).mean())),
    )


def true_tracks(record: Mapping[str, Any], position_px: np.ndarray) -> np.ndarray:
    """Displacement in Å of what sits at positions `(n, 2)` yx in the first frame, `(n, t, 2)`.

    Parameters
    ----------
    record
        What `simulate movies` writes to `truth/<stem>.json`: `motion_modes` are coefficients of products of Legendre
        polynomials in y and x by rising total degree, y and x from -1 to 1 over the frame.
    """
    modes = np.asarray(record["motion_modes"])
    degree = int(round((np.sqrt(8 * len(modes) + 1) - 3) / 2))
    h, w = record["recipe"]["shape"]
    in_y = legendre.legvander(2 * (position_px[:, 0] + 0.5) / h - 1, degree)
    in_x = legendre.legvander(2 * (position_px[:, 1] + 0.5) / w - 1, degree)
    orders = [(total - b, b) for total in range(degree + 1) for b in range(total + 1)]
    values = np.stack([in_y[:, a] * in_x[:, b] for a, b in orders], axis=1)
    return np.einsum("nm,mtc->ntc", values, modes)


def _centred(track: np.ndarray) -> np.ndarray:
    return track - track.mean(-2, keepdims=True)
