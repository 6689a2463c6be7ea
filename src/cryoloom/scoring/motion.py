"""Trajectories against the truth, up to the place that each is counted from."""

from dataclasses import dataclass

import numpy as np


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
        return {"rms": round(self.rms, 4), "rms_axis": round(self.rms_axis, 4), "global_only_rms": round(self.global_only_rms, 4)}  # fmt: skip


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


def _centred(track: np.ndarray) -> np.ndarray:
    return track - track.mean(-2, keepdims=True)
