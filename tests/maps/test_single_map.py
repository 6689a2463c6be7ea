"""The resolution of one map is found from its solvent, in the right order and without a silent wrong answer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cryoloom.maps import apply_bfactor, fourier_shell_correlation, lowpass, resolution_at, soft_mask_from_map
from cryoloom.maps.single_map import estimate_single_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
from phantoms import noise_for, protein_like

BOX, PIXEL = 96, 1.5


def noisy_map(seed: int, resolution: float, bfactor: float = 100.0, radius: float = 34.0):
    signal = apply_bfactor(protein_like(BOX, PIXEL, radius, seed), PIXEL, bfactor)
    mask = soft_mask_from_map(lowpass(signal, PIXEL, 15.0), PIXEL)
    sigma = noise_for(signal, mask, PIXEL, resolution) / 2**0.5  # of the mean of two halves
    noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(seed + 99))
    return signal + sigma * noise, signal, mask


@pytest.mark.slow
@pytest.mark.capability("RSL-3")
def test_single_map_estimates_rank_maps_as_the_truth_does(measure):
    rng = np.random.default_rng(4)
    truth, found = [], []
    for seed in range(30):
        volume, signal, mask = noisy_map(seed % 6, rng.uniform(3.6, 12.0), rng.uniform(60, 200), rng.uniform(26, 38))
        truth.append(resolution_at(fourier_shell_correlation(volume * mask, signal * mask), 0.5, BOX, PIXEL))
        found.append(estimate_single_map(volume, PIXEL).resolution)
    rank = float(spearmanr(truth, found).statistic)
    off = np.median(np.abs(np.array(found) / truth - 1))
    measure(round(rank, 3), "rank correlation", "> 0.9", note=f"30 maps; median deviation {100 * off:.0f} %")
    assert np.isfinite(found).all() and rank > 0.9


def test_a_map_without_solvent_noise_gives_no_number():
    volume, _, mask = noisy_map(0, 5.0)
    found = estimate_single_map(volume * mask, PIXEL)
    assert np.isnan(found.resolution) and found.reason


def test_a_map_with_suppressed_solvent_gives_no_number():
    volume, _, mask = noisy_map(0, 5.0)
    found = estimate_single_map(volume * (0.1 + 0.9 * mask), PIXEL)
    assert np.isnan(found.resolution) and "sampling limit" in found.reason
