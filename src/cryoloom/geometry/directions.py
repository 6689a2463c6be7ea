"""Even grids of viewing directions (HEALPix) and of rotations.

HEALPix (Gorski et al. 2005, doi:10.1086/427976) divides the sphere into `12 * n_side**2` cells of equal
area; here `n_side` may be any positive integer (ring ordering), so that the spacing can be chosen finely.
"""

import math

import torch
from torch import Tensor

from cryoloom.geometry.rotation import euler_to_matrix


def direction_grid(n_side: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Centres of the HEALPix cells in ring order, unit vectors xyz, `(12 * n_side**2, 3)`.

    The mean spacing is about `58.6 / n_side` degrees.
    """
    if n_side < 1:
        raise ValueError(f"n_side: expected a positive integer, got {n_side}")
    z_rings, azimuths = [], []
    for ring in range(1, 4 * n_side):
        if ring < n_side or ring > 3 * n_side:
            i = ring if ring < n_side else 4 * n_side - ring
            z = 1 - i * i / (3 * n_side * n_side)
            z = z if ring < n_side else -z
            phi = (torch.arange(4 * i, dtype=dtype) + 0.5) * (math.pi / (2 * i))
        else:
            z = (2 * n_side - ring) * 2 / (3 * n_side)
            offset = 0.5 * ((ring - n_side + 1) % 2)
            phi = (torch.arange(4 * n_side, dtype=dtype) + offset) * (math.pi / (2 * n_side))
        z_rings.append(torch.full_like(phi, z))
        azimuths.append(phi)
    z_all, phi_all = torch.cat(z_rings), torch.cat(azimuths)
    radius = (1 - z_all**2).clamp_min(0).sqrt()
    return torch.stack([radius * phi_all.cos(), radius * phi_all.sin(), z_all], dim=-1)


def grid_rotations(directions: Tensor) -> Tensor:
    """Rotations with `psi = 0` that look along `directions`, `(n, 3)` to `(n, 3, 3)`.

    The viewing direction of `R` is its third column, `R @ (0, 0, 1)`.
    """
    rot = torch.atan2(directions[..., 1], directions[..., 0])
    tilt = torch.atan2(torch.hypot(directions[..., 0], directions[..., 1]), directions[..., 2])
    return euler_to_matrix(torch.stack([rot, tilt, torch.zeros_like(rot)], dim=-1))
