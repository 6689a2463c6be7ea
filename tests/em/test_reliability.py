"""Which particles fit the map: what wrong poses gain is taken from the particles' own rivals."""

import numpy as np
import torch

from cryoloom.em.poses import join_candidates, single_candidates
from cryoloom.em.reliability import right_share, wrong_level
from cryoloom.geometry import axis_angle_to_matrix, random_rotations


def _searched(n: int, n_wrong: int, seed: int = 0):
    """Candidates of a search: of `n_wrong` particles all poses are wrong; the right ones have a twin close by."""
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    rotation = random_rotations(3 * n, torch.Generator().manual_seed(seed)).numpy().reshape(3, n, 3, 3)
    twin = rotation[0] @ axis_angle_to_matrix(torch.tensor([0.05, 0.0, 0.0], dtype=torch.float64)).numpy()
    right = rng.normal(36.0, 7.0, n)
    right[:n_wrong] = 0.0
    rivals = rng.normal(20.0, 3.0, (2, n))
    parts = []
    for poses, gain in ((rotation[0], right), (twin, right - 1.0), (rotation[1], rivals[0]), (rotation[2], rivals[1])):
        part = single_candidates(rows, poses, np.zeros((n, 2)))
        part.log_likelihood[:] = gain
        parts.append(part)
    return join_candidates(parts), np.maximum(right, rivals.max(0))


def test_rivals_tell_what_wrong_poses_gain():
    candidates, best = _searched(2000, 300)
    level = wrong_level(candidates, "C1")
    assert level is not None
    expected = np.random.default_rng(1).normal(20.0, 3.0, (2, 100_000)).max(0)
    assert abs(level[0] - np.median(expected)) < 0.6  # the rivals of lost particles are second best
    assert abs(level[1] - expected.std()) < 0.5
    share = right_share(best, level)
    assert share[:300].mean() < 0.4 and share[300:].mean() > 0.93
    assert abs((1 - share).sum() - 300) < 100
    assert (np.diff(share[np.argsort(best)]) >= -1e-9).all()


def test_where_all_are_right_none_is_put_aside():
    candidates, best = _searched(1000, 0)
    level = wrong_level(candidates, "C1")
    assert right_share(best, level).mean() > 0.97


def test_too_few_rivals_say_nothing():
    candidates, _ = _searched(20, 0)
    assert wrong_level(candidates, "C1") is None


def test_poses_that_do_not_stand_out_are_not_put_aside():
    gain = np.random.default_rng(0).normal(20.5, 3.0, 2000)  # as the best of wrong poses
    assert (right_share(gain, (20.0, 3.0)) == 1.0).all()
