"""Poses of simulated particles: uniform, or crowded around preferred views."""

import math

import torch
from torch import Tensor

from cryoloom.geometry import grid_rotations, random_rotations, rotation_about_z


def sample_rotations(
    n: int,
    generator: torch.Generator,
    *,
    preferred_fraction: float = 0.0,
    preferred_axis: tuple[float, float, float] = (0.0, 0.0, 1.0),
    spread: float = math.radians(12),
) -> Tensor:
    """Rotations `(n, 3, 3)` float64.

    Parameters
    ----------
    preferred_fraction
        Share of particles that look along plus or minus the axis; the others are uniform.
    preferred_axis
        xyz in the frame of the volume.
    spread
        Standard deviation of the angle to the axis along each direction, radians.
    """
    rotations = random_rotations(n, generator)
    n_preferred = int(round(preferred_fraction * n))
    if n_preferred == 0:
        return rotations
    axis = torch.tensor(preferred_axis, dtype=torch.float64)
    axis = axis / axis.norm()
    sign = torch.randint(0, 2, (n_preferred, 1), generator=generator) * 2.0 - 1.0
    direction = sign * axis + spread * torch.randn(n_preferred, 3, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    psi = 2 * math.pi * torch.rand(n_preferred, generator=generator, dtype=torch.float64)
    rotations[:n_preferred] = grid_rotations(direction) @ rotation_about_z(psi)
    return rotations[torch.randperm(n, generator=generator)]
