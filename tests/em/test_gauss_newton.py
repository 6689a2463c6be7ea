"""The continuous fit: its gradient, its optimum, its error bars."""

import numpy as np
import pytest
import torch

from cryoloom.em import NoiseModel, PosePriors, pose_errors, pose_radii, refine_poses, single_candidates
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import axis_angle_to_matrix, matrix_to_axis_angle, rotation_angle


def _start(data, spread, shift_spread, seed=1):
    n = len(data.truth)
    generator = torch.Generator().manual_seed(seed)
    turn = axis_angle_to_matrix(spread * torch.randn(n, 3, generator=generator, dtype=torch.float64))
    shift = data.truth.shift / data.pixel_size
    shift = shift + shift_spread * torch.randn(n, 2, generator=generator, dtype=torch.float64).numpy()
    rotation = (torch.from_numpy(data.truth.rotation) @ turn).numpy()
    return single_candidates(np.arange(n), rotation, shift)


def _noise(source, data):
    return NoiseModel(np.full((1, source.points.radius + 1), (data.noise_sigma * data.box) ** 2))


@pytest.fixture(scope="module")
def fitted(simulated, executor):
    data = simulated(300, snr=0.1)
    source = data.source(normalise=False)
    reference = prepare_volume(data.volume)
    found = refine_poses(
        source, [reference, reference], data.truth.half, _start(data, 0.04, 0.4), _noise(source, data), executor,
        radius=source.points.radius, n_steps=8, priors=PosePriors(scale_sd=0.2),
    )  # fmt: skip
    return data, found


def test_perturbed_poses_return_to_within_their_error_bars(fitted):
    data, found = fitted
    error = rotation_angle(torch.from_numpy(data.truth.rotation).mT @ torch.from_numpy(found.rotation)).numpy()
    shift_error = np.linalg.norm(found.shift_px - data.truth.shift / data.pixel_size, axis=1)
    pose_bar, shift_bar = pose_errors(found.information)
    assert 0.85 < np.sqrt(np.mean((error / pose_bar) ** 2)) < 1.2
    assert 0.85 < np.sqrt(np.mean((shift_error / shift_bar) ** 2)) < 1.2


def test_the_posterior_covers_the_truth_as_often_as_it_says(fitted):
    data, found = fitted
    turn = matrix_to_axis_angle(
        torch.from_numpy(found.rotation).mT @ torch.from_numpy(data.truth.rotation)
    ).numpy()  # in the frame of the fit
    covariance = np.linalg.inv(found.information)[:, :3, :3]
    chi2 = np.einsum("ni,nij,nj->n", turn, np.linalg.inv(covariance), turn)
    assert 0.91 < np.mean(chi2 < 7.815) < 0.98  # 300 cases: two standard errors are 2.5 points


def test_radii_hold_what_they_say_whatever_the_shape_of_the_covariance():
    rng = np.random.default_rng(0)
    for sd in ([1, 1, 1, 1, 1, 1], [1, 0.1, 0.1, 1, 0.05, 1], [1, 0.7, 0.4, 1, 0.5, 1]):
        sd = 0.01 * np.array(sd)
        turn, shift = pose_radii(np.diag(sd**-2)[None])
        drawn = rng.normal(size=(100_000, 6)) * sd
        assert abs(np.mean(np.linalg.norm(drawn[:, :3], axis=1) < turn) - 0.95) < 0.008
        assert abs(np.mean(np.linalg.norm(drawn[:, 3:5], axis=1) < shift) - 0.95) < 0.008


def test_right_poses_gain_what_the_model_predicts(fitted):
    _, found = fitted
    ratio = found.log_likelihood / (0.5 * found.information[:, 5, 5])
    assert abs(np.median(ratio) - 1) < 0.1


def test_the_information_is_the_second_derivative_of_the_likelihood(simulated, executor):
    data = simulated(16, snr=1e4, seed=3)
    source = data.source(normalise=False)
    reference = [prepare_volume(data.volume)]
    noise = NoiseModel(np.full((1, source.points.radius + 1), 1e3))
    scored = dict(radius=15, n_steps=0, priors=PosePriors(scale_sd=1e6))
    at = _start(data, 0.0, 0.0)
    middle = refine_poses(source, reference, data.truth.half, at, noise, executor, **scored)
    step = 0.01
    for axis in range(3):
        turn = torch.zeros(3, dtype=torch.float64)
        turn[axis] = step
        gains = []
        for sign in (1, -1):
            moved = at.rotation @ axis_angle_to_matrix(sign * turn).numpy()
            there = single_candidates(at.row, moved, at.shift_px)
            gains.append(
                refine_poses(source, reference, data.truth.half, there, noise, executor, **scored).log_likelihood
            )
        curvature = -(gains[0] + gains[1] - 2 * middle.log_likelihood) / step**2
        np.testing.assert_allclose(np.median(curvature / middle.information[:, axis, axis]), 1, atol=0.15)


def test_scale_follows_the_image_and_nothing_else(simulated, executor):
    data = simulated(200, snr=0.3, scale_spread=0.2, seed=5)
    source = data.source(normalise=False)
    found = refine_poses(
        source, [prepare_volume(data.volume)], data.truth.half, _start(data, 0.02, 0.2), _noise(source, data),
        executor, radius=source.points.radius, n_steps=8, priors=PosePriors(scale_sd=0.5),
    )  # fmt: skip
    assert np.corrcoef(found.scale, data.truth.scale)[0, 1] > 0.9


def test_chunks_and_threads_change_nothing(simulated, executor):
    from cryoloom.compute.executor import SerialExecutor

    data = simulated(60, seed=7)
    results = []
    for runner, cache in ((executor, 1 << 30), (SerialExecutor(), 0)):
        source = data.source(cache_bytes=cache)
        found = refine_poses(
            source, [prepare_volume(data.volume)], data.truth.half, _start(data, 0.05, 0.5),
            NoiseModel(np.full((1, source.points.radius + 1), 2e3)), runner, radius=12,
        )  # fmt: skip
        results.append(found)
    np.testing.assert_array_equal(results[0].rotation, results[1].rotation)
    np.testing.assert_array_equal(results[0].log_likelihood, results[1].log_likelihood)
