"""Noise spectra: `σ²(|k|) = E|n(k)|²` of the plain forward DFT, per shell and noise group.

The first estimate is the mean power of the images themselves; later ones come from the residuals of a
sample of particles against their reference, within the resolution of that reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em import tensor_kernels
from cryoloom.em.images import ImageSource
from cryoloom.em.kernels import residual_power_kernel
from cryoloom.em.place import compiled
from cryoloom.em.points import PlanePoints
from cryoloom.em.poses import PoseTable
from cryoloom.fourier.slices import PaddedSpectrum, reach


@dataclass(frozen=True)
class NoiseModel:
    """Noise power per group and shell.

    Attributes
    ----------
    power
        `(groups, radius + 1)` float64, positive; shell 0 repeats shell 1.
    """

    power: np.ndarray

    def point_weights(self, points: PlanePoints, factor: float = 1.0) -> np.ndarray:
        """`factor / σ²` at each point, `(groups, k)` float32."""
        return (factor / self.power[:, points.shell]).astype(np.float32)


def estimate_image_power(
    source: ImageSource, executor: Executor, rows: np.ndarray, *, largest_number: int = 2000
) -> NoiseModel:
    """Mean power of the images of each group, from at most `largest_number` particles spread over `rows`."""
    rows = _sample(rows, source.noise_group, largest_number)
    shell, n_shells = source.points.shell, source.points.radius + 1

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunk = source.chunk(some)
        power = (chunk.data.astype(np.float32) ** 2).sum(1)
        per_shell = np.stack([np.bincount(shell, p, minlength=n_shells) for p in power])
        return chunk.group, per_shell

    return _combine(source, executor.map(work, source.chunk_rows(rows)), source.points.radius, None)


def estimate_noise(
    source: ImageSource,
    references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]],
    poses: PoseTable,
    rows: np.ndarray,
    before: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    largest_number: int = 600,
) -> NoiseModel:
    """Noise from the residuals within `radius`, at most what the references reach; beyond, `before` is kept."""
    radius = min(radius, reach(references))
    rows = _sample(rows, source.noise_group, largest_number)
    points = source.points
    n_points, n_shells = points.count(radius), points.radius + 1
    copies = source.place.copies(references)

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunk, references = source.chunk(some), copies[source.lane(some)]
        out = np.zeros((len(some), n_shells))
        side = poses.half[some] - 1 if len(references) > 1 else np.zeros(len(some), np.int64)
        for h in range(len(references)):
            per_class = references[h]
            per_class = [per_class] if isinstance(per_class, PaddedSpectrum) else per_class
            for c, reference in enumerate(per_class):
                mine = np.flatnonzero((side == h) & (poses.reference[some] == c))
                if not len(mine):
                    continue
                if not compiled(reference.values):
                    images = tensor_kernels.Images(chunk, points, n_points, reference.values)
                    out[mine] = tensor_kernels.residual_power(
                        reference, images, mine, poses.rotation[some[mine]], poses.shift_px[some[mine]],
                        poses.scale[some[mine]], points.shell, n_shells,
                    )  # fmt: skip
                    continue
                part = np.zeros((len(mine), n_shells))
                residual_power_kernel(
                    torch.view_as_real(reference.values).numpy(),
                    reference.centre,
                    mine,
                    poses.rotation[some[mine]],
                    poses.shift_px[some[mine]],
                    poses.scale[some[mine]],
                    chunk.data,
                    chunk.ctf,
                    points.kx,
                    points.ky,
                    points.shell,
                    n_points,
                    source.box,
                    part,
                )
                out[mine] = part
        return chunk.group, out

    return _combine(source, executor.map(work, source.chunk_rows(rows)), radius, before)


def _combine(source: ImageSource, parts: object, radius: int, before: NoiseModel | None) -> NoiseModel:
    n_shells = source.points.radius + 1
    total = np.zeros((source.n_noise_groups, n_shells))
    count = np.zeros(source.n_noise_groups)
    for group, per_shell in parts:  # type: ignore[attr-defined]
        np.add.at(total, group, per_shell)
        np.add.at(count, group, 1.0)
    in_shell = np.bincount(source.points.shell, minlength=n_shells).astype(np.float64)
    pooled = total.sum(0) / np.maximum(in_shell * count.sum(), 1.0)
    # A group with few images borrows from all: a prior worth ten images.
    level = np.ones(len(count))
    with np.errstate(divide="ignore", invalid="ignore"):
        high = slice(max(1, n_shells // 2), n_shells)
        ratio = total[:, high].sum(1) / (pooled[high] * in_shell[high]).sum() / count
    level = np.where((count > 0) & np.isfinite(ratio) & (ratio > 0), ratio, level)
    power = (total + 10.0 * level[:, None] * pooled * in_shell) / (in_shell * (count[:, None] + 10.0)).clip(1e-30)
    power[:, 0] = power[:, 1]
    if before is not None:
        power[:, radius + 1 :] = before.power[:, radius + 1 :]
    floor = 1e-6 * np.median(power[power > 0]) if (power > 0).any() else 1.0
    return NoiseModel(np.maximum(power, floor))


def _sample(rows: np.ndarray, group: np.ndarray, largest_number: int) -> np.ndarray:
    """At most `largest_number` rows, spread evenly over the set (and so over its groups)."""
    rows = np.asarray(rows)
    largest_number = max(largest_number, 20 * (int(group.max()) + 1))
    if len(rows) <= largest_number:
        return rows
    return rows[np.linspace(0, len(rows) - 1, largest_number).astype(np.int64)]
