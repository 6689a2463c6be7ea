"""Where the poses of an iteration come from: all of them, the worst once more, or those a symmetry had made equal."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cryoloom.contract import Executor
from cryoloom.em.branch_and_bound import search_by_bound, search_tree
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import Candidates, best_of, join_candidates
from cryoloom.em.reliability import gain_ratio
from cryoloom.em.search import search_directions, search_poses, shift_grid
from cryoloom.em.survivors import survivors
from cryoloom.fourier.slices import PaddedSpectrum
from cryoloom.geometry import symmetry_matrices
from cryoloom.refine.frames import Fit
from cryoloom.refine.marginal import shift_reach
from cryoloom.refine.next_maps import meets
from cryoloom.refine.plan import Plan
from cryoloom.refine.state import State

CANDIDATES, CANDIDATES_WEAK = 4, 48
"""Poses of the grid that are kept per particle; of images that are mostly noise the right one is rarely at the top."""


AT_ONCE = 16_384
"""Particles of a block of a search."""


def wants_global(state: State, plan: Plan) -> bool:
    """Whether the next iteration searches all poses."""
    if plan.global_passes is not None:
        return state.n_global < plan.global_passes
    if state.n_global < 2:
        return True
    # once the safety net was out, what moves far was rescued by it and needs no other global search
    if state.n_global >= (10 if state.weak else 6) or not state.history or state.rescued:
        return False
    return state.history[-1]["moved_far"] > 0.05


def grid_radius_of(source: ImageSource, state: State, plan: Plan) -> int:
    """Rings of this pass: about 5, 10, then 15 resolution lengths across the particle, within the present limit."""
    across = source.field / plan.diameter
    asked = (5.0, 10.0, 15.0)[_stage(state)] * across
    return int(np.clip(round(asked), 4, state.radius))


def _stage(state: State) -> int:
    """How fine a global search is: the first, the second, and all others, or all of them after marginal iterations."""
    return 2 if state.weak else min(state.n_global, 2)


def global_candidates(
    source: ImageSource,
    references: list[PaddedSpectrum],
    state: State,
    plan: Plan,
    executor: Executor,
    n_rings: int,
    rows: np.ndarray,
) -> Candidates:
    """The best poses of each particle on a grid of all poses, and of all shifts the first time."""
    first = state.n_global == 0 and not state.weak
    resolution = source.field / n_rings
    step = float(np.clip((0.15 if first else 0.2) * resolution / source.pixel_size, 1.0, 4.0))
    reach = plan.shift_range / source.pixel_size if first else 2 * step
    centre = state.poses.shift_px
    if state.weak:  # a pose that is wrong says nothing of the shift
        reach, centre = max(shift_reach(state, plan, source.pixel_size), step), np.zeros_like(centre)
    n_side = (4, 4, 6)[_stage(state)]
    top = CANDIDATES_WEAK if state.weak else CANDIDATES
    if plan.search == "branch":
        found, _ = search_by_bound(
            source,
            references,
            meets(state, len(references)),
            rows,
            state.noise,
            executor,
            n_rings=n_rings,
            grids=search_tree(2 * n_side, plan.symmetry, reach, step),
            centre_px=centre,
            top=top,
        )
        return found
    return search_poses(
        source,
        references,
        meets(state, len(references)),
        rows,
        state.noise,
        executor,
        n_rings=n_rings,
        rotations=search_directions(n_side, plan.symmetry),
        shifts_px=shift_grid(reach, step),
        centre_px=centre,
        top=top,
        dtype=plan.dtype,
    )


def in_blocks(
    source: ImageSource, rows: np.ndarray, find: Callable[[np.ndarray], Candidates], at_once: int = AT_ONCE
) -> Candidates:
    """What `find` gives for blocks of the rows, whose borders are borders of chunks of images."""
    size = max(1, at_once // source.chunk_size) * source.chunk_size
    block = rows // size
    return join_candidates([find(rows[block == b]) for b in np.unique(block)])


def promising(fit: Fit, candidates: Candidates, radius: int, symmetry: str) -> Candidates:
    """Of many poses of a grid those that a short fit leaves in question."""
    return survivors(fit(candidates, radius, 2), 12, 1e-4, symmetry)


def safety_net(
    source: ImageSource,
    references: list[PaddedSpectrum],
    state: State,
    candidates: Candidates,
    fit: Fit,
    plan: Plan,
    executor: Executor,
) -> tuple[Candidates, int]:
    """Search the worst again over all poses and all shifts; keep what has the better likelihood.

    The worst are a tenth of the particles (of a weak set a quarter, to more detail than all were searched with), or all
    that lie two standard deviations below the bulk (at most 40 %): junk must not crowd out the lost.
    """
    weak = state.weak
    reach = shift_reach(state, plan, source.pixel_size) if weak else plan.shift_range / source.pixel_size
    best = candidates.select(best_of(candidates, candidates.log_likelihood))
    assert best.information is not None
    ratio = gain_ratio(best.log_likelihood, 0.5 * best.information[:, 5, 5])
    middle = np.median(ratio)
    spread = np.median(np.abs(ratio[ratio > middle] - middle)) * 1.4826
    radius = state.radius
    least = 0.25 if weak else 0.1
    n_worst = int(np.clip((ratio < middle - 2.0 * spread).sum(), least * len(ratio), 0.4 * len(ratio)))
    worst = best.row[np.argsort(ratio, kind="stable")]
    n_rings = int(np.clip(round((21.0 if weak else 11.0) * source.field / plan.diameter), 4, radius))
    step = float(np.clip((0.2 if weak else 0.15) * source.field / n_rings / source.pixel_size, 1.0, 4.0))
    middle = min(radius, max(n_rings, radius // 2))

    def find(rows: np.ndarray) -> Candidates:
        found = search_poses(
            source,
            references,
            fit.half,
            rows,
            state.noise,
            executor,
            n_rings=n_rings,
            rotations=search_directions(8 if weak else 5, plan.symmetry),
            shifts_px=shift_grid(reach, step),
            top=16 if weak else 8,
            dtype=plan.dtype,
        )
        found = replace(found, scale=np.ones(len(found)))
        if weak:
            found = promising(fit, found, middle, plan.symmetry)
        found = fit(found, middle, 5)
        return fit(survivors(found, 2, 1e-3, plan.symmetry), radius, 8)

    found = in_blocks(source, np.sort(worst[: max(1, n_worst)]), find)
    old = best.log_likelihood[np.searchsorted(best.row, found.row)]
    better = np.unique(found.row[found.log_likelihood > old + 1.0])
    joined = join_candidates([replace(candidates, posterior=None), replace(found, posterior=None)])
    return joined, len(better)


def equal_poses(candidates: Candidates, symmetry: str) -> Candidates:
    """Every candidate turned by every operator of a point group; the shifts stay, the axes pass through the origin."""
    turned = [
        replace(candidates, rotation=operator @ candidates.rotation) for operator in symmetry_matrices(symmetry).numpy()
    ]
    return join_candidates(turned)
