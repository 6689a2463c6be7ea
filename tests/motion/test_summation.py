"""Interpolation and the one-pass sum."""

import numpy as np
import pytest
import torch
from motion_bed import simulate

from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.motion.correct import sum_movie
from cryoloom.motion.decimate import decimate_frames, decimation_response
from cryoloom.motion.dose_basis import dose_basis
from cryoloom.motion.field import MotionField, mode_values, rigid_field, still_field
from cryoloom.motion.frames import make_frames
from cryoloom.motion.interpolation import filter_bank, mean_response
from cryoloom.motion.summation import sum_frames, sum_frames_torch
from cryoloom.optics.dose import critical_dose, dose_weight, frame_doses


def _true_field(movie) -> MotionField:
    shape = movie.signal.shape
    points = np.stack(np.meshgrid(np.linspace(0, shape[0], 7), np.linspace(0, shape[1], 7)), -1).reshape(-1, 2)
    values = mode_values(points, shape, 2)
    n = len(movie.frames)
    modes = np.linalg.lstsq(values, movie.field(points).reshape(len(points), -1), rcond=None)[0]
    return MotionField(modes.reshape(6, n, 2), shape, 2)


def test_filters_read_a_wave_between_pixels_within_one_percent_up_to_0_38_cycles_per_pixel():
    x = np.arange(64)
    for k in (0.0, 0.1, 0.25, 0.38):
        wave = np.exp(2j * np.pi * k * x)
        for fraction in (0.0, 0.25, 0.5, 0.8125):
            taps = filter_bank()[int(fraction * 256)]
            read = (taps * wave[20 : 20 + len(taps)]).sum()
            true = np.exp(2j * np.pi * k * (25 + fraction))
            assert abs(read / true - 1) < 0.013


def test_mean_response_is_one_without_shifts_and_falls_at_nyquist_for_all_shifts():
    assert mean_response(np.zeros(5), np.array([0.0, 0.3, 0.5])) == pytest.approx([1, 1, 1], abs=1e-3)
    every = mean_response(np.linspace(0, 1, 512, endpoint=False), np.array([0.0, 0.2, 0.5]))
    assert every[:2] == pytest.approx([1, 1], abs=0.01)
    assert 0.3 < every[2] < 2 / np.pi  # a perfect delay filter of even length has the mean of |cos|


def test_a_still_movie_is_summed_exactly():
    rng = np.random.default_rng(0)
    raw = rng.poisson(2, (5, 45, 67)).astype(np.uint8)
    total = sum_frames(make_frames(raw), still_field(5, (45, 67)), np.ones((5, 1)))
    np.testing.assert_allclose(total[0, 0], raw.sum(0), atol=2e-5)


def test_whole_pixel_shifts_are_undone_exactly_inside():
    rng = np.random.default_rng(1)
    scene = rng.normal(size=(80, 90)).astype(np.float32)
    shifts = np.array([[0, 0], [3, -2], [-4, 5]])
    raw = np.stack([np.roll(scene, tuple(s), (0, 1)) for s in shifts])
    total = sum_frames(make_frames(raw), rigid_field(shifts.astype(float), (80, 90)), np.ones((3, 1)))[0, 0]
    np.testing.assert_allclose(total[8:-8, 8:-8], 3 * scene[8:-8, 8:-8], atol=1e-4)


def test_numba_and_torch_sums_agree_on_a_smooth_field():
    rng = np.random.default_rng(2)
    raw = rng.poisson(1, (4, 150, 170)).astype(np.uint16)
    gain = rng.uniform(0.9, 1.1, (150, 170))
    bad = rng.random((150, 170)) < 0.003
    frames = make_frames(raw, gain, bad)
    modes = rng.normal(0, 0.015, (6, 4, 2))
    modes[0] *= 300
    field = MotionField(modes, (150, 170), 2)
    coefficients = rng.random((4, 3))
    fast = sum_frames(frames, field, coefficients, 2)
    slow = sum_frames_torch(frames, field, coefficients, 2).numpy()
    assert np.sqrt(np.mean((fast - slow) ** 2)) < 0.01 * slow.std()


def test_a_movie_with_known_motion_becomes_its_specimen():
    movie = simulate((256, 280), 6, snr=1e6, noise="gaussian", drift_px=9, doming_px=2, bfactor=100)
    sums = sum_movie(make_frames(movie.frames), _true_field(movie), 1.0)
    inside = (slice(24, -24), slice(24, -24))
    correlation = np.corrcoef(sums.micrograph[inside].ravel(), movie.signal[inside].ravel())[0, 1]
    assert correlation > 0.999


def test_response_of_the_sum_is_flat_to_the_edge_of_the_band():
    rng = np.random.default_rng(3)
    drift = np.cumsum(rng.uniform(-1, 1, (60, 2)), 0)
    frames = make_frames(rng.normal(size=(60, 128, 128)).astype(np.float32))
    image = sum_movie(frames, rigid_field(drift, (128, 128)), 1.0).micrograph
    power = np.abs(np.fft.fft2(image)) ** 2 / (60 * 128**2)
    k = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    assert power[(k > 0.1) & (k < 0.3)].mean() == pytest.approx(1, abs=0.06)
    assert power[(k > 0.3) & (k < 0.4)].mean() == pytest.approx(1, abs=0.1)


def test_dose_basis_gives_the_weights_of_every_frame_and_the_plain_sum():
    doses = frame_doses(40, 1.3, 2.0).numpy()
    basis = dose_basis(doses, 1.0, 300.0)
    k = torch.from_numpy(basis.k_table)
    raw = dose_weight(k, torch.from_numpy(doses)).numpy()
    exact = raw * np.sqrt(40 / (raw**2).sum(0))
    assert np.abs(basis.coefficients @ basis.filters - exact).max() < 2e-3
    assert basis.coefficients.shape[1] <= 6
    np.testing.assert_array_equal(basis.coefficients[:, 0], 1)


def test_critical_dose_has_the_published_values():
    # 0.245 * 0.1**-1.665 + 2.81 and the same at 3 Å
    k = torch.tensor([0.1, 1 / 3.0], dtype=torch.float64)
    torch.testing.assert_close(critical_dose(k), torch.tensor([14.138, 4.336], dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(critical_dose(k, 200.0), 0.8 * critical_dose(k))
    assert float(dose_weight(k, 28.276)[0]) == pytest.approx(np.exp(-1), abs=1e-3)


def test_binning_keeps_values_and_places_pixels_on_multiples():
    y, x = np.mgrid[:96, :120]
    scene = (3 + np.cos(2 * np.pi * (4 * y / 96 + 5 * x / 120))).astype(np.float32)
    frames = make_frames(np.stack([scene, scene]))
    image = sum_movie(frames, still_field(2, (96, 120)), 1.0, output_shape=(48, 60)).micrograph
    np.testing.assert_allclose(image, 2 * scene[::2, ::2], atol=1e-4)


def test_ice_that_stretches_does_not_shift_the_rings_of_a_sum_at_its_mean_shape():
    """Water is another one in each frame and does not follow the ice: its rings show how a sum was stretched."""
    size, n, pixel_size, defocus = 512, 16, 1.5, 15_000.0
    rng = np.random.default_rng(6)
    k2 = np.fft.fftfreq(size, pixel_size)[:, None] ** 2 + np.fft.rfftfreq(size, pixel_size) ** 2
    beam = Beam(300.0, 2.7, 0.1)
    rings = np.sin(0.5 * beam.double_phase_at_focus(k2) - np.pi * beam.wavelength * defocus * k2)
    noise = rng.standard_normal((n, 2, size, size))
    raw = np.fft.irfft2(np.fft.rfft2(noise[:, 0]) * rings * np.exp(-10 * k2), s=(size, size)) + 0.3 * noise[:, 1]
    modes = np.zeros((3, n, 2))
    stretch = 0.02 * (1 - np.exp(-np.arange(n) / 4))  # of lengths, both axes
    modes[1, :, 0] = modes[2, :, 1] = stretch * size / 2
    field = MotionField(modes, (size, size), 1)
    off = []
    for along in (field, field.at_mean_shape()):
        image = sum_movie(make_frames(raw.astype(np.float32)), along, pixel_size).micrograph
        found = estimate_image_ctf(torch.from_numpy(image), pixel_size, beam, SearchRange(10_000, 20_000))
        off.append(found.defocus.mean - defocus)
    assert off[0] == pytest.approx(-2 * stretch.mean() * defocus, abs=60)
    assert abs(off[1]) < 40
    np.testing.assert_allclose(field.at_mean_shape().at(np.array([[3.0, 500.0]])).mean(1), 0, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3])
def test_decimation_keeps_slow_waves_and_places_pixel_centres(factor):
    n = 120
    k = 0.06 / factor * 2
    y, x = np.mgrid[:n, :n]
    frame = (2 + np.cos(2 * np.pi * k * x)).astype(np.float32)
    small = decimate_frames(make_frames(frame[None]), factor)[0]
    centre = factor * np.arange(n // factor) + 0.5 * (factor - 1)
    response = decimation_response(factor, np.array([k * factor]))[0]
    inner = slice(8, -8)
    expected = 2 + response * np.cos(2 * np.pi * k * centre)
    np.testing.assert_allclose(small[inner][:, inner], np.tile(expected[inner], (small[inner].shape[0], 1)), atol=0.01)
    assert response > 0.97
