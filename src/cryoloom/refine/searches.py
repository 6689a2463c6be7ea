"""Where the poses of an iteration come from: all of them, the worst once more, or those a symmetry had made equal."""

from dataclasses import replace

import numpy as np

from cryoloom.contract import Executor
from cryoloom.em.branch_and_bound import search_by_bound, search_tree
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import Candidates, join_candidates
from cryoloom.em.rescue import SafetyNet, rescue
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

    Of a weak set more are searched again, and to more detail than all were searched with.
    """
    weak = state.weak
    reach = shift_reach(state, plan, source.pixel_size) if weak else plan.shift_range / source.pixel_size
    net = SafetyNet(plan.symmetry, plan.diameter, reach, dtype=plan.dtype)
    if weak:
        net = replace(net, least=0.25, n_side=8, lengths=21.0, step=0.2, top=16)

    def thin(found: Candidates, radius: int) -> Candidates:
        return promising(fit, found, radius, plan.symmetry)

    return rescue(
        source, references, fit.half, candidates, state.noise, executor, fit, net,
        radius=state.radius, thin=thin if weak else None,
    )  # fmt: skip


def equal_poses(candidates: Candidates, symmetry: str) -> Candidates:
    """Every candidate turned by every operator of a point group; the shifts stay, the axes pass through the origin."""
    turned = [
        replace(candidates, rotation=operator @ candidates.rotation) for operator in symmetry_matrices(symmetry).numpy()
    ]
    return join_candidates(turned)
