"""From Fourier sums to volumes: `V = num / (den + 1/τ²)`, kernel-corrected, and the FSC that gives τ².

`τ² = SSNR · mean(1/den)` per shell, so the solution is `num / (den + mean(den) / SSNR)`, with `SSNR = FSC / (1 - FSC)`
for half maps and `2 FSC / (1 - FSC)` for the map of all particles (whose weights are twice as large).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import FourierSums
from cryoloom.em.symmetrise import symmetrise_sums, symmetry_profile
from cryoloom.fourier import good_size
from cryoloom.fourier.slices import PADDING, PaddedSpectrum, restore_volume


@dataclass(frozen=True)
class SolvableSums:
    """Complete, symmetrised sums of one half or class, ready to be solved with any regularisation.

    Attributes
    ----------
    numerator, weight
        `(2n+1, 2n+1, n+2)` complex64 and float32.
    radius
        Last shell.
    symmetry
        Point group that was applied.
    mean_weight
        Mean weight per shell, `(radius + 1,)` float64.
    """

    numerator: Tensor
    weight: Tensor
    radius: int
    symmetry: str
    mean_weight: np.ndarray

    def plus(self, other: "SolvableSums") -> "SolvableSums":
        """Sums of both sets of particles together."""
        return SolvableSums(
            self.numerator + other.numerator,
            self.weight + other.weight,
            self.radius,
            self.symmetry,
            self.mean_weight + other.mean_weight,
        )


def prepare_sums(sums: FourierSums, symmetry: str, executor: Executor) -> SolvableSums:
    """Complete and symmetrise raw sums."""
    numerator, weight = sums.completed()
    numerator, weight = symmetrise_sums(numerator, weight, symmetry, executor)
    shell = padded_shells(sums.radius)
    flat = shell.reshape(-1)
    n = sums.radius + 2
    total = torch.bincount(flat, weight.reshape(-1).to(torch.float64), minlength=n)[:n]
    count = torch.bincount(flat, minlength=n)[:n].clamp_min(1)
    return SolvableSums(numerator, weight, sums.radius, symmetry, (total / count)[: sums.radius + 1].numpy())


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
        particle saw from being amplified without bound.
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
    shell = padded_shells(sums.radius)
    denominator = sums.weight + torch.from_numpy(added.astype(np.float32))[shell]
    tiny = float(sums.mean_weight.max()) * 1e-9 + 1e-30
    values = sums.numerator / denominator.clamp_min(tiny)
    values[shell > radius] = 0
    values[..., -1] = 0
    volume = restore_volume(PaddedSpectrum(values, box, sums.radius), box, correct=False)
    return volume / symmetry_profile(box, sums.symmetry)


def box_for_radius(radius: int, full_box: int) -> int:
    """Smallest fast box whose slices reach `radius`, at most the full box."""
    return min(int(full_box), good_size(2 * (int(radius) + 2)))


_shells: dict[int, Tensor] = {}


def padded_shells(radius: int) -> Tensor:
    """Shell of each voxel of sums with `radius`, `(2n+1, 2n+1, n+2)` int64; `radius + 1` beyond the last."""
    if radius not in _shells:
        n = PADDING * radius + 1
        k = torch.arange(-n, n + 1, dtype=torch.float32)
        x = torch.arange(0, n + 2, dtype=torch.float32)
        r = torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + x**2) / PADDING
        if len(_shells) > 3:
            _shells.clear()
        _shells[radius] = r.round_().clamp_max_(radius + 1).to(torch.int64)
    return _shells[radius]


def ssnr_of(fsc: np.ndarray, *, both_halves: bool) -> np.ndarray:
    """`FSC / (1 - FSC)`, twice that for the map of both halves; 0 where the FSC is not positive."""
    clipped = np.clip(fsc, 0.0, 0.999)
    return (2.0 if both_halves else 1.0) * clipped / (1.0 - clipped)
