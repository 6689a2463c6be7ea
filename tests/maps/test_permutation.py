"""Permuted coefficients give the spread of the FSC without signal, with and without a mask."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps import fourier_shell_correlation, spherical_mask
from cryoloom.maps.freedom import effective_counts
from cryoloom.maps.permutation import permuted_fsc

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_interval import halves_with


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
