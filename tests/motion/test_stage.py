"""The stage from files to files."""

import json
from pathlib import Path

import numpy as np
import pytest
from motion_bed import simulate

from cryoloom.contract import CryoloomError
from cryoloom.io.eer_writer import write_eer
from cryoloom.io.gain import read_gain
from cryoloom.io.motion_tracks import read_motion_tracks
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.io.star import read_star
from cryoloom.io.tiff import write_tiff
from cryoloom.motion.load import check_counts
from cryoloom.project.figures import load_figures
from cryoloom.project.runner import run_stage


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movies")
    rng = np.random.default_rng(0)
    gain = rng.normal(1, 0.05, (300, 360)).clip(0.5).astype(np.float32)
    truth = []
    for i in range(2):
        movie = simulate((300, 360), 12, snr=2e-2, drift_px=8, seed=i)
        raw = np.minimum(rng.poisson(movie.frames / gain), 255).astype(np.uint8)
        raw[:, 50, 60] = 40
        write_tiff(folder / f"m{i}.tif", raw)
        truth.append(movie)
    write_mrc(folder / "gain.mrc", gain[::-1], 1.0)  # upside down: to be found
    return folder, truth


def test_movies_become_micrographs_with_motion_files(movies, tmp_path):
    folder, truth = movies
    job = run_stage(
        "motion",
        inputs={"movies": str(folder / "m*.tif"), "gain": folder / "gain.mrc"},
        settings={"pixel_size": 1.0, "dose_per_frame": 1.5, "even_odd": True},
        out=tmp_path / "out",
    )
    summary = json.loads((job.folder / "summary.json").read_text())
    assert summary["verdict"] == "found"
    assert summary["n_out"] == 2
    assert summary["gain"]["certain"] and not summary["gain"]["divide"]
    micrographs = read_micrographs(job["micrographs"])
    assert len(micrographs) == 2
    for i in range(2):
        image, odd, even = (
            read_mrc(p[i])[0].reshape(300, 360) for p in (micrographs.path, micrographs.path_odd, micrographs.path_even)
        )
        np.testing.assert_allclose(odd + even, image, atol=1e-4)
        assert image.mean() == pytest.approx(12, rel=0.05)
        star = read_star(micrographs.motion_path[i])
        shift = star["global_shift"]
        found = -np.stack([shift.numbers("rlnMicrographShiftY"), shift.numbers("rlnMicrographShiftX")], -1)
        true = truth[i].drift_px
        assert np.sqrt(np.mean((found - found.mean(0) - true + true.mean(0)) ** 2)) < 0.5
        assert len(star["local_motion_model"]) == 36
    assert np.isfinite(micrographs.motion_total).all()
    table = next(figure for figure in load_figures(job.folder) if figure.name == "motion_table").data["columns"]
    assert table["movie"] == ["m0", "m1"] and len(table["frame SNR"]) == len(table["error of a shift (Å)"]) == 2


def test_binned_results_have_the_binned_pixel_size(movies, tmp_path):
    folder, _ = movies
    job = run_stage(
        "motion",
        inputs={"movies": str(folder / "m0.tif")},
        settings={"pixel_size": 1.0, "binning": 2.0, "local_motion": False, "last_frame": 6},
        out=tmp_path / "out",
    )
    micrographs = read_micrographs(job["micrographs"])
    image, header = read_mrc(micrographs.path[0])
    assert image.shape[-2:] == (150, 180)
    assert header.pixel_size == pytest.approx(2.0)
    assert micrographs.optics[0].pixel_size == pytest.approx(2.0)
    assert "no dose per frame" in " ".join(job.summary["reasons"])


def test_movies_of_different_length_and_size_go_together(tmp_path):
    shapes = {"a": (260, 300, 6), "b": (300, 260, 9)}
    for seed, (name, (h, w, n)) in enumerate(shapes.items()):
        movie = simulate((h, w), n, snr=3e-2, drift_px=4, seed=seed)
        write_mrc(tmp_path / f"{name}.mrcs", movie.frames, 1.0, kind="stack")
    job = run_stage(
        "motion", {"movies": str(tmp_path / "*.mrcs")}, {"pixel_size": 1.0, "dose_per_frame": 1.0}, out=tmp_path / "out"
    )
    found = read_micrographs(job["micrographs"])
    for name, path, motion in zip(shapes, found.path, found.motion_path, strict=True):
        h, w, n = shapes[name]
        assert read_mrc(path)[0].squeeze().shape == (h, w)
        assert len(read_star(motion)["global_shift"]) == n


def test_an_empty_movie_is_named_and_the_others_are_finished(movies, tmp_path):
    folder, _ = movies
    write_tiff(tmp_path / "empty.tif", np.zeros((12, 300, 360), np.uint8))
    job = run_stage(
        "motion",
        inputs={"movies": [folder / "m0.tif", tmp_path / "empty.tif", folder / "m1.tif"]},
        settings={"pixel_size": 1.0},
        out=tmp_path / "out",
    )
    assert job.summary["n_out"] == 2
    assert "empty.tif" in json.dumps(job.summary["left_out"])


def test_a_movie_without_signal_is_named_as_not_aligned(movies, tmp_path):
    folder, _ = movies
    for seed in (3, 4):  # noise shows something in some shells, and nothing in all together
        noise = np.random.default_rng(seed).poisson(1, (12, 240, 260)).astype(np.uint8)
        write_tiff(tmp_path / f"noise{seed}.tif", noise)
    job = run_stage(
        "motion",
        inputs={"movies": [folder / "m0.tif", *sorted(tmp_path.glob("noise*.tif"))]},
        settings={"pixel_size": 1.0, "dose_per_frame": 1.0, "undosed": False},
        out=tmp_path / "out",
    )
    assert job.summary["verdict"] == "doubtful"
    assert "2 of 3 movies showed no signal and were not aligned: noise3.tif, noise4.tif" in job.summary["reasons"]


def test_a_gain_of_another_size_is_refused_in_one_sentence(movies, tmp_path):
    folder, _ = movies
    write_mrc(tmp_path / "gain.mrc", np.ones((100, 120), np.float32), 1.0)
    with pytest.raises(CryoloomError, match="gain"):
        run_stage(
            "motion",
            inputs={"movies": str(folder / "m0.tif"), "gain": tmp_path / "gain.mrc"},
            settings={"pixel_size": 1.0},
            out=tmp_path / "out",
        )


def test_one_frame_is_passed_on_and_flat_movies_are_left_out(movies, tmp_path):
    """A single frame has no motion to find; the header of the first movie is held against the pixel size given."""
    rng = np.random.default_rng(4)
    write_mrc(tmp_path / "a.mrcs", rng.poisson(2.0, (1, 96, 80)).astype(np.int16), 1.4, kind="stack")
    write_mrc(tmp_path / "b.mrcs", np.ones((6, 96, 80), np.int16), 1.4, kind="stack")
    job = run_stage("motion", {"movies": str(tmp_path / "*.mrcs")}, {"pixel_size": 1.2}, out=tmp_path / "out")
    assert job.summary["n_out"] == 1 and "no picture" in job.summary["left_out"][0]["cause"]
    assert job.summary["frame_snr_median"] is None
    assert any("1.4" in text for text in job.summary["warnings"])
    image = read_mrc(read_micrographs(job["micrographs"]).path[0])[0]
    np.testing.assert_allclose(image[0], read_mrc(tmp_path / "a.mrcs")[0][0], atol=1e-4)


def test_a_reference_of_twice_the_size_is_turned_and_used(movies, tmp_path):
    folder, _ = movies
    gain = np.repeat(np.repeat(read_mrc(folder / "gain.mrc")[0][0], 2, 0), 2, 1)
    write_mrc(tmp_path / "fine.mrc", np.ascontiguousarray(np.rot90(gain)), 1.0)
    inputs = {"movies": str(folder / "m0.tif"), "gain": tmp_path / "fine.mrc"}
    job = run_stage("motion", inputs, {"pixel_size": 1.0, "local_motion": False}, out=tmp_path / "out")
    assert job.summary["gain"]["certain"] and job.summary["gain"]["rotation"] in (1, 3)
    # other programs multiply by what the motion file names, and turn nothing
    general = read_star(read_micrographs(job["micrographs"]).motion_path[0])["general"]
    named = read_mrc(general["rlnMicrographGainName"])[0][0]
    np.testing.assert_allclose(named, read_mrc(folder / "gain.mrc")[0][0][::-1], rtol=1e-6)
    assert read_mrc(read_micrographs(job["micrographs"]).path[0])[0].mean() == pytest.approx(12, rel=0.05)


def test_the_motion_file_of_an_eer_movie_says_how_it_was_rendered(tmp_path):
    rng = np.random.default_rng(1)
    raw = [rng.integers(0, 4 * 128, (900, 2)) for _ in range(24)]
    write_eer(tmp_path / "a.eer", raw, (128, 128), pixel_size=1.2)
    write_mrc(tmp_path / "gain.mrc", rng.uniform(0.8, 1.2, (128, 128)).astype(np.float32), 1.0)
    (tmp_path / "defects.txt").write_text("3 4 2 2\n")
    inputs = {"movies": tmp_path / "a.eer", "gain": tmp_path / "gain.mrc", "defects": tmp_path / "defects.txt"}
    settings = {"pixel_size": 0.6, "eer_grouping": 4, "eer_upsampling": 2, "local_motion": False}
    for name, more in (("plain", {}), ("turned", {"gain_rotation": 1})):
        job = run_stage("motion", inputs, settings | more, out=tmp_path / name)
        general = read_star(read_micrographs(job["micrographs"]).motion_path[0])["general"]
        assert (int(general["rlnEERGrouping"]), int(general["rlnEERUpsampling"])) == (4, 2)
        assert general["rlnMicrographDefectFile"].endswith("defects.txt")
        reference = general["rlnMicrographGainName"]
        if name == "plain":
            assert reference.endswith(f"{tmp_path.name}/gain.mrc")
            continue
        given = read_gain(tmp_path / "gain.mrc", (256, 256), rotation=1, eer=True)
        found = read_gain(reference, (256, 256), eer=True)
        np.testing.assert_allclose(found / found.mean(), given / given.mean(), rtol=1e-5)


def test_frames_with_other_counts_are_named_but_not_those_of_mean_zero():
    rng = np.random.default_rng(0)
    raw = rng.poisson(1.0, (8, 96, 90)).astype(np.float32)
    raw[3] *= 2
    raw[6] = 0
    assert "frame(s) 4, 7 differ" in check_counts(raw, Path("a.tif"))[0]
    assert check_counts(rng.normal(0, 3, (8, 96, 90)).astype(np.float32), Path("a.tif")) == []


def test_frames_that_are_left_out_keep_their_numbers_in_the_motion_file(movies, tmp_path):
    """As RELION writes them: all frames of the file, -9999 for those not used, the exposure before the first one."""
    folder, truth = movies
    settings = {"pixel_size": 1.0, "dose_per_frame": 1.5, "first_frame": 3, "last_frame": 10}
    job = run_stage("motion", {"movies": folder / "m0.tif"}, settings | {"pre_exposure": 2.0}, out=tmp_path / "out")
    star = read_star(path := read_micrographs(job["micrographs"]).motion_path[0])
    general = star["general"]
    assert [float(general[f"rln{label}"]) for label in
            ("ImageSizeZ", "MicrographStartFrame", "MicrographPreExposure")] == [12, 3, 2.0]  # fmt: skip
    shift = star["global_shift"].numbers("rlnMicrographShiftX")
    assert len(shift) == 12 and (shift[[0, 1, 10, 11]] == -9999).all() and shift[2] == 0
    trajectory, _, tracks = read_motion_tracks(path)
    assert np.isnan(trajectory[:2]).all() and np.isfinite(tracks[:, 2:10]).all() and np.isnan(tracks[:, 10:]).all()
    error = trajectory[2:10] - truth[0].drift_px[2:10]
    assert np.sqrt(np.mean((error - error.mean(0)) ** 2)) < 0.5


def test_a_reference_that_the_frames_do_not_carry_is_not_used(movies, tmp_path):
    folder, _ = movies
    write_mrc(tmp_path / "other.mrc", np.random.default_rng(9).normal(1, 0.05, (300, 360)).astype(np.float32), 1.0)
    settings = {"pixel_size": 1.0, "local_motion": False}
    inputs = {"movies": folder / "m0.tif", "gain": tmp_path / "other.mrc"}
    job = run_stage("motion", inputs, settings, out=tmp_path / "out")
    assert job.summary["gain"]["used"] is False
    assert any("do not carry it" in text and "as-is" in text for text in job.summary["warnings"])
    plain = run_stage("motion", {"movies": folder / "m0.tif"}, settings, out=tmp_path / "plain")
    images = [read_mrc(read_micrographs(done["micrographs"]).path[0])[0] for done in (job, plain)]
    np.testing.assert_array_equal(*images)
    forced = run_stage("motion", inputs, settings | {"gain_orientation": "as-is"}, out=tmp_path / "forced")
    assert np.abs(read_mrc(read_micrographs(forced["micrographs"]).path[0])[0] - images[0]).max() > 1
