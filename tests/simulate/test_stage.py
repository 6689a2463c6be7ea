"""The stages as a user runs them: simulate, then score what is true against itself."""

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.io.gain import read_gain
from cryoloom.io.map_file import read_map
from cryoloom.io.movies import open_movie_of
from cryoloom.io.records import read_micrographs, read_movies, read_particles
from cryoloom.project.runner import run_stage
from cryoloom.scoring.poses import score_poses


def test_particles_are_simulated_and_their_truth_scores_perfect(tmp_path):
    settings = {"phantom": "ring", "symmetry": "C5", "mass": 60, "particles": 40, "pixel_size": 3.0}
    job = run_stage("simulate particles", {}, settings, out=tmp_path / "sim", seed=3)
    seen, truth = read_particles(job["particles"]), read_particles(job["truth"])
    assert seen.rotation is None and seen.class_number is None
    assert job.summary["n_particles"] == int((truth.class_number > 0).sum())
    assert read_map(job["truth_map"]).pixel_size == pytest.approx(3.0)
    assert score_poses(truth, truth, "C5").median_deg < 1e-3
    scored = run_stage("score", {"result": job["truth"], "truth": job["truth"]}, {"symmetry": "C5"}, out=tmp_path / "s")
    assert scored.summary["poses"]["share_within_10_deg"] == 1
    assert scored.summary["defocus"]["median_error"] == 0


def test_movies_are_simulated_with_all_their_truth(tmp_path):
    settings = {
        "phantom": "globule", "mass": 60, "movies": 2, "width": 320, "height": 256, "frames": 4, "pixel_size": 2.0,
        "contamination": 0, "carbon": 0,
    }  # fmt: skip
    job = run_stage("simulate movies", {}, settings, out=tmp_path / "sim")
    movies, truth = read_movies(job["movies"]), read_particles(job["truth"])
    micrographs = read_micrographs(job["truth_micrographs"])
    assert len(movies) == len(micrographs) == 2 and len(truth) == job.summary["n_particles"] > 0
    assert set(truth.micrograph.tolist()) <= set(micrographs.path.tolist())
    assert (job.folder / "gain.mrc").exists() and (job.folder / "mtf.star").exists()
    np.testing.assert_allclose(movies.dose_per_frame, 1.5)
    scored = run_stage("score", {"result": job["truth"], "truth": job["truth"]}, {}, out=tmp_path / "score")
    assert scored.summary["picks"]["f1"] == 1


@pytest.mark.parametrize("format", ["tiff", "eer"])
def test_the_gain_reference_flattens_frames_of_every_format(format, tmp_path):
    settings = {
        "phantom": "globule", "mass": 60, "movies": 1, "width": 256, "height": 320, "frames": 3, "pixel_size": 2.0,
        "contamination": 0, "carbon": 0, "particles": 1, "dose_per_frame": 20.0, "format": format,
    }  # fmt: skip
    movies = read_movies(run_stage("simulate movies", {}, settings, out=tmp_path / "sim")["movies"])
    with open_movie_of(movies, 0) as movie:
        total = np.asarray(movie.frames(0, movie.n_frames), np.float64).sum(0)
    factor = read_gain(movies.gain_path, total.shape, eer=format == "eer").astype(np.float64)
    alive = (factor > 0) & (total < 3 * np.median(total))
    # right, it leaves the spread of counting (and of the ice); the wrong way round it doubles the camera's pattern
    assert np.corrcoef((total * factor)[alive], factor[alive])[0, 1] < 0.15
    assert np.corrcoef(total[alive], factor[alive])[0, 1] < -0.15


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bed": "c1", "phantom": "globule", "box": 100}, "fixes it at 160"),
        ({"phantom": "globule", "symmetry": "Q7"}, "symmetry"),
        ({"phantom": "globule", "box": 32, "pixel_size": 1.0}, "too small"),
        ({"defocus_min": 3e4, "defocus_max": 1e4}, "defocus"),
    ],
)
def test_wrong_settings_are_named(settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        run_stage("simulate particles", {}, settings, out=tmp_path / "x")


def test_a_frame_too_small_for_the_particle_is_refused(tmp_path):
    with pytest.raises(InputError, match="too few"):
        run_stage("simulate movies", {}, {"width": 256, "height": 256, "pixel_size": 1.0}, out=tmp_path / "x")
