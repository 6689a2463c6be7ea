"""Pose search by branch and bound: coarse cells on few rings, of which only those are divided that may hold the best.

The idea is that of Punjani et al. 2017 (doi:10.1038/nmeth.4169); the bound is another one, for the score used here, in
which the scale is solved out. The rings give all in-plane angles at once, so cells are directions and shifts.

**Score.** With `A_g` the slice at pose `g`, seen through CTF and noise (`Σ |A_g|²` over the full plane is the norm term
`N(g)`), `ζ(g) = Re <A_g, X> / √N(g)`, the root of twice the likelihood's gain. For an image `X = s A_t + n` with
Gaussian noise, `ζ(g)` is normal with variance 1 and mean `s √N(t) cos(g, t)`, `cos` the correlation of the two slices.

**Bound.** Let `c` be the centre of a cell, seen on the rings up to a limit L only, and `f` the squared correlation of
that (zero on the rings left out) with the full slice of a member `g` of the cell: `f` is the share of the signal power
of `g` that the centre sees, less what lies between centre and corner. If the image shows the reference at `g`, then
`ζ(g) - ζ_L(c)/√f` has mean zero and variance `1 + 1/f - 2`, so

    ζ(g) <= ζ_L(c)/√f + z √(1/f - 1)                                                          (1)

but for a probability `Q(z)` (3.4e-6 for z = 4.5). Where the slices agree better than the `f` of the worst member
says, (1) holds all the more; so it does for an image that shows nothing (s = 0). With everything left out (f -> 0)
the noise term is z/√f: in units of the likelihood at known scale, rings of signal power P add ½P + z √P.

**What is proven.** `f` is computed, not estimated: the smallest over all directions of the finest grid in the cell, at
the far end of its shifts in eight directions (what lies between these eight is not looked at), for the CTF and noise
of this image, as far as `C²` is constant along a ring as in the score itself. So a given pose of the finest grid, if
it is the particle's, or if the image shows nothing, is lost with a probability of at most Q(z) per level above the
finest; for the best of K poses that noise makes compete, K Q(z). Not proven: the bound for a pose that is best
though it is not the particle's, in an image of something else than the reference; nor for a particle between the
points of the finest grid, of which its neighbours on the grid see a little less than their cell's `f` says. A noise
spectrum that is too high (a first one, which counts the signal as noise) makes the bound loose and the search slow, one
that is too low makes it miss more often than Q(z).

**Search.** The best cell of a level is followed to the finest grid, which gives a score to beat. All cells of the level
whose bound (1) lies above it are divided, and so on. On the finest grid all rings count, and nothing is estimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.pose_tree import PoseGrid, TreeLevel, angle_curves, build_tree, pose_grids
from cryoloom.em.poses import Candidates
from cryoloom.em.ring_kernels import pair_curves_kernel
from cryoloom.em.ring_posterior import first_rings
from cryoloom.em.rings import ImageBatch, RingPlan, angular_coefficients, shift_phases
from cryoloom.em.search import RingSearcher, search_directions, shift_grid
from cryoloom.fourier.slices import PaddedSpectrum, extract_points
from cryoloom.geometry import rotation_about_z

COARSENESS = ((4, 2), (2, 2), (1, 1), (1, 1))
"""Spacing of directions and of shifts at each level, in those of the finest; the finest on few rings, then on all."""

N_FOLLOWED = 2
"""Cells of a level that are followed to the finest grid for a score to beat."""

IMAGES_AT_ONCE = 16
PAIRS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class SearchCount:
    """What a search looked at.

    Attributes
    ----------
    evaluated
        Poses x shifts looked at, each in-plane angle counted, of all images.
    weighted
        The same, each weighted by the share of the rings that were used.
    exhaustive
        Poses x shifts of the finest grid, of all images.
    n_rings
        Rings used at each level.
    """

    evaluated: float
    weighted: float
    exhaustive: float
    n_rings: tuple[int, ...]

    @property
    def share(self) -> float:
        """Weighted evaluations over those of the exhaustive search."""
        return self.weighted / max(self.exhaustive, 1.0)


def search_tree(n_side: int, symmetry: str, reach_px: float, step_px: float) -> list[PoseGrid]:
    """Grids of a search whose finest has directions of `n_side` (a multiple of 4) and shifts of `step_px`."""
    if n_side % 4:
        raise ValueError(f"n_side: expected a multiple of 4, got {n_side}")
    directions = [search_directions(n_side // k, symmetry) for k, _ in COARSENESS]
    return pose_grids(_without_barren(directions), [shift_grid(reach_px, step_px * k) for _, k in COARSENESS])


def search_by_bound(
    source: ImageSource,
    references: Sequence[PaddedSpectrum],
    half: np.ndarray,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    n_rings: int,
    grids: list[PoseGrid],
    centre_px: np.ndarray | None = None,
    top: int = 4,
    miss: float = float(ndtr(-4.5)),
) -> tuple[Candidates, SearchCount]:
    """Best poses of each row on the finest grid, found without looking at most of it.

    Parameters
    ----------
    source, half, rows, noise, n_rings, centre_px
        As for `search_poses`.
    references
        `references[h]`: reference of half `h + 1`; a single entry serves both halves.
    grids
        From `search_tree`.
    top
        Candidates kept per row: different directions, as far as they were looked at; only the best is proven.
    miss
        Probability `Q(z)` of the bound.

    Returns
    -------
    candidates
        Up to `top` per row, best first, at points of the finest grid; likelihood and scale as from `search_poses`.
    count
        What was looked at.
    """
    finest = grids[-1]
    shifts_px = torch.from_numpy(finest.shifts_px).float()
    searcher = RingSearcher(source, noise, n_rings, shifts_px, finest.rotations, top)
    plan = searcher.plan
    typical = plan.ring_weight * plan.n_samples * 0.5 * searcher.inverse_noise.mean(0)
    trees = []
    for reference in references:
        samples = [extract_points(reference, grid.rotations, plan.points) for grid in grids]
        trees.append(build_tree(plan, grids, samples, typical))
    z = -float(ndtri(miss))
    rows = np.sort(np.asarray(rows, np.int64))
    centre = np.zeros((len(source), 2)) if centre_px is None else centre_px

    def work(some: np.ndarray) -> tuple[list[tuple[np.ndarray, ...]], float, float]:
        chunk = source.chunk(some)
        samples = searcher.samples(chunk)
        side = half[some] - 1 if len(trees) > 1 else np.zeros(len(some), np.int64)
        found, evaluated, weighted = [], 0.0, 0.0
        for h, tree in enumerate(trees):
            mine = np.flatnonzero(side == h)
            for start in range(0, len(mine), IMAGES_AT_ONCE):
                part = mine[start : start + IMAGES_AT_ONCE]
                search = _Search(plan, tree, _batch(searcher, chunk, samples, part, centre), z)
                search.descend()
                place, *columns = search.best(top)
                found.append((some[part][place], *columns))
                evaluated, weighted = evaluated + search.evaluated, weighted + search.weighted
        return found, evaluated, weighted

    parts, evaluated, weighted = [], 0.0, 0.0
    for found, n, share in executor.map(work, source.chunk_rows(rows)):
        parts.extend(found)
        evaluated, weighted = evaluated + n, weighted + share
    row, rotation, shift, scale, gain = (np.concatenate(c) for c in zip(*parts, strict=True))
    candidates = Candidates(
        row=row,
        rotation=rotation,
        shift_px=shift,
        scale=scale,
        reference=np.zeros(len(row), np.int64),
        log_likelihood=gain,
    )
    size = float(len(rows)) * len(finest.rotations) * len(finest.shifts_px) * plan.n_angles
    count = SearchCount(evaluated, weighted, size, tuple(level.n_rings for level in trees[0]))
    return candidates.select(np.argsort(row, kind="stable")), count


class _Search:
    """The descent of a few images through a tree; scores are NaN where nobody looked."""

    def __init__(self, plan: RingPlan, tree: list[TreeLevel], batch: ImageBatch, z: float) -> None:
        self.plan, self.tree, self.batch, self.z = plan, tree, batch, z
        self.evaluated = self.weighted = 0.0
        fine = tree[-1].grid.shifts_px
        self.n_shifts, b = len(fine), len(batch)
        phases = shift_phases(plan, torch.from_numpy(fine))
        moved = (batch.weighted[:, None] * phases).flatten(0, 1)  # (b t, rings, half)
        coefficients = angular_coefficients(plan, moved) * (plan.n_samples * plan.ring_weight)[:, None, None]
        self.images = coefficients.permute(0, 2, 3, 1).contiguous().numpy()  # (b t, q, 2, rings)
        self.first_ring, self.place = first_rings(plan), np.arange(len(plan.q))
        # shifts of coarser grids are among those of the finest
        self.shift_at = [np.linalg.norm(fine[None] - level.grid.shifts_px[:, None], axis=2).argmin(1) for level in tree]
        self.norm = [(batch.norm_weight[:, : v.n_rings] @ v.power[:, : v.n_rings].T).numpy() for v in tree]
        self.score = [np.full((b, len(v.grid.rotations), len(v.grid.shifts_px)), np.nan, np.float32) for v in tree]
        self.direction_children = [_children(v.grid.parent_direction, len(u.bank)) for u, v in _steps(tree)]
        self.shift_children = [_children(v.grid.parent_shift, len(u.grid.shifts_px)) for u, v in _steps(tree)]

    def descend(self) -> None:
        """Look at all cells of the top, then at the children of those that may hold the best."""
        top = self.score[0]
        self._look(0, *(i.ravel() for i in np.indices(top.shape)))
        for level in range(len(self.tree) - 1):
            beat = self._follow(level)
            image, direction, shift = np.nonzero(self._upper_bound(level) >= beat[:, None, None])
            self._look(level + 1, *self._divide(level, image, direction, shift))

    def best(self, top: int) -> tuple[np.ndarray, ...]:
        """Image, rotation, shift, scale and gain of the best directions of each image, best first."""
        score = np.where(np.isnan(self.score[-1]), -np.inf, self.score[-1])
        shift = score.argmax(2)
        highest = score.max(2)  # (b, d)
        direction = np.argsort(-highest, axis=1, kind="stable")[:, :top]
        image = np.repeat(np.arange(len(score)), direction.shape[1])
        direction = direction.ravel()
        known = np.isfinite(highest[image, direction])
        image, direction = image[known], direction[known]
        shift, highest = shift[image, direction], highest[image, direction].astype(np.float64)
        level = len(self.tree) - 1
        curves = angle_curves(self.plan, self._spectrum(level, image, direction, shift))
        psi = self.plan.angles[curves.argmax(1)].to(torch.float64)
        grid = self.tree[-1].grid
        rotation = grid.rotations[torch.from_numpy(direction)] @ rotation_about_z(psi)
        moved = self.batch.centre_px.numpy()[image] + grid.shifts_px[shift]
        scale = highest / np.sqrt(self.norm[-1][image, direction].clip(1e-20))
        return image, rotation.numpy(), moved, scale, 0.5 * highest.clip(0) ** 2

    def _upper_bound(self, level: int) -> np.ndarray:
        """The bound (1) of every cell that was looked at, `(b, d, t)`; NaN for the others."""
        share = self.tree[level].seen_share(self.batch.norm_weight).numpy()[:, :, None]
        bound: np.ndarray = self.score[level] / np.sqrt(share) + self.z * np.sqrt(1.0 / share - 1.0)
        return bound

    def _follow(self, level: int) -> np.ndarray:
        """Score to beat: of the best cells of a level the best child of the best child ..., `(b,)`."""
        flat = np.nan_to_num(self._upper_bound(level), nan=-np.inf).reshape(len(self.batch), -1)
        cells = np.argsort(-flat, axis=1, kind="stable")[:, :N_FOLLOWED]
        for cell in cells.T:
            image = np.arange(len(self.batch))
            direction, shift = np.divmod(cell, self.score[level].shape[2])
            for below in range(level, len(self.tree) - 1):
                children = self._divide(below, image, direction, shift)
                self._look(below + 1, *children)
                value = self.score[below + 1][children]
                order = np.lexsort((-value, children[0]))
                first = order[np.r_[True, np.diff(children[0][order]) > 0]]
                image, direction, shift = (c[first] for c in children)
        score = self.score[-1].reshape(len(self.batch), -1)
        return np.asarray(np.nanmax(score, axis=1))

    def _divide(
        self, level: int, image: np.ndarray, direction: np.ndarray, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of the next level within some cells."""
        cell, below = _spread(self.direction_children[level], direction)
        again, across = _spread(self.shift_children[level], shift[cell])
        return image[cell][again], below[again], across

    def _look(self, level: int, image: np.ndarray, direction: np.ndarray, shift: np.ndarray) -> None:
        """Score cells that were not looked at: the highest over all in-plane angles."""
        table = self.score[level]
        fresh = np.isnan(table[image, direction, shift])
        image, direction, shift = image[fresh], direction[fresh], shift[fresh]
        n_evaluated = float(len(image)) * self.plan.n_angles
        self.evaluated += n_evaluated
        self.weighted += n_evaluated * self.tree[level].n_rings / self.plan.n_rings
        for start in range(0, len(image), PAIRS_AT_ONCE):
            i, d, t = (c[start : start + PAIRS_AT_ONCE] for c in (image, direction, shift))
            highest = angle_curves(self.plan, self._spectrum(level, i, d, t)).amax(1).numpy()
            table[i, d, t] = highest / np.sqrt(self.norm[level][i, d].clip(1e-30))

    def _spectrum(self, level: int, image: np.ndarray, direction: np.ndarray, shift: np.ndarray) -> Tensor:
        """Cross terms over the angular frequencies, `(pairs, n_q, 2)`."""
        out = np.empty((len(image), len(self.place), 2), np.float32)
        row = image * self.n_shifts + self.shift_at[level][shift]
        bank = self.tree[level].bank
        pair_curves_kernel(bank, self.images, self.place, self.first_ring, row, direction, out)
        return torch.from_numpy(out)


def _batch(
    searcher: RingSearcher, chunk: ImageChunk, samples: Tensor, part: np.ndarray, centre: np.ndarray
) -> ImageBatch:
    return searcher.batch(chunk, samples, part, centre[chunk.rows[part]])


def _steps(tree: list[TreeLevel]) -> list[tuple[TreeLevel, TreeLevel]]:
    return list(zip(tree[:-1], tree[1:], strict=True))


def _children(parent: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Members of each of `n` cells one after the other, and where each cell begins, `(m,)` and `(n + 1,)`."""
    order = np.argsort(parent, kind="stable")
    return order, np.r_[0, np.cumsum(np.bincount(parent, minlength=n))]


def _spread(children: tuple[np.ndarray, np.ndarray], cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every member of every cell named: which name it came from, and the member."""
    members, starts = children
    counts = starts[cells + 1] - starts[cells]
    name = np.repeat(np.arange(len(cells)), counts)
    within = np.arange(len(name)) - np.repeat(np.cumsum(counts) - counts, counts)
    return name, members[starts[cells][name] + within]


def _without_barren(directions: list[Tensor]) -> list[Tensor]:
    """The grids without the directions that are nearest to none of the next finer grid (at the rim of a unit)."""
    kept = [directions[-1]]
    for coarse in reversed(directions[:-1]):
        parents = (kept[0][:, :, 2] @ coarse[:, :, 2].T).argmax(1)
        kept.insert(0, coarse[torch.unique(parents)])
    return kept
