"""Insertion of posed particles into volumes of Fourier sums, one per half and class.

Adds `p s C X exp(+2πi k·t) / σ²` and `p s² C² / σ²` with the adjoint of the slice operator. Every voxel
receives its contributions in the order of the rows, whatever the number of threads, so the sums are the
same to the last bit on one thread and on sixteen.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em import tensor_kernels
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.kernels import insert_particles_kernel
from cryoloom.em.noise import NoiseModel
from cryoloom.em.place import Place
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
    posterior = np.ones(len(candidates)) if candidates.posterior is None else candidates.posterior
    rows = np.unique(candidates.row[target >= 0])
    add = _CompiledInsertion if source.place == Place() else _TensorInsertion
    insertion = add(source, candidates, posterior, volumes, noise, executor)
    for chunk in executor.map(source.chunk, source.chunk_rows(rows)):
        first, last = np.searchsorted(candidates.row, [chunk.rows[0], chunk.rows[-1] + 1])
        here = np.arange(first, last)
        of_target = [here[target[here] == v] for v in range(n_targets)]
        insertion(chunk, of_target)
        for volume, mine in zip(volumes, of_target, strict=True):
            volume.n_particles += float(posterior[mine].sum())
    insertion.finish()
    return volumes


class _Insertion:
    """What both ways of inserting share."""

    def __init__(
        self,
        source: ImageSource,
        candidates: Candidates,
        posterior: np.ndarray,
        volumes: list[FourierSums],
        noise: NoiseModel,
        executor: Executor,
    ) -> None:
        self.source, self.candidates, self.posterior = source, candidates, posterior
        self.volumes, self.executor, self.tables = volumes, executor, noise.point_weights(source.points)


class _CompiledInsertion(_Insertion):
    """Into slabs of the volumes, side by side."""

    def slabs(self) -> list[tuple[int, int]]:
        """First and last plane of each slab."""
        depth = self.volumes[0].sums.shape[0]
        n_slabs = max(1, -(-self.executor.n_workers // len(self.volumes)))
        # planes pass through the equator more often than through the poles: equal shares of a parabola
        share = np.linspace(0.0, 1.0, n_slabs + 1)
        edges = np.rint(depth * (0.5 + 0.5 * np.sign(share - 0.5) * np.abs(2 * share - 1) ** 0.8)).astype(int)
        edges = np.unique(edges)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    def __call__(self, chunk: ImageChunk, of_target: list[np.ndarray]) -> None:
        """Insert the candidates of one chunk, those of each volume by their indices."""
        candidates, points = self.candidates, self.source.points

        def insert(task: tuple[FourierSums, tuple[int, int], np.ndarray, np.ndarray]) -> None:
            volume, (low, high), mine, at = task
            insert_particles_kernel(
                volume.sums.numpy(),
                volume.sums.shape[0] // 2,
                low,
                high,
                at,
                candidates.rotation[mine],
                candidates.shift_px[mine],
                candidates.scale[mine],
                self.posterior[mine],
                chunk.data,
                chunk.ctf,
                self.tables,
                chunk.group,
                points.kx,
                points.ky,
                points.count(volume.radius),
                self.source.box,
            )

        tasks = []
        for volume, mine in zip(self.volumes, of_target, strict=True):
            if len(mine):
                at = np.searchsorted(chunk.rows, candidates.row[mine])
                tasks += [(volume, slab, mine, at) for slab in self.slabs()]
        for _ in self.executor.map(insert, tasks):
            pass

    def finish(self) -> None:
        """Nothing is left to do."""


class _TensorInsertion(_Insertion):
    """Into volumes on another device, or in double precision, that are brought back at the end."""

    @cached_property
    def fresh(self) -> list[list[Tensor]]:
        """The volumes on each device, empty at first."""
        place = self.source.place
        return [[empty_sums(v.radius, dtype=place.dtype, device=d) for v in self.volumes] for d in place.devices]

    def __call__(self, chunk: ImageChunk, of_target: list[np.ndarray]) -> None:
        """Insert the candidates of one chunk, those of each volume by their indices."""
        candidates, points = self.candidates, self.source.points
        n_points = points.count(self.volumes[0].radius)
        fresh = self.fresh[self.source.lane(chunk.rows)]
        images = tensor_kernels.Images(chunk, points, n_points, fresh[0])
        for sums, mine in zip(fresh, of_target, strict=True):
            if len(mine):
                tensor_kernels.insert_particles(
                    sums,
                    images,
                    np.searchsorted(chunk.rows, candidates.row[mine]),
                    candidates.rotation[mine],
                    candidates.shift_px[mine],
                    candidates.scale[mine],
                    self.posterior[mine],
                    self.tables[chunk.group, :n_points],
                )

    def finish(self) -> None:
        """Add what was inserted to the volumes in memory."""
        for fresh in self.fresh:
            for volume, sums in zip(self.volumes, fresh, strict=True):
                volume.sums += sums.to("cpu", volume.sums.dtype)
