"""Detail that is in the images goes when their phases are made random; amplitudes and low frequencies stay."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.fourier import rfftn, shell_index
from cryoloom.maps import spherical_mask
from cryoloom.validation.random_phases import RandomisedImages, compare_random_phases

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import InMemory, make_bed


def test_images_keep_amplitudes_and_low_shells_and_are_the_same_each_time():
    images = torch.randn(4, 20, 20, generator=torch.Generator().manual_seed(0)).numpy()
    reader = RandomisedImages(InMemory(images), 5, seed=3)
    found = reader.read(np.array([1, 3]))
    np.testing.assert_array_equal(found[1:], reader.read(np.array([3])))
    before, after = (rfftn(torch.from_numpy(x), 2) for x in (images[[1, 3]], found))
    torch.testing.assert_close(before.abs(), after.abs(), atol=1e-3, rtol=1e-3)
    low = shell_index((20, 20)) < 5
    torch.testing.assert_close(before[:, low], after[:, low], atol=1e-4, rtol=1e-4)
    assert float((before - after).abs()[:, ~low].mean()) > 1.0


def test_true_detail_goes_with_the_phases():
    bed = make_bed(240, seed=1, snr=0.2)
    mask = spherical_mask(44, 0.55 * bed.diameter / 4.4, 4.0)
    randomised = RandomisedImages(InMemory(bed.images), 6, seed=0)
    posed, other = bed.posed(), bed.posed(images=randomised.read(np.arange(240)))
    found = compare_random_phases(posed, other, mask, ThreadExecutor(1), from_shell=6, last_shell=13, rounds=2)
    true, left = found.beyond
    assert true > 0.35 and abs(left) < 0.15, (true, left)
    assert found.randomised[2:5].min() > 0.5 and found.signal[8:14].mean() == pytest.approx(true, abs=0.15)


def test_too_few_shells_to_judge_are_refused():
    bed = make_bed(20, seed=1, snr=0.2)
    with pytest.raises(ValueError, match="from_shell"):
        compare_random_phases(
            bed.posed(), bed.posed(), torch.ones(44, 44, 44), ThreadExecutor(1), from_shell=8, last_shell=10
        )
