"""The classification itself: mini-batches, soft assignment, averages, growing resolution, a last pass over all.

Every iteration draws a batch without replacement from a shuffled order of all particles, finds the posterior of each
image over classes, angles and shifts on rings (`em/ring_posterior.py`), and lets the images enter the class sums with a
step size that falls towards the share of the batch in the set (online EM; Cappé, Moulines 2009,
doi:10.1111/j.1467-9868.2009.00698.x). A last pass over all particles assigns each of them.
"""

from collections.abc import Callable

import numpy as np
import torch

from cryoloom.class2d.iteration import begin, iterate
from cryoloom.class2d.membership import member_probability
from cryoloom.class2d.restart import classify_misfits
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.split import SETTLED, fill_empty_classes
from cryoloom.class2d.state import Plan, State
from cryoloom.contract import Executor

RESTART_EVERY = 3
"""Iterations from one classification of the misfits to the next; in the others classes are cut in two."""


def classify(
    source: RingSource,
    plan: Plan,
    executor: Executor,
    generator: torch.Generator,
    *,
    state: State | None = None,
    on_iteration: Callable[[State], None] | None = None,
) -> State:
    """Run all iterations and the last pass, from the start or on from a former state."""
    if state is None:
        state = begin(source, plan, executor, generator)
        state.random = generator.get_state().numpy()
    generator.set_state(torch.from_numpy(state.random))
    while state.iteration <= plan.n_iterations:
        last = state.iteration == plan.n_iterations
        n = len(source)
        rows = np.arange(n) if last else _draw(plan, state, generator)
        step = 1.0 if last else max(len(rows) / n, (state.iteration + 1.0) ** -0.6)
        iterate(source, plan, state, executor, rows, step, last=last)
        _look_after(source, plan, state, executor, generator)
        state.random = generator.get_state().numpy()
        if on_iteration is not None:
            on_iteration(state)
    return state


def _draw(plan: Plan, state: State, generator: torch.Generator) -> np.ndarray:
    """The next batch: a quarter of the final size at first, the whole from the middle on."""
    n = len(state.order)
    ramp = min(1.0, 0.25 + 0.75 * state.iteration / max(1.0, 0.5 * plan.n_iterations))
    size = int(min(n, max(20 * plan.n_classes, 300, ramp * plan.batch_size)))
    taken = state.order[np.arange(state.cursor, state.cursor + size) % n]
    if state.cursor + size >= n and size < n:
        state.order = torch.randperm(n, generator=generator).numpy()
        state.cursor = 0
    else:
        state.cursor = (state.cursor + size) % n
    return np.unique(taken)


def _look_after(source: RingSource, plan: Plan, state: State, executor: Executor, generator: torch.Generator) -> None:
    """Weights of images that do not look like their class, and new averages for classes that became empty."""
    if plan.robust and state.iteration >= 0.4 * plan.n_iterations:
        state.member = member_probability(state.scale, state.norm, state.class_index)
    if not 3 <= state.iteration < plan.n_iterations - 2:  # what is new at the last still needs some iterations
        return
    settled = state.iteration >= SETTLED * plan.n_iterations
    if settled and state.iteration % RESTART_EVERY == 1:
        classify_misfits(source, plan, state, executor, generator)
    else:
        fill_empty_classes(source, plan, state, executor)
