"""Likelihood, pairs, prior and the fit of the field."""

import numpy as np
import pytest
import torch
from motion_bed import simulate

from cryoloom.motion.estimate import estimate_motion
from cryoloom.motion.field import MotionField, mode_orders, mode_values, rigid_field
from cryoloom.motion.frames import make_frames
from cryoloom.motion.likelihood import align_spectra, gradient, gradient_torch, pair_laplacian
from cryoloom.motion.pairs import solve_pairs
from cryoloom.motion.prior import motion_prior, solve_motion
from cryoloom.motion.tiles import cut_tiles, tile_grid


def _spectra(n_frames=5, shape=(96, 100)):
    generator = torch.Generator().manual_seed(0)
    return cut_tiles(torch.randn(n_frames, *shape, generator=generator), np.zeros((n_frames, 2)), (50, 50), 0.02, 0.4)


def test_modes_start_with_the_whole_frame_and_are_orthogonal():
    assert mode_orders(2).tolist() == [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    y, x = np.meshgrid(np.arange(40), np.arange(60), indexing="ij")
    values = mode_values(np.stack([y, x], -1).reshape(-1, 2), (40, 60), 3)
    np.testing.assert_array_equal(values[:, 0], 1)
    gram = values.T @ values / len(values)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 2e-3


def test_field_on_a_grid_equals_field_at_points_and_scales():
    rng = np.random.default_rng(0)
    field = MotionField(rng.normal(size=(10, 4, 2)), (50, 70), 3)
    y, x = np.arange(50), np.arange(70)
    points = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    at = field.at(points)[:, 2].reshape(50, 70, 2)
    np.testing.assert_allclose(field.on_grid(y, x, 2), np.moveaxis(at, -1, 0), atol=1e-5)
    twice = field.scaled(2.0, (100, 140))
    np.testing.assert_allclose(twice.at(2 * points[:9] + 0.5), 2 * field.at(points[:9]))


@pytest.mark.parametrize("n, tile", [(100, 50), (101, 33), (64, 200), (333, 90)])
def test_tiles_cover_the_frame_without_leaving_it(n, tile):
    size, origins = tile_grid(n, tile)
    assert origins[0] == 0
    assert origins[-1] + size == n
    assert (np.diff(origins) <= size).all()


def test_gradient_is_the_slope_of_the_pairwise_likelihood():
    spectra = _spectra()
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 0.7, (5, 2))
    weight = spectra.multiplicity * torch.rand(spectra.multiplicity.shape, generator=torch.Generator().manual_seed(1))
    trust = 1 - 0.8 * np.triu(rng.random((5, 5)) < 0.3, 1)
    trust = np.minimum(trust, trust.T)
    for u in (None, trust):
        pairs = (np.ones((5, 5)) if u is None else u) * (1 - np.eye(5))

        def likelihood(s, pairs=pairs):
            aligned = align_spectra(spectra, 1, s).reshape(5, -1).to(torch.complex128)
            gram = ((aligned * weight.reshape(-1)) @ aligned.conj().T).real.numpy()
            return float((gram * pairs).sum())

        slope, _ = gradient(spectra, spectra.dft[1], shift, weight, u)
        for t in (0, 3):
            for c in (0, 1):
                step = np.zeros_like(shift)
                step[t, c] = 1e-2
                numeric = (likelihood(shift + step) - likelihood(shift - step)) / 2e-2
                assert slope[t, c] == pytest.approx(numeric, rel=5e-3, abs=2e-2 * np.abs(slope).max())


def test_gradient_kernel_equals_its_torch_twin():
    spectra = _spectra()
    rng = np.random.default_rng(2)
    shift = rng.normal(size=(5, 2))
    trust = np.ones((5, 5))
    trust[1, 3] = trust[3, 1] = 0.25
    for u in (None, trust):
        fast = gradient(spectra, spectra.dft[0], shift, spectra.multiplicity, u)
        slow = gradient_torch(spectra, spectra.dft[0], shift, spectra.multiplicity, u)
        np.testing.assert_allclose(fast[0], slow[0], rtol=1e-3, atol=1e-3 * np.abs(slow[0]).max())
        torch.testing.assert_close(fast[1], slow[1], rtol=1e-4, atol=1e-3)


def test_whitened_noise_has_unit_power():
    spectra = _spectra(8, (200, 200))
    power = (spectra.dft.abs() ** 2 * spectra.multiplicity).sum() / (
        spectra.multiplicity.sum() * spectra.n_tiles * spectra.n_frames
    )
    assert float(power) == pytest.approx(1, abs=0.03)


def test_pairs_are_made_consistent_although_a_tenth_of_them_is_wrong():
    rng = np.random.default_rng(3)
    true = np.cumsum(rng.normal(size=(20, 2)), 0)
    true -= true.mean(0)
    first, second = np.triu_indices(20, 1)
    measured = true[second] - true[first] + rng.normal(0, 0.05, (len(first), 2))
    wrong = rng.permutation(len(first))[: len(first) // 10]
    measured[wrong] += rng.uniform(-20, 20, (len(wrong), 2))
    found, trust = solve_pairs(20, first, second, measured, np.ones(len(first)))
    assert np.abs(found - true).max() < 0.06
    assert trust[wrong].max() < 0.2


def test_laplacian_of_equal_pairs_is_the_centring_matrix():
    np.testing.assert_allclose(pair_laplacian(6, np.ones((6, 6))), pair_laplacian(6))


def test_prior_leaves_well_measured_motion_alone_and_reports_its_error():
    n = 12
    prior = motion_prior(n, 0, 1.0)
    true = np.cumsum(np.random.default_rng(4).normal(size=(n, 2)), 0)
    true -= true[0]
    information = 1e6 * pair_laplacian(n)
    modes, covariance, variance = solve_motion(prior, information, information @ true, np.array([0.1]), 10)
    np.testing.assert_allclose(modes[0], true, atol=1e-3)
    # two frames against the mean of the others: 1/(h T) each
    assert covariance[5, 5] == pytest.approx(2 / (1e6 * n), rel=0.01)
    assert 0.1 < variance[0] < 10


def test_drift_and_doming_of_a_clear_movie_are_found():
    movie = simulate((512, 480), 16, snr=2e-2, drift_px=12, doming_px=3, seed=5)
    estimate = estimate_motion(make_frames(movie.frames), 1.0)
    points = np.stack(np.meshgrid(np.linspace(30, 480, 6), np.linspace(30, 450, 6)), -1).reshape(-1, 2)
    error = (estimate.field.at(points) - movie.field(points))[:, 1:]
    expected = estimate.field.standard_error_px(points)[:, 1:]
    assert np.sqrt(np.mean(expected**2)) < 0.4
    assert np.sqrt(np.mean(error**2)) < 1.6 * np.sqrt(np.mean(expected**2))
    assert 0.4 < estimate.frame_snr / 2e-2 < 1.5


def test_a_movie_of_noise_moves_little_and_says_that_it_has_no_signal():
    rng = np.random.default_rng(6)
    frames = make_frames(rng.poisson(1, (12, 300, 300)).astype(np.uint8))
    estimate = estimate_motion(frames, 1.0, degree=0)
    assert estimate.frame_snr == 0
    assert np.abs(estimate.field.modes_px).max() < 1
    assert estimate.field.standard_error_px(np.array([[150.0, 150.0]]))[0, -1] > 5
    assert np.isfinite(estimate.field.modes_px).all()


def test_a_weak_movie_on_a_fixed_pattern_is_found_although_no_pair_of_frames_shows_a_peak():
    movie = simulate((320, 320), 16, pixel_size=1.5, snr=4e-3, drift_px=6, fixed_pattern=0.2, seed=3)
    estimate = estimate_motion(make_frames(movie.frames), 1.5, degree=0)
    error = estimate.field.trajectory_px - movie.drift_px
    assert np.sqrt(np.mean((error - error.mean(0)) ** 2)) < 0.4  # from the peaks of pairs alone: 0.85
    assert estimate.frame_snr > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_short_movies_are_aligned(n):
    movie = simulate((256, 256), n, snr=0.1, drift_px=5, seed=7)
    estimate = estimate_motion(make_frames(movie.frames), 1.0)
    error = estimate.field.trajectory_px - movie.drift_px
    assert np.abs(error).max() < 0.5


def test_rigid_field_starts_at_zero():
    field = rigid_field(np.array([[1.0, 2.0], [3.0, 5.0]]), (10, 10))
    np.testing.assert_array_equal(field.trajectory_px, [[0, 0], [2, 3]])


def test_sums_over_the_coefficients_of_fading_tiles_scatter_as_much_as_they_are_said_to():
    """Slopes of pure noise along both axes: their variance over that of independent coefficients."""
    generator = torch.Generator().manual_seed(3)
    found, said = [], 0.0
    for _ in range(50):
        frames = torch.randn(12, 112, 120, generator=generator)
        spectra = cut_tiles(frames, np.zeros((12, 2)), (50, 55), 0.02, 0.45)
        weight = spectra.multiplicity / spectra.multiplicity.sum()
        total = np.sum([gradient(spectra, t, np.zeros((12, 2)), weight)[0] for t in spectra.dft], axis=0)
        k2 = 0.5 * (weight**2 * (spectra.ky_per_px[:, None] ** 2 + spectra.kx_per_px**2)).sum()
        independent = spectra.n_tiles * (12 - 1) * 0.5 * (4 * np.pi) ** 2 * float(k2)
        found.append((total**2).mean() / independent)
        said = spectra.alike
    assert said > 1.1
    assert np.mean(found) == pytest.approx(said, rel=0.1)
