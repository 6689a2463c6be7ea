"""Defocus of each particle against its reference, at its present pose.

A change δ of defocus turns the phase of the CTF by `φ = π λ k² δ`, the same in all directions, so
`C(δ) = C cos φ + Q sin φ` with `Q` the CTF a quarter of a period on. At a fixed pose the likelihood of every δ then
needs five sums per ring only,

    L(δ) = s Σ_r (A cos φ + B sin φ) - ½ s² Σ_r (N_CC cos² φ + 2 N_CQ cos φ sin φ + N_QQ sin² φ)

with `A = Σ Re(conj(V) X) C / σ²`, `B` the same with `Q`, and `N` the norms. A Gaussian prior holds particles near the
defocus of their micrograph; the posterior mean over a grid of δ is taken. (Per-particle CTF: Zivanov et al. 2018,
doi:10.7554/eLife.42166.)
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em import tensor_kernels
from cryoloom.em.images import ImageSource
from cryoloom.em.kernels import ring_sums_kernel
from cryoloom.em.noise import NoiseModel
from cryoloom.em.place import compiled
from cryoloom.em.poses import PoseTable
from cryoloom.fourier.slices import PaddedSpectrum, reach
from cryoloom.optics import electron_wavelength

RINGS_PER_PIXEL = 4
"""Rings per Fourier pixel: so fine that the phase hardly changes within one."""


def defocus_shows(source: ImageSource, radius: int, spread: float) -> bool:
    """Whether a spread of defocus (Å) turns the CTF's phase by more than 0.3 rad within `radius`, and may be fitted."""
    optics = source.particles.optics
    if source.particles.defocus_u is None or any(o.phase_flipped or o.ctf_premultiplied for o in optics):
        return False
    k = radius / source.field
    return bool(math.pi * electron_wavelength(optics[0].voltage_kv) * spread * k * k > 0.3)


def fit_defocus(
    source: ImageSource,
    references: Sequence[PaddedSpectrum],
    poses: PoseTable,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    spread: float = 300.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Change of defocus of each row against the value it came with, and its standard error, Å, `(m,)` each.

    Parameters
    ----------
    references
        `references[h]`: reference of half `h + 1`.
    spread
        Standard deviation of the prior, Å.
    """
    radius = min(radius, reach(references))
    points = source.points
    n_points = points.count(radius)
    tables = noise.point_weights(points, 2.0)
    n_rings = RINGS_PER_PIXEL * (radius + 1)
    ring = np.minimum((np.hypot(points.kx, points.ky) * RINGS_PER_PIXEL).astype(np.int64), n_rings - 1)
    delta = np.linspace(-3.5 * spread, 3.5 * spread, 141)
    k = (np.arange(n_rings) + 0.5) / RINGS_PER_PIXEL / source.field
    kx, ky = torch.from_numpy(points.kx[:n_points]), torch.from_numpy(points.ky[:n_points])
    copies = source.place.copies(references)

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunk, references = source.chunk(some), copies[source.lane(some)]
        base = source.ctf_at(some, kx, ky, offset=False)
        quarter = source.ctf_at(some, kx, ky, offset=False, extra_phase=0.5 * math.pi)
        sums = np.zeros((len(some), n_rings, 5))
        side = poses.half[some] - 1 if len(references) > 1 else np.zeros(len(some), np.int64)
        for h, reference in enumerate(references):
            mine = np.flatnonzero(side == h)
            if not len(mine):
                continue
            if not compiled(reference.values):
                images = tensor_kernels.Images(chunk, points, n_points, reference.values)
                sums[mine] = tensor_kernels.ring_sums(
                    reference, images, mine, poses.rotation[some[mine]], poses.shift_px[some[mine]], base, quarter,
                    tables[chunk.group, :n_points], ring, n_rings,
                )  # fmt: skip
                continue
            part = np.zeros((len(mine), n_rings, 5))
            ring_sums_kernel(
                torch.view_as_real(reference.values).numpy(),
                reference.centre,
                mine,
                poses.rotation[some[mine]],
                poses.shift_px[some[mine]],
                chunk.data,
                base,
                quarter,
                tables,
                chunk.group,
                points.kx,
                points.ky,
                ring,
                n_points,
                source.box,
                part,
            )
            sums[mine] = part
        voltage = source.particles.per_row("voltage_kv")[some]
        scale = poses.scale[some][:, None]
        gain = np.empty((len(some), len(delta)))
        for kv in np.unique(voltage):
            sel = voltage == kv
            phase = math.pi * electron_wavelength(float(kv)) * (k**2)[:, None] * delta
            c, s = np.cos(phase), np.sin(phase)
            a, b, cc, cq, qq = (sums[sel, :, i] for i in range(5))
            gain[sel] = scale[sel] * (a @ c + b @ s) - 0.5 * scale[sel] ** 2 * (
                cc @ c**2 + 2 * (cq @ (c * s)) + qq @ s**2
            )
        gain -= 0.5 * (delta / spread) ** 2
        share = np.exp(gain - gain.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        mean = share @ delta
        error = np.sqrt(np.maximum(share @ delta**2 - mean**2, 0.0))
        return mean, error

    parts = list(executor.map(work, source.chunk_rows(rows)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
