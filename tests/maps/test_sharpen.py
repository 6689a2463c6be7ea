"""B-factors: planted, recovered, and inside their intervals as often as they claim."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps import apply_bfactor, lowpass, soft_mask_from_map
from cryoloom.maps.protein import FREQUENCY, LOG_POWER, protein_log_amplitude
from cryoloom.maps.sharpen import estimate_bfactor, sharpen_map
from cryoloom.maps.spectrum import fit_bfactor, radial_power

sys.path.insert(0, str(Path(__file__).resolve().parent))
from phantoms import half_maps, noise_for, protein_like


def test_the_profile_is_that_of_the_table():
    np.testing.assert_allclose(protein_log_amplitude(FREQUENCY), 0.5 * LOG_POWER)


def test_a_straight_line_gives_its_slope_and_a_bump_moves_it_little():
    k = np.linspace(0.02, 0.4, 120)
    fit = fit_bfactor(k, 3.0 - 0.25 * 120 * k**2, np.full(120, 1e-4), low=0.1, high=0.33)
    assert fit.bfactor == pytest.approx(120, abs=1e-6) and fit.intercept == pytest.approx(3.0, abs=1e-6)
    np.testing.assert_allclose(fit.line(), 3.0 - 0.25 * 120 * k**2, atol=1e-6)
    with pytest.raises(ValueError, match="at least 3 shells"):
        fit_bfactor(k, k, np.ones(120), low=0.3999, high=0.4)


def test_sharpening_undoes_a_blur():
    signal = protein_like(48, 2.0, 36.0)
    restored = sharpen_map(apply_bfactor(signal, 2.0, 150.0), 2.0, bfactor=150.0)
    low = lowpass(signal, 2.0, 4.6)
    assert float((lowpass(restored, 2.0, 4.6) - low).norm() / low.norm()) < 1e-3


@pytest.mark.capability("RST-1")
def test_a_planted_b_factor_is_recovered(measure):
    box, pixel_size, worst, said = 96, 1.4, 0.0, []
    for seed, (planted, resolution) in enumerate([(80.0, 4.0), (120.0, 3.6), (200.0, 4.0)]):
        unblurred = protein_like(box, pixel_size, 42.0, seed)
        profile = 0.5 * radial_power(unblurred).log().numpy()
        signal = apply_bfactor(unblurred, pixel_size, planted)
        mask = soft_mask_from_map(lowpass(signal, pixel_size, 15.0), pixel_size)
        halves = half_maps(signal, noise_for(signal, mask, pixel_size, resolution), seed)
        fit = estimate_bfactor(*halves, pixel_size, mask, resolution=resolution, profile=profile)
        worst = max(worst, abs(fit.bfactor - planted) / max(0.05 * planted, 5.0))
        said.append(f"{planted:.0f}: {fit.bfactor:.1f}")
        assert fit.standard_error < 5
    measure(worst, "of max(5 %, 5 Å²)", "<= 1", note="; ".join(said))
    assert worst <= 1


@pytest.mark.slow
@pytest.mark.capability("UNC-6")
def test_the_interval_of_the_b_factor_covers_it_as_often_as_it_says(measure):
    box, pixel_size, hits, n = 64, 1.5, 0, 0
    generator = np.random.default_rng(5)
    for seed in range(50):
        unblurred = protein_like(box, pixel_size, 28.0, seed)
        profile = 0.5 * radial_power(unblurred).log().numpy()
        planted, resolution = generator.uniform(80, 200), generator.uniform(3.4, 4.5)
        signal = apply_bfactor(unblurred, pixel_size, planted)
        sigma = noise_for(signal, torch.ones_like(signal), pixel_size, resolution)
        for repeat in range(40):
            halves = half_maps(signal, sigma, 100 * seed + repeat)
            fit = estimate_bfactor(*halves, pixel_size, resolution=resolution, profile=profile)
            hits += abs(fit.bfactor - planted) <= 1.96 * fit.standard_error
            n += 1
    measure(100 * hits / n, "%", "93 to 97", note=f"{n} intervals, 50 particles, profile of the model")
    assert 0.93 <= hits / n <= 0.97
