"""Local refinement of images that tell little: many poses about those at hand, in place of the one nearest optimum.

A domain cut out of its particle, or a small one, gives the likelihood of a pose many optima within the angle that a
prior allows, and a step downhill from the given pose ends in whichever is nearest. Poses drawn about those at hand are
tried, fewer and nearer as the map improves; and as in any weak set each particle meets a map without itself
(`refine/next_maps.py`).
"""

from dataclasses import replace

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em.gauss_newton import PosePriors
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import Candidates, PoseTable, single_candidates
from cryoloom.em.spread import normal_points
from cryoloom.em.survivors import survivors
from cryoloom.geometry import axis_angle_to_matrix
from cryoloom.refine.frames import Fit
from cryoloom.refine.marginal import ASKED, FEWEST
from cryoloom.refine.next_maps import n_parts
from cryoloom.refine.plan import Plan
from cryoloom.refine.state import State

WEAK_GAIN = 30.0
"""Gain in log-likelihood of a given pose at the detail of the start, below which it may be one optimum of many."""
LEAST_GAIN = 0.5
"""A reference whose grey scale differs by less than this factor, or its inverse, is left as it is."""
DRAWN = 150
"""Poses tried per particle."""
PASSES = 9
"""Iterations in which they are."""
NARROWER, NARROWEST = 0.8, 0.3
"""By how much the spread of the poses shrinks from one iteration to the next, and its least share of the first."""
GLANCE = 7.0
"""Resolution lengths across the particle to which all of them are looked at."""


def ask_whether_weak_nearby(source: ImageSource, state: State, plan: Plan, executor: Executor) -> State:
    """The state of a local refinement that is about to begin: as it is, or weak."""
    if not (plan.local and plan.soft and plan.turn_sd > 0) or plan.relax is not None:
        return state
    if np.bincount(state.poses.half, minlength=3)[1:].min() < FEWEST:
        return state
    rows = np.linspace(0, len(source) - 1, min(len(source), ASKED)).astype(int)
    some, free = state.poses.candidates(np.unique(rows)), PosePriors(scale_sd=100.0)
    total = 1.0
    for _ in range(8):  # the reference may come in any grey scale, and a fit goes some way only
        references = prepare_references([total * state.volumes[0]] * 2, executor, state.radius, source.place)
        fit = Fit(source, references, state.poses.half, state.noise, executor, free, plan.turn_sd)
        found = fit(some, state.radius, 5)
        gain = float(np.median(found.scale))
        if not gain > 0.0 or abs(gain - 1.0) < 0.2:
            break
        total *= gain
    if not LEAST_GAIN < total < 1.0 / LEAST_GAIN:
        state = replace(state, volumes=[total * state.volumes[0]] * 2)
    if float(np.median(found.log_likelihood)) > WEAK_GAIN:
        return state
    weak = replace(state, weak=True)
    return replace(weak, volumes=weak.volumes[:1] * n_parts(weak, plan))


def near_candidates(
    fit: Fit, poses: PoseTable, rows: np.ndarray, plan: Plan, *, iteration: int, field: float, radius: int
) -> Candidates:
    """The best of many poses about those at hand, a few per particle.

    Parameters
    ----------
    fit
        With the prior about the poses that were given.
    rows
        Particles that are asked, ascending; all their poses are in memory together.
    iteration
        From 0; the later, the nearer.
    field
        Side of the images, Å.
    radius
        Shells that count in this iteration.
    """
    spread = plan.turn_sd * max(NARROWER**iteration, NARROWEST)
    vectors = spread * np.concatenate([np.zeros((1, 3)), normal_points(2 * (DRAWN // 2), 3)])
    turns = axis_angle_to_matrix(torch.from_numpy(vectors)).numpy()
    low = int(np.clip(round(GLANCE * field / plan.diameter), 4, radius))
    middle = min(radius, max(low, radius // 2))
    drawn = single_candidates(
        np.repeat(rows, len(turns)),
        (poses.rotation[rows, None] @ turns).reshape(-1, 3, 3),
        np.repeat(poses.shift_px[rows], len(turns), axis=0),
        np.repeat(poses.scale[rows], len(turns)),
    )
    found = survivors(fit(drawn, low, 1), 16, 1e-5, plan.symmetry)
    return survivors(fit(found, middle, 4), 8, 1e-4, plan.symmetry)
