"""The stage `import`: every file looked at, optics settled, halves assigned; bad files named and left out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet
from cryoloom.io.eer_writer import write_eer
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import (
    read_micrographs,
    read_movies,
    read_particles,
    write_micrographs,
    write_movies,
    write_particles,
)
from cryoloom.io.tiff import write_tiff
from cryoloom.project.runner import run_stage


def run_import(tmp_path, files, gain=None, defects=None, out="out", **settings):
    inputs = {"files": files, "gain": gain, "defects": defects}
    return run_stage("import", inputs={k: v for k, v in inputs.items() if v}, settings=settings, out=tmp_path / out)


def write_movies_to(tmp_path, n=4, suffix=".tif", h=16, w=24):
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        frames = rng.poisson(2, (5, h, w)).astype(np.uint8)
        path = tmp_path / f"movie {i}{suffix}"
        write_tiff(path, frames) if suffix == ".tif" else write_mrc(path, frames.astype(np.int16), 0.75, kind="stack")
        files.append(path)
    return files


def write_stacks_to(tmp_path, n=20, box=8, **fields):
    rng = np.random.default_rng(0)
    paths, index = [], []
    for k in range(n // 5):
        write_mrc(tmp_path / f"s{k}.mrcs", rng.normal(size=(5, box, box)).astype(np.float32), 1.5)
        paths += [str(tmp_path / f"s{k}.mrcs")] * 5
        index += range(5)
    optics = (Optics(pixel_size=1.5, box=box, voltage_kv=200.0),)
    particles = ParticleSet(
        image_path=np.array(paths, dtype=object), image_index=np.array(index), optics=optics,
        optics_index=np.zeros(n, int), **fields,
    )  # fmt: skip
    write_particles(particles, tmp_path / "p.star")
    return particles


def test_tiff_movies_become_a_set_with_optics_and_exposure(tmp_path):
    files = write_movies_to(tmp_path)
    gain = tmp_path / "gain.mrc"
    write_mrc(gain, np.ones((16, 24), np.float32), 1.0)
    done = run_import(tmp_path, files, gain=gain, pixel_size=0.83, voltage_kv=200, dose_per_frame=1.25)
    movies = read_movies(done.outputs["movies"])
    assert list(movies.path) == [str(f) for f in files] and movies.dose_per_frame.tolist() == [1.25] * 4
    assert movies.optics[0] == Optics(pixel_size=0.83, voltage_kv=200.0) and movies.gain_path == gain
    assert done.summary["n_in"] == done.summary["n_out"] == 4 and done.summary["frames"] == [5]
    assert done.summary["origin"] == {
        "pixel_size": "argument", "voltage_kv": "argument", "cs_mm": "default", "amplitude_contrast": "default",
        "dose_per_frame": "argument",
    }  # fmt: skip


def test_the_pixel_size_comes_from_the_header_where_it_is_known(tmp_path):
    done = run_import(tmp_path, write_movies_to(tmp_path, suffix=".mrcs"), dose_per_frame=1.0)
    assert read_movies(done.outputs["movies"]).optics[0].pixel_size == 0.75
    assert done.summary["origin"]["pixel_size"] == "header"


def test_an_unknown_pixel_size_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="--pixel-size"):
        run_import(tmp_path, write_movies_to(tmp_path))


def test_bad_files_are_named_and_left_out(tmp_path):
    files = write_movies_to(tmp_path, n=6)
    files[0], files[1] = files[1], files[0]
    files[0].write_bytes(files[0].read_bytes()[:-200])
    files[2].write_bytes(b"")
    write_tiff(files[3], np.full((5, 16, 24), 7, np.uint8))
    done = run_import(tmp_path, files, pixel_size=1.0, dose_per_frame=1.0)
    assert done.summary["n_in"] == 6 and done.summary["n_out"] == 3
    left_out = {entry["item"]: entry["cause"] for entry in done.summary["left_out"]}
    assert set(left_out) == {str(files[i]) for i in (0, 2, 3)}
    assert "empty" in left_out[str(files[2])] and "everywhere" in left_out[str(files[3])]
    assert list(read_movies(done.outputs["movies"]).path) == [str(files[i]) for i in (1, 4, 5)]


def test_frames_of_another_size_are_announced(tmp_path):
    files = write_movies_to(tmp_path)
    write_tiff(files[2], np.random.default_rng(0).poisson(2, (5, 20, 24)).astype(np.uint8))
    done = run_import(tmp_path, files, pixel_size=1.0, dose_per_frame=1.0)
    assert any("another size than 24 x 16" in warning for warning in done.summary["warnings"])


def test_eer_movies_take_exposure_and_grouping_from_their_header(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        frames = [np.stack([rng.integers(0, 64, 20), rng.integers(0, 64, 20)], -1) for _ in range(50)]
        write_eer(tmp_path / f"m{i}.eer", frames, (16, 16), pixel_size=0.5, total_dose_per_pixel=2.5)
    done = run_import(tmp_path, [tmp_path / "m0.eer", tmp_path / "m1.eer"])
    movies = read_movies(done.outputs["movies"])
    assert movies.optics[0].pixel_size == 0.5 and movies.extra["eer_grouping"].tolist() == [5, 5]
    assert movies.dose_per_frame == pytest.approx([1.0, 1.0]) and done.summary["frames"] == [10]
    assert done.summary["origin"]["dose_per_frame"] == "header"
    done = run_import(tmp_path, [tmp_path / "m0.eer"], out="b", eer_grouping=7, dose_per_frame=1.4)
    assert done.summary["frames"] == [7] and any("1 raw EER" in warning for warning in done.summary["warnings"])


def test_a_missing_exposure_is_announced(tmp_path):
    done = run_import(tmp_path, write_movies_to(tmp_path), pixel_size=1.0)
    assert any("--dose-per-frame" in warning for warning in done.summary["warnings"])


def test_a_gain_reference_of_another_camera_is_refused_before_anything_runs(tmp_path):
    files = write_movies_to(tmp_path)
    write_mrc(tmp_path / "gain.mrc", np.ones((24, 16), np.float32), 1.0)
    done = run_import(tmp_path, files, gain=tmp_path / "gain.mrc", pixel_size=1.0, dose_per_frame=1.0)
    assert any("90 degrees" in warning for warning in done.summary["warnings"])
    write_mrc(tmp_path / "gain.mrc", np.ones((30, 16), np.float32), 1.0)
    with pytest.raises(InputError, match="gain reference of 16 x 30 pixels, the frames have 24 x 16"):
        run_import(tmp_path, files, gain=tmp_path / "gain.mrc", out="b", pixel_size=1.0, dose_per_frame=1.0)


def test_real_micrographs_are_imported_with_a_picture(tmp_path, real_data):
    files = sorted(real_data.glob("*.tif"))
    done = run_import(tmp_path, files, pixel_size=1.55, amplitude_contrast=0.07)
    micrographs = read_micrographs(done.outputs["micrographs"])
    assert len(micrographs) == 2 and micrographs.optics[0].pixel_size == 1.55
    assert done.summary["kind"] == "micrographs" and done.summary["image_shape"] == [1200, 1240]
    assert json.loads((done.folder / "summary.json").read_text())["n_out"] == 2


def test_headers_that_contradict_the_argument_are_announced(tmp_path):
    rng = np.random.default_rng(0)
    write_mrc(tmp_path / "a.mrc", rng.normal(size=(8, 8)).astype(np.float32), 1.5)
    done = run_import(tmp_path, [tmp_path / "a.mrc"], pixel_size=1.55)
    assert any("The headers say 1.5" in warning for warning in done.summary["warnings"])


def test_a_file_with_nan_pixels_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        image = rng.normal(size=(8, 8)).astype(np.float32)
        image[2, 2] = np.nan if i == 1 else 0
        write_mrc(tmp_path / f"{i}.mrc", image, 1.5)
    done = run_import(tmp_path, [tmp_path / f"{i}.mrc" for i in range(3)])
    assert done.summary["n_out"] == 2 and "NaN" in done.summary["left_out"][0]["cause"]


def test_star_files_keep_their_optics_unless_told_otherwise(tmp_path):
    files = write_movies_to(tmp_path, suffix=".mrcs")
    first = run_import(tmp_path, files, pixel_size=0.8, dose_per_frame=1.0)
    again = run_import(tmp_path, first.outputs["movies"], out="b")
    assert read_movies(again.outputs["movies"]).optics[0].pixel_size == 0.8
    with pytest.raises(InputError, match="the pixel size of optics group opticsGroup1 is 0.8 Å, --pixel-size says 0.9"):
        run_import(tmp_path, first.outputs["movies"], out="c", pixel_size=0.9)
    changed = run_import(tmp_path, first.outputs["movies"], out="d", pixel_size=0.9, override_optics=True)
    assert read_movies(changed.outputs["movies"]).optics[0].pixel_size == 0.9
    write_movies(read_movies(first.outputs["movies"]), tmp_path / "copy.star")
    with pytest.raises(InputError, match="these are no micrographs"):
        run_import(tmp_path, tmp_path / "copy.star", out="e", kind="micrographs")


def test_particles_get_halves_that_respect_overlaps(tmp_path):
    position = np.array([[100.0 * (i // 2), 3.0 * (i % 2)] for i in range(20)])
    write_stacks_to(tmp_path, micrograph=np.full(20, "m.mrc", dtype=object), position_px=position)
    done = run_import(tmp_path, tmp_path / "p.star")
    particles = read_particles(done.outputs["particles"])
    assert np.bincount(particles.half).tolist() == [0, 10, 10] and (particles.half[0::2] == particles.half[1::2]).all()
    assert done.summary["half_sets"] == "assigned" and done.summary["box"] == 8


def test_given_halves_are_kept_and_leaks_announced(tmp_path):
    half = np.arange(20) % 2 + 1
    particles = write_stacks_to(tmp_path, half=half)
    assert read_particles(run_import(tmp_path, tmp_path / "p.star").outputs["particles"]).half.tolist() == half.tolist()
    doubled = particles.select(np.r_[np.arange(20), 3, 3]).replace(half=np.r_[half, 1, 2])
    write_particles(doubled, tmp_path / "p.star")
    kept = run_import(tmp_path, tmp_path / "p.star", out="b", keep_repeats=True)
    assert any("both half sets" in warning for warning in kept.summary["warnings"])
    dropped = run_import(tmp_path, tmp_path / "p.star", out="c")
    assert dropped.summary["n_repeats"] == 2 and dropped.summary["n_out"] == 20
    write_particles(particles.replace(half=np.ones(20, int)), tmp_path / "p.star")
    renewed = run_import(tmp_path, tmp_path / "p.star", out="d")
    assert renewed.summary["half_sets"] == "assigned" and renewed.summary["n_half2"] == 10


def test_particles_without_their_images_are_refused(tmp_path):
    particles = write_stacks_to(tmp_path)

    def refused(changed, words, out):
        write_particles(changed, tmp_path / "p.star")
        with pytest.raises(InputError, match=words):
            run_import(tmp_path, tmp_path / "p.star", out=out)

    refused(particles.replace(image_index=particles.image_index + 1), "image 6 is named by .*, the stack has 5", "a")
    missing = particles.image_path.copy()
    missing[7] = "none.mrcs"
    refused(particles.replace(image_path=missing), "1 of 5 image stacks are not there, the first is none.mrcs", "b")
    refused(particles.replace(optics=(replace(particles.optics[0], box=9),)), "optics group opticsGroup1 says 9", "c")
    refused(particles.select([]), "no particles|optics", "d")
    write_mrc(tmp_path / "s2.mrcs", np.zeros((5, 6, 6), np.float32), 1.0)
    refused(particles.replace(optics=(replace(particles.optics[0], box=None),)), "of the same optics group", "e")


def test_mixtures_and_collisions_are_refused(tmp_path):
    files = write_movies_to(tmp_path, n=2)
    write_stacks_to(tmp_path)
    with pytest.raises(InputError, match="one by one"):
        run_import(tmp_path, [*files, tmp_path / "p.star"], out="a", pixel_size=1)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / files[0].name).write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match="same name"):
        run_import(tmp_path, [*files, tmp_path / "sub" / files[0].name], out="b", pixel_size=1)
    with pytest.raises(InputError, match="gain reference belongs to movies"):
        run_import(tmp_path, tmp_path / "p.star", gain=files[0], out="c")
    with pytest.raises(InputError, match="STAR or .cs"):
        run_import(tmp_path, files, out="d", kind="particles")
    write_micrographs(read_micrographs_of(tmp_path), tmp_path / "m.star")
    assert run_import(tmp_path, tmp_path / "m.star", out="e").summary["kind"] == "micrographs"


def read_micrographs_of(tmp_path):
    from cryoloom.data import MicrographSet

    write_mrc(tmp_path / "x.mrc", np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), 1.0)
    return MicrographSet(
        path=np.array([str(tmp_path / "x.mrc")], dtype=object),
        optics=(Optics(pixel_size=2.0),),
        optics_index=np.zeros(1, int),
    )


def test_movies_with_fewer_frames_than_the_others_are_named(tmp_path):
    files = write_movies_to(tmp_path)
    write_tiff(files[2], np.random.default_rng(3).poisson(2, (3, 16, 24)).astype(np.uint8))
    done = run_import(tmp_path, files, pixel_size=1.0, dose_per_frame=1.0)
    assert done.summary["frames"] == [3, 5] and done.summary["n_out"] == 4
    assert any("movie 2.tif has 3: frames may be missing" in text for text in done.summary["warnings"])
