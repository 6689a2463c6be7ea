"""EXT-1: extract, normalise, re-centre, re-extract; sign inverted once and recorded."""

import numpy as np
import pytest

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.io.mrc import write_mrc
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage

PIXEL = 1.5


def _micrographs(folder, n=2, shape=(300, 320), seed=0):
    """Noise with dark Gaussian particles at known sub-pixel places, `(set, places)`."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    paths, places, images = [], [], []
    for i in range(n):
        grid = np.stack(np.meshgrid(np.arange(40, 280, 60), np.arange(45, 300, 60), indexing="ij"), -1).reshape(-1, 2)
        place = np.concatenate([grid + rng.uniform(-4, 4, grid.shape), [[12.0, 100.0], [3.0, 160.0]]])
        image = 0.05 * rng.standard_normal(shape) + 3.0 + 0.002 * y
        for py, px in place:
            image = image - np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * 4.0**2))
        paths.append(str(folder / f"mic{i}.mrc"))
        images.append(image.astype(np.float32))
        write_mrc(paths[-1], images[-1], PIXEL)
        places.append(place)
    micrographs = MicrographSet(
        path=np.asarray(paths),
        optics=(Optics(pixel_size=PIXEL),),
        optics_index=np.zeros(n, int),
        defocus_u=np.arange(n) * 1000.0 + 15_000,
        defocus_v=np.arange(n) * 1000.0 + 14_500,
        defocus_angle=np.full(n, 0.3),
    )
    return micrographs, places, images


def _picks(micrographs, places, rounded):
    position = np.concatenate([np.rint(p) if rounded else p for p in places])
    names = np.repeat(np.asarray(micrographs.path), [len(p) for p in places])
    return PickSet(position_px=position, micrograph=names, score=np.arange(len(position), dtype=float), diameter=36.0)


def _images(job):
    particles = read_particles(job["particles"])
    reader = ParticleImages(particles)
    images = reader.read(np.arange(len(particles)))
    reader.close()
    return particles, images


def _centroid(images):
    """Centroids from the centre pixel, of bright particles on a background of 0, `(n, 2)`."""
    n = images.shape[-1]
    axis = np.arange(n) - n // 2
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 < (0.3 * n) ** 2
    weight = images.astype(float) * inside
    total = weight.sum((1, 2))
    return np.stack([(weight.sum(2) * axis).sum(1) / total, (weight.sum(1) * axis).sum(1) / total], -1)


@pytest.mark.capability("EXT-1")
def test_boxes_are_exact_centred_normalised_and_counted(tmp_path, measure):
    micrographs, places, images = _micrographs(tmp_path)
    picks = _picks(micrographs, places, rounded=True)

    # whole pixels, nothing done to them: equal to the bit
    plain = {"box": 40, "normalise": False, "contrast": "bright", "edge": "leave-out"}
    job = run_stage("extract", {"micrographs": micrographs, "picks": picks}, plain, out=tmp_path / "a", threads=1)
    particles, cut = _images(job)
    by_path = dict(zip(map(str, micrographs.path), images, strict=True))
    different = 0
    for image, name, (y, x) in zip(cut, particles.micrograph, particles.position_px.astype(int), strict=True):
        different += int((image != by_path[str(name)][y - 20 : y + 20, x - 20 : x + 20]).sum())
    measure(different, "pixels", "== 0", note="whole-pixel crops that differ from the micrograph")
    assert different == 0
    n_edge = sum(int(((p < 20) | (p > np.asarray([280, 300]))).any(1).sum()) for p in map(np.rint, places))
    assert job.summary["n_left_out_at_edge"] == n_edge > 0
    assert len(particles) + n_edge == len(picks)

    # normalised, inverted once, recorded
    job = run_stage("extract", {"micrographs": micrographs, "picks": picks}, {"box": 40}, out=tmp_path / "b", threads=1)
    particles, cut = _images(job)
    axis = np.arange(40) - 20
    outside = axis[:, None] ** 2 + axis[None, :] ** 2 > (0.5 * 1.15 * 36 / PIXEL) ** 2
    assert job.summary["contrast_inverted"] and cut[:, 20, 20].mean() > 5
    assert particles.optics[0].extra["cryoloomContrast"] == "bright"
    np.testing.assert_allclose(cut[:, outside].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(cut[:, outside].std(1), 1, atol=1e-5)
    np.testing.assert_allclose(particles.defocus_u, np.where(particles.micrograph == micrographs.path[0], 15e3, 16e3))
    assert job.summary["n_mirrored_at_edge"] == 2
    assert abs(int((particles.half == 1).sum()) - int((particles.half == 2).sum())) <= 2

    # re-centred from refined shifts, at the same and at a coarser pixel size
    truth = {str(p): t for p, t in zip(micrographs.path, places, strict=True)}
    exact = np.asarray(
        [
            truth[str(n)][np.linalg.norm(truth[str(n)] - q, axis=1).argmin()]
            for n, q in zip(particles.micrograph, particles.position_px, strict=True)
        ]
    )
    refined = particles.replace(shift=(exact - particles.position_px) * PIXEL)
    for folder, more, factor in (("c", {}, 1.0), ("d", {"target_pixel_size": 3.0}, 2.0)):
        settings = {"box": int(40 / factor), "diameter": 36.0, **more}
        job = run_stage(
            "extract", {"micrographs": micrographs, "particles": refined}, settings, out=tmp_path / folder, threads=1
        )
        again, recut = _images(job)
        assert job.summary["pixel_size"] == pytest.approx(PIXEL * factor)
        inner = ((again.position_px > 25) & (again.position_px < np.asarray([275, 295]))).all(1)
        # pixels of the micrograph, over the mean of many particles so that noise does not hide the error
        error = float(np.abs(_centroid(recut[inner]).mean(0)).max() * factor)
        measure(round(error, 4), "px", "< 0.1", note=f"centre after re-extraction at {PIXEL * factor} Å per pixel")
        assert error < 0.1
        np.testing.assert_allclose(np.abs(_centroid(recut[inner])).mean() * factor, 0, atol=0.15)
        assert float(np.abs(again.shift).max()) < 1e-6
        assert (again.half == refined.half).all()


def test_positions_count_in_pixels_of_the_micrographs_even_if_those_were_binned(tmp_path):
    micrographs, places, _ = _micrographs(tmp_path, n=1)
    binned = micrographs.replace(optics=(Optics(pixel_size=PIXEL, original_pixel_size=0.5 * PIXEL),))
    inputs = {"micrographs": binned, "picks": _picks(binned, places, rounded=True)}
    job = run_stage("extract", inputs, {"box": 40}, out=tmp_path / "a", threads=1)
    assert read_particles(job["particles"]).optics[0].original_pixel_size == PIXEL


def test_picks_of_unknown_micrographs_are_wrong_input(tmp_path):
    micrographs, places, _ = _micrographs(tmp_path, n=1)
    picks = _picks(micrographs, places, rounded=True)
    stray = picks.replace(micrograph=np.full(len(picks), "/elsewhere/other.mrc"))
    with pytest.raises(Exception, match="other micrographs"):
        run_stage("extract", {"micrographs": micrographs, "picks": stray}, {"box": 40}, out=tmp_path / "x", threads=1)


def test_a_box_smaller_than_the_particle_is_wrong_input(tmp_path):
    micrographs, places, _ = _micrographs(tmp_path, n=1)
    with pytest.raises(Exception, match="smaller than the particle"):
        run_stage(
            "extract",
            {"micrographs": micrographs, "picks": _picks(micrographs, places, rounded=True)},
            {"box": 20},
            out=tmp_path / "x",
            threads=1,
        )


def test_half_precision_on_request(tmp_path):
    micrographs, places, _ = _micrographs(tmp_path, n=1)
    picks = _picks(micrographs, places, rounded=True)
    inputs = {"micrographs": micrographs, "picks": picks}
    full = run_stage("extract", inputs, {"box": 40}, out=tmp_path / "full", threads=1)
    half = run_stage("extract", inputs, {"box": 40, "float16": True}, out=tmp_path / "half", threads=1)
    np.testing.assert_allclose(_images(half)[1], _images(full)[1], atol=0.02)
    size = [sum(p.stat().st_size for p in (j.folder / "particles").iterdir()) - 1024 for j in (full, half)]
    assert size[1] * 2 == size[0]
