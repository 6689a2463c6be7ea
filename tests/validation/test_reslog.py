"""The slope of resolution over the number of particles is the planted B-factor, and exchanged poses show nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.maps.spectrum import radial_power
from cryoloom.validation.reslog import ResLog, images_needed, measure_reslog

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed


def planted(bfactor: float, seed: int, n: int = 5000):
    bed = make_bed(n, seed=seed, snr=0.05, box=72, pixel_size=1.7, mass_kda=60.0, bfactor=bfactor)
    volume = torch.from_numpy(bed.volume.data)
    # The truth is blurred by its atoms alone; the envelope of the images comes on top, and is what is planted.
    profile = 0.5 * radial_power(volume).clamp_min(1e-30).log().numpy()
    mask = soft_mask_from_map(volume, bed.volume.pixel_size, lowpass_resolution=12.0)
    return measure_reslog(
        bed.posed(), ThreadExecutor(1), torch.Generator().manual_seed(seed), mask=mask, profile=profile,
        smallest=400, n_sizes=6, n_draws=3, coarsest=14.0,
    )  # fmt: skip


def test_977_images_bring_an_amplitude_ratio_of_0_08_to_2_50_and_32_one_of_power():
    assert 0.20 / 2.50 == pytest.approx(0.08)
    assert images_needed(0.20 / 2.50, 2.50, power=False) == 977
    assert images_needed(0.20 / 2.50, 2.50, power=True) == 32


def test_finer_resolution_asks_for_as_many_particles_as_the_b_factor_says():
    none = np.zeros(2)
    known = ResLog(np.array([500, 1000]), np.array([5.0, 4.0]), none, none, bfactor=100.0, bfactor_error=5.0)
    assert known.particles_for(3.6) == pytest.approx(1000 * np.exp(50 * (1 / 3.6**2 - 1 / 4**2)), abs=1)
    assert replace(known, bfactor=float("nan")).particles_for(3.6) is None


@pytest.mark.slow
@pytest.mark.capability("VAL-2")
def test_the_slope_is_the_planted_b_factor_and_the_noise_curve_stays_below(measure):
    worst, said = 0.0, []
    for seed, bfactor in enumerate((120.0, 180.0, 240.0)):
        found = planted(bfactor, seed)
        worst = max(worst, abs(found.bfactor / bfactor - 1))
        said.append(f"{bfactor:.0f}: {found.bfactor:.0f} ± {found.bfactor_error:.0f}")
        assert found.control_is_below
        assert (np.diff(found.resolution) < 0.3).all()
    measure(100 * worst, "%", "<= 10", note="; ".join(said) + " Å²; exchanged poses always at least 1.2 times worse")
    assert worst <= 0.10
