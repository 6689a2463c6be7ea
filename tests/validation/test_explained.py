"""A true map explains the signal of the images, whatever their noise; one averaged over a false symmetry does not."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.maps import apply_bfactor, fourier_shell_correlation, spherical_mask
from cryoloom.validation.explained import explained_share
from cryoloom.validation.posed import reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed

EXECUTOR = ThreadExecutor(1)


def explained(n: int, snr: float, symmetry: str = "C1", first: int = 4, last: int = 8):
    """Of the map of images at their true poses, under a symmetry that the particle lacks unless it is C1."""
    bed = make_bed(n, snr=snr)
    posed = bed.posed()
    mask = spherical_mask(44, 0.55 * bed.diameter / 4.4, 3.0)
    halves = tuple(reconstruct(posed, posed.of_half(h), EXECUTOR, symmetry=symmetry) * mask for h in (1, 2))
    fsc = fourier_shell_correlation(*halves).numpy()
    return explained_share(posed, halves, fsc, EXECUTOR, first=first, last=last)


@pytest.mark.parametrize("snr", [0.2, 0.06])
def test_the_true_map_explains_all_of_the_signal_whatever_the_noise(snr):
    found = explained(240, snr)
    assert found.share == pytest.approx(1.0, abs=0.15 + 3 * found.standard_error)
    assert found.signal_z > 5 and found.background_ratio == pytest.approx(1.0, abs=0.1)


def test_a_filter_on_the_maps_changes_nothing():
    bed = make_bed(120, snr=0.2)
    posed = bed.posed()
    mask = spherical_mask(44, 0.55 * bed.diameter / 4.4, 3.0)
    halves = tuple(reconstruct(posed, posed.of_half(h), EXECUTOR) * mask for h in (1, 2))
    fsc = fourier_shell_correlation(*halves).numpy()
    sharp = tuple(apply_bfactor(half, 4.4, -800.0) for half in halves)
    plain, sharper = (explained_share(posed, pair, fsc, EXECUTOR, first=4, last=8) for pair in (halves, sharp))
    assert sharper.share == pytest.approx(plain.share, rel=0.03)


def test_a_false_symmetry_explains_a_part_of_it():
    found = explained(240, 0.2, "D2")
    assert found.share + 2 * found.standard_error < 0.75
    assert np.nanmean(found.by_shell[2:4]) > np.nanmean(found.by_shell[7:9])


def test_images_of_noise_hold_no_signal():
    assert explained(80, 0.0).signal_z < 5


def test_shells_outside_the_images_are_refused():
    with pytest.raises(ValueError, match="last"):
        explained(80, 0.2, last=30)
