"""Slices and their adjoint: analytic truth, adjointness, agreement of the bodies, independence of slabs."""

import math

import pytest
import torch

from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.fourier.slices import (
    complete_sums,
    disc_points,
    empty_sums,
    extract_points,
    extract_slices,
    insert_points,
    largest_radius,
    prepare_volume,
    restore_volume,
    split_sums,
)
from cryoloom.geometry import euler_to_matrix, random_rotations


def _gaussian(box: int, centre_xyz: tuple[float, float, float], width: float, dtype=torch.float64) -> torch.Tensor:
    axis = torch.arange(box, dtype=dtype) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    cx, cy, cz = centre_xyz
    return torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width**2))


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_slice_of_a_shifted_gaussian_is_its_analytic_transform(box, dtype):
    generator = torch.Generator().manual_seed(1)
    position, width = (1.0, -2.0, 0.5), 1.5
    volume = _gaussian(box, position, width, dtype)
    rotations = random_rotations(4, generator)
    spectrum = prepare_volume(volume)
    points, _ = disc_points(box, box, spectrum.radius)
    samples = extract_points(spectrum, rotations, points)
    k = torch.einsum("pij,kj->pki", rotations[..., :2], points) / box
    amplitude = (2 * math.pi * width**2) ** 1.5 * torch.exp(-2 * (math.pi * width) ** 2 * (k**2).sum(-1))
    phase = -2 * math.pi * (k @ torch.tensor(position, dtype=torch.float64))
    expected = torch.polar(amplitude, phase)
    # 2 %: the error of the trilinear kernel itself
    assert (samples.to(torch.complex128) - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_bright_voxel_projects_where_the_conventions_say():
    box = 32
    volume = _gaussian(box, (5.0, -3.0, 2.0), 1.2)
    for euler, xy in [((0, 0, 90), (-3, -5)), ((0, 90, 0), (-2, -3)), ((90, 90, 0), (-2, -5))]:
        rotation = euler_to_matrix(torch.deg2rad(torch.tensor([euler], dtype=torch.float64)))
        image = dft_to_image(extract_slices(prepare_volume(volume), rotation, (box, box)), (box, box))[0]
        y, x = divmod(int(image.argmax()), box)
        assert (x - box // 2, y - box // 2) == xy


@pytest.mark.parametrize("box", [20, 21])
def test_restoring_a_prepared_volume_gives_it_back_up_to_the_band_limit(box):
    volume = _gaussian(box, (1.0, 2.0, -1.0), 2.0)
    restored = restore_volume(prepare_volume(volume), correct=False)
    profile = torch.sinc((torch.arange(box, dtype=torch.float64) - box // 2) / (2 * box)) ** 2
    restored = restored * profile[:, None, None] * profile[:, None] * profile
    torch.testing.assert_close(restored, volume, atol=2e-3, rtol=0)


def test_the_unrotated_slice_is_the_transform_of_the_projection():
    box = 24
    volume = _gaussian(box, (1.0, 0.5, 2.0), 1.2)
    slices = extract_slices(prepare_volume(volume), torch.eye(3, dtype=torch.float64)[None], (box, box))[0]
    expected = image_to_dft(volume.sum(0))
    points, place = disc_points(box, box, largest_radius(box))
    torch.testing.assert_close(
        slices.reshape(-1)[place], expected.reshape(-1)[place], atol=0.02 * float(expected.abs().max()), rtol=0
    )


def test_insertion_is_the_exact_adjoint_of_extraction():
    generator = torch.Generator().manual_seed(2)
    box = 16
    spectrum = prepare_volume(torch.randn(box, box, box, generator=generator, dtype=torch.float64))
    rotations = random_rotations(5, generator)
    points, _ = disc_points(box, box, spectrum.radius)
    values = torch.randn(5, len(points), dtype=torch.complex128, generator=generator)
    samples = extract_points(spectrum, rotations, points)
    sums = empty_sums(spectrum.radius, dtype=torch.float64)
    insert_points(sums, rotations, points, values, torch.ones(5, len(points), dtype=torch.float64))
    complete_sums(sums)
    numerator, weight = split_sums(sums)
    column = torch.full((numerator.shape[-1],), 2.0, dtype=torch.float64)
    column[0] = 1.0
    left = 2 * (samples.conj() * values).real.sum()
    right = ((spectrum.values.conj() * numerator).real * column).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((weight * column).sum(), torch.tensor(2.0 * 5 * len(points), dtype=torch.float64))


def test_the_fast_bodies_equal_their_float64_twins():
    generator = torch.Generator().manual_seed(3)
    box = 20
    volume = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    rotations = random_rotations(6, generator)
    exact, fast = prepare_volume(volume), prepare_volume(volume.float())
    points, _ = disc_points(box, box, exact.radius - 0.5)
    a, b = extract_points(exact, rotations, points), extract_points(fast, rotations, points)
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    weights = torch.rand(6, len(points), generator=generator, dtype=torch.float64)
    sums64, sums32 = empty_sums(exact.radius, dtype=torch.float64), empty_sums(exact.radius)
    insert_points(sums64, rotations, points, a, weights)
    insert_points(sums32, rotations, points, a, weights)
    assert (sums64 - sums32).abs().max() < 1e-5 * sums64.abs().max()


def test_slabs_do_not_change_a_bit_of_the_sums():
    generator = torch.Generator().manual_seed(4)
    box, n = 24, 20
    radius = largest_radius(box)
    points, _ = disc_points(box, box, radius)
    rotations = random_rotations(n, generator)
    values = torch.randn(n, len(points), dtype=torch.complex64, generator=generator)
    weights = torch.rand(n, len(points), generator=generator)
    whole, parts = empty_sums(radius), empty_sums(radius)
    insert_points(whole, rotations, points, values, weights)
    edges = [0, 5, 17, 18, 30, whole.shape[0]]
    for low, high in reversed(list(zip(edges[:-1], edges[1:], strict=True))):
        insert_points(parts, rotations, points, values, weights, z_slab=(low, high))
    assert torch.equal(whole, parts)
