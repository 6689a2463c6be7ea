"""Point-group symmetry applied to Fourier sums, not to insertions.

The group is split as `G = {c e}` with `e` the operators that map the grid onto itself (signed permutations: all
of D2, T on its axes, O; part of the others), which are exact, and `c` coset representatives, which are
interpolated trilinearly. Each interpolation blurs once more; `symmetry_profile` is the factor by which this
dims the volume away from the centre.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.fourier.slices import kernel_profile
from cryoloom.geometry import symmetry_matrices

f32 = np.float32


def split_group(symmetry: str) -> tuple[np.ndarray, np.ndarray]:
    """Coset representatives `c` and exact operators `e`, `(a, 3, 3)` and `(b, 3, 3)`, identity first; `G = {c e}`."""
    group = symmetry_matrices(symmetry).numpy()
    exact = [g for g in group if np.abs(np.abs(g) - np.rint(np.abs(g))).max() < 1e-6]
    left = list(range(len(group)))
    representatives = []
    while left:
        c = group[left[0]]
        representatives.append(c)
        coset = [c @ e for e in exact]
        left = [i for i in left if all(np.abs(group[i] - m).max() > 1e-6 for m in coset)]
    return np.array(representatives), np.array([np.rint(e) for e in exact])


def symmetrise_sums(sums: Tensor, symmetry: str, executor: Executor) -> Tensor:
    """Sum over the group of completed sums `(2n+1, 2n+1, n+2, 4)`, zero beyond the sphere; the input may be used up."""
    packed = sums.numpy()
    representatives, exact = split_group(symmetry)
    if len(representatives) > 1:
        packed = _sum_over(packed, representatives, executor)
    if len(exact) > 1:
        _share_exactly(packed, exact, executor)
    return torch.from_numpy(packed)


def symmetry_profile(box: int, symmetry: str) -> Tensor:
    """Real-space factor of insertion and symmetrisation, `(box, box, box)` float32: divide a solved volume by it.

    The kernel's transform is nearly round, so that of a turned kernel is taken as its own.
    """
    line = kernel_profile(box).to(torch.float32)
    profile = line[:, None, None] * line[:, None] * line
    n = len(split_group(symmetry)[0])
    return profile * (1.0 + (n - 1) * profile) / n


def _sum_over(packed: np.ndarray, operators: np.ndarray, executor: Executor) -> np.ndarray:
    out = np.empty(packed.shape, packed.dtype)
    depth = packed.shape[0]
    slabs = np.array_split(np.arange(depth), max(1, min(depth, 4 * executor.n_workers)))

    def work(slab: np.ndarray) -> None:
        _sum_over_kernel(packed, operators.astype(np.float32), int(slab[0]), int(slab[-1]) + 1, out)

    for _ in executor.map(work, slabs):
        pass
    return out


def _share_exactly(packed: np.ndarray, operators: np.ndarray, executor: Executor) -> None:
    """Sum over operators that map the grid onto itself, in place: each orbit of voxels is read and written once."""
    depth = packed.shape[0]
    slabs = np.array_split(np.arange(depth), max(1, min(depth, 4 * executor.n_workers)))
    signs = operators.astype(np.int64)

    def work(slab: np.ndarray) -> None:
        _share_exactly_kernel(packed, signs, int(slab[0]), int(slab[-1]) + 1)

    for _ in executor.map(work, slabs):
        pass


@njit(nogil=True, cache=True)
def _share_exactly_kernel(packed: np.ndarray, operators: np.ndarray, z_low: int, z_high: int) -> None:
    """Orbits whose smallest member (z, y, x in order) lies in the slab; no two slabs touch one orbit."""
    depth = packed.shape[0]
    columns = packed.shape[2]
    centre = depth // 2
    n = operators.shape[0]
    place = np.empty((2 * n, 3), np.int64)
    sign = np.empty(2 * n, np.float32)
    for iz in range(z_low, z_high):
        z = iz - centre
        for iy in range(depth):
            y = iy - centre
            for ix in range(columns):
                if ix * ix + y * y + z * z > centre * centre:
                    for u in range(4):
                        packed[iz, iy, ix, u] = f32(0)
                    continue
                own = (iz * depth + iy) * columns + ix
                first = True
                m = 0
                for g in range(n):
                    kx = operators[g, 0, 0] * ix + operators[g, 0, 1] * y + operators[g, 0, 2] * z
                    ky = operators[g, 1, 0] * ix + operators[g, 1, 1] * y + operators[g, 1, 2] * z
                    kz = operators[g, 2, 0] * ix + operators[g, 2, 1] * y + operators[g, 2, 2] * z
                    s = f32(1)
                    if kx < 0:
                        kx = -kx
                        ky = -ky
                        kz = -kz
                        s = f32(-1)
                    if ((kz + centre) * depth + ky + centre) * columns + kx < own:
                        first = False
                        break
                    place[m, 0] = kz + centre
                    place[m, 1] = ky + centre
                    place[m, 2] = kx
                    sign[m] = s
                    m += 1
                    if kx == 0:
                        # a voxel of the plane kx = 0 and its mate are both stored: one orbit holds both
                        if ((centre - kz) * depth + centre - ky) * columns < own:
                            first = False
                            break
                        place[m, 0] = centre - kz
                        place[m, 1] = centre - ky
                        place[m, 2] = 0
                        sign[m] = f32(-2) * s
                        m += 1
                if not first:
                    continue
                s0 = f32(0)
                s1 = f32(0)
                s2 = f32(0)
                for i in range(m):
                    if abs(sign[i]) < f32(1.5):
                        s0 += packed[place[i, 0], place[i, 1], place[i, 2], 0]
                        s1 += sign[i] * packed[place[i, 0], place[i, 1], place[i, 2], 1]
                        s2 += packed[place[i, 0], place[i, 1], place[i, 2], 2]
                for i in range(m):
                    turned = f32(1) if sign[i] > 0 else f32(-1)
                    packed[place[i, 0], place[i, 1], place[i, 2], 0] = s0
                    packed[place[i, 0], place[i, 1], place[i, 2], 1] = turned * s1
                    packed[place[i, 0], place[i, 1], place[i, 2], 2] = s2


@njit(nogil=True, cache=True, fastmath=True)
def _sum_over_kernel(packed: np.ndarray, operators: np.ndarray, z_low: int, z_high: int, out: np.ndarray) -> None:
    depth = packed.shape[0]
    centre = depth // 2
    limit = f32(centre) * f32(centre)
    for iz in range(z_low, z_high):
        z = f32(iz - centre)
        for iy in range(depth):
            y = f32(iy - centre)
            for ix in range(packed.shape[2]):
                x = f32(ix)
                if x * x + y * y + z * z > limit:
                    for u in range(4):
                        out[iz, iy, ix, u] = f32(0)
                    continue
                s0 = f32(0)
                s1 = f32(0)
                s2 = f32(0)
                for g in range(operators.shape[0]):
                    kx = operators[g, 0, 0] * x + operators[g, 0, 1] * y + operators[g, 0, 2] * z
                    ky = operators[g, 1, 0] * x + operators[g, 1, 1] * y + operators[g, 1, 2] * z
                    kz = operators[g, 2, 0] * x + operators[g, 2, 1] * y + operators[g, 2, 2] * z
                    sign = f32(1)
                    if kx < 0:
                        kx = -kx
                        ky = -ky
                        kz = -kz
                        sign = f32(-1)
                    # a grid point that round-off moved is put back, so that exact operators stay exact
                    ax = int(kx + f32(1e-4))
                    ay = int(math.floor(ky + f32(1e-4)))
                    az = int(math.floor(kz + f32(1e-4)))
                    fx = max(kx - f32(ax), f32(0))
                    fy = max(ky - f32(ay), f32(0))
                    fz = max(kz - f32(az), f32(0))
                    if fx < f32(2e-4):
                        fx = f32(0)
                    if fy < f32(2e-4):
                        fy = f32(0)
                    if fz < f32(2e-4):
                        fz = f32(0)
                    for dz in range(2):
                        wz = fz if dz == 1 else f32(1) - fz
                        bz = az + dz + centre
                        if wz == 0 or bz < 0 or bz >= depth:
                            continue
                        for dy in range(2):
                            wy = wz * (fy if dy == 1 else f32(1) - fy)
                            by = ay + dy + centre
                            if wy == 0 or by < 0 or by >= depth:
                                continue
                            for dx in range(2):
                                w = wy * (fx if dx == 1 else f32(1) - fx)
                                bx = ax + dx
                                if w == 0 or bx >= packed.shape[2]:
                                    continue
                                s0 += w * packed[bz, by, bx, 0]
                                s1 += sign * w * packed[bz, by, bx, 1]
                                s2 += w * packed[bz, by, bx, 2]
                out[iz, iy, ix, 0] = s0
                out[iz, iy, ix, 1] = s1
                out[iz, iy, ix, 2] = s2
                out[iz, iy, ix, 3] = f32(0)
