"""Permuted coefficients give the spread of the FSC without signal, with and without a mask."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps import fourier_shell_correlation, spherical_mask
from cryoloom.maps.freedom import effective_counts, fsc_noise_covariance
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.permutation import permuted_fsc
from cryoloom.maps.permuted_interval import permuted_interval

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_interval import halves_with, true_curve


@pytest.mark.parametrize("radius", [None, 11.0])
def test_the_range_of_permutations_holds_noise_as_often_as_it_says(radius):
    box, inside, total = 32, 0, 0
    mask = torch.ones(box, box, box) if radius is None else spherical_mask(box, radius, 4.0)
    counts = effective_counts((box,) * 3, None if radius is None else mask)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(box, box, box, generator=generator) * mask for _ in "12")
        found = permuted_fsc(a, b, generator, effective_counts=counts)
        shells = slice(4, 17)
        inside += int(((found.fsc >= found.low) & (found.fsc <= found.high))[shells].sum())
        total += 13
        assert found.shell <= 3
    assert 0.88 <= inside / total <= 0.99


def test_planted_signal_is_significant_as_far_as_it_reaches():
    fsc = np.where(np.arange(25) < 13, 0.8, 0.0)
    a, b = halves_with(fsc, 48, torch.Generator().manual_seed(1))
    found = permuted_fsc(a, b, torch.Generator().manual_seed(2), effective_counts=effective_counts((48,) * 3))
    assert found.shell == 12 and found.p[5] < 1e-6
    np.testing.assert_allclose(found.fsc, fourier_shell_correlation(a, b).numpy())


def test_counts_of_another_box_are_refused():
    with pytest.raises(ValueError, match="effective_counts"):
        permuted_fsc(torch.zeros(8, 8, 8), torch.zeros(8, 8, 8), torch.Generator(), effective_counts=np.ones(3))


def intervals(seed, n_draws=100):
    """Interval by permutation, that by Fisher's z, and the true crossing, of a pair behind a mask."""
    rng, box = np.random.default_rng(seed), 40
    mask = spherical_mask(box, rng.uniform(0.22, 0.42) * box, 5.0)
    fsc, truth = true_curve(box // 2 + 1, rng)
    a, b = (half * mask for half in halves_with(fsc, box, torch.Generator().manual_seed(seed)))
    covariance = fsc_noise_covariance((box,) * 3, mask)
    measured = fourier_shell_correlation(a, b).numpy()
    crossing = locate_crossing(measured, covariance)
    permuted = permuted_fsc(a, b, torch.Generator().manual_seed(seed), effective_counts=1 / np.diag(covariance))
    drawn = permuted_interval(measured, covariance, permuted, crossing, np.random.default_rng(seed), n_draws=n_draws)
    return drawn, crossing.interval(box // 2 + 1), truth


def test_the_interval_by_permutation_is_about_that_of_fishers_z():
    ratios = []
    for seed in range(3):
        (low, high), (other_low, other_high), _ = intervals(seed, 25)
        assert low < high and low < other_high and other_low < high
        ratios.append((high - low) / (other_high - other_low))
    assert 0.5 < np.median(ratios) < 1.8


@pytest.mark.slow
def test_the_interval_by_permutation_covers_the_resolution_as_often_as_it_says():
    inside = [low <= truth <= high for (low, high), _, truth in (intervals(seed) for seed in range(100, 160))]
    assert 0.88 <= np.mean(inside) <= 1.0  # of 60 at 95 %: two standard deviations are 5.6 %


def test_a_curve_that_stays_up_has_no_bound_by_permutation_either():
    fsc = np.full(17, 0.9)
    a, b = halves_with(fsc, 32, torch.Generator().manual_seed(0))
    covariance = fsc_noise_covariance((32, 32, 32))
    permuted = permuted_fsc(a, b, torch.Generator().manual_seed(1), effective_counts=1 / np.diag(covariance))
    crossing = locate_crossing(permuted.fsc, covariance)
    found = permuted_interval(permuted.fsc, covariance, permuted, crossing, np.random.default_rng(0), n_draws=2)
    assert found[1] == 16
    with pytest.raises(ValueError, match="permuted"):
        permuted_interval(fsc[:5], covariance[:5, :5], permuted, crossing, np.random.default_rng(0))
