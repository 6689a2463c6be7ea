"""CPU bodies of slice extraction and insertion (Numba, single-threaded, lock released).

`fourier/slices.py` holds the operators, their conventions and their torch bodies; these are the inner
loops only. Threads come from the caller: extraction is split over rotations, insertion over slabs of z, in
which every voxel receives its contributions in the order of the points, however many slabs there are.
"""

import math

import numpy as np
from numba import njit

f32 = np.float32


@njit(nogil=True, cache=True, fastmath=True)
def extract_points_kernel(
    spectrum: np.ndarray, centre: int, columns: np.ndarray, kx: np.ndarray, ky: np.ndarray, out: np.ndarray
) -> None:
    """Trilinear samples of `spectrum` `(2n+1, 2n+1, n+2, 2)` on planes.

    `columns` `(p, 3, 2)` holds the first two columns (x, y) of each rotation times the padding; `out` is `(p, k, 2)`.
    """
    flat = spectrum.reshape(-1)
    row = np.uint64(spectrum.shape[2])
    plane = np.uint64(spectrum.shape[1]) * row
    shift = f32(centre)
    for p in range(columns.shape[0]):
        r00, r01 = columns[p, 0, 0], columns[p, 0, 1]
        r10, r11 = columns[p, 1, 0], columns[p, 1, 1]
        r20, r21 = columns[p, 2, 0], columns[p, 2, 1]
        for k in range(kx.shape[0]):
            x = r00 * kx[k] + r01 * ky[k]
            y = r10 * kx[k] + r11 * ky[k]
            z = r20 * kx[k] + r21 * ky[k]
            sign = f32(1)
            if x < 0:
                x = -x
                y = -y
                z = -z
                sign = f32(-1)
            y += shift
            z += shift
            ix = np.uint32(x)
            iy = np.uint32(y)
            iz = np.uint32(z)
            fx = x - f32(ix)
            fy = y - f32(iy)
            fz = z - f32(iz)
            at = 2 * (iz * plane + iy * row + np.uint64(ix))
            up = at + 2 * row
            back = at + 2 * plane
            last = back + 2 * row
            for u in range(2):
                e = np.uint64(u)
                a = flat[at + e]
                b = flat[up + e]
                c = flat[back + e]
                d = flat[last + e]
                e += np.uint64(2)
                a += fx * (flat[at + e] - a)
                b += fx * (flat[up + e] - b)
                c += fx * (flat[back + e] - c)
                d += fx * (flat[last + e] - d)
                a += fy * (b - a)
                c += fy * (d - c)
                value = a + fz * (c - a)
                out[p, k, u] = value if u == 0 else sign * value


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def corner_of_point(
    turn: np.ndarray, kx: float, ky: float, centre: int
) -> tuple[int, int, int, np.float32, np.float32, np.float32, np.float32]:
    """Lower corner (x, y, z) of the cell that holds a point of a slice, its place in the cell, and a sign.

    The sign is -1 where the Friedel mate of the point lies in the stored half, `x >= 0`; `turn` is `(3, 2)`.
    """
    x = turn[0, 0] * kx + turn[0, 1] * ky
    y = turn[1, 0] * kx + turn[1, 1] * ky
    z = turn[2, 0] * kx + turn[2, 1] * ky
    sign = f32(1)
    if x < 0:
        x = -x
        y = -y
        z = -z
        sign = f32(-1)
    ix, iy, iz = int(x), int(math.floor(y)), int(math.floor(z))
    return ix, iy + centre, iz + centre, f32(x - ix), f32(y - iy), f32(z - iz), sign


@njit(nogil=True, cache=True, fastmath=True)
def insert_points_kernel(
    sums: np.ndarray,
    centre: int,
    z_low: int,
    z_high: int,
    columns: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Adjoint of `extract_points_kernel`, restricted to the planes `z_low <= z < z_high` of `sums`.

    `sums` is `(2n+1, 2n+1, n+2, 4)`: real part, imaginary part, weight, unused. `values` is `(p, k, 2)`,
    `weights` `(p, k)`.
    """
    for p in range(columns.shape[0]):
        turn = columns[p]
        for k in range(kx.shape[0]):
            ix, iy, iz, fx, fy, fz, sign = corner_of_point(turn, kx[k], ky[k], centre)
            if iz + 1 < z_low or iz >= z_high:
                continue
            real = values[p, k, 0]
            imaginary = sign * values[p, k, 1]
            weight = weights[p, k]
            for dz in range(2):
                if iz + dz < z_low or iz + dz >= z_high:
                    continue
                wz = fz if dz == 1 else f32(1) - fz
                for dy in range(2):
                    wy = wz * (fy if dy == 1 else f32(1) - fy)
                    w1 = wy * fx
                    w0 = wy - w1
                    row = sums[iz + dz, iy + dy]
                    row[ix, 0] += w0 * real
                    row[ix, 1] += w0 * imaginary
                    row[ix, 2] += w0 * weight
                    row[ix + 1, 0] += w1 * real
                    row[ix + 1, 1] += w1 * imaginary
                    row[ix + 1, 2] += w1 * weight
