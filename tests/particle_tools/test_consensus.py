"""Agreement of two runs: wrong poses are left out, turned and displaced frames are seen through."""

import numpy as np
import pytest
import torch

from cryoloom.geometry import axis_angle_to_matrix, random_rotations, symmetry_matrices
from cryoloom.particle_tools.consensus import compare_poses, reliable_rows


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_right_poses_agree_and_wrong_ones_do_not_whatever_the_frames(symmetry):
    generator = torch.Generator().manual_seed(4)
    rng = np.random.default_rng(4)
    n, n_wrong = 600, 180
    truth = random_rotations(n, generator)
    operators = symmetry_matrices(symmetry)
    # a symmetric map fixes its frame up to the group; without symmetry any turn is free
    frame = random_rotations(1, generator)[0] if symmetry == "C1" else operators[1]
    offset = np.array([4.0, -2.0, 3.0]) if symmetry == "C1" else np.zeros(3)

    def run_of(base, noise_deg):
        noise = axis_angle_to_matrix(torch.from_numpy(rng.normal(size=(n, 3)) * np.deg2rad(noise_deg)))
        found = operators[torch.from_numpy(rng.integers(0, len(operators), n))] @ base @ noise
        found[:n_wrong] = random_rotations(n_wrong, generator)
        return found

    first, second = run_of(truth, 1.0), run_of(frame @ truth, 1.0)
    shift = rng.normal(size=(n, 2)) * 4
    moved = np.einsum("nij,i->nj", first.numpy(), offset)[:, 1::-1]
    second_shift = shift + moved + rng.normal(size=(n, 2)) * 0.5
    found = compare_poses(first.numpy(), second.numpy(), shift, second_shift, symmetry)
    keep = reliable_rows(found, None, None, np.deg2rad(10.0))
    assert keep[n_wrong:].mean() > 0.9
    assert keep[:n_wrong].mean() < 0.03
    error = np.rad2deg(found.angle[n_wrong:])
    assert np.median(error) < 3.5
