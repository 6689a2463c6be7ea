"""Two maps are laid on each other from any rotation, place and hand."""

import math
import sys
from pathlib import Path

import pytest
import torch

from cryoloom.geometry import axis_angle_to_matrix, random_rotations, rotation_angle
from cryoloom.maps import fourier_shell_correlation
from cryoloom.maps.rotate import transform_map
from cryoloom.maps.superpose import mirror_z, superpose, superpose_near

sys.path.insert(0, str(Path(__file__).resolve().parent))
from phantoms import protein_like


@pytest.mark.parametrize("seed, mirrored", [(0, False), (1, True)])
def test_a_turned_moved_noisy_map_is_brought_back_in_its_right_hand(seed, mirrored):
    pixel_size, box = 3.0, 48
    generator = torch.Generator().manual_seed(seed)
    fixed = protein_like(box, pixel_size, 38.0, seed)
    rotation = random_rotations(1, generator)[0]
    shift = torch.tensor([4.0, -6.5, 3.2], dtype=torch.float64)  # Å, zyx
    moving = transform_map(fixed, rotation, shift / pixel_size)
    moving = moving + 0.5 * float(moving.std()) * torch.randn(moving.shape, generator=generator)
    if mirrored:
        moving = mirror_z(moving)
    found = superpose(fixed, moving, pixel_size, resolution=8.0)
    assert found.mirrored == mirrored
    assert math.degrees(float(rotation_angle(found.rotation @ rotation))) < 0.5
    residual = found.rotation @ shift.flip(0) + found.shift.flip(0)
    assert float(residual.norm()) < 0.3
    assert found.correlation > found.correlation_other_hand + 0.1
    assert fourier_shell_correlation(found.apply(moving), fixed)[1:16].min() > 0.8


def test_mirroring_twice_gives_the_map_back_and_keeps_the_centre():
    for box in (8, 9):
        volume = torch.randn(box, box, box)
        assert torch.equal(mirror_z(mirror_z(volume)), volume)
        assert torch.equal(mirror_z(volume)[box // 2], volume[box // 2])


def test_maps_of_different_size_are_refused():
    with pytest.raises(ValueError, match="expected the shape of fixed"):
        superpose(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9), 1.0)


def test_a_small_drift_is_found_without_a_search_at_low_resolution():
    pixel_size, box = 3.0, 48
    fixed = protein_like(box, pixel_size, 38.0, 3)
    turn = axis_angle_to_matrix(torch.tensor([0.02, -0.03, 0.01], dtype=torch.float64))
    shift = torch.tensor([1.0, -0.6, 0.4], dtype=torch.float64)  # Å, zyx
    moving = transform_map(fixed, turn, shift / pixel_size)
    moving = moving + 0.5 * float(moving.std()) * torch.randn(moving.shape, generator=torch.Generator().manual_seed(1))
    found = superpose_near(fixed, moving, pixel_size, resolution=20.0)
    assert math.degrees(float(rotation_angle(found.rotation @ turn))) < 0.3  # of 2.1
    assert float((found.rotation @ shift.flip(0) + found.shift.flip(0)).norm()) < 0.2  # of 1.2
    with pytest.raises(ValueError, match="expected the shape of fixed"):
        superpose_near(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9), 1.0, resolution=4.0)
