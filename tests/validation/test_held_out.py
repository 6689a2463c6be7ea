"""Held-out particles reward detail that is true and punish detail that a map made up."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import refine_poses
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import axis_angle_to_matrix
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.validation.held_out import fit_grey_scale, held_out_likelihood, shell_gains
from cryoloom.validation.posed import reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed

EXECUTOR = ThreadExecutor(1)
FROM, LAST = 10, 19


def disturbed(poses, rng, angle_deg=8.0):
    turn = torch.from_numpy(rng.normal(size=(len(poses), 3)) * np.deg2rad(angle_deg) / np.sqrt(3))
    return replace(poses, rotation=poses.rotation @ axis_angle_to_matrix(turn).numpy())


def overfitted(posed, poses, rng, rounds=4):
    """Map of particles that were aligned to their own noise at full resolution, and the FSC it claims for itself."""
    poses = disturbed(poses, rng)
    every = np.ones(len(posed.source), np.int64)
    for _ in range(rounds):
        volume = reconstruct(posed, poses, EXECUTOR)
        reference = prepare_volume(volume * fit_grey_scale(posed, volume, poses, EXECUTOR, LAST), LAST)
        poses = refine_poses(posed.source, [reference], every, poses, posed.noise, EXECUTOR, radius=LAST, n_steps=4)
    odd, even = (reconstruct(posed, poses.select(slice(start, None, 2)), EXECUTOR) for start in (0, 1))
    return reconstruct(posed, poses, EXECUTOR), fourier_shell_correlation(odd, even).numpy()


def case(seed: int, n: int = 480):
    """Tail of the held-out gain of an honest map and of an over-fitted one, in standard errors."""
    bed = make_bed(n, seed=seed)
    posed, rng = bed.posed(), np.random.default_rng(seed)
    third = np.arange(len(posed.poses)) % 3 == 0
    made_of, held_out = posed.poses.select(third), posed.poses.select(~third)
    truth = torch.from_numpy(bed.volume.data)
    honest_fsc = np.ones(23)
    honest = held_out_likelihood(posed, truth, held_out, EXECUTOR, fsc=honest_fsc, from_shell=FROM, last_shell=LAST)
    false_map, claimed = overfitted(posed, made_of, rng)
    false = held_out_likelihood(posed, false_map, held_out, EXECUTOR, fsc=claimed, from_shell=FROM, last_shell=LAST)
    return honest, false


def test_shell_gains_add_up_to_the_gain_of_the_engine():
    bed = make_bed(40, snr=0.5)
    posed = bed.posed()
    reference = prepare_volume(torch.from_numpy(bed.volume.data) * 3.0, 15)
    gains = shell_gains(posed, reference, posed.poses, EXECUTOR, 15)
    scored = refine_poses(
        posed.source, [reference], np.ones(40, np.int64), posed.poses, posed.noise, EXECUTOR, radius=15, n_steps=0
    )
    np.testing.assert_allclose(gains.sum(1), scored.log_likelihood, rtol=2e-3, atol=0.05)


def test_the_grey_scale_is_the_one_that_fits_best():
    bed = make_bed(60, snr=0.5)
    posed = bed.posed()
    volume = torch.from_numpy(bed.volume.data)
    best = fit_grey_scale(posed, volume, posed.poses, EXECUTOR, 12)
    totals = [
        shell_gains(posed, prepare_volume(volume * best * f, 12), posed.poses, EXECUTOR, 12).sum()
        for f in (0.9, 1, 1.1)
    ]
    assert totals[1] > max(totals[0], totals[2]) > 0


@pytest.mark.slow
@pytest.mark.capability("VAL-5")
def test_the_true_map_rises_and_an_overfitted_one_falls(measure):
    n_cases, right, z_true, z_false = 100, 0, [], []
    for seed in range(n_cases):
        honest, false = case(seed)
        right += honest.verdict == "rises" and false.verdict == "falls"
        z_true.append(honest.tail_z)
        z_false.append(false.tail_z)
    measure(
        100 * right / n_cases, "%", ">= 95",
        note=f"{n_cases} cases; least z of the true map {min(z_true):.1f}, "
        f"largest of the over-fitted {max(z_false):.1f}",
    )  # fmt: skip
    assert right >= 0.95 * n_cases
