"""The comparison of two estimates of motion, and the demonstrations of the second one."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compare.motion import compare_motions, consensus_field, places, relative_motion, two_motions
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.motion.estimate import estimate_motion
from cryoloom.motion.frames import make_frames
from cryoloom.motion.patches import estimate_by_patches
from cryoloom.motion.settings import MotionSettings
from cryoloom.project.runner import run_stage

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "motion"))
from judging import LEAST_CASES, JudgedCase, figures_of, judge_figures
from motion_bed import simulate

TOLERANCE = 1.0
GROSS = 2 * TOLERANCE
"""Å. A frame that is 2 Å off (twice the tolerance) is a gross error."""


def random_movie(seed: int):
    """A small movie, frame SNR 1e-3 to 2e-2; of twelve two have an imperfect gain and two have spoiled pairs."""
    rng = np.random.default_rng([17, seed])
    snr, drift, bulge = float(np.exp(rng.uniform(np.log(1e-3), np.log(2e-2)))), rng.uniform(4, 20), rng.uniform(0, 2)
    kind = rng.integers(12)
    fault = {"fixed_pattern": 0.2} if kind < 2 else {"spoiled": 0.1} if kind < 4 else {}
    return simulate((512, 512), 16, pixel_size=1.5, snr=snr, drift_px=drift, doming_px=bulge, seed=seed, **fault)


def judged_case(case: int, n: int = 4) -> JudgedCase:
    """A set of `n` movies; items are their frames."""
    pairs, true = [], []
    for seed in range(70_000 + n * case, 70_000 + n * (case + 1)):
        movie = random_movie(seed)
        pairs.append(two_motions(make_frames(movie.frames), movie.pixel_size, MotionSettings())[0])
        track = movie.field(places((512, 512)))
        track = np.moveaxis(track - track.mean((0, 1)), 0, 1) * movie.pixel_size
        true.append(track.reshape(len(track), -1))
    found = compare_motions([f"movie {i}" for i in range(n)], pairs, TOLERANCE)
    errors = [
        np.sqrt(((values - np.concatenate(true)) ** 2).mean(1))
        for values in (found.first.values, found.second.values, found.consensus)
    ]
    return JudgedCase(*errors, found.disagree)


@pytest.mark.slow
@pytest.mark.capability("CMP-1")
def test_motion_by_both_methods_is_as_good_as_the_better_one(measure, evidence):
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in range(i - 1, LEAST_CASES, n):
        if seed not in done:
            figures = figures_of(judged_case(seed), GROSS)
            evidence.append(seed=seed, outcome="good" if figures["ratio"] <= 1.05 else "worse", **figures)
    found = judge_figures(evidence.cases())
    note = f"joint likelihood, correlation of patches; sets of 4 movies of 512² px x 16; {found.said()}"
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


def whole_error(field, movie) -> tuple[float, float]:
    """RMS errors of the whole-frame motion, and of the motion of all places, px; a shift of the movie is no error."""
    share = np.linspace(0, 1, 15)
    y, x = np.meshgrid(share * (field.shape[0] - 1), share * (field.shape[1] - 1), indexing="ij")
    points = np.stack([y, x], -1).reshape(-1, 2)
    error = field.at(points) - movie.field(points)
    error -= error.mean((0, 1))
    return float(np.sqrt(np.mean(error.mean(0) ** 2))), float(np.sqrt(np.mean(error**2)))


@pytest.mark.slow
@pytest.mark.capability("CMP-1")
def test_the_patches_alone_reach_what_the_rows_of_motion_ask(measure):
    """Whole-frame motion at a frame SNR of 1e-3, and local motion under doming: the beds of MOT-1 and MOT-2."""
    still = simulate((2048, 2048), 30, snr=1e-3, drift_px=25, spoiled=0.1, seed=0)
    whole = whole_error(estimate_by_patches(make_frames(still.frames), 1.0, degree=0).field, still)[0]
    movie = simulate((2048, 2048), 30, snr=1e-3, drift_px=25, doming_px=8, seed=3)
    frames = make_frames(movie.frames)
    rigid, local = (whole_error(estimate_by_patches(frames, 1.0, degree=d).field, movie)[1] for d in (0, 2))
    measure(round(whole, 3), "px", "< 0.2", note="correlation of patches, whole-frame motion, frame SNR 1e-3")
    measure(round(rigid / local, 2), "times", ">= 3", note=f"residual {rigid:.2f} px whole-frame, {local:.2f} px local")
    assert whole < 0.2
    assert rigid / local >= 3


def small_movie(seed: int, **change):
    return simulate((384, 384), 12, pixel_size=2.0, snr=2e-2, drift_px=8, doming_px=1.5, seed=seed, **change)


def test_two_methods_find_the_motion_and_their_mean_is_a_field():
    movie = small_movie(1)
    pair, first, second = two_motions(make_frames(movie.frames), 2.0, MotionSettings())
    track = movie.field(places((384, 384)))
    true = np.moveaxis(track - track.mean((0, 1)), 0, 1).reshape(12, -1) * 2.0
    found = compare_motions(["m"], [pair], TOLERANCE)
    for values in (*pair.values, found.consensus):
        assert np.sqrt(np.mean((values - true) ** 2)) < 1.0
    assert 0.5 < np.sqrt(np.mean(((pair.values - true) / pair.error[:, :, None]) ** 2)) < 2
    field = consensus_field(first.field, second, found.consensus / 2.0)
    together = found.consensus.reshape(12, 9, 2)
    moved = relative_motion(field).reshape(12, 9, 2) * 2.0
    np.testing.assert_allclose(moved, together - together.mean((0, 1)), atol=1e-6)
    np.testing.assert_array_equal(field.modes_px[:, 0], 0)
    assert estimate_motion(make_frames(movie.frames), 2.0).field.degree == field.degree


def test_movies_are_summed_along_what_both_methods_say(tmp_path):
    paths = []
    for seed in (2, 3):
        paths.append(str(tmp_path / f"movie{seed}.mrc"))
        write_mrc(paths[-1], small_movie(seed).frames, 2.0, kind="stack")
    given = {"pixel_size": 2.0, "voltage_kv": 300.0, "dose_per_frame": 1.0}
    done = run_stage("compare motion", {"movies": paths}, given, out=tmp_path / "compare")
    found = read_micrographs(done["micrographs"])
    assert len(found) == 2 and all(Path(str(path)).exists() for path in [*found.path, *found.motion_path])
    assert done.summary["n_in"] == 24 and done.summary["verdict"] == "found"
    assert (done.folder / "comparison.json").exists()
