"""Defocus of single particles against a reference."""

import numpy as np
import torch

from cryoloom.em import ImageSource, NoiseModel, defocus_shows, empty_poses, estimate_noise, fit_defocus
from cryoloom.fourier.slices import prepare_volume


def test_defocus_offsets_are_found_with_honest_errors(simulated, executor):
    data = simulated(200, snr=0.5, pixel_size=2.0, box=48)
    n = len(data.truth)
    planted = np.random.default_rng(0).normal(0, 300, n)
    given = data.truth.replace(defocus_u=data.truth.defocus_u - planted, defocus_v=data.truth.defocus_v - planted)
    source = ImageSource(data.source().reader, given, 0.72 * 96.0, normalise=False)
    poses = empty_poses(n, data.truth.half)
    poses.rotation[:], poses.shift_px[:] = data.truth.rotation, data.truth.shift / data.pixel_size
    noise = NoiseModel(np.full((1, source.points.radius + 1), (data.noise_sigma * data.box) ** 2))
    radius = source.points.radius
    assert defocus_shows(source, radius, 300.0) and not defocus_shows(source, 3, 300.0)
    found, error = fit_defocus(
        source, [prepare_volume(data.volume)], poses, np.arange(n), noise, executor, radius=radius, spread=300.0
    )
    assert np.corrcoef(found, planted)[0, 1] > 0.6
    assert 0.8 < np.sqrt(np.mean(((found - planted) / error) ** 2)) < 1.25


def test_images_take_up_a_new_defocus_cached_or_not(simulated, executor):
    data = simulated(40, seed=21)
    offset = np.linspace(-500, 500, 40)
    moved = data.truth.replace(defocus_u=data.truth.defocus_u + offset, defocus_v=data.truth.defocus_v + offset)
    rows = np.arange(8)
    expected = ImageSource(data.source().reader, moved, 140.0).chunk(rows).ctf
    for cache in (1 << 30, 0):
        source = data.source(cache_bytes=cache)
        before = source.chunk(rows).ctf.copy()
        source.set_defocus(offset, executor)
        np.testing.assert_allclose(source.chunk(rows).ctf, expected, atol=2e-3)
        assert not np.allclose(before, expected, atol=1e-2)
        quarter = source.ctf_at(rows, torch.tensor([3.0]), torch.tensor([4.0]), extra_phase=np.pi / 2)
        value = source.ctf_at(rows, torch.tensor([3.0]), torch.tensor([4.0]))
        np.testing.assert_allclose(value**2 + quarter**2, 1.0, atol=1e-5)


def test_shells_that_the_reference_lacks_are_not_asked_for(simulated, executor):
    data = simulated(40, seed=22)
    source = data.source()
    poses = empty_poses(40, data.truth.half)
    poses.rotation[:], poses.shift_px[:] = data.truth.rotation, data.truth.shift / data.pixel_size
    noise = NoiseModel(np.full((1, source.points.radius + 1), (data.noise_sigma * data.box) ** 2))
    rows, low = np.arange(40), [prepare_volume(data.volume, 10)]
    for far, near in (
        (fit_defocus(source, low, poses, rows, noise, executor, radius=r) for r in (source.points.radius, 10)),
        (
            [estimate_noise(source, low, poses, rows, noise, executor, radius=r).power]
            for r in (source.points.radius, 10)
        ),
    ):
        for a, b in zip(far, near, strict=True):
            np.testing.assert_array_equal(a, b)
