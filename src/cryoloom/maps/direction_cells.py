"""Which of many directions a Fourier coefficient lies nearest to, and sums over shells and such cells in one pass.

Millions of coefficients ask for the nearest of some hundred directions. The surface of a cube is divided into small
squares; for each the few directions are listed that can be nearest anywhere in it, so each coefficient compares with
those alone. The answer is the same as that of comparing with all.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import rfftn

SQUARES = 48
"""Squares along an edge of the cube."""


def sums_by_direction(half1: Tensor, half2: Tensor, cells: np.ndarray) -> np.ndarray:
    """Cross power, both powers and counts of two volumes by shell and nearest direction.

    Parameters
    ----------
    half1, half2
        `(n, n, n)`.
    cells
        Unit vectors xyz, a direction and its opposite counting as one, `(m, 3)`.

    Returns
    -------
    sums
        Of the full spectrum, zero frequency and corners left out, `(4, n // 2 + 1, m)` float64.
    """
    shape = tuple(half1.shape)
    starts, listed = candidates(cells)
    dft1, dft2 = (torch.view_as_real(rfftn(half.float(), 3)).cpu().numpy() for half in (half1, half2))
    axes = [np.fft.fftfreq(n) for n in shape[:2]] + [np.fft.rfftfreq(shape[2])]
    sums = np.zeros((max(shape) // 2 + 1, len(cells), 4))
    _add_up(dft1, dft2, axes[0], axes[1], axes[2], shape[2], max(shape), cells.astype(np.float64), starts, listed, sums)
    return np.moveaxis(sums, 2, 0)


def candidates(cells: np.ndarray, squares: int = SQUARES) -> tuple[np.ndarray, np.ndarray]:
    """Directions that can be nearest within each square of the cube, as ranges `starts` into `listed`."""
    middle = (np.arange(squares) + 0.5) * 2 / squares - 1
    u, v = (a.ravel() for a in np.meshgrid(middle, middle, indexing="ij"))
    one = np.ones_like(u)
    faces = [np.stack(p, 1) for p in ((one, u, v), (u, one, v), (u, v, one))]
    centre = np.concatenate(faces)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    reach = np.sqrt(2) / squares  # largest angle from the middle of a square to its corners, at a face's middle
    angle = np.arccos(np.clip(np.abs(centre @ cells.T), 0, 1))
    near = angle <= angle.min(1, keepdims=True) + 2 * reach + 1e-6
    starts = np.concatenate([[0], np.cumsum(near.sum(1))])
    return starts, np.nonzero(near)[1]


@numba.njit(nogil=True, cache=True)
def _add_up(
    dft1: np.ndarray,
    dft2: np.ndarray,
    kz: np.ndarray,
    ky: np.ndarray,
    kx: np.ndarray,
    width: int,
    box: int,
    cells: np.ndarray,
    starts: np.ndarray,
    listed: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add every coefficient to its shell and cell of `sums`, `(shells, cells, 4)`."""
    squares = int(round(np.sqrt((len(starts) - 1) / 3)))
    n_shells = sums.shape[0]
    for iz in range(len(kz)):
        for iy in range(len(ky)):
            for ix in range(len(kx)):
                z, y, x = kz[iz], ky[iy], kx[ix]
                k = np.sqrt(z * z + y * y + x * x)
                shell = int(np.rint(k * box))
                if shell == 0 or shell >= n_shells:
                    continue
                az, ay, ax = abs(z), abs(y), abs(x)
                if ax >= ay and ax >= az:
                    face, u, v = 0, y / x, z / x
                elif ay >= az:
                    face, u, v = 1, x / y, z / y
                else:
                    face, u, v = 2, x / z, y / z
                iu = min(int((u + 1) * 0.5 * squares), squares - 1)
                iv = min(int((v + 1) * 0.5 * squares), squares - 1)
                square = (face * squares + iu) * squares + iv
                best, cell = -1.0, 0
                for j in range(starts[square], starts[square + 1]):
                    c = listed[j]
                    dot = abs(x * cells[c, 0] + y * cells[c, 1] + z * cells[c, 2])
                    if dot > best:
                        best, cell = dot, c
                weight = 1.0 if ix == 0 or (width % 2 == 0 and ix == width // 2) else 2.0
                ar, ai = np.float64(dft1[iz, iy, ix, 0]), np.float64(dft1[iz, iy, ix, 1])
                br, bi = np.float64(dft2[iz, iy, ix, 0]), np.float64(dft2[iz, iy, ix, 1])
                sums[shell, cell, 0] += weight * (ar * br + ai * bi)
                sums[shell, cell, 1] += weight * (ar * ar + ai * ai)
                sums[shell, cell, 2] += weight * (br * br + bi * bi)
                sums[shell, cell, 3] += weight
