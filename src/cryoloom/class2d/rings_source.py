"""Particle images as samples on rings, chunk by chunk, kept in memory up to a budget."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.em.images import ImageSource
from cryoloom.em.ring_posterior import centred_coefficients
from cryoloom.em.rings import RingPlan
from cryoloom.fourier.polar import PointSampler


@dataclass(frozen=True)
class RingChunk:
    """Images of some rows on all rings.

    Attributes
    ----------
    rows
        Rows of the particle set, `(b,)` int64.
    samples
        Transforms at the points of the plan, complex `(b, rings, half)`.
    ctf
        CTF there, `(b, rings, half)` float32.
    power
        Mean `|X|²` on each ring, `(b, rings)` float32.
    ctf_power
        Mean `C²` on each ring, `(b, rings)` float32.
    group
        Noise group, `(b,)` int64.
    """

    rows: np.ndarray
    samples: Tensor
    ctf: Tensor
    power: Tensor
    ctf_power: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: np.ndarray) -> "RingChunk":
        """Some images of the chunk."""
        at = torch.from_numpy(which)
        return RingChunk(
            self.rows[which], self.samples[at], self.ctf[at], self.power[at], self.ctf_power[at], self.group[at]
        )


class _Centred:
    """Coefficients of all images about their centres, as far as they were asked for."""

    def __init__(self, n: int, n_q: int, n_rings: int) -> None:
        self.coefficients = torch.empty(n, n_q, 2, n_rings)
        self.centre_px = torch.full((n, 2), torch.nan)
        self.n_rings = torch.zeros(n, dtype=torch.int64)


class RingSource:
    """Samples of particle images at the points of one plan.

    Parameters
    ----------
    images
        Normalised images and their CTFs.
    plan
        Rings up to the finest resolution that will be used.
    use_ctf
        False leaves the CTF out of the model.
    cache_bytes
        Samples kept in memory, at most.

    Samples are made on the CPU; where they meet references is the place of `images`.
    """

    def __init__(
        self, images: ImageSource, plan: RingPlan, *, use_ctf: bool = True, cache_bytes: int = 1 << 29
    ) -> None:
        self.images, self.plan, self.use_ctf = images, plan, use_ctf
        self._sampler = PointSampler(images.box, plan.points)
        self._x, self._y = plan.points.to(torch.float32).unbind(-1)
        self._kept: dict[int, RingChunk] = {}
        self._centred: _Centred | None = None
        self._room = int(cache_bytes)
        self.chunk_size = int(np.clip((1 << 19) // len(plan.points), 16, 256))

    def __len__(self) -> int:
        return len(self.images)

    def chunk_rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Split rows at fixed borders of the particle set, in ascending order."""
        rows = np.sort(np.asarray(rows, np.int64))
        block = rows // self.chunk_size
        for b in np.unique(block):
            yield rows[np.searchsorted(block, b) : np.searchsorted(block, b, side="right")]

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Split rows in pieces of chunk size; pieces of a sparse set span several blocks."""
        rows = np.sort(np.asarray(rows, np.int64))
        if self.keeps_all:
            yield from self.chunk_rows(rows)
            return
        for start in range(0, len(rows), self.chunk_size):
            yield rows[start : start + self.chunk_size]

    @property
    def keeps_all(self) -> bool:
        """Whether all samples fit into the budget."""
        return len(self) * self._bytes_per_image <= self._room

    @property
    def _bytes_per_image(self) -> int:
        return 12 * len(self.plan.points) + 8 * len(self.plan.q) * self.plan.n_rings

    def chunk(self, rows: np.ndarray) -> RingChunk:
        """Samples of rows; a whole block is prepared and kept if all blocks fit."""
        if not self.keeps_all:
            return self._prepare(rows)
        block = int(rows[0]) // self.chunk_size
        kept = self._kept.get(block)
        if kept is None:
            first = block * self.chunk_size
            kept = self._kept[block] = self._prepare(np.arange(first, min(first + self.chunk_size, len(self))))
        if len(rows) == len(kept):
            return kept
        return kept.select(rows - kept.rows[0])

    def coefficients(self, chunk: RingChunk, centre_px: Tensor, n_rings: int | None = None) -> Tensor:
        """Coefficients over the angle of `C X`, centred, `(b, n_q, 2, rings)`; kept if all images fit.

        Parameters
        ----------
        centre_px
            Shift of each image, pixels yx, `(b, 2)` float32. What is kept is made anew where it differs.
        n_rings
            Only the first so many rings; all if left out.
        """
        n = n_rings or self.plan.n_rings
        if not self.keeps_all:
            return centred_coefficients(self.plan, chunk.samples[:, :n], chunk.ctf[:, :n], centre_px)
        if self._centred is None:
            self._centred = _Centred(len(self), len(self.plan.q), self.plan.n_rings)
        kept, rows = self._centred, torch.from_numpy(chunk.rows)
        stale = ((kept.centre_px[rows] != centre_px).any(1) | (kept.n_rings[rows] < n)).nonzero()[:, 0]
        if len(stale):
            some = rows[stale]
            kept.coefficients[some, :, :, :n] = centred_coefficients(
                self.plan, chunk.samples[stale, :n], chunk.ctf[stale, :n], centre_px[stale]
            )
            kept.centre_px[some], kept.n_rings[some] = centre_px[stale], n
        return kept.coefficients[:, :, :, :n][rows]

    def _prepare(self, rows: np.ndarray) -> RingChunk:
        samples = self._sampler(torch.from_numpy(self.images.images(rows)))
        if self.use_ctf:
            ctf = torch.from_numpy(self.images.ctf_at(rows, self._x, self._y))
        else:
            ctf = torch.ones(samples.shape)
        multiplied = torch.from_numpy(np.ascontiguousarray(self.images.particles.per_row("ctf_premultiplied")[rows]))
        if self.use_ctf and bool(multiplied.any()):  # divide them again; where the CTF is weak they say nothing
            weak = (ctf.abs() < 0.05) & multiplied[:, None]
            divisor = torch.where(multiplied[:, None] & ~weak, ctf, torch.ones_like(ctf))
            samples = torch.where(weak, torch.zeros_like(samples), samples / divisor)
            ctf = torch.where(weak, torch.zeros_like(ctf), ctf)
        shape = (len(rows), self.plan.n_rings, -1)
        samples, ctf = samples.reshape(shape), ctf.reshape(shape)
        return RingChunk(
            rows=np.asarray(rows),
            samples=samples,
            ctf=ctf,
            power=(samples.real**2 + samples.imag**2).mean(-1),
            ctf_power=(ctf**2).mean(-1),
            group=torch.from_numpy(self.images.noise_group[rows].astype(np.int64)),
        )
