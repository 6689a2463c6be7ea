"""Poses that stand for a mode have its mean, its covariance and its posterior."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.em.poses import single_candidates
from cryoloom.em.spread import normal_points, spread_modes
from cryoloom.geometry import matrix_to_axis_angle, random_rotations


def test_points_have_the_moments_of_a_normal_distribution():
    points = normal_points(16, 5)
    assert points.shape == (16, 5)
    np.testing.assert_allclose(points.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose((points**2).mean(0), 1.0)


def test_poses_spread_as_the_information_says():
    rng = np.random.default_rng(3)
    n = 4
    rotation = random_rotations(n, torch.Generator().manual_seed(1)).numpy()
    root = rng.standard_normal((n, 6, 6))
    scale = np.array([40.0, 40.0, 40.0, 2.0, 2.0, 5.0])
    information = scale[:, None] * (root @ root.transpose(0, 2, 1) + 3 * np.eye(6)) * scale
    modes = single_candidates(np.arange(n), rotation, rng.standard_normal((n, 2)))
    modes = replace(modes, information=information, posterior=np.full(n, 0.8))
    spread = spread_modes(modes, 256)
    assert len(spread) == 256 * n
    np.testing.assert_allclose(np.bincount(spread.row, spread.posterior), 0.8)
    covariance = np.linalg.inv(information)[:, :5, :5]
    for i in range(n):
        mine = spread.row == i
        turn = matrix_to_axis_angle(torch.from_numpy(rotation[i].T @ spread.rotation[mine])).numpy()
        move = (spread.shift_px[mine] - modes.shift_px[i])[:, ::-1]
        found = np.cov(np.concatenate([turn, move], axis=1).T)
        size = np.sqrt(np.outer(covariance[i].diagonal(), covariance[i].diagonal()))
        np.testing.assert_allclose(found / size, covariance[i] / size, atol=0.15)


def test_modes_without_curvature_are_refused():
    with pytest.raises(ValueError, match="information"):
        spread_modes(single_candidates(np.arange(2), np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 2))), 8)
