"""Held-out likelihood per frequency: whether a map explains particles that had no part in it, and to which detail.

For a particle X with CTF C and noise σ² the map V raises the log-likelihood of shell `s` by
`Σ (|X|² - |X - s C V|²) / σ²`. Over particles that the map was not made of, a shell that holds signal raises it, and a
shell that holds noise dressed up as signal lowers it, since the noise is subtracted from images that do not contain it
(cross-validation in the sense of Cossio 2020, J. Chem. Inf. Model. 60; the bias that common references bring in is that
of Sorzano et al. 2022, Acta Cryst. D78). The map is weighted as its own FSC
claims it deserves: a claim that is true never lowers the likelihood, a claim too bold does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.kernels import residual_power_kernel
from cryoloom.em.poses import Candidates
from cryoloom.fourier.slices import PaddedSpectrum, prepare_volume
from cryoloom.maps.filter import filter_map, shell_gain
from cryoloom.validation.posed import PosedParticles


@dataclass(frozen=True)
class HeldOut:
    """Gain in log-likelihood of held-out particles.

    Attributes
    ----------
    mean, standard_error
        Gain per particle of each shell, `(n,)`.
    cumulative
        Sum of `mean` up to each shell, `(n,)`.
    peak
        Shell at which `cumulative` is largest.
    tail_z
        Gain over the shells beyond `from_shell` in standard errors: positive if detail there is true.
    from_shell
        First shell of the tail.
    last_shell
        Last shell that counts.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    cumulative: np.ndarray
    peak: int
    tail_z: float
    from_shell: int
    last_shell: int

    @property
    def verdict(self) -> str:
        """`rises`, `falls`, or `flat` within chance (two standard errors) over the tail."""
        return "rises" if self.tail_z > 2 else "falls" if self.tail_z < -2 else "flat"


def shell_gains(
    posed: PosedParticles, reference: PaddedSpectrum, poses: Candidates, executor: Executor, radius: int
) -> np.ndarray:
    """Gain in log-likelihood by particle and shell, `(len(poses), radius + 1)` float64."""
    points = posed.source.points
    radius = min(radius, points.radius, reference.radius)
    n_points = points.count(radius)
    power = posed.noise.power[:, : points.radius + 1]
    shell = points.shell[:n_points]

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunk = posed.source.chunk(some)
        first, last = np.searchsorted(poses.row, [some[0], some[-1] + 1])
        here = np.arange(first, last)
        at = np.searchsorted(chunk.rows, poses.row[here])
        left = np.zeros((len(here), points.radius + 1))
        residual_power_kernel(
            torch.view_as_real(reference.values).numpy(),
            reference.centre,
            at,
            poses.rotation[here],
            poses.shift_px[here],
            poses.scale[here],
            chunk.data,
            chunk.ctf,
            points.kx,
            points.ky,
            points.shell,
            n_points,
            posed.source.box,
            left,
        )
        data = (chunk.data[:, :, :n_points].astype(np.float64) ** 2).sum(1)
        own = np.stack([np.bincount(shell, row, minlength=points.radius + 1) for row in data])
        return here, ((own[at] - left) / power[chunk.group[at]])[:, : radius + 1]

    gains = np.zeros((len(poses), radius + 1))
    for here, part in executor.map(work, posed.source.chunk_rows(np.unique(poses.row))):
        gains[here] = part
    return gains


def fit_grey_scale(posed: PosedParticles, volume: Tensor, poses: Candidates, executor: Executor, radius: int) -> float:
    """Factor that brings a map to the grey scale of the images, from the shells up to `radius`; 0 if it fits nothing.

    The gain of `a V` is `2 a c - a² p`; two values of it give `c` and `p`, hence the best `a = c / p`.
    """
    deviation = float(volume.std())
    if not deviation > 0:
        return 0.0
    unit = volume / deviation
    one, two = (
        shell_gains(posed, prepare_volume((a * unit).float(), radius), poses, executor, radius)[:, 1:].sum()
        for a in (1e-3, 2e-3)
    )
    power = (2 * one - two) / 2e-6
    cross = (one + power * 1e-6) / 2e-3
    return max(float(cross / power), 0.0) / deviation if power > 0 else 0.0


def held_out_likelihood(
    posed: PosedParticles,
    volume: Tensor,
    poses: Candidates,
    executor: Executor,
    *,
    fsc: np.ndarray,
    from_shell: int,
    last_shell: int,
    grey_scale: float | None = None,
) -> HeldOut:
    """Gain that a map brings to particles which had no part in it.

    Parameters
    ----------
    posed
        Images and noise.
    volume
        Unfiltered map, cube over the field of the images.
    poses
        Of the particles to ask; their poses must not come from this map.
    fsc
        Weight of each shell of the map, 0 to 1: the FSC that is claimed for it.
    from_shell, last_shell
        The tail that decides. Shells before it set the grey scale of the map, unless `grey_scale` is given.
    """
    n = volume.shape[0]
    weight = np.zeros(n // 2 + 1)
    m = min(len(fsc), len(weight))
    weight[:m] = np.clip(fsc[:m], 0.0, 1.0)
    weighted = filter_map(volume.float(), shell_gain(torch.from_numpy(weight), (n, n, n)))
    radius = min(last_shell, posed.source.points.radius)
    scale = (
        fit_grey_scale(posed, weighted, poses, executor, max(from_shell - 1, 2)) if grey_scale is None else grey_scale
    )
    gains = shell_gains(posed, prepare_volume(weighted * scale, radius), poses, executor, radius)
    mean = gains.mean(0)
    error = gains.std(0, ddof=1) / np.sqrt(len(gains))
    tail = gains[:, from_shell : radius + 1].sum(1)
    spread = tail.std(ddof=1) / np.sqrt(len(tail))
    cumulative = np.cumsum(mean)
    return HeldOut(
        mean=mean,
        standard_error=error,
        cumulative=cumulative,
        peak=int(np.argmax(cumulative)),
        tail_z=float(tail.mean() / spread) if spread > 0 else 0.0,
        from_shell=from_shell,
        last_shell=radius,
    )
