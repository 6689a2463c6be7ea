"""Exhaustive search over directions, in-plane angles and shifts at low resolution, on the rings of `em/rings.py`.

Slices of the references along a grid of directions meet the images on rings; candidates are ranked by
`cross / √norm`, the likelihood with the scale solved out.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates, join_candidates
from cryoloom.em.rings import ImageBatch, ReferenceBank, image_batch, plan_rings, reference_bank, search_rings
from cryoloom.fourier import good_size, irfftn
from cryoloom.fourier.polar import PointSampler
from cryoloom.fourier.slices import PaddedSpectrum, extract_points
from cryoloom.geometry import direction_grid, grid_rotations, rotation_about_z, symmetry_matrices
from cryoloom.maps.mask import spherical_mask

BLOCK_BYTES, BLOCK_BYTES_GPU = 1 << 23, 1 << 28
"""Scores that each thread holds at once: on a CPU what its cache holds, on a GPU enough to keep it busy."""

AT_ONCE = 16_384
"""Particles of a block of a search."""


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
    place = source.place
    searchers = [
        RingSearcher(source, noise, n_rings, torch.from_numpy(shifts_px).to(torch.float32), rotations, top, device)
        for device in place.devices
    ]
    rows = np.sort(np.asarray(rows, np.int64))
    centre = np.zeros((len(source), 2)) if centre_px is None else centre_px
    side = half[rows] - 1 if len(references) > 1 else np.zeros(len(rows), np.int64)
    parts: list[tuple[np.ndarray, ...]] = []
    for h in range(len(references)):
        per_class = references[h]
        mine = rows[side == h]
        if not len(mine):
            continue
        # the slices of one reference at a time: they are what takes memory
        copies = place.copies([per_class] if isinstance(per_class, PaddedSpectrum) else list(per_class))
        banks = [searcher.bank(own, dtype) for searcher, own in zip(searchers, copies, strict=True)]

        def find(rows: np.ndarray, banks: list[ReferenceBank] = banks) -> tuple[np.ndarray, ...]:
            lane = source.lane(rows)
            return searchers[lane].best_of_rows(rows, centre, banks[lane])

        parts += executor.map(find, source.chunk_rows(mine))
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


def in_blocks(
    source: ImageSource, rows: np.ndarray, find: Callable[[np.ndarray], Candidates], at_once: int = AT_ONCE
) -> Candidates:
    """What `find` gives for blocks of the rows, whose borders are borders of chunks of images."""
    size = max(1, at_once // source.chunk_size) * source.chunk_size
    block = rows // size
    return join_candidates([find(rows[block == b]) for b in np.unique(block)])


class RingSearcher:
    """What the chunks of one search share on a device: rings, sampler, mask, noise and directions."""

    def __init__(
        self,
        source: ImageSource,
        noise: NoiseModel,
        n_rings: int,
        shifts_px: Tensor,
        rotations: Tensor,
        top: int,
        device: str = "cpu",
    ) -> None:
        self.source, self.shifts_px, self.rotations, self.top = source, shifts_px, rotations, top
        diameter_px = source.mask_diameter / source.pixel_size
        self.plan = plan_rings(source.box, n_rings, diameter_px, content_px=diameter_px, device=device)
        b = self.small_box = min(good_size(2 * (n_rings + 3)), source.box - source.box % 2)
        n = self.n_points = source.points.count(min(b // 2 - 1, source.points.radius))
        ky, kx = source.points.ky[:n].astype(np.int64), source.points.kx[:n].astype(np.int64)
        self.place = torch.from_numpy(ky % b * (b // 2 + 1) + kx)
        # points with kx = 0 are kept once: their mates have to be set too
        axis = np.flatnonzero(kx == 0)
        self.axis = torch.from_numpy(axis)
        self.mate_place = torch.from_numpy((-ky[axis]) % b * (b // 2 + 1))
        edge = max(2.0, 0.06 * b)
        radius = min(0.5 * diameter_px * b / source.box, 0.5 * b - edge - 1)
        self.mask = spherical_mask(b, radius, edge, ndim=2).to(device)
        self.sampler = PointSampler(b, self.plan.points)
        self.inverse_noise = torch.from_numpy((1.0 / noise.power[:, 1 : n_rings + 1]).astype(np.float32)).to(device)

    def bank(self, references: Sequence[PaddedSpectrum], dtype: torch.dtype) -> ReferenceBank:
        """Slices of all classes along all directions, one class after the other."""
        samples = torch.cat([extract_points(r, self.rotations, self.plan.points) for r in references]).to(
            torch.complex64
        )
        return reference_bank(self.plan, samples, dtype=dtype)

    def samples(self, chunk: ImageChunk) -> Tensor:
        """Masked images on the half rings, `(n, rings, half)` complex64."""
        n, b = len(chunk), self.small_box
        small = torch.zeros(n, b * (b // 2 + 1), dtype=torch.complex64)
        data = torch.from_numpy(chunk.data)
        values = torch.complex(data[:, 0, : self.n_points], data[:, 1, : self.n_points])
        small[:, self.place] = values
        small[:, self.mate_place] = values[:, self.axis].conj()
        images = torch.fft.fftshift(irfftn(small.reshape(n, b, b // 2 + 1), (b, b)), dim=(1, 2))
        return self.sampler(images.to(self.mask.device) * self.mask).reshape(n, self.plan.n_rings, -1)

    def batch(self, chunk: ImageChunk, samples: Tensor, part: np.ndarray, centre_px: np.ndarray) -> ImageBatch:
        """Some images of a chunk weighted by CTF and noise, about their centres `(n, 2)` yx pixels."""
        device = samples.device
        x, y = self.plan.points.to("cpu", torch.float32).unbind(1)
        ctf = torch.from_numpy(self.source.ctf_at(chunk.rows[part], x, y)).to(device)
        inverse_noise = self.inverse_noise[torch.from_numpy(chunk.group[part]).to(device)]
        some = samples[torch.from_numpy(part).to(device)]
        return image_batch(self.plan, some, ctf, inverse_noise, torch.from_numpy(centre_px).to(device))

    def best_of_rows(self, rows: np.ndarray, centre_px: np.ndarray, bank: ReferenceBank) -> tuple[np.ndarray, ...]:
        """Rows of one chunk, and what `best` says of them."""
        chunk = self.source.chunk(rows)
        return (rows, *self.best(chunk, self.samples(chunk), np.arange(len(rows)), centre_px[rows], bank))

    def best(
        self, chunk: ImageChunk, samples: Tensor, part: np.ndarray, centre_px: np.ndarray, bank: ReferenceBank
    ) -> tuple[np.ndarray, ...]:
        """Rotation, shift, scale, reference and gain of the best candidates of some images of a chunk."""
        batch = self.batch(chunk, samples, part, centre_px)
        shifts = self.shifts_px.to(samples.device)
        room = BLOCK_BYTES if samples.device.type == "cpu" else BLOCK_BYTES_GPU
        found = search_rings(batch, bank, self.plan, shifts, top=self.top, block_bytes=room).on("cpu")
        n_views = len(self.rotations)
        rotation = self.rotations[found.reference % n_views] @ rotation_about_z(found.psi.to(torch.float64))
        scale = found.cross / found.norm.clamp_min(1e-20)
        gain = 0.5 * found.score.clamp_min(0).to(torch.float64) ** 2
        columns = (
            rotation,
            found.shift_px.to(torch.float64),
            scale.to(torch.float64),
            found.reference // n_views,
            gain,
        )
        return tuple(column.numpy() for column in columns)
