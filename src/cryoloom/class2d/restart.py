"""Images that fit no class are classified afresh among themselves, and what they show fills the classes left empty.

Views that no class led early on lose their images to the views that look most like them, a few to each, so that no
class looks as if it held two (what `split.py` mends). Their grey scale against the wrong average is too small. Those
images are few, and among themselves the lost views are frequent: averages started anew find them. They then compete
for all images with the others, so that a class of mere noise or of a view that is already there does no harm.
"""

from dataclasses import replace

import numpy as np
import torch

from cryoloom.class2d.iteration import begin, iterate
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.split import empty_classes
from cryoloom.class2d.state import Plan, State
from cryoloom.contract import Executor

ITERATIONS = 8
SHARE = 1.5
"""Misfits that are looked at, in mean classes per empty class: junk and noise are among them."""
MOST = 300
"""Of them, per empty class."""


def classify_misfits(
    source: RingSource, plan: Plan, state: State, executor: Executor, generator: torch.Generator
) -> int:
    """Fill empty classes with averages of the images that fit worst, and return how many were filled."""
    empty = empty_classes(plan, state)
    rows = misfits(state, round(min(SHARE * len(state.class_index) / plan.n_classes, MOST) * len(empty)))
    if not empty or len(rows) < 20 * len(empty):
        return 0
    few = replace(plan, n_classes=len(empty), robust=False)
    own = begin(source, few, executor, generator, rows=rows)
    own.half, own.noise = state.half, state.noise.clone()
    for _ in range(ITERATIONS):
        iterate(source, few, own, executor, rows, 1.0, last=False)
    own.sums.scale(len(rows) / len(source))
    state.sums.numerator[:, empty] = own.sums.numerator
    state.sums.weight[:, empty] = own.sums.weight
    state.sums.count[:, empty] = own.sums.count
    return len(empty)


def misfits(state: State, n: int) -> np.ndarray:
    """Rows of the `n` images, at most half of those visited, whose grey scale is lowest within their class.

    It is counted in standard deviations of its noise from what most images of the class have.
    """
    known = np.flatnonzero((state.class_index >= 0) & (state.norm > 0))
    middle = np.zeros(int(state.class_index.max(initial=0)) + 1)
    for number in np.unique(state.class_index[known]):
        middle[number] = np.quantile(state.scale[known][state.class_index[known] == number], 0.6)
    deviation = (state.scale[known] - middle[state.class_index[known]]) * np.sqrt(state.norm[known])
    return np.sort(known[np.argsort(deviation, kind="stable")[: min(n, len(known) // 2)]])
