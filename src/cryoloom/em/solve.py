"""From Fourier sums to volumes: `V = num / (den + 1/τ²)`, kernel-corrected, and the FSC that gives τ².

`τ² = SSNR · mean(1/den)` per shell, so the solution is `num / (den + mean(den) / SSNR)`, with `SSNR = FSC / (1 - FSC)`
for half maps and `2 FSC / (1 - FSC)` for the map of all particles (whose weights are twice as large).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import FourierSums
from cryoloom.em.symmetrise import symmetrise_sums, symmetry_profile
from cryoloom.fourier import good_size
from cryoloom.fourier.slices import PADDING, PaddedSpectrum, complete_sums, padded_half_size, restore_volume

f32 = np.float32


@dataclass(frozen=True)
class SolvableSums:
    """Complete, symmetrised sums of one half or class, ready to be solved with any regularisation.

    Attributes
    ----------
    sums
        `(2n+1, 2n+1, n+2, 4)` float32: numerator (re, im), weight, unused.
    radius
        Last shell.
    symmetry
        Point group that was applied.
    mean_weight
        Mean weight per shell, `(radius + 1,)` float64.
    """

    sums: Tensor
    radius: int
    symmetry: str
    mean_weight: np.ndarray

    def plus(self, other: "SolvableSums") -> "SolvableSums":
        """Sums of both sets of particles together."""
        return SolvableSums(self.sums + other.sums, self.radius, self.symmetry, self.mean_weight + other.mean_weight)

    def minus(self, other: "SolvableSums") -> "SolvableSums":
        """Sums without those particles."""
        return SolvableSums(self.sums - other.sums, self.radius, self.symmetry, self.mean_weight - other.mean_weight)


def prepare_sums(sums: FourierSums, symmetry: str, executor: Executor, *, keep: bool = False) -> SolvableSums:
    """Complete and symmetrise raw sums.

    With `keep` the raw sums stay as they are, so that more can be added to them later; else they are used up.
    """
    raw = sums.sums.clone() if keep else sums.sums
    complete_sums(raw)
    packed = symmetrise_sums(raw, symmetry, executor)
    depth = packed.shape[0]
    slabs = np.array_split(np.arange(depth), max(1, min(depth, 2 * executor.n_workers)))
    parts = executor.map(
        lambda slab: _shell_weights(packed.numpy(), int(slab[0]), int(slab[-1]) + 1, sums.radius), slabs
    )
    # partial sums are added in the order of the planes they hold, whatever the split
    per_plane = np.concatenate(list(parts))
    total = per_plane[:, 0].sum(0)
    count = per_plane[:, 1].sum(0)
    return SolvableSums(packed, sums.radius, symmetry, total / np.maximum(count, 1.0))


def solve(
    sums: SolvableSums,
    box: int,
    ssnr: np.ndarray | None = None,
    *,
    floor: float = 0.05,
    radius: int | None = None,
) -> Tensor:
    """Volume of the sums, `(box, box, box)` float32.

    Parameters
    ----------
    box
        Side of the result over the same field; DFT values do not depend on it.
    ssnr
        Signal-to-noise ratio per shell, `(radius + 1,)` or longer; None solves with the `floor` alone.
    floor
        Smallest added weight, as a fraction of the shell's mean weight: it keeps directions that no
        particle saw from being amplified without bound. What it dims evenly is given back where there is no `ssnr`.
    radius
        Last shell of the result.
    """
    radius = sums.radius if radius is None else min(int(radius), sums.radius)
    inverse = np.full(sums.radius + 1, float(floor))
    if ssnr is not None:
        given = np.asarray(ssnr, np.float64)[: sums.radius + 1]
        inverse[: len(given)] = 1.0 / np.clip(given, 1e-3, 1.0 / max(floor, 1e-9))
        inverse[len(given) :] = 1e3
    added = np.zeros(sums.radius + 2)
    added[:-1] = inverse * sums.mean_weight
    added[-1] = 1.0
    tiny = float(sums.mean_weight.max()) * 1e-9 + 1e-30
    n = padded_half_size(radius)
    values = np.empty((2 * n + 1, 2 * n + 1, n + 2), np.complex64)
    _divide(sums.sums.numpy(), added.astype(np.float32), f32(tiny), radius, values.view(np.float32))
    volume = restore_volume(PaddedSpectrum(torch.from_numpy(values), box, radius), box, correct=False)
    # the floor alone would only dim the map
    volume *= (1.0 + floor if ssnr is None else 1.0) / symmetry_profile(box, sums.symmetry)
    return volume


def box_for_radius(radius: int, full_box: int) -> int:
    """Smallest fast box whose slices reach `radius`, at most the full box."""
    return min(int(full_box), good_size(2 * (int(radius) + 2)))


def ssnr_of(fsc: np.ndarray, *, both_halves: bool) -> np.ndarray:
    """`FSC / (1 - FSC)`, twice that for the map of both halves; 0 where the FSC is not positive."""
    clipped = np.clip(fsc, 0.0, 0.999)
    return (2.0 if both_halves else 1.0) * clipped / (1.0 - clipped)


@njit(nogil=True, cache=True)
def _shell_weights(sums: np.ndarray, z_low: int, z_high: int, radius: int) -> np.ndarray:
    """Sum of weights and number of voxels per plane and shell, `(planes, 2, radius + 1)`."""
    depth = sums.shape[0]
    centre = depth // 2
    out = np.zeros((z_high - z_low, 2, radius + 1))
    for iz in range(z_low, z_high):
        for iy in range(depth):
            base = float((iz - centre) ** 2 + (iy - centre) ** 2)
            for ix in range(sums.shape[2] - 1):
                shell = int(math.sqrt(base + ix * ix) / PADDING + 0.5)
                if shell <= radius:
                    out[iz - z_low, 0, shell] += sums[iz, iy, ix, 2]
                    out[iz - z_low, 1, shell] += 1.0
    return out


@njit(nogil=True, cache=True, fastmath=True)
def _divide(sums: np.ndarray, added: np.ndarray, tiny: np.float32, radius: int, out: np.ndarray) -> None:
    """`num / (den + added[shell])` up to `radius`, 0 beyond; `out` may reach less far than `sums`."""
    shift = sums.shape[0] // 2 - out.shape[0] // 2
    centre = out.shape[0] // 2
    columns = out.shape[2] // 2
    for iz in range(out.shape[0]):
        for iy in range(out.shape[0]):
            base = f32((iz - centre) ** 2 + (iy - centre) ** 2)
            for ix in range(columns):
                shell = int(math.sqrt(base + f32(ix * ix)) * f32(1.0 / PADDING) + f32(0.5))
                if shell > radius or ix == columns - 1:
                    out[iz, iy, 2 * ix] = f32(0)
                    out[iz, iy, 2 * ix + 1] = f32(0)
                    continue
                weight = max(sums[iz + shift, iy + shift, ix, 2] + added[shell], tiny)
                out[iz, iy, 2 * ix] = sums[iz + shift, iy + shift, ix, 0] / weight
                out[iz, iy, 2 * ix + 1] = sums[iz + shift, iy + shift, ix, 1] / weight
