"""Stage `motion`: movies in, aligned sums with their trajectories out."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError, Run, WorkFailed, stage
from cryoloom.data import MicrographSet, MovieSet, Optics
from cryoloom.io.motion_tracks import MovieFacts
from cryoloom.io.movies import movie_stem
from cryoloom.io.mrc import write_mrc
from cryoloom.motion.correct import CorrectedSums, accumulated_motion, local_motion_rms, sum_movie
from cryoloom.motion.estimate import MotionEstimate, estimate_motion
from cryoloom.motion.frames import Frames
from cryoloom.motion.load import GainRecipe, choose_gain, doubtful_pixel_size, gain_file_for_others, load_frames
from cryoloom.motion.motion_file import write_motion_file
from cryoloom.motion.settings import MOTION, MotionSettings
from cryoloom.motion.show import show_motion

Estimator = Callable[[Frames, float, float | None, MotionSettings, Run], tuple[MotionEstimate, dict[str, Any]]]
"""Motion of frames at a pixel size (Å) and dose per frame, and what else to keep of the movie, as JSON values."""


@stage(MOTION)
def correct_motion(
    movies: MovieSet, gain: Path | None, defects: Path | None, settings: MotionSettings, run: Run
) -> dict[str, MicrographSet]:
    """Correct every movie; see `MotionSettings`."""
    return correct_movies(movies, gain, defects, settings, run, _estimate)[0]


def correct_movies(
    movies: MovieSet, gain: Path | None, defects: Path | None, settings: MotionSettings, run: Run, estimate: Estimator
) -> tuple[dict[str, MicrographSet], list[dict[str, Any] | None]]:
    """Correct every movie along the motion that `estimate` finds; the records, and what is kept of each movie."""
    if len(movies) == 0:
        raise InputError("There are no movies; check the list that was given.")
    gain = gain or movies.gain_path
    defects = defects or movies.defect_path
    recipe = _gain_recipe(movies, gain, settings, run)
    names = _unique_stems(movies)
    if doubt := doubtful_pixel_size(movies, settings):
        run.warn(doubt)

    def correct_one(row: int) -> dict[str, Any]:
        return _correct_movie(movies, row, names[row], settings, recipe, defects, run, estimate)

    rows = list(range(len(movies)))
    results = run.each(rows, correct_one, key=lambda row: str(movies.path[row]), label="motion")
    if not any(results):
        raise WorkFailed("No movie could be corrected; the causes are in run.log.")
    return _collect(movies, results, names, settings, run), results


def _estimate(
    frames: Frames, pixel_size: float, dose: float | None, settings: MotionSettings, run: Run
) -> tuple[MotionEstimate, dict[str, Any]]:
    found = estimate_motion(
        frames,
        pixel_size,
        dose_per_frame=dose or 1.0,
        degree=settings.local_degree if settings.local_motion else 0,
        max_shift=settings.max_shift,
        tile=settings.tile,
        device=run.device,
    )
    return found, {}


def _gain_recipe(movies: MovieSet, path: Path | None, settings: MotionSettings, run: Run) -> GainRecipe | None:
    if path is None:
        return None
    recipe, choice = choose_gain(movies, Path(path), settings)
    if choice is None:
        return recipe
    evidence = f"correlation {choice.z:.0f} standard errors, next best {choice.runner_up_z:.0f}"
    if recipe is None:
        run.warn(
            f"gain reference: the frames do not carry it (correlation {choice.z:.0f} standard errors where "
            f"{choice.expected_z:.0f} are expected): they were corrected before, or it belongs to another detector. It "
            "is not used; --gain-orientation as-is uses it all the same."
        )
        run.summarise(gain={"used": False, "certain": False, "z": choice.z, "z_expected": choice.expected_z})
        return None
    words = f"rotation {recipe.rotation} x 90 degrees, flip {recipe.flip}, {'divide' if recipe.divide else 'multiply'}"
    if choice.is_certain:
        run.log(f"gain reference: {words} ({evidence})")
    else:
        run.warn(f"gain reference: its orientation does not show in the frames ({evidence}); taken as it is.")
    run.summarise(
        gain={"rotation": recipe.rotation, "flip": recipe.flip, "divide": bool(recipe.divide),
              "certain": choice.is_certain, "z": choice.z, "z_next": choice.runner_up_z}
    )  # fmt: skip
    return recipe


def _correct_movie(
    movies: MovieSet,
    row: int,
    name: str,
    settings: MotionSettings,
    recipe: GainRecipe | None,
    defects: Path | None,
    run: Run,
    estimator: Estimator,
) -> dict[str, Any]:
    """Correct one movie and write its files; the figures that are kept of it."""
    optics = movies.optics[int(movies.optics_index[row])]
    dose = _value(movies.dose_per_frame, row, settings.dose_per_frame)
    before_movie = _value(movies.pre_exposure, row, settings.pre_exposure) or 0.0
    pre_exposure = before_movie + (settings.first_frame - 1) * (dose or 0.0)
    frames, remarks, file = load_frames(movies, row, settings, recipe, defects)
    for remark in remarks:
        run.warn(remark, item=str(movies.path[row]))
    estimate, more = estimator(frames, optics.pixel_size, dose, settings, run)
    h, w = frames.shape
    target = (_binned(h, settings.binning), _binned(w, settings.binning))
    sums = sum_movie(
        frames,
        estimate.field.at_mean_shape(),
        optics.pixel_size,
        dose_per_frame=dose if settings.dose_weighting else None,
        pre_exposure=pre_exposure,
        voltage_kv=optics.voltage_kv,
        even_odd=settings.even_odd,
        undosed=settings.undosed,
        output_shape=target,
        device=run.device,
    )
    folder = run.folder / "micrographs"
    out_pixel = optics.pixel_size * h / target[0]
    _write_images(folder, name, sums, out_pixel)
    trajectory = estimate.field.trajectory_px * optics.pixel_size
    gain = None if recipe is None else gain_file_for_others(recipe, (h, w), folder, eer=file.eer is not None)
    facts = MovieFacts(
        run.relative(movies.path[row]),
        optics.pixel_size,
        optics.voltage_kv,
        gain_path=None if gain is None else run.relative(gain),
        binning=h / target[0],
        dose_per_frame=dose or 0.0,
        pre_exposure=before_movie,
        first_frame=settings.first_frame,
        n_frames=file.n_frames,
        defect_path=None if defects is None else run.relative(defects),
        eer=file.eer,
    )
    write_motion_file(
        folder / f"{name}.star",
        estimate.field,
        facts,
        hot_pixels=np.stack(np.divmod(frames.bad, w), -1)[:10_000],
        tile_centres_px=_grid(h, w, 5),
    )
    return _figures(frames, estimate, trajectory, optics, dose, pre_exposure) | more


def _write_images(folder: Path, name: str, sums: CorrectedSums, pixel_size: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, image in (("", sums.micrograph), ("_odd", sums.odd), ("_even", sums.even), ("_noDW", sums.undosed)):
        if image is not None:
            write_mrc(folder / f"{name}{suffix}.mrc", image, pixel_size, kind="image")


def _figures(
    frames: Frames,
    estimate: MotionEstimate,
    trajectory: np.ndarray,
    optics: Optics,
    dose: float | None,
    pre_exposure: float,
) -> dict[str, Any]:
    """What is kept of one movie, as JSON values; lengths in Å."""
    n = frames.n_frames
    centre = np.array([[0.5 * (frames.shape[0] - 1), 0.5 * (frames.shape[1] - 1)]])
    error = np.zeros(n)
    if estimate.field.covariance_px2 is not None:
        error = estimate.field.standard_error_px(centre)[0] * optics.pixel_size
    pairs = np.triu_indices(n, 1)
    return {
        **accumulated_motion(trajectory, dose or 1.0),
        "trajectory": np.round(trajectory, 4).tolist(),
        "shift_error": np.round(error, 4).tolist(),
        "corners": np.round(estimate.field.at(_grid(*frames.shape, 3)) * optics.pixel_size, 3).tolist(),
        "local_motion": local_motion_rms(estimate, optics.pixel_size),
        "frame_snr": estimate.frame_snr,
        "spoiled_pairs": float(np.mean(estimate.pair_trust[pairs] < 0.5)) if n > 1 else 0.0,
        "n_frames": n,
        "n_bad_pixels": len(frames.bad),
        "dose": None if dose is None else pre_exposure + dose * n,
        "mean_counts": float(np.mean([f[::7, ::7].mean(dtype=np.float64) for f in frames.raw])),
    }


def _collect(
    movies: MovieSet,
    results: list[dict[str, Any] | None],
    names: list[str],
    settings: MotionSettings,
    run: Run,
) -> dict[str, MicrographSet]:
    """The record of the micrographs, the summary and the figures."""
    kept = np.array([r is not None for r in results])
    done = [(row, r) for row, r in enumerate(results) if r is not None]
    folder = run.folder / "micrographs"

    def column(key: str) -> np.ndarray:
        return np.asarray([math.nan if r[key] is None else r[key] for _, r in done], np.float64)

    def paths(suffix: str) -> np.ndarray:
        return np.asarray([str(folder / f"{names[row]}{suffix}") for row, _ in done])

    def is_dose_weighted(row: int) -> bool:
        return settings.dose_weighting and _value(movies.dose_per_frame, row, settings.dose_per_frame) is not None

    optics = tuple(
        Optics(**{**group.__dict__, "original_pixel_size": group.pixel_size, "pixel_size": _out_pixel(group, settings)})
        for group in movies.optics
    )
    undosed = None
    if settings.undosed and any(is_dose_weighted(row) for row, _ in done):
        undosed = np.asarray(
            [str(folder / f"{names[row]}{'_noDW' if is_dose_weighted(row) else ''}.mrc") for row, _ in done]
        )
    micrographs = MicrographSet(
        optics=optics,
        optics_index=movies.optics_index[kept],
        path=paths(".mrc"),
        path_even=paths("_even.mrc") if settings.even_odd else None,
        path_odd=paths("_odd.mrc") if settings.even_odd else None,
        path_undosed=undosed,
        movie_path=np.asarray(movies.path)[kept],
        motion_path=paths(".star"),
        motion_total=column("total"),
        motion_early=column("early"),
        motion_late=column("late"),
        dose=column("dose") if any(r["dose"] is not None for _, r in done) else None,
        extra={label: values[kept] for label, values in movies.extra.items()}
        | {"cryoloomFrameSnr": column("frame_snr"), "cryoloomLocalMotion": column("local_motion")},
    )
    total = column("total")
    reasons = []
    n_failed = int((~kept).sum())
    if n_failed:
        reasons.append(f"{n_failed} of {len(movies)} movies could not be corrected")
    no_signal = [Path(str(movies.path[row])).name for row, r in done if r["n_frames"] > 1 and not r["frame_snr"] > 0]
    if no_signal:
        named = ", ".join(no_signal[:10])
        reasons.append(f"{len(no_signal)} of {len(movies)} movies showed no signal and were not aligned: {named}")
    if not any(is_dose_weighted(row) for row, _ in done) and settings.dose_weighting:
        reasons.append("no dose per frame is known, so there is no dose weighting")
    run.summarise(
        verdict="doubtful" if no_signal or n_failed > 0.1 * len(movies) else "found",
        reasons=reasons,
        n_in=len(movies),
        n_out=len(done),
        motion_total_median=float(np.median(total)),
        motion_early_median=float(np.median(column("early"))),
        motion_late_median=float(np.median(column("late"))),
        local_motion_median=float(np.median(column("local_motion"))),
        shift_error_median=float(np.median([np.median(r["shift_error"]) for _, r in done])),
        frame_snr_median=float(np.nanmedian(snr)) if np.isfinite(snr := column("frame_snr")).any() else None,
        spoiled_pairs=float(np.mean(column("spoiled_pairs"))),
        bad_pixels_median=float(np.median(column("n_bad_pixels"))),
        pixel_size=optics[0].pixel_size,
    )
    show_motion(done, names, total, run)
    return {"micrographs": micrographs}


def _value(column: np.ndarray | None, row: int, given: float | None) -> float | None:
    """The value of the movie itself, else what the settings give."""
    if column is not None and np.isfinite(column[row]):
        return float(column[row])
    return given


def _binned(n: int, binning: float) -> int:
    """Even size near `n / binning`."""
    return n if binning == 1 else 2 * round(n / binning / 2)


def _out_pixel(optics: Optics, settings: MotionSettings) -> float:
    return optics.pixel_size * settings.binning


def _grid(h: int, w: int, n: int) -> np.ndarray:
    """Centres of `n` x `n` equal parts of a frame, `(n², 2)` yx."""
    y, x = np.meshgrid((np.arange(n) + 0.5) * h / n - 0.5, (np.arange(n) + 0.5) * w / n - 0.5, indexing="ij")
    return np.stack([y, x], -1).reshape(-1, 2)


def _unique_stems(movies: MovieSet) -> list[str]:
    """File stems, made unique where movies of different folders share one."""
    stems = [movie_stem(str(path)) for path in movies.path]
    counts: dict[str, int] = {}
    for stem in stems:
        counts[stem] = counts.get(stem, 0) + 1
    return [
        stem if counts[stem] == 1 else f"{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        for stem, path in zip(stems, movies.path, strict=True)
    ]
