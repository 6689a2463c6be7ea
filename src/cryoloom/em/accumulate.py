"""Insertion of posed particles into volumes of Fourier sums, one per half and class.

Adds `p s C X exp(+2πi k·t) / σ²` and `p s² C² / σ²` with the adjoint of the slice operator. Every voxel
receives its contributions in the order of the rows, whatever the number of threads, so the sums are the
same to the last bit on one thread and on sixteen.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageSource
from cryoloom.em.kernels import insert_particles_kernel
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates
from cryoloom.fourier.slices import empty_sums


@dataclass
class FourierSums:
    """Raw sums of one half or class.

    Attributes
    ----------
    sums
        `(2n+1, 2n+1, n+2, 4)` float32: see `fourier.slices.empty_sums`.
    radius
        Last shell that was inserted.
    n_particles
        Sum of the posterior weights that went in.
    """

    sums: Tensor
    radius: int
    n_particles: float = 0.0


def accumulate(
    source: ImageSource,
    candidates: Candidates,
    target: np.ndarray,
    n_targets: int,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    into: list[FourierSums] | None = None,
) -> list[FourierSums]:
    """Insert candidates into `n_targets` volumes.

    Parameters
    ----------
    source
        Images.
    candidates
        Poses with their posterior shares; rows ascending.
    target
        Volume of each candidate (a half, a class, or both), `(m,)` int64; -1 leaves it out.
    n_targets
        Number of volumes.
    noise
        Noise spectra.
    radius
        Last shell to insert.
    into
        Sums to add to; new ones by default.
    """
    radius = min(int(radius), source.points.radius)
    volumes = into or [FourierSums(empty_sums(radius), radius) for _ in range(n_targets)]
    tables = noise.point_weights(source.points)
    n_points = source.points.count(radius)
    depth = volumes[0].sums.shape[0]
    n_slabs = max(1, -(-executor.n_workers // n_targets))
    # planes pass through the equator more often than through the poles: equal shares of a parabola
    share = np.linspace(0.0, 1.0, n_slabs + 1)
    edges = np.unique(np.rint(depth * (0.5 + 0.5 * np.sign(share - 0.5) * np.abs(2 * share - 1) ** 0.8)).astype(int))
    slabs = list(zip(edges[:-1], edges[1:], strict=True))
    posterior = np.ones(len(candidates)) if candidates.posterior is None else candidates.posterior

    def insert(task: tuple[int, tuple[int, int], np.ndarray, np.ndarray, object]) -> None:
        v, (low, high), mine, at, chunk = task
        insert_particles_kernel(
            volumes[v].sums.numpy(),
            depth // 2,
            int(low),
            int(high),
            at,
            candidates.rotation[mine],
            candidates.shift_px[mine],
            candidates.scale[mine],
            posterior[mine],
            chunk.data,  # type: ignore[attr-defined]
            chunk.ctf,  # type: ignore[attr-defined]
            tables,
            chunk.group,  # type: ignore[attr-defined]
            source.points.kx,
            source.points.ky,
            n_points,
            source.box,
        )

    rows = np.unique(candidates.row[target >= 0])
    for chunk in executor.map(source.chunk, source.chunk_rows(rows)):
        first, last = np.searchsorted(candidates.row, [chunk.rows[0], chunk.rows[-1] + 1])
        here = np.arange(first, last)
        tasks = []
        for v in range(n_targets):
            mine = here[target[here] == v]
            if len(mine):
                at = np.searchsorted(chunk.rows, candidates.row[mine])
                tasks += [(v, slab, mine, at, chunk) for slab in slabs]
                volumes[v].n_particles += float(posterior[mine].sum())
        for _ in executor.map(insert, tasks):
            pass
    return volumes
