"""`compare motion`: joint likelihood of all tiles and frames against correlation of patches.

The methods are `motion.estimate` and `motion.patches`. Items are the frames of all movies; what is compared is the
displacement at nine places of a frame, relative to its mean over the movie (where a movie as a whole sits is no
question). Where the methods disagree on a frame, the field along which the sums of even and odd frames of the movie
share more is taken for the whole movie, if the difference is significant: a field that is wrong in some frames (locked
to a pattern of the detector, say) is right in others by chance. The sums that are written follow the consensus.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.settings import COMPARE_MOTION, CompareMotionSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Run, stage
from cryoloom.data import MicrographSet, MovieSet
from cryoloom.motion.estimate import MotionEstimate, estimate_motion
from cryoloom.motion.field import MotionField, mode_values
from cryoloom.motion.frames import Frames
from cryoloom.motion.halves import shared_information
from cryoloom.motion.patches import estimate_by_patches
from cryoloom.motion.settings import MotionSettings
from cryoloom.motion.stage import correct_movies

CORRELATION = 0.5
"""Of the errors of the two methods, which see the same noise (0.3 to 0.8 on simulated movies)."""

METHODS = ("joint likelihood of tiles", "correlation of patches")


@dataclasses.dataclass(frozen=True)
class TwoMotions:
    """What both methods say of one movie of `t` frames.

    Attributes
    ----------
    values
        Displacement y, x in Å at nine places relative to its mean over places and frames, per method, `(2, t, 18)`.
    error
        Standard error of one of these numbers, per method, `(2, t)`.
    support
        What the sums of even and odd frames share along each field, in standard errors, `(2,)`.
    """

    values: np.ndarray
    error: np.ndarray
    support: np.ndarray


def two_motions(
    frames: Frames, pixel_size: float, settings: MotionSettings, dose: float | None = None
) -> tuple[TwoMotions, MotionEstimate, MotionField]:
    """Both estimates of the motion of a movie, the first with all its figures, and the field of the second."""
    degree = settings.local_degree if settings.local_motion else 0
    reach, tile = settings.max_shift, settings.tile
    first = estimate_motion(
        frames, pixel_size, dose_per_frame=dose or 1.0, degree=degree, max_shift=reach, tile=tile
    )  # fmt: skip
    second = estimate_by_patches(frames, pixel_size, degree=min(degree, 2), max_shift=reach, patch=tile).field
    fields = (first.field, second)
    said = TwoMotions(
        np.stack([relative_motion(field) * pixel_size for field in fields]),
        np.stack([_relative_error(field) * pixel_size for field in fields]),
        np.array([_significance(shared_information(frames, field, pixel_size)) for field in fields]),
    )
    return said, first, second


def compare_motions(names: list[str], pairs: list[TwoMotions], tolerance: float) -> Comparison:
    """Hold both answers of all frames of all movies together; `tolerance` in Å."""
    items = np.array([f"{name}, frame {t + 1}" for name, pair in zip(names, pairs, strict=True)
                      for t in range(pair.values.shape[1])])  # fmt: skip
    answers = [
        Answers(
            method,
            np.concatenate([pair.values[i] for pair in pairs]),
            np.concatenate([pair.error[i] for pair in pairs]),
            np.concatenate([np.full(pair.values.shape[1], pair.support[i]) for pair in pairs]),
        )
        for i, method in enumerate(METHODS)
    ]
    movie = np.repeat(np.arange(len(pairs)), [pair.values.shape[1] for pair in pairs])
    return compare_answers(
        "displacement", "Å", items, *answers, tolerance=tolerance, correlation=CORRELATION, margin=1.0, groups=movie
    )


def _significance(information: float) -> float:
    """Information (nats) as a number of standard errors, which itself has a standard error of about one."""
    return float(np.sign(information) * np.sqrt(2 * abs(information)))


def places(shape: tuple[int, int]) -> np.ndarray:
    """Nine places of a frame, `(9, 2)` px yx."""
    share = np.array([1 / 6, 1 / 2, 5 / 6])
    y, x = np.meshgrid(share * shape[0] - 0.5, share * shape[1] - 0.5, indexing="ij")
    return np.stack([y, x], -1).reshape(-1, 2)


def relative_motion(field: MotionField) -> np.ndarray:
    """Displacement at the places less its mean over places and frames, `(t, 18)` px."""
    found = field.at(places(field.shape))  # (9, t, 2)
    found = found - found.mean((0, 1))
    return np.moveaxis(found, 0, 1).reshape(found.shape[1], -1)


def consensus_field(first: MotionField, second: MotionField, consensus: np.ndarray) -> MotionField:
    """The mean of both fields, with the weight in each frame that the consensus `(t, 18)` px gave to them."""
    a, b = relative_motion(first), relative_motion(second)
    apart = ((a - b) ** 2).sum(1)
    weight = np.where(apart > 0, ((consensus - b) * (a - b)).sum(1) / np.maximum(apart, 1e-12), 1.0)
    modes = np.zeros((2, max(len(first.modes_px), len(second.modes_px)), *first.modes_px.shape[1:]))
    for i, field in enumerate((first, second)):
        modes[i, : len(field.modes_px)] = field.modes_px
        modes[i, 0] -= field.at(places(field.shape)).mean((0, 1))
    both = modes[1] + weight[:, None] * (modes[0] - modes[1])
    return MotionField(both - both[:, :1], first.shape, max(first.degree, second.degree))


def _relative_error(field: MotionField) -> np.ndarray:
    """Standard error of a number of `relative_motion`, the mean over the places, `(t,)` px."""
    n_modes, n_frames = field.modes_px.shape[:2]
    if field.covariance_px2 is None:
        return np.zeros(n_frames)
    values = mode_values(places(field.shape), field.shape, field.degree)
    lever = np.einsum("am,tu->atmu", values, np.eye(n_frames)).reshape(-1, n_modes * n_frames)
    lever = lever - lever.mean(0)
    variance = np.einsum("ij,jk,ik->i", lever, field.covariance_px2, lever, optimize=True)
    return np.asarray(np.sqrt(np.maximum(variance.reshape(len(values), n_frames).mean(0), 0.0)))


@stage(COMPARE_MOTION)
def compare_motion(
    movies: MovieSet, gain: Path | None, defects: Path | None, settings: CompareMotionSettings, run: Run
) -> dict[str, MicrographSet]:
    """Align every movie by both methods, say what both agree on, and sum along that."""

    def both(
        frames: Frames, pixel_size: float, dose: float | None, chosen: MotionSettings, _run: Run
    ) -> tuple[MotionEstimate, dict[str, Any]]:
        pair, first, second = two_motions(frames, pixel_size, chosen, dose)
        together = compare_motions([""], [pair], settings.tolerance).consensus / pixel_size
        kept = {name: value.tolist() for name, value in dataclasses.asdict(pair).items()}
        return dataclasses.replace(first, field=consensus_field(first.field, second, together)), {"two": kept}

    records, results = correct_movies(movies, gain, defects, settings, run, both)
    done = [(str(path), result["two"]) for path, result in zip(movies.path, results, strict=True) if result]
    pairs = [TwoMotions(**{name: np.asarray(value) for name, value in two.items()}) for _, two in done]
    show_comparison(compare_motions([name for name, _ in done], pairs, settings.tolerance), run)
    return records
