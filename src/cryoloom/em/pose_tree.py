"""Cells of poses, coarse to fine: what `branch_and_bound` divides, and how much a cell's centre sees of its corners.

A cell is a direction and a shift with all in-plane angles, which the rings give at once. A direction of the next finer
grid belongs to the nearest direction of the coarser one, a shift likewise. For every direction of the finest grid the
tree holds, ring by ring, the product of its slice with that of the cell's centre, turned to where the two agree best
and moved to the corner of the cell's shifts: with an image's CTF and noise as weights of the rings this gives the
correlation of the two slices, worst over everything that the cell holds.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.em.ring_kernels import pair_curves_kernel
from cryoloom.em.ring_posterior import first_rings
from cryoloom.em.rings import (
    RingPlan,
    angular_coefficients,
    reference_bank,
    shift_phases,
    synthesis,
    turned_samples,
)

N_CORNERS = 8
"""Directions in which a shift's corner is looked at: the frame of the cell turns with the in-plane angle."""

LEAST_OF_BEST = 0.97
"""A level uses the fewest rings at which centres see this share of what they see with the best number of rings."""

SEEN_BEFORE_ALL = 0.88
"""On the finest grid, cells are first looked at on the fewest rings that hold this share of the signal."""


@dataclass(frozen=True)
class PoseGrid:
    """One level of a tree before any reference is known.

    Attributes
    ----------
    rotations
        Directions, `(d, 3, 3)`.
    shifts_px
        Shifts, `(t, 2)` yx pixels.
    parent_direction, parent_shift
        Cell of the level above that holds each, `(d,)` and `(t,)` int64; empty at the top.
    shift_reach_px
        Largest distance of a shift of the finest grid from the centre of its cell.
    """

    rotations: Tensor
    shifts_px: np.ndarray
    parent_direction: np.ndarray
    parent_shift: np.ndarray
    shift_reach_px: float


@dataclass(frozen=True)
class TreeLevel:
    """One level with its reference.

    Attributes
    ----------
    grid
        Directions and shifts.
    n_rings
        Rings used, the innermost ones.
    bank
        Angular coefficients of the slices on these rings, `(d, n_q, 2, rings)` float32.
    power
        Mean square of the slices on all rings, `(d, rings)` float32.
    products
        Mean over a ring of (centre's slice)* x (corner's slice), `(m, rings)` float32, `m` corners sorted by cell.
    corner_power
        Mean square of the slices at the corners, `(m, rings)` float32.
    starts
        First corner of each cell, `(d,)` int64.
    """

    grid: PoseGrid
    n_rings: int
    bank: np.ndarray
    power: Tensor
    products: Tensor
    corner_power: Tensor
    starts: np.ndarray

    def seen_share(self, ring_weight: Tensor) -> Tensor:
        """`f` of every image and cell, `(b, d)`: squared correlation of centre (rings used) and corner (all rings).

        Parameters
        ----------
        ring_weight
            `w_r n_θ <C²>/σ²` per ring, `(b, rings)`.
        """
        used = ring_weight[:, : self.n_rings]
        centre = (used @ self.power[:, : self.n_rings].T)[:, _cell_of(self.starts, len(self.products))]
        product = (used @ self.products[:, : self.n_rings].T).clamp_min(0)
        share = product**2 / (centre * (ring_weight @ self.corner_power.T)).clamp_min(1e-30)
        return torch.from_numpy(np.minimum.reduceat(share.numpy(), self.starts, axis=1)).clamp(1e-6, 1.0)


def pose_grids(directions: list[Tensor], shifts: list[np.ndarray]) -> list[PoseGrid]:
    """Levels of a tree from grids of directions `(d, 3, 3)` and shifts `(t, 2)`, coarsest first."""
    up, across = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for coarse, fine in zip(directions[:-1], directions[1:], strict=True):
        up.append((fine[:, :, 2] @ coarse[:, :, 2].T).argmax(1).numpy())
    for above, below in zip(shifts[:-1], shifts[1:], strict=True):
        across.append(np.linalg.norm(below[:, None] - above[None], axis=2).argmin(1))
    grids = []
    for level in range(len(directions)):
        at = _ancestors(across, level, len(shifts[-1]))
        reach = float(np.linalg.norm(shifts[-1] - shifts[level][at], axis=1).max())
        grids.append(PoseGrid(directions[level], shifts[level], up[level], across[level], reach))
    return grids


def build_tree(plan: RingPlan, grids: list[PoseGrid], samples: list[Tensor], ring_weight: Tensor) -> list[TreeLevel]:
    """Prepare a tree for one reference.

    Parameters
    ----------
    plan
        Rings; its angles are those of the finest grid.
    grids
        From `pose_grids`.
    samples
        Slices along the directions of each level at the points of the plan, complex `(d, rings, half)`.
    ring_weight
        `w_r n_θ <C²>/σ²` of a typical image, `(rings,)`: decides how many rings each level uses.
    """
    up = [grid.parent_direction for grid in grids]
    fine = samples[-1].reshape(len(samples[-1]), plan.n_rings, -1)
    fine_power = reference_bank(plan, fine).power
    levels = []
    for depth, (grid, some) in enumerate(zip(grids, samples, strict=True)):
        some = some.reshape(len(some), plan.n_rings, -1)
        power = (some.real**2 + some.imag**2).mean(-1)
        cell = _ancestors(up, depth, len(fine))
        order = np.argsort(cell, kind="stable")
        present, starts = np.unique(cell[order], return_index=True)
        if len(present) != len(some):
            raise ValueError("directions: every coarse direction must be the nearest one of some finer direction")
        n_corners = N_CORNERS if grid.shift_reach_px > 0 else 1
        products = _corner_products(plan, some, fine, cell, grid.shift_reach_px, ring_weight)[order]
        bank = angular_coefficients(plan, some).permute(0, 2, 3, 1).contiguous().numpy()
        level = TreeLevel(
            grid=grid,
            n_rings=plan.n_rings,
            bank=bank,
            power=power,
            products=products.reshape(-1, plan.n_rings),
            corner_power=fine_power[order].repeat_interleave(n_corners, 0),
            starts=starts * n_corners,
        )
        levels.append(_with_rings(level, ring_weight, is_finest=depth == len(grids) - 1))
    return levels


def _with_rings(level: TreeLevel, ring_weight: Tensor, *, is_finest: bool) -> TreeLevel:
    """The level cut to the rings that serve its cells best: too few see little, too many differ within the cell."""
    n_all = level.bank.shape[-1]
    sharp = []
    for n in range(1, n_all + 1):
        share = _replace_rings(level, n).seen_share(ring_weight[None])
        sharp.append(float(share.median()))
    if is_finest:
        return level
    asked = SEEN_BEFORE_ALL if len(level.starts) == len(level.products) else LEAST_OF_BEST * max(sharp)
    return _replace_rings(level, 1 + int(np.flatnonzero(np.array(sharp) >= asked)[0]))


def _replace_rings(level: TreeLevel, n: int) -> TreeLevel:
    bank = np.ascontiguousarray(level.bank[..., :n])
    return TreeLevel(level.grid, n, bank, level.power, level.products, level.corner_power, level.starts)


def _corner_products(
    plan: RingPlan, centre: Tensor, fine: Tensor, cell: np.ndarray, reach_px: float, ring_weight: Tensor
) -> Tensor:
    """Products of each fine slice, moved to the corners, with its cell's centre, `(d_fine, corners, rings)` float32."""
    bank = angular_coefficients(plan, centre).permute(0, 2, 3, 1).contiguous().numpy()
    weighted = angular_coefficients(plan, fine) * ring_weight[:, None, None]
    images = weighted.permute(0, 2, 3, 1).contiguous().numpy()
    pairs = np.arange(len(fine))
    spectrum = np.empty((len(fine), len(plan.q), 2), np.float32)
    place = np.arange(len(plan.q))
    pair_curves_kernel(bank, images, place, first_rings(plan), pairs, cell, spectrum)
    psi = plan.angles[angle_curves(plan, torch.from_numpy(spectrum)).argmax(1)]
    angle = torch.arange(N_CORNERS, dtype=torch.float64) * (2 * np.pi / N_CORNERS)
    corners = reach_px * torch.stack([angle.sin(), angle.cos()], 1) if reach_px > 0 else torch.zeros(1, 2)
    phases = shift_phases(plan, corners)
    parts = []
    for start in range(0, len(fine), 64):
        some = slice(start, start + 64)
        turned = turned_samples(plan, centre[cell[some]], psi[some])
        product = turned.conj() * fine[some]
        parts.append(torch.einsum("drh,crh->dcr", product.real, phases.real))
        parts[-1] -= torch.einsum("drh,crh->dcr", product.imag, phases.imag)
    return (torch.cat(parts) / (plan.n_samples // 2)).to(torch.float32)


def angle_curves(plan: RingPlan, spectrum: Tensor) -> Tensor:
    """Values at the angles of the plan from `(pairs, n_q, 2)` sums, `(pairs, n_angles)`."""
    even, odd = synthesis(plan, plan.n_angles, spectrum.dtype)
    a = spectrum[:, : plan.n_even].flatten(1) @ even.T
    b = spectrum[:, plan.n_even :].flatten(1) @ odd.T
    return torch.cat([a + b, a - b], dim=1)


def _ancestors(parents: list[np.ndarray], level: int, n_fine: int) -> np.ndarray:
    """Cell of a level that each member of the finest grid descends from, `(n_fine,)`."""
    at = np.arange(n_fine)
    for parent in reversed(parents[level + 1 :]):
        at = parent[at]
    return at


def _cell_of(starts: np.ndarray, n: int) -> np.ndarray:
    return np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, n]))
