"""Insertion of many weighted copies of each image at once, and the coupled voxel-wise solve that belongs to it.

A linear model `V_i = Σ_j z_ij U_j` of particles with known poses asks, at every Fourier voxel, for the sums
`B_j = Σ_i z_ij s C X / σ²` and `A_jl = Σ_i <z_j z_l>_i s² C² / σ²`, and for the solution of `(A + Λ) U = B`. One pass
over the images fills all of them; phases and places are worked out once per image, not once per channel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.place import Place
from cryoloom.em.products import weighted_images
from cryoloom.em.symmetrise import symmetrise_sums, symmetry_profile
from cryoloom.fourier.slice_kernels import corner_of_point
from cryoloom.fourier.slices import PADDING, PaddedSpectrum, insert_points, padded_half_size, restore_volume

f32 = np.float32


def n_channels(q: int) -> int:
    """Numbers per voxel for `q` volumes: real and imaginary sums, then the upper triangle of the weights."""
    return 2 * q + q * (q + 1) // 2


def accumulate_channels(
    source: ImageSource,
    rows: np.ndarray,
    rotation: np.ndarray,
    shift_px: np.ndarray,
    scale: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    target: np.ndarray,
    n_targets: int,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
) -> Tensor:
    """Sums over particles, `(n_targets, 2n+1, 2n+1, n+2, channels)` float32, complete.

    Parameters
    ----------
    rows, rotation, shift_px, scale
        Particles and their poses, rows ascending; `(m,)`, `(m, 3, 3)`, `(m, 2)` yx pixels, `(m,)`.
    first, second
        First and second moments of the coordinates, `(m, q)` and `(m, q, q)`.
    target
        Which sum a particle goes into (its half), `(m,)` int64.
    radius
        Last shell inserted.
    """
    q = first.shape[1]
    n = padded_half_size(radius)
    n_points = source.points.count(radius)
    root = np.sqrt(noise.point_weights(source.points))
    upper = np.triu_indices(q)

    def prepare(some: np.ndarray) -> _Weighted:
        at = np.searchsorted(rows, some)
        images, ctf = weighted_images(source, source.chunk(some), shift_px[at], root, n_points)
        model = ctf * torch.from_numpy(scale[at].astype(np.float32))[:, None]
        moments = np.concatenate([first[at], second[at][:, upper[0], upper[1]]], axis=1).astype(np.float32)
        return _Weighted(target[at], rotation[at], images * model, model * model, moments)

    insertion = _into_slabs if source.place == Place() else _with_tensors
    sums = insertion(
        source, executor.map(prepare, source.chunk_rows(rows)), (n_targets, 2 * n + 1, 2 * n + 1, n + 2, n_channels(q)),
        n_points, q, executor,
    )  # fmt: skip
    _complete(sums, q)
    return torch.from_numpy(sums)


@dataclass(frozen=True)
class _Weighted:
    """Images of a chunk ready to be inserted.

    `target` `(m,)`, `rotation` `(m, 3, 3)`, `values` `s C X / σ²` `(m, k)` complex, `weights` `s² C² / σ²` `(m, k)`,
    and `moments` `(m, q + q (q + 1) / 2)`.
    """

    target: np.ndarray
    rotation: np.ndarray
    values: Tensor
    weights: Tensor
    moments: np.ndarray


def _into_slabs(
    source: ImageSource, parts: Iterable[_Weighted], shape: tuple[int, ...], n_points: int, q: int, executor: Executor
) -> np.ndarray:
    """Sums by the compiled loop, slabs of z side by side."""
    sums = np.zeros(shape, np.float32)
    kx, ky = source.points.kx[:n_points], source.points.ky[:n_points]
    edges = np.linspace(0, shape[1], executor.n_workers + 1).astype(int)
    for part in parts:
        columns = (PADDING * part.rotation[:, :, :2]).astype(np.float32)
        values = torch.view_as_real(part.values.contiguous()).numpy()
        weights = part.weights.numpy()

        def insert(
            slab: tuple[int, int],
            part: _Weighted = part,
            columns: np.ndarray = columns,
            values: np.ndarray = values,
            weights: np.ndarray = weights,
        ) -> None:
            centre = shape[1] // 2
            _insert(sums, centre, *slab, part.target, columns, kx, ky, values, weights, part.moments, q)

        for _ in executor.map(insert, list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))):
            pass
    return sums


def _with_tensors(
    source: ImageSource, parts: Iterable[_Weighted], shape: tuple[int, ...], n_points: int, q: int, executor: Executor
) -> np.ndarray:
    """The same in plain torch where the engine works, one channel at a time."""
    place = source.place
    points = place.copies(source.points.points(source.points.radius)[:n_points].to(place.device, place.dtype))
    n_moments = shape[4] - q  # real and imaginary parts of the first ones share a pack
    packs = [
        [torch.zeros(*shape[1:4], 4, device=device, dtype=place.dtype) for _ in range(shape[0] * n_moments)]
        for device in place.devices
    ]
    for number, part in enumerate(parts):
        lane = number % len(packs)
        device, here = place.devices[lane], points[lane]
        complex_type = torch.complex(here[:0, 0], here[:0, 1]).dtype
        values, weights = part.values.to(device, complex_type), part.weights.to(device, place.dtype)
        moments = torch.from_numpy(part.moments).to(device, place.dtype)
        for t in np.unique(part.target):
            mine = np.flatnonzero(part.target == t)
            which, rotation = torch.from_numpy(mine).to(device), torch.from_numpy(part.rotation[mine])
            for c in range(n_moments):
                factor = moments[which, c, None]
                first = c < q
                insert_points(
                    packs[lane][int(t) * n_moments + c],
                    rotation,
                    here,
                    values[which] * factor * float(first),
                    weights[which] * factor * float(not first),
                )
    sums = np.zeros(shape, np.float32)
    for t in range(shape[0]):
        for c in range(n_moments):
            own = [per_device[t * n_moments + c].to("cpu", torch.float32) for per_device in packs]
            pack = sum(own[1:], own[0]).numpy()
            if c < q:
                sums[t, ..., 2 * c : 2 * c + 2] = pack[..., :2]
            else:
                sums[t, ..., q + c] = pack[..., 2]
    return sums


def solve_channels(
    sums: Tensor, q: int, radius: int, box: int, prior: np.ndarray, symmetry: str, executor: Executor
) -> list[Tensor]:
    """Volumes of one set of sums, `q` of `(box, box, box)`.

    Parameters
    ----------
    sums
        `(2n+1, 2n+1, n+2, channels)`.
    prior
        Inverse signal-to-noise ratio of each volume and shell, `(q, radius + 1)`: the added weight in units of the
        shell's mean weight.
    symmetry
        Point group of every volume.
    """
    if symmetry.upper() != "C1":
        sums = _symmetrise(sums, q, symmetry, executor)
    shells = _shells(sums.shape[0] // 2, radius)
    inside = np.flatnonzero(shells <= radius)
    flat = sums.reshape(-1, sums.shape[-1])[torch.from_numpy(inside)].numpy().astype(np.float64)
    shell = shells[inside]
    matrix = np.zeros((len(inside), q, q))
    upper = np.triu_indices(q)
    matrix[:, upper[0], upper[1]] = flat[:, 2 * q :]
    matrix[:, upper[1], upper[0]] = flat[:, 2 * q :]
    count = np.maximum(np.bincount(shell, minlength=radius + 1), 1)
    for j in range(q):
        mean = np.bincount(shell, matrix[:, j, j], minlength=radius + 1) / count
        matrix[:, j, j] += (prior[j] * mean)[shell] + 1e-9 * mean.max() + 1e-30
    right = flat[:, : 2 * q].reshape(len(inside), q, 2)
    solved = np.linalg.solve(matrix, right)
    volumes = []
    profile = symmetry_profile(box, symmetry)
    for j in range(q):
        values = np.zeros((*shells.shape, 2), np.float32).reshape(-1, 2)
        values[inside] = solved[:, j]
        spectrum = torch.view_as_complex(torch.from_numpy(values.reshape(*sums.shape[:3], 2)))
        volumes.append(restore_volume(PaddedSpectrum(spectrum, box, radius), box, correct=False) / profile)
    return volumes


def _shells(n: int, radius: int) -> np.ndarray:
    """Shell of each padded voxel, `(2n+1, 2n+1, n+2)` int64; beyond `radius` (and the last column) larger than it."""
    signed = np.arange(-n, n + 1, dtype=np.float64) ** 2
    positive = np.arange(0, n + 2, dtype=np.float64) ** 2
    shells = (np.sqrt(signed[:, None, None] + signed[:, None] + positive) / PADDING + 0.5).astype(np.int64)
    shells[:, :, -1] = radius + 1
    return shells.reshape(-1)


def _symmetrise(sums: Tensor, q: int, symmetry: str, executor: Executor) -> Tensor:
    """Sum over the group of every channel: packs of four, as `symmetrise_sums` takes them."""
    out = torch.empty_like(sums)
    for j in range(q):
        pack = torch.zeros(*sums.shape[:3], 4)
        pack[..., :2] = sums[..., 2 * j : 2 * j + 2]
        out[..., 2 * j : 2 * j + 2] = symmetrise_sums(pack, symmetry, executor)[..., :2]
    for c in range(2 * q, sums.shape[-1]):
        pack = torch.zeros(*sums.shape[:3], 4)
        pack[..., 2] = sums[..., c]
        out[..., c] = symmetrise_sums(pack, symmetry, executor)[..., 2]
    return out


def _complete(sums: np.ndarray, q: int) -> None:
    """Add what the Friedel mates bring to the plane kx = 0, in place."""
    plane = sums[:, :, :, 0]
    mates = plane[:, ::-1, ::-1].copy()
    mates[..., 1 : 2 * q : 2] *= -1
    plane += mates


@njit(nogil=True, cache=True, fastmath=True)
def _insert(
    sums: np.ndarray,
    centre: int,
    z_low: int,
    z_high: int,
    target: np.ndarray,
    columns: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    moments: np.ndarray,
    q: int,
) -> None:
    """Trilinear insertion of `values` times first and `weights` times second moments into planes of the sums."""
    n_all = sums.shape[4]
    vector = np.empty(n_all, f32)
    for p in range(columns.shape[0]):
        volume = sums[target[p]]
        turn = columns[p]
        for k in range(kx.shape[0]):
            ix, iy, iz, fx, fy, fz, sign = corner_of_point(turn, kx[k], ky[k], centre)
            if iz + 1 < z_low or iz >= z_high:
                continue
            real, imaginary, weight = values[p, k, 0], sign * values[p, k, 1], weights[p, k]
            for j in range(q):
                vector[2 * j] = moments[p, j] * real
                vector[2 * j + 1] = moments[p, j] * imaginary
            for c in range(2 * q, n_all):
                vector[c] = moments[p, c - q] * weight
            for dz in range(2):
                if iz + dz < z_low or iz + dz >= z_high:
                    continue
                wz = fz if dz == 1 else f32(1) - fz
                for dy in range(2):
                    wy = wz * (fy if dy == 1 else f32(1) - fy)
                    w1 = wy * fx
                    w0 = wy - w1
                    near = volume[iz + dz, iy + dy, ix]
                    far = volume[iz + dz, iy + dy, ix + 1]
                    for c in range(n_all):
                        near[c] += w0 * vector[c]
                        far[c] += w1 * vector[c]
