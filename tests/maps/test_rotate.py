"""Maps turn and move as the conventions say."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from cryoloom.geometry import euler_to_matrix, random_rotations
from cryoloom.maps import fourier_shell_correlation, lowpass
from cryoloom.maps.rotate import sample_spectrum, spline_spectrum, transform_map


def points_map(box: int, points: list[tuple[float, float, float]], sigma: float = 1.6) -> torch.Tensor:
    """Gaussians at xyz positions from the centre voxel."""
    c = torch.arange(box, dtype=torch.float64) - box // 2
    total = torch.zeros(box, box, box, dtype=torch.float64)
    for weight, (x, y, z) in enumerate(points, start=1):
        line = [torch.exp(-((c - q) ** 2) / (2 * sigma**2)) for q in (z, y, x)]
        total += weight * line[0][:, None, None] * line[1][:, None] * line[2]
    return total.float()


POINTS = [(5.0, -3.0, 2.0), (-4.0, 6.0, 1.0), (2.0, 2.0, -7.0)]


@pytest.mark.parametrize("box", [32, 33])
def test_points_land_where_the_rotation_and_the_shift_put_them(box):
    rotation = random_rotations(1, torch.Generator().manual_seed(3))[0]
    shift = torch.tensor([1.3, -2.2, 0.4])  # zyx
    moved = [tuple((rotation @ torch.tensor(p, dtype=torch.float64) + shift.flip(0)).tolist()) for p in POINTS]
    found = transform_map(points_map(box, POINTS), rotation, shift)
    torch.testing.assert_close(found, points_map(box, moved), atol=0.02, rtol=0)


def test_a_quarter_turn_about_z_takes_x_to_y():
    turned = transform_map(points_map(32, [(6.0, 0.0, 0.0)]), euler_to_matrix(torch.tensor([math.pi / 2, 0.0, 0.0])))
    assert divmod(int(turned.argmax()), 32 * 32) == (16, 22 * 32 + 16)


def test_turning_there_and_back_keeps_the_map_up_to_high_frequency():
    noise = torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(1))
    blob = scipy.ndimage.gaussian_filter(
        torch.zeros(48, 48, 48).index_put((torch.tensor(24),) * 3, torch.tensor(1.0)).numpy(), 6
    )
    volume = lowpass(noise * torch.from_numpy(blob / blob.max()), 1.0, 2.5)
    rotation = random_rotations(1, torch.Generator().manual_seed(4))[0]
    back = transform_map(transform_map(volume, rotation), rotation.T)
    assert fourier_shell_correlation(back, volume)[:19].min() > 0.995


@pytest.mark.parametrize("box", [16, 17])
@pytest.mark.parametrize("degree", [1, 3])
def test_samples_at_the_last_frequencies_are_those_of_the_volume(box, degree):
    """Windows there reach beyond the spectrum, which repeats."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 1) ** 2 + (y + 1) ** 2 + (z - 0.5) ** 2) / 1.2)
    last = (box - 1) // 2
    points = np.array([[a, b, c] for a in (-last, 0, last) for b in (-last, 0, last) for c in (-last, 0, last)], float)
    places = torch.stack([x, y, z], -1).reshape(-1, 3).numpy()
    expected = np.exp(-2j * np.pi * points @ places.T / box) @ volume.reshape(-1).numpy()
    found = sample_spectrum(spline_spectrum(volume, degree=degree), points)
    assert np.abs(found - expected).max() < (0.15 if degree == 1 else 0.03) * float(volume.sum())
