"""Exhaustive search over directions, in-plane angles and shifts at low resolution.

Both sides are sampled on rings, where turning an image is a cyclic shift in θ. With `q` the angular
frequency, the cross term of the likelihood for all in-plane angles at once is, per `q`, one matrix product
(images·shifts x rings) · (rings x directions), and a second product takes `q` to angles over half a turn: even and
odd `q` apart, so that their sum and difference are the scores at ψ and ψ + π. The norm term needs the mean of
`C²` on each ring only. Candidates are ranked by `cross / √norm`, the likelihood with the scale solved out.

A particle of diameter D holds no more than `q = π r D / field` on ring r, hence few angles at low resolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates
from cryoloom.fourier import good_size, irfftn, rfftn
from cryoloom.fourier.slices import PaddedSpectrum, extract_points, kernel_profile
from cryoloom.geometry import direction_grid, grid_rotations, rotation_about_z, symmetry_matrices
from cryoloom.maps.mask import spherical_mask


def search_directions(n_side: int, symmetry: str) -> Tensor:
    """Rotations with psi 0 that look along a grid over one asymmetric unit, `(d, 3, 3)` float64.

    The unit is the set of directions nearest to a generic axis among their equivalents, plus a rim of a quarter of the
    grid's spacing.
    """
    directions = direction_grid(n_side)
    operators = symmetry_matrices(symmetry)
    axis = torch.tensor([0.28, 0.17, 0.945], dtype=torch.float64)
    axis = axis / axis.norm()
    own = directions @ axis
    best = torch.einsum("gij,dj,i->gd", operators, directions, axis).amax(0)
    rim = 0.25 * math.sqrt(4 * math.pi / len(directions))
    return grid_rotations(directions[own >= best - rim * (len(operators) > 1)])


def shift_grid(reach_px: float, step_px: float) -> np.ndarray:
    """Shifts within a disc on a square grid that holds (0, 0), `(t, 2)` yx pixels."""
    n = math.ceil(reach_px / step_px - 1e-9) if step_px > 0 else 0
    line = np.arange(-n, n + 1) * step_px
    y, x = np.meshgrid(line, line, indexing="ij")
    grid = np.stack([y.ravel(), x.ravel()], axis=1)
    return grid[np.hypot(grid[:, 0], grid[:, 1]) <= max(reach_px, 0.0) + 1e-6]


@dataclass(frozen=True)
class RingSampling:
    """Points of a search on rings 1 ... `n_rings`.

    Attributes
    ----------
    n_rings
        Rings, one Fourier pixel apart.
    n_angles
        Samples over the full turn, a multiple of 4.
    largest_q
        Largest angular frequency kept.
    points
        Half turn of each ring, xy Fourier pixels, `(n_rings * n_angles / 2, 2)` float32.
    """

    n_rings: int
    n_angles: int
    largest_q: int
    points: Tensor


def ring_sampling(n_rings: int, diameter_fraction: float) -> RingSampling:
    """Sampling for a particle that fills `diameter_fraction` of the field."""
    largest_q = math.ceil(math.pi * n_rings * min(diameter_fraction, 1.0)) + 3
    n_angles = 4 * math.ceil((2 * largest_q + 2) / 4)
    angle = 2 * math.pi / n_angles * torch.arange(n_angles // 2, dtype=torch.float64)
    ring = torch.arange(1, n_rings + 1, dtype=torch.float64)
    points = torch.stack([ring[:, None] * angle.cos(), ring[:, None] * angle.sin()], dim=-1)
    return RingSampling(n_rings, n_angles, largest_q, points.reshape(-1, 2).to(torch.float32))


@dataclass(frozen=True)
class ReferenceBank:
    """Projections of one half's references, ready for the products.

    Attributes
    ----------
    rotation
        Pose of each with psi 0, `(d, 3, 3)` float64.
    reference
        Class of each, `(d,)` int64.
    factor
        Right-hand sides, `(q, 2, 2 * rings, d)`: real and imaginary part of the product of conj(V) with the data.
    power
        Mean of |V|² on each ring, `(d, rings)` float32.
    """

    rotation: Tensor
    reference: Tensor
    factor: Tensor
    power: Tensor


def reference_bank(
    references: Sequence[PaddedSpectrum], rotations: Tensor, rings: RingSampling, dtype: torch.dtype = torch.float32
) -> ReferenceBank:
    """Slice each reference along each rotation and transform the rings."""
    samples = torch.cat([extract_points(r, rotations, rings.points) for r in references])
    d = len(samples)
    half_ring = samples.reshape(d, rings.n_rings, rings.n_angles // 2)
    power = (half_ring.real**2 + half_ring.imag**2).mean(-1)
    real, imaginary = _angular_transform(half_ring.real, half_ring.imag, rings)  # (q, d, rings)
    real, imaginary = (x.transpose(1, 2) / rings.n_angles for x in (real, imaginary))  # (q, rings, d)
    factor = torch.stack(
        [torch.cat([real, imaginary], dim=1), torch.cat([-imaginary, real], dim=1)], dim=1
    )  # (q, 2, 2 rings, d)
    n = len(references)
    return ReferenceBank(
        rotation=rotations.repeat(n, 1, 1),
        reference=torch.arange(n).repeat_interleave(len(rotations)),
        factor=factor.contiguous().to(dtype),
        power=power.contiguous(),
    )


def search_poses(
    source: ImageSource,
    references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]],
    half: np.ndarray,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    n_rings: int,
    rotations: Tensor,
    shifts_px: np.ndarray,
    centre_px: np.ndarray | None = None,
    top: int = 4,
    dtype: torch.dtype = torch.float32,
) -> Candidates:
    """Best poses of each row over all directions, angles and shifts.

    Parameters
    ----------
    source
        Images.
    references
        `references[h]`: reference of half `h + 1`, or one per class; a single entry serves both halves.
    half
        Half of each row of the particle set.
    rows
        Rows to search.
    n_rings
        Rings that count.
    rotations
        Directions, from `search_directions`.
    shifts_px
        Shifts tried about `centre_px`, `(t, 2)` yx pixels.
    centre_px
        Centre of the shifts by row of the particle set, `(n, 2)`; 0 by default.
    top
        Candidates kept per row (different directions or classes).
    dtype
        Operands of the products; bfloat16 is enough for ranking.

    Returns
    -------
    candidates
        `top` per row, best first; `log_likelihood` is that with the scale solved out, `scale` the solved scale.
    """
    rings = ring_sampling(n_rings, source.mask_diameter / source.field)
    banks = [
        reference_bank([r] if isinstance(r, PaddedSpectrum) else list(r), rotations, rings, dtype) for r in references
    ]
    search = _Search(source, rings, noise, torch.from_numpy(shifts_px), min(top, len(banks[0].power)), dtype)
    rows = np.sort(np.asarray(rows, np.int64))
    centre = np.zeros((len(source), 2)) if centre_px is None else centre_px

    def work(some: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        chunk = source.chunk(some)
        polar = search.polar_images(chunk)
        found = []
        side = half[some] - 1 if len(banks) > 1 else np.zeros(len(some), np.int64)
        for h, bank in enumerate(banks):
            mine = np.flatnonzero(side == h)
            for start in range(0, len(mine), search.block(bank)):
                part = mine[start : start + search.block(bank)]
                found.append((some[part], *search.best(chunk, polar, part, centre[some[part]], bank)))
        return found

    parts = [p for found in executor.map(work, source.chunk_rows(rows)) for p in found]
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    row, rotation, shift, scale, reference, gain = (c[order] for c in columns)
    k = rotation.shape[1]
    return Candidates(
        row=np.repeat(row, k),
        rotation=rotation.reshape(-1, 3, 3),
        shift_px=shift.reshape(-1, 2),
        scale=scale.reshape(-1),
        reference=reference.reshape(-1),
        log_likelihood=gain.reshape(-1),
    )


class _Search:
    """What the blocks of one search share."""

    def __init__(
        self,
        source: ImageSource,
        rings: RingSampling,
        noise: NoiseModel,
        shifts: Tensor,
        top: int,
        dtype: torch.dtype,
    ) -> None:
        self.source, self.rings, self.top, self.dtype = source, rings, top, dtype
        self.shifts = shifts
        self.small_box = min(good_size(2 * (rings.n_rings + 3)), source.box - source.box % 2)
        self.n_points = source.points.count(min(self.small_box // 2 - 1, source.points.radius))
        n = self.n_points
        ky = source.points.ky[:n].astype(np.int64) % self.small_box
        self.place = torch.from_numpy(ky * (self.small_box // 2 + 1) + source.points.kx[:n].astype(np.int64))
        # points with kx = 0 are kept once: their mates have to be set too
        axis = np.flatnonzero(source.points.kx[:n] == 0)
        self.axis = torch.from_numpy(axis)
        mate = (-source.points.ky[:n][axis].astype(np.int64)) % self.small_box
        self.mate_place = torch.from_numpy(mate * (self.small_box // 2 + 1))
        ratio = self.small_box / source.box
        radius = 0.5 * source.mask_diameter / source.pixel_size * ratio
        edge = max(2.0, 0.06 * self.small_box)
        mask = spherical_mask(self.small_box, min(radius, 0.5 * self.small_box - edge - 1), edge, ndim=2)
        profile = kernel_profile(self.small_box).to(torch.float32)
        self.window = mask / (profile[:, None] * profile)
        b = self.small_box
        # moves the phase origin from the centre pixel of the padded image's content to its first pixel
        k = torch.arange(-(2 * rings.n_rings + 2), 2 * rings.n_rings + 3)  # zero in the middle
        self.keep_y = k % (2 * b)
        self.n_keep = 2 * rings.n_rings + 3
        ramp = torch.polar(torch.ones(len(k)), math.pi * 2 * (b // 2) / (2 * b) * k.to(torch.float32))
        self.ramp = ramp[:, None] * ramp[len(k) // 2 :]
        ring = np.arange(1, rings.n_rings + 1)
        area = 2 * math.pi * ring / rings.n_angles
        self.ring_weight = torch.from_numpy((area / noise.power[:, ring]).astype(np.float32))  # (groups, rings)
        turn = 2 * math.pi / source.box
        phase = turn * (shifts.to(torch.float64).flip(-1) @ rings.points.to(torch.float64).T)
        self.shift_phase = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)  # (t, points)
        self.even, self.odd = (m.to(dtype) for m in _angle_matrices(rings))
        q = torch.arange(rings.largest_q + 1)
        self.order = torch.cat([q[0::2], q[1::2]])

    def block(self, bank: ReferenceBank) -> int:
        """Images per block, so that scores of one block stay in the cache."""
        per_image = len(self.shifts) * len(bank.power) * self.rings.n_angles
        return max(1, int(2e6 / per_image))

    def polar_images(self, chunk: ImageChunk) -> Tensor:
        """Masked images on the half rings, times their CTF and weights: `(n, rings, angles / 2)` complex64."""
        n, b = len(chunk), self.small_box
        small = torch.zeros(n, b * (b // 2 + 1), dtype=torch.complex64)
        data = torch.from_numpy(chunk.data)
        values = torch.complex(data[:, 0, : self.n_points], data[:, 1, : self.n_points])
        small[:, self.place] = values
        small[:, self.mate_place] = values[:, self.axis].conj()
        images = torch.fft.fftshift(irfftn(small.reshape(n, b, b // 2 + 1), (b, b)), dim=(1, 2)) * self.window
        padded = torch.zeros(n, 2 * b, 2 * b)
        padded[:, :b, :b] = images
        spectrum = rfftn(padded, 2)[:, self.keep_y][:, :, : self.n_keep] * self.ramp
        out = torch.empty(n, len(self.rings.points), dtype=torch.complex64)
        _sample_plane(
            torch.view_as_real(spectrum.contiguous()).numpy(),
            self.rings.points.numpy(),
            torch.view_as_real(out).numpy(),
        )
        return out.reshape(n, self.rings.n_rings, -1)

    def best(
        self, chunk: ImageChunk, polar: Tensor, part: np.ndarray, centre: np.ndarray, bank: ReferenceBank
    ) -> tuple[np.ndarray, ...]:
        """Rotation, shift, scale, reference and gain of the best candidates of some images of a chunk."""
        rings, t, d = self.rings, len(self.shifts), len(bank.power)
        n = len(part)
        x, y = self.rings.points[:, 0], self.rings.points[:, 1]
        ctf = torch.from_numpy(self.source.ctf_at(chunk.rows[part], x, y)).reshape(n, rings.n_rings, -1)
        weight = self.ring_weight[torch.from_numpy(chunk.group[part])]  # (n, rings)
        start = torch.from_numpy(centre.astype(np.float32))
        phase = 2 * math.pi / self.source.box * (start[:, 1:] * x + start[:, :1] * y)
        centred = polar[part] * ctf * weight[..., None] * torch.polar(torch.ones_like(phase), phase).reshape(ctf.shape)
        moved = (centred[:, None] * self.shift_phase.reshape(1, t, rings.n_rings, -1)).reshape(n * t, rings.n_rings, -1)
        real, imaginary = _angular_transform(moved.real, moved.imag, rings)  # (q, n t, rings)
        left = torch.cat([real, imaginary], dim=-1).to(self.dtype)  # (q, n t, 2 rings)
        cross = torch.matmul(left[:, None], bank.factor)  # (q, 2, n t, d)
        flat = cross.reshape(2 * len(self.order), n * t * d)
        n_even = self.even.shape[1]
        even = (self.even @ flat[:n_even]).reshape(-1, n, t, d)
        odd = (self.odd @ flat[n_even:]).reshape(-1, n, t, d)
        best = (even + odd.abs()).amax(0).to(torch.float32)  # (n, t, d)
        norm = ((ctf**2).mean(-1) * weight * rings.n_angles) @ bank.power.T  # (n, d)
        norm = norm.clamp_min(1e-20)
        score = best.amax(1) / norm.sqrt()
        top_score, which = score.topk(self.top, dim=1)  # (n, top)
        i = torch.arange(n)[:, None].expand(n, self.top)
        shift_index = best[i, :, which].argmax(-1)  # (n, top)
        both = torch.cat(
            [even[:, i, shift_index, which] + odd[:, i, shift_index, which],
             even[:, i, shift_index, which] - odd[:, i, shift_index, which]]
        ).to(torch.float32)  # fmt: skip
        angle = 2 * math.pi / rings.n_angles * both.argmax(0).to(torch.float64)
        rotation = bank.rotation[which] @ rotation_about_z(-angle)
        shift = torch.from_numpy(centre)[:, None] + self.shifts[shift_index]
        gain = 0.5 * top_score.clamp_min(0) ** 2
        scale = both.amax(0) / norm.gather(1, which)
        return (
            rotation.numpy(),
            shift.numpy(),
            scale.to(torch.float64).numpy(),
            bank.reference[which].numpy(),
            gain.to(torch.float64).numpy(),
        )


def _angular_transform(real: Tensor, imaginary: Tensor, rings: RingSampling) -> tuple[Tensor, Tensor]:
    """`Σ_θ f(θ) exp(-i q θ)` over the full turn of Hermitian rings given on half a turn.

    `(..., m, rings, angles / 2)` to `(q, m, rings)`, even `q` first; `f(θ + π)` is the conjugate of `f(θ)`, so
    even `q` see only the real part and odd `q` only the imaginary part.
    """
    m, r, half = real.shape
    theta = 2 * math.pi / rings.n_angles * torch.arange(half, dtype=torch.float64)
    q = torch.arange(rings.largest_q + 1, dtype=torch.float64)
    out = []
    for values, some in ((real, q[0::2]), (imaginary, q[1::2])):
        angle = theta[:, None] * some
        basis = torch.cat([2 * angle.cos(), -2 * angle.sin()], dim=1).to(torch.float32)  # (half, 2 q)
        product = (values.reshape(-1, half) @ basis).reshape(m, r, 2, len(some)).permute(2, 3, 0, 1)
        out.append(product)
    even, odd = out
    # i (a + i b) = -b + i a
    return torch.cat([even[0], -odd[1]]), torch.cat([even[1], odd[0]])


def _angle_matrices(rings: RingSampling) -> tuple[Tensor, Tensor]:
    """Matrices from (q, re | im) to scores over half a turn, for even and odd `q`, `(angles / 2, 2 q)`."""
    alpha = 2 * math.pi / rings.n_angles * torch.arange(rings.n_angles // 2, dtype=torch.float64)
    q = torch.arange(rings.largest_q + 1, dtype=torch.float64)
    weight = torch.where(q == 0, 1.0, 2.0)
    matrices = []
    for some in (slice(0, None, 2), slice(1, None, 2)):
        angle = alpha[:, None] * q[some]
        pair = torch.stack([angle.cos() * weight[some], -angle.sin() * weight[some]], dim=2)
        matrices.append(pair.reshape(len(alpha), -1).to(torch.float32))
    return matrices[0], matrices[1]


@njit(nogil=True, cache=True, fastmath=True)
def _sample_plane(spectrum: np.ndarray, points: np.ndarray, out: np.ndarray) -> None:
    """Bilinear samples of padded half planes `(n, 2c+1, c+1, 2)`, centred in y, at `points` (Fourier pixels, xy)."""
    centre = spectrum.shape[1] // 2
    for k in range(points.shape[0]):
        x = np.float32(2) * points[k, 0]
        y = np.float32(2) * points[k, 1]
        sign = np.float32(1)
        if x < 0:
            x = -x
            y = -y
            sign = np.float32(-1)
        y += np.float32(centre)
        ix = int(x)
        iy = int(y)
        fx = x - np.float32(ix)
        fy = y - np.float32(iy)
        for i in range(spectrum.shape[0]):
            for u in range(2):
                a = spectrum[i, iy, ix, u]
                a += fx * (spectrum[i, iy, ix + 1, u] - a)
                b = spectrum[i, iy + 1, ix, u]
                b += fx * (spectrum[i, iy + 1, ix + 1, u] - b)
                a += fy * (b - a)
                out[i, k, u] = a if u == 0 else sign * a
