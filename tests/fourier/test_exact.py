"""Samples of a volume's transform against the plain sum over voxels."""

import numpy as np
import pytest
import torch

from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.fourier.exact import _sample_torch, exact_spectrum, project_dft, sample_spectrum
from cryoloom.geometry import euler_to_matrix, random_rotations


def plain_sum(volume, points):
    """`Σ V(r) exp(-2πi k·r / n)`, r from the centre voxel; points xyz in Fourier pixels."""
    n = volume.shape[0]
    r = torch.arange(n, dtype=torch.float64) - n // 2
    wave = [torch.exp(-2j * torch.pi * points[:, i : i + 1] * r / n) for i in (2, 1, 0)]
    return torch.einsum("zyx,kz,ky,kx->k", volume.to(torch.complex128), *wave)


@pytest.mark.parametrize("n", [24, 25, 32])
def test_samples_equal_the_plain_sum_anywhere_up_to_nyquist(n):
    generator = torch.Generator().manual_seed(n)
    volume = torch.randn(n, n, n, generator=generator)
    points = (torch.rand(600, 3, generator=generator, dtype=torch.float64) - 0.5) * n
    points = points[points.norm(dim=1) < n / 2]
    expected = plain_sum(volume, points)
    spectrum = exact_spectrum(volume)
    found = sample_spectrum(spectrum, points)
    assert (found - expected).abs().pow(2).mean().sqrt() < 1e-4 * expected.abs().pow(2).mean().sqrt()
    twin = _sample_torch(spectrum, points)
    assert (twin - found).abs().max() < 2e-5 * expected.abs().max()


def test_points_beyond_the_radius_give_zero():
    spectrum = exact_spectrum(torch.randn(16, 16, 16), radius=5)
    assert sample_spectrum(spectrum, torch.tensor([[6.0, 0.0, 0.0]], dtype=torch.float64)) == 0


@pytest.mark.parametrize("box", [32, 33])
def test_a_projection_down_the_axis_is_the_sum_along_z(box):
    # a band-limited volume: a blob, off the centre
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 3) ** 2 + (y + 2) ** 2 + (z - 1) ** 2) / 8).to(torch.float32)
    image = dft_to_image(project_dft(exact_spectrum(volume), torch.eye(3)[None]), (box, box))[0]
    torch.testing.assert_close(image, volume.sum(0), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("euler_deg", "xy"), [((0, 0, 90), (-3, -5)), ((0, 90, 0), (-2, -3)), ((90, 90, 0), (-2, -5))])
def test_a_point_lands_where_the_conventions_say(euler_deg, xy):
    box = 32
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 5) ** 2 + (y + 3) ** 2 + (z - 2) ** 2) / 4)
    rotation = euler_to_matrix(torch.deg2rad(torch.tensor(euler_deg, dtype=torch.float64)))
    image = dft_to_image(project_dft(exact_spectrum(volume), rotation[None]), (box, box))[0]
    peak = np.unravel_index(int(image.argmax()), image.shape)
    assert (peak[1] - box // 2, peak[0] - box // 2) == xy


def test_a_larger_box_samples_the_same_projection_on_a_wider_field():
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(24, dtype=torch.float32) - 12
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 3) ** 2 + y**2 + (z - 2) ** 2) / 6)
    rotation = random_rotations(1, generator)
    spectrum = exact_spectrum(volume)
    small = dft_to_image(project_dft(spectrum, rotation), (24, 24))[0]
    large = dft_to_image(project_dft(spectrum, rotation, 40), (40, 40))[0]
    torch.testing.assert_close(large[8:32, 8:32], small, atol=3e-4, rtol=0)


def test_the_spectrum_is_that_of_the_volume():
    volume = torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0))
    dft = image_to_dft(volume, 3)
    points = torch.tensor([[1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = sample_spectrum(exact_spectrum(volume), points)
    expected = torch.stack([dft[3, 2, 1], dft[6, -5, 4], dft[0, 0, 0]])
    torch.testing.assert_close(found, expected, atol=3e-3, rtol=1e-4)
