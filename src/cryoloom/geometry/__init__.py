"""Rotations, symmetry groups and grids of directions."""

from cryoloom.geometry.directions import direction_grid, grid_rotations
from cryoloom.geometry.rotation import (
    axis_angle_to_matrix,
    euler_to_matrix,
    matrix_to_axis_angle,
    matrix_to_euler,
    random_rotations,
    rotation_about_z,
    rotation_angle,
)
from cryoloom.geometry.symmetry import pose_distance, reduce_to_asymmetric_unit, symmetry_matrices

__all__ = [
    "axis_angle_to_matrix",
    "direction_grid",
    "euler_to_matrix",
    "grid_rotations",
    "matrix_to_axis_angle",
    "matrix_to_euler",
    "pose_distance",
    "random_rotations",
    "reduce_to_asymmetric_unit",
    "rotation_about_z",
    "rotation_angle",
    "symmetry_matrices",
]
