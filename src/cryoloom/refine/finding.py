"""The candidates of an iteration, found for so many particles at a time: far more are tried than are kept.

A search leaves dozens of poses per particle and the fit a matrix with each, so all of them at once would take memory
in proportion to the particles. What is left of a block is a few poses of each.
"""

from dataclasses import replace

import numpy as np

from cryoloom.contract import Executor
from cryoloom.em.poses import Candidates, best_of, join_candidates
from cryoloom.em.reliability import wrong_level
from cryoloom.em.search import in_blocks
from cryoloom.em.survivors import survivors
from cryoloom.refine.frames import Fit
from cryoloom.refine.near import near_candidates
from cryoloom.refine.plan import Plan
from cryoloom.refine.searches import global_candidates, promising
from cryoloom.refine.state import State

AT_ONCE_NEAR = 4096
"""Particles of a block whose poses are drawn about those at hand."""
ASKED = 500
"""Particles that are asked for the grey scale of a foreign map."""
DECOYS = 20_000
"""Particles, about, whose wrong poses tell what wrong poses gain."""
LEAST_SHARE = 1e-3
"""Of a particle's posterior, below which a pose is dropped."""

Level = tuple[float, float] | None
"""Mean and spread of what wrong poses gain; None: not known."""


def n_kept(plan: Plan) -> int:
    """Poses that a particle may be shared among."""
    return 6 if plan.soft else 1


def grey_scale(fit: Fit, state: State, plan: Plan, grid_radius: int) -> float:
    """What a foreign map is to be multiplied with, from a search with some particles."""
    n = len(fit.source)
    rows = np.unique(np.linspace(0, n - 1, min(n, ASKED)).astype(int))
    found = global_candidates(fit.source, fit.references, state, plan, fit.executor, grid_radius, rows)
    gain = float(np.median(found.scale[best_of(found, found.log_likelihood)]))
    return gain if np.isfinite(gain) and gain > 0 else 1.0


def find_everywhere(
    fit: Fit, state: State, plan: Plan, executor: Executor, grid_radius: int
) -> tuple[Candidates, list[Level]]:
    """Candidates of all particles from a search of all poses; and what wrong poses gain, by half, in a weak set."""
    poses, radius, source = state.poses, state.radius, fit.source
    middle = min(radius, max(grid_radius, radius // 2))
    every = -(-len(source) // DECOYS)
    decoys: list[Candidates] = []

    def find(rows: np.ndarray) -> Candidates:
        found = global_candidates(source, fit.references, state, plan, executor, grid_radius, rows)
        found = replace(found, scale=np.ones(len(found)))
        known = rows[poses.known[rows]]
        if len(known):
            found = join_candidates([found, poses.candidates(known)])
        if state.weak:
            found = promising(fit, found, middle, plan.symmetry)
        found = fit(found, middle, 5)
        found = survivors(found, 6 if plan.soft else 2, 0.0 if state.weak else LEAST_SHARE, plan.symmetry)
        found = fit(found, radius, 5)
        if state.weak:
            decoys.append(replace(found, information=None).select(found.row % every == 0))
        return survivors(found, n_kept(plan), LEAST_SHARE, plan.symmetry)

    candidates = in_blocks(source, np.arange(len(source)), find)
    wrong: list[Level] = [None, None]
    if decoys:
        some = join_candidates(decoys)
        half = poses.half[some.row]
        wrong = [wrong_level(some.select(half == h), plan.symmetry) for h in (1, 2)]
    return candidates, wrong


def find_nearby(fit: Fit, state: State, plan: Plan) -> Candidates:
    """Candidates of all particles from many poses about those at hand."""
    source = fit.source

    def find(rows: np.ndarray) -> Candidates:
        found = near_candidates(
            fit, state.poses, rows, plan, iteration=state.iteration, field=source.field, radius=state.radius
        )
        return survivors(fit(found, state.radius, 5), n_kept(plan), LEAST_SHARE, plan.symmetry)

    return in_blocks(source, np.arange(len(source)), find, AT_ONCE_NEAR)
