"""The reported resolution has an honest interval behind masks, and does not depend on how wide a user's mask is."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps import (
    apply_bfactor,
    fourier_shell_correlation,
    lowpass,
    randomise_phases,
    soft_mask_from_map,
    spherical_mask,
)
from cryoloom.maps.corrected import corrected_fsc, expected_randomised_fsc
from cryoloom.maps.global_resolution import measure_global_resolution
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.standard_mask import standard_mask

sys.path.insert(0, str(Path(__file__).resolve().parent))
from phantoms import half_maps, noise_for, protein_like
from test_interval import halves_with, true_curve


def planted_halves(seed: int, resolution: float, box: int = 72, pixel_size: float = 1.6):
    signal = apply_bfactor(protein_like(box, pixel_size, 34.0, seed), pixel_size, 100.0)
    mask = soft_mask_from_map(lowpass(signal, pixel_size, 15.0), pixel_size)
    return half_maps(signal, noise_for(signal, mask, pixel_size, resolution), seed)


def test_a_loose_mask_means_the_same_density_and_a_focused_one_its_own():
    half1, half2 = planted_halves(0, 5.0)
    standard = standard_mask(half1, half2, 1.6)
    loose = spherical_mask(72, 33.0, 3.0)
    torch.testing.assert_close(standard_mask(half1, half2, 1.6, loose).mask, standard.mask)
    focused = spherical_mask(72, 8.0, 3.0, centre_px=(36, 36, 24))
    narrow = standard_mask(half1, half2, 1.6, focused)
    assert 0 < narrow.volume < 0.7 * standard.volume
    assert float(narrow.mask.sum()) < 0.8 * float(standard.mask.sum())


def test_a_mask_over_nothing_is_left_as_it_is():
    half1, half2 = planted_halves(0, 5.0)
    corner = spherical_mask(72, 3.0, 2.0, centre_px=(4, 4, 4))
    torch.testing.assert_close(standard_mask(half1, half2, 1.6, corner).mask, corner)


def test_the_expected_curve_of_random_phases_is_the_mean_of_many_draws():
    signal = lowpass(torch.randn(28, 28, 28, generator=torch.Generator().manual_seed(3)), 1.0, 4.0)
    halves = half_maps(signal, 0.3 * float(signal.std()), 4)
    mask = spherical_mask(28, 7.0, 0.0)  # a hard edge spreads much
    generator = torch.Generator().manual_seed(5)
    expected = expected_randomised_fsc(*halves, mask, 6)
    draws = torch.stack(
        [
            fourier_shell_correlation(*(randomise_phases(half, 6, generator) * mask for half in halves))
            for _ in range(150)
        ]
    )
    error = draws.std(0) / 150**0.5
    assert (np.abs(draws.mean(0).numpy() - expected)[6:] / error.numpy()[6:]).max() < 4
    assert expected[7] > 0.05 and expected[:5].min() > 0.5


@pytest.mark.slow
@pytest.mark.capability("RSL-2")
def test_the_interval_covers_behind_masks_and_the_value_does_not_follow_the_mask(measure):
    rng, hits, n_pairs = np.random.default_rng(23), 0, 2000
    for pair in range(n_pairs):
        box = (36, 40, 48)[pair % 3]
        mask = spherical_mask(box, rng.uniform(0.24, 0.40) * box, 5.0)
        fsc, truth = true_curve(box // 2 + 1, rng)
        generator = torch.Generator().manual_seed(50_000 + pair)
        curves = corrected_fsc(*halves_with(fsc, box, generator), mask)
        low, high = locate_crossing(curves.corrected, curves.covariance).interval(box // 2 + 1)
        hits += low <= truth <= high
    share = hits / n_pairs
    worst = 0.0
    for seed in range(12):
        half1, half2 = planted_halves(seed, (4.2, 5.0, 6.5)[seed % 3])
        found = []
        for extend, edge in ((0.0, 3.0), (14.0, 16.0)):
            given = soft_mask_from_map(0.5 * (half1 + half2), 1.6, extend=extend, edge=edge)
            found.append(measure_global_resolution(half1, half2, 1.6, given_mask=given).resolution)
        worst = max(worst, abs(found[0] / found[1] - 1))
    measure(100 * share, "%", "93 to 97", note=f"{n_pairs} pairs, mask-corrected FSC")
    measure(100 * worst, "%", "< 2", note="tight against loose mask, 12 particles")
    assert 0.93 <= share <= 0.97
    assert worst < 0.02
