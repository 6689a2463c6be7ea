import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoloom.geometry import (
    axis_angle_to_matrix,
    direction_grid,
    euler_to_matrix,
    grid_rotations,
    matrix_to_axis_angle,
    matrix_to_euler,
    pose_distance,
    random_rotations,
    reduce_to_asymmetric_unit,
    rotation_about_z,
    rotation_angle,
    symmetry_matrices,
)

GROUPS = {"C1": 1, "C4": 4, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def degrees(*values):
    return torch.deg2rad(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("angles, place", [((0, 0, 90), (-3, -5)), ((0, 90, 0), (-2, -3)), ((90, 90, 0), (-2, -5))])
def test_a_point_lands_where_the_table_of_conventions_says(angles, place):
    point = torch.tensor([5.0, -3.0, 2.0], dtype=torch.float64)
    landed = euler_to_matrix(degrees(*angles)).T @ point
    torch.testing.assert_close(landed[:2], torch.tensor(place, dtype=torch.float64))


def test_euler_angles_are_those_of_scipy():
    rotations = random_rotations(200, torch.Generator().manual_seed(0))
    euler = matrix_to_euler(rotations)
    np.testing.assert_allclose(Rotation.from_euler("ZYZ", euler.numpy()).as_matrix(), rotations, atol=1e-12)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_euler_angles_survive_the_poles(tilt):
    rotation = euler_to_matrix(degrees(30.0, tilt, 50.0))
    torch.testing.assert_close(euler_to_matrix(matrix_to_euler(rotation)), rotation)


def test_rotation_vectors_are_those_of_scipy():
    vectors = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors[0] = 0
    vectors[1] *= 1e-9
    matrices = axis_angle_to_matrix(vectors)
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(vectors.numpy()).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(axis_angle_to_matrix(matrix_to_axis_angle(matrices)), matrices, atol=1e-12)


def test_the_angle_of_a_tiny_rotation_is_exact():
    tiny = axis_angle_to_matrix(torch.tensor([0.0, 1e-7, 0.0], dtype=torch.float64))
    assert abs(float(rotation_angle(tiny)) - 1e-7) < 1e-15


@pytest.mark.parametrize("name, order", GROUPS.items())
def test_groups_have_their_order_and_are_closed(name, order):
    group = symmetry_matrices(name)
    assert len(group) == order
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64))
    products = (group[:, None] @ group[None]).reshape(-1, 3, 3)
    nearest = torch.stack([(products - g).abs().amax((1, 2)) for g in group]).amin(0)
    assert float(nearest.max()) < 1e-9


def test_axes_of_the_groups_are_those_of_the_table():
    def has(name, axis, fold):
        axis = torch.tensor(axis, dtype=torch.float64)
        turn = axis_angle_to_matrix(axis / axis.norm() * (2 * torch.pi / fold))
        return bool((symmetry_matrices(name) - turn).abs().amax((1, 2)).min() < 1e-9)

    golden = (1 + 5**0.5) / 2
    assert has("D3", (0, 0, 1), 3) and has("D3", (1, 0, 0), 2)
    assert has("T", (0, 0, 1), 3) and not has("T", (0, 0, 1), 2)
    assert has("O", (0, 0, 1), 4) and has("O", (1, 1, 1), 3)
    assert has("I2", (0, 0, 1), 2) and has("I2", (1, 0, golden), 5)
    assert has("I1", (0, 1, golden), 5) and not has("I1", (1, 0, golden), 5)
    assert has("I3", (0, 0, 1), 5) and has("I4", (0, 0, 1), 5)


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="symmetry"):
        symmetry_matrices("Q5")


@pytest.mark.parametrize("name", ["C1", "D7", "O"])
def test_equivalent_poses_have_no_distance(name):
    rotations = random_rotations(20, torch.Generator().manual_seed(2))
    group = symmetry_matrices(name)
    moved = group[-1] @ rotations
    assert float(pose_distance(rotations, moved, name).max()) < 1e-6
    reduced = reduce_to_asymmetric_unit(moved, name)
    torch.testing.assert_close(reduced, reduce_to_asymmetric_unit(rotations, name))


@pytest.mark.parametrize("n_side", [1, 2, 3, 5, 8])
def test_directions_are_even_over_the_sphere(n_side):
    grid = direction_grid(n_side)
    assert grid.shape == (12 * n_side**2, 3)
    torch.testing.assert_close(grid.norm(dim=-1), torch.ones(len(grid), dtype=torch.float64))
    second_moment = grid.T @ grid / len(grid)
    assert float((second_moment - torch.eye(3, dtype=torch.float64) / 3).abs().max()) < 0.04 / n_side**2


def test_directions_are_those_of_healpix():
    healpix = pytest.importorskip("astropy_healpix")
    for n_side in (1, 2, 4, 8):
        expected = np.stack(healpix.healpix_to_xyz(np.arange(12 * n_side**2), n_side), -1)
        np.testing.assert_allclose(direction_grid(n_side), expected, atol=1e-14)


def test_a_grid_rotation_looks_along_its_direction():
    grid = direction_grid(3)
    rotations = grid_rotations(grid)
    torch.testing.assert_close(rotations[..., 2], grid)
    turned = rotations @ rotation_about_z(torch.full((len(grid),), 0.7, dtype=torch.float64))
    torch.testing.assert_close(turned[..., 2], grid)
