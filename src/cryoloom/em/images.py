"""Particle images on their way into the engine: normalised, transformed, with their CTFs, chunk by chunk.

Images stream from disk through `ImageSource`; chunks that were prepared before are kept up to a memory
budget, so that small sets are read once and memory does not grow with the number of particles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.data import ParticleSet
from cryoloom.em.place import Place
from cryoloom.em.points import PlanePoints, plane_points
from cryoloom.fourier import image_to_dft
from cryoloom.maps.mask import spherical_mask
from cryoloom.optics import ctf


class ImageReader(Protocol):
    """What the engine needs of a stack: `io.particles.ParticleImages` is one."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of the rows, `(n, h, w)` float32."""


CACHE_BYTES = 1 << 29
"""Prepared images kept in memory, at most, so that a large set takes no more memory than one of some thousands."""


def cache_bytes(memory_budget: int) -> int:
    """Room for prepared images in a job that may use so many bytes."""
    return min(CACHE_BYTES, memory_budget // 4)


@dataclass(frozen=True)
class ImageChunk:
    """Prepared images.

    Attributes
    ----------
    rows
        Rows of the particle set, `(n,)` int64.
    data
        Plain DFT (phase origin at the centre) at the points, real and imaginary parts, `(n, 2, k)` float32.
    ctf
        CTF at the points, `(n, k)` float32.
    group
        Noise group of each image, `(n,)` int64.
    """

    rows: np.ndarray
    data: np.ndarray
    ctf: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class ImageSource:
    """Prepares images of a particle set for the engine.

    Parameters
    ----------
    reader
        Gives the raw images.
    particles
        Optics and CTF of each; all optics groups must share box and pixel size.
    mask_diameter
        Å; pixels outside this circle tell the background's level and spread.
    noise_group
        Noise group of each particle, `(n,)`; by default its optics group.
    cache_bytes
        Prepared chunks kept in memory, at most.
    normalise
        Bring each image's background to mean 0 and standard deviation 1.
    place
        Where the engine works on them; they are read and prepared on the CPU.
    """

    def __init__(
        self,
        reader: ImageReader,
        particles: ParticleSet,
        mask_diameter: float,
        *,
        noise_group: np.ndarray | None = None,
        cache_bytes: int = CACHE_BYTES,
        normalise: bool = True,
        place: Place | None = None,
    ) -> None:
        if len(particles) == 0:
            raise ValueError("particles: expected at least one particle, got none")
        self.reader = reader
        self.particles = particles
        box = particles.optics[0].box or reader.read(np.array([0])).shape[-1]
        self.points: PlanePoints = plane_points(int(box))
        self.box = int(box)
        self.pixel_size = float(particles.optics[0].pixel_size)
        for group in particles.optics:
            if abs(group.pixel_size - self.pixel_size) > 1e-4 * self.pixel_size or (group.box or box) != box:
                raise ValueError(f"optics: expected one box and pixel size in all groups, {group.name} differs")
        self.mask_diameter = float(mask_diameter)
        radius_px = 0.5 * self.mask_diameter / self.pixel_size
        disc = spherical_mask(self.box, min(radius_px, 0.47 * self.box), 0.0, ndim=2).numpy()
        self._outside = np.flatnonzero(disc.reshape(-1) == 0)
        self.disc = spherical_mask(self.box, min(radius_px, 0.5 * self.box - 6), min(0.1 * self.box, 8.0), ndim=2)
        self.noise_group = particles.optics_index if noise_group is None else np.asarray(noise_group)
        self.n_noise_groups = int(self.noise_group.max()) + 1
        self.defocus_offset = np.zeros(len(particles))
        self._normalise = normalise
        self.place = place or Place()
        self._kept: dict[int, ImageChunk] = {}
        self._kept_bytes = 0
        self._cache_bytes = int(cache_bytes)
        # Fixed by the box alone: results must not depend on the memory of the machine.
        self.chunk_size = int(np.clip((1 << 21) // self.points.count(self.points.radius), 8, 256))

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def field(self) -> float:
        """Side of the image in Å; shell `s` is the resolution `field / s`."""
        return self.box * self.pixel_size

    def chunk_rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Split rows into chunks at fixed borders of the particle set, in ascending order."""
        rows = np.sort(np.asarray(rows, dtype=np.int64))
        block = rows // self.chunk_size
        starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]]) if len(rows) else np.zeros(0, np.int64)
        for start, stop in zip(starts, np.r_[starts[1:], len(rows)] if len(rows) else starts, strict=True):
            yield rows[int(start) : int(stop)]

    def lane(self, rows: np.ndarray) -> int:
        """Which of the devices of `place` works on rows of one chunk: the chunks of the set take turns."""
        return int(rows[0]) // self.chunk_size % len(self.place.devices)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Normalised images, `(n, box, box)` float32."""
        images = np.array(self.reader.read(rows), dtype=np.float32, copy=True)
        if not self._normalise or len(self._outside) < 16:
            return images
        background = images.reshape(len(images), -1)[:, self._outside]
        mean = background.mean(1, dtype=np.float64)
        spread = background.std(1, dtype=np.float64)
        spread[~(spread > 0)] = 1.0
        images -= mean[:, None, None].astype(np.float32)
        images *= (1.0 / spread)[:, None, None].astype(np.float32)
        return images

    def chunk(self, rows: np.ndarray, images: np.ndarray | None = None) -> ImageChunk:
        """Prepared images of rows within one chunk."""
        rows = np.asarray(rows, dtype=np.int64)
        block = int(rows[0]) // self.chunk_size
        kept = self._kept.get(block)
        if kept is not None:
            if len(kept) == len(rows) and kept.rows[0] == rows[0] and kept.rows[-1] == rows[-1]:
                return kept
            at = rows - kept.rows[0]
            return ImageChunk(rows, kept.data[at], kept.ctf[at], kept.group[at])
        first, last = block * self.chunk_size, min((block + 1) * self.chunk_size, len(self))
        whole_bytes = (last - first) * len(self.points.kx) * 12
        if self._kept_bytes + whole_bytes <= self._cache_bytes:
            self._kept_bytes += whole_bytes
            whole = self._prepare(np.arange(first, last), None)
            self._kept[block] = whole
            return self.chunk(rows)
        return self._prepare(rows, images)

    def _prepare(self, rows: np.ndarray, images: np.ndarray | None) -> ImageChunk:
        images = self.images(rows) if images is None else images
        dft = image_to_dft(torch.from_numpy(images))
        picked = dft.reshape(len(rows), -1)[:, torch.from_numpy(self.points.place)]
        data = np.empty((len(rows), 2, len(self.points.kx)), np.float32)
        data[:, 0] = picked.real.numpy()
        data[:, 1] = picked.imag.numpy()
        kx, ky = torch.from_numpy(self.points.kx), torch.from_numpy(self.points.ky)
        value = self.ctf_at(rows, kx, ky)
        self._undo(rows, data, value)
        return ImageChunk(rows, data, value, self.noise_group[rows])

    def set_defocus(self, offset: np.ndarray, executor: Executor) -> None:
        """Change the defocus of every particle by `offset` Å against the value it came with, `(n,)`."""
        if np.array_equal(offset, self.defocus_offset):
            return
        self.defocus_offset = np.array(offset, dtype=np.float64)
        kx, ky = torch.from_numpy(self.points.kx), torch.from_numpy(self.points.ky)

        def renew(block: int) -> None:
            kept = self._kept[block]
            kept.ctf[:] = self.ctf_at(kept.rows, kx, ky)

        for _ in executor.map(renew, sorted(self._kept)):
            pass

    def ctf_at(
        self, rows: np.ndarray, kx: Tensor, ky: Tensor, *, offset: bool = True, extra_phase: float = 0.0
    ) -> np.ndarray:
        """CTF of particles at points in Fourier pixels, `(n, *points)` float32; 1 where no defocus is known.

        Parameters
        ----------
        offset
            Whether `defocus_offset` counts.
        extra_phase
            Added to the phase shift, radians: a quarter period gives the derivative's partner.
        """
        p = self.particles
        if p.defocus_u is None:
            return np.ones((len(rows), *kx.shape), np.float32)
        out = np.empty((len(rows), *kx.shape), np.float32)
        kx, ky = (kx / self.field).to(torch.float32), (ky / self.field).to(torch.float32)
        for g in np.unique(p.optics_index[rows]):
            sel = np.flatnonzero(p.optics_index[rows] == g)
            r, optics = rows[sel], p.optics[int(g)]

            def column(values: np.ndarray | None, r: np.ndarray = r) -> Tensor:
                return torch.zeros(len(r)) if values is None else torch.from_numpy(values[r].astype(np.float32))

            moved = torch.from_numpy(self.defocus_offset[r].astype(np.float32)) * float(offset)
            value = ctf(
                ky,
                kx,
                defocus_u=column(p.defocus_u) + moved,
                defocus_v=column(p.defocus_v if p.defocus_v is not None else p.defocus_u) + moved,
                defocus_angle=column(p.defocus_angle),
                voltage_kv=optics.voltage_kv,
                cs_mm=optics.cs_mm,
                amplitude_contrast=optics.amplitude_contrast,
                phase_shift=column(p.phase_shift) + extra_phase,
                bfactor=column(p.ctf_bfactor),
            )
            if p.ctf_scale is not None:
                value = value * column(p.ctf_scale).reshape(-1, *[1] * kx.ndim)
            if optics.phase_flipped:
                value = value.abs()
            out[sel] = value.numpy()
        return out

    def _undo(self, rows: np.ndarray, data: np.ndarray, value: np.ndarray) -> None:
        """Divide images that were multiplied by their CTF already; where it is near zero they say nothing."""
        multiplied = self.particles.per_row("ctf_premultiplied")[rows]
        for i in np.flatnonzero(multiplied):
            weak = np.abs(value[i]) < 0.05
            safe = np.where(weak, 1.0, value[i]).astype(np.float32)
            data[i] = np.where(weak, 0.0, data[i] / safe)
            value[i][weak] = 0.0
