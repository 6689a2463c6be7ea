"""Right poses are told from wrong ones, particles from noise, and the map from decoys."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.geometry import random_rotations
from cryoloom.maps.filter import lowpass
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.maps.spectrum import radial_power
from cryoloom.validation.decoys import compare_with_decoys, make_decoy, search_anew
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.posed import reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed

EXECUTOR = ThreadExecutor(1)
RADIUS = 10


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    return float(np.mean((good[:, None] > bad) + 0.5 * (good[:, None] == bad)))


def half_maps(posed):
    return tuple(lowpass(reconstruct(posed, posed.of_half(h), EXECUTOR), posed.source.pixel_size, 18.0) for h in (1, 2))


def test_a_decoy_has_the_spectrum_of_the_map_and_nothing_else_of_it():
    bed = make_bed(1)
    volume = torch.from_numpy(bed.volume.data)
    mask = soft_mask_from_map(volume, bed.volume.pixel_size)
    decoy = make_decoy(volume, mask, torch.Generator().manual_seed(0))
    ratio = (radial_power(decoy) / radial_power(volume * mask))[2:16]
    assert (ratio.log().abs() < 0.35).all()
    inside = mask > 0.9
    assert abs(np.corrcoef(decoy[inside], volume[inside])[0, 1]) < 0.35


@pytest.mark.slow
@pytest.mark.capability("VAL-4")
def test_right_poses_are_told_from_wrong_ones(measure):
    bed = make_bed(600, seed=3)
    posed = bed.posed()
    made_of, asked = posed.of_half(1), posed.of_half(2)
    volume = lowpass(reconstruct(posed, made_of, EXECUTOR), bed.volume.pixel_size, 15.0)
    volume = volume * soft_mask_from_map(volume, bed.volume.pixel_size)
    wrong = np.arange(len(asked)) % 2 == 1
    rotation = asked.rotation.copy()
    rotation[wrong] = random_rotations(int(wrong.sum()), torch.Generator().manual_seed(9)).numpy()
    mixed = asked.select(np.arange(len(asked)))
    mixed.rotation[:] = rotation
    scale = fit_grey_scale(posed, volume, asked, EXECUTOR, RADIUS)
    search = search_anew(posed, volume * scale, mixed, EXECUTOR, radius=RADIUS)
    area = area_under_curve(search.alignability[~wrong], search.alignability[wrong])
    measure(
        round(area, 4), "AUC", ">= 0.8", note=f"{len(asked)} images, SNR 0.05 at 4.4 Å/pixel, half of the poses wrong"
    )
    assert area >= 0.8


@pytest.mark.slow
def test_the_map_beats_its_decoys_and_a_map_of_noise_does_not():
    bed = make_bed(400, seed=4, snr=0.15)
    posed = bed.posed()
    maps = half_maps(posed)
    mask = soft_mask_from_map(sum(maps) / 2, bed.volume.pixel_size)
    generator = torch.Generator().manual_seed(1)
    test, search, _ = compare_with_decoys(posed, maps, mask, EXECUTOR, generator, radius=RADIUS, largest_number=200)
    assert test.z > 10 and test.auc > 0.8
    assert np.median(search.angle) < np.deg2rad(20)
    rng = np.random.default_rng(0)
    noise = bed.posed(images=rng.normal(size=bed.images.shape).astype(np.float32))
    false, _, _ = compare_with_decoys(noise, maps, mask, EXECUTOR, generator, radius=RADIUS, largest_number=200)
    assert abs(false.z) < 4 and false.auc < 0.6
