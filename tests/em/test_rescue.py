"""Poses that are wrong are found again; right ones stay as they are."""

import numpy as np
import torch

from cryoloom.em import PosePriors, estimate_image_power, refine_poses
from cryoloom.em.poses import best_of, single_candidates
from cryoloom.em.rescue import SafetyNet, rescue
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import pose_distance, random_rotations


def test_wrong_poses_are_found_again_and_right_ones_stay(simulated, executor):
    n, n_wrong = 80, 14
    data = simulated(n, snr=0.3)
    source = data.source()
    rows = np.arange(n)
    noise = estimate_image_power(source, executor, rows)
    reference = prepare_volume(data.volume / data.noise_sigma)
    radius = 18

    def fit(candidates, last, n_steps):
        return refine_poses(
            source, [reference, reference], data.truth.half, candidates, noise, executor, radius=last,
            n_steps=n_steps, priors=PosePriors(scale_sd=0.5),
        )  # fmt: skip

    rotation, shift = data.truth.rotation.copy(), data.truth.shift / data.pixel_size
    lost = np.arange(3, 3 + 5 * n_wrong, 5)
    rotation[lost] = random_rotations(n_wrong, torch.Generator().manual_seed(8)).numpy()
    start = fit(single_candidates(rows, rotation, shift), radius, 5)
    net = SafetyNet("C1", source.mask_diameter, 4.0)
    both, n_rescued = rescue(
        source, [reference, reference], data.truth.half, start, noise, executor, fit, net, radius=radius
    )
    best = both.select(best_of(both, both.log_likelihood))
    np.testing.assert_array_equal(best.row, rows)

    def wrong(candidates):
        apart = pose_distance(torch.from_numpy(data.truth.rotation), torch.from_numpy(candidates.rotation))
        return torch.rad2deg(apart).numpy() > 10

    before, after = wrong(start), wrong(best)
    assert before.sum() >= 12
    assert n_rescued >= 0.9 * before.sum() and after.sum() <= 0.1 * before.sum()
    assert not (after & ~before).any()
