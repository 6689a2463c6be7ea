"""Rotations: `R = Rz(rot) @ Ry(tilt) @ Rz(psi)`, active, right-handed, image frame to volume frame.

Equal to SciPy's `Rotation.from_euler("ZYZ", ...)` and the transpose of the matrix RELION builds. Euler
angles occur in files only; everything else uses matrices.
"""

import torch
from torch import Tensor


def rotation_about_z(angle: Tensor) -> Tensor:
    """Matrices `Rz(angle)`, radians, `(*batch,)` to `(*batch, 3, 3)`."""
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def _rotation_about_y(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=-1).unflatten(-1, (3, 3))


def euler_to_matrix(euler: Tensor) -> Tensor:
    """`(*batch, 3)` of rot, tilt, psi in radians to `(*batch, 3, 3)`."""
    rot, tilt, psi = euler.unbind(-1)
    return rotation_about_z(rot) @ _rotation_about_y(tilt) @ rotation_about_z(psi)


def matrix_to_euler(rotation: Tensor) -> Tensor:
    """`(*batch, 3, 3)` to rot, tilt, psi in radians, `(*batch, 3)`; tilt in [0, π].

    At tilt 0 and π only the sum or difference of rot and psi is defined; rot is then 0.
    """
    sin_tilt = torch.hypot(rotation[..., 0, 2], rotation[..., 1, 2])
    tilt = torch.atan2(sin_tilt, rotation[..., 2, 2])
    regular = sin_tilt > 1e-7
    rot = torch.where(regular, torch.atan2(rotation[..., 1, 2], rotation[..., 0, 2]), 0.0)
    psi_regular = torch.atan2(rotation[..., 2, 1], -rotation[..., 2, 0])
    psi_pole = torch.atan2(rotation[..., 1, 0], rotation[..., 1, 1])
    psi = torch.where(regular, psi_regular, psi_pole)
    return torch.stack([rot, tilt, psi], dim=-1)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation vectors in radians, `(*batch, 3)`, to matrices `(*batch, 3, 3)` (Rodrigues)."""
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    angle2 = (axis_angle**2).sum(-1)[..., None, None]
    small = angle2 < 1e-8
    safe = torch.where(small, torch.ones_like(angle2), angle2)
    angle = safe.sqrt()
    a = torch.where(small, 1 - angle2 / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - angle2 / 24, (1 - angle.cos()) / safe)
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + a * cross + b * (cross @ cross)


def matrix_to_axis_angle(rotation: Tensor) -> Tensor:
    """Matrices `(*batch, 3, 3)` to rotation vectors of length at most π, `(*batch, 3)`."""
    quaternion = _matrix_to_quaternion(rotation)
    w, v = quaternion[..., 0], quaternion[..., 1:]
    sine = v.norm(dim=-1)
    angle = 2 * torch.atan2(sine, w)
    scale = torch.where(sine > 1e-12, angle / sine.clamp_min(1e-12), torch.full_like(sine, 2.0))
    return v * scale[..., None]


def _matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """`(*batch, 3, 3)` to `(*batch, 4)` with `w >= 0`, by the largest component (Shepperd 1978)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (r.unbind(-1) for r in rotation.unbind(-2))
    trace = xx + yy + zz
    diagonal = torch.stack([trace, xx, yy, zz], dim=-1)
    rows = [
        [1 + trace, zy - yz, xz - zx, yx - xy],
        [zy - yz, 1 + 2 * xx - trace, xy + yx, xz + zx],
        [xz - zx, xy + yx, 1 + 2 * yy - trace, yz + zy],
        [yx - xy, xz + zx, yz + zy, 1 + 2 * zz - trace],
    ]
    candidates = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # (*batch, 4 candidates, 4)
    best = diagonal.argmax(-1)[..., None, None].expand(*diagonal.shape[:-1], 1, 4)
    quaternion = candidates.gather(-2, best)[..., 0, :]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_angle(rotation: Tensor) -> Tensor:
    """Angle of rotations, radians in [0, π], `(*batch, 3, 3)` to `(*batch,)`; accurate near 0 too."""
    trace = rotation[..., 0, 0] + rotation[..., 1, 1] + rotation[..., 2, 2]
    skew = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    return torch.atan2(skew.norm(dim=-1), trace - 1)


def random_rotations(n: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """`(n, 3, 3)` rotations, uniform over SO(3) (normalised Gaussian quaternions), on the CPU."""
    q = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3)).to(dtype)
