"""From the sums of an iteration to both half maps and to the references of the next.

Images that tell their poses meet the map of their own half. An image that is little more than noise meets itself
there: its own share in the map favours the pose it had before, by more than its signal can outweigh. Where images are
weak each half is therefore dealt out into folds, and each fold meets the map of the other folds of its half.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import FourierSums
from cryoloom.em.groups import N_QUARTERS, parts_of
from cryoloom.em.halves import HalfPair, reference_volumes, solve_halves
from cryoloom.em.images import ImageSource
from cryoloom.em.local_references import local_reference_volumes
from cryoloom.em.solve import SolvableSums, prepare_sums
from cryoloom.fourier.slices import sums_bytes
from cryoloom.refine.plan import Plan
from cryoloom.refine.state import State, clip_radius

FOLDS = (8, 4, 2)
"""Folds of each half of a weak set; each keeps sums of its own, and the most are taken that memory allows."""
MOST_BYTES = 4 << 30
"""For the sums of all folds, at the detail that such sets reach."""
REACHED = 0.7
"""That detail, as a share of the shells that the images have."""
FOLDED = 50_000
"""Particles beyond which the share of one in its own map no longer matters, and halves stay whole."""


@dataclass(frozen=True)
class NextMaps:
    """Half maps and what follows from them.

    Attributes
    ----------
    halves, pair
        Sums and maps of the halves.
    volumes
        References of the next iteration, one per half or fold.
    radius
        Last shell that counts in it.
    """

    halves: tuple[SolvableSums, SolvableSums]
    pair: HalfPair
    volumes: list[Tensor]
    radius: int


def n_folds(state: State) -> int:
    """Into how many folds each half of a weak set is dealt out."""
    if len(state.poses) > FOLDED:
        return 1
    shells = state.noise.power.shape[1] - 1
    each = sums_bytes(math.ceil(REACHED * shells))
    return next((n for n in FOLDS if 2 * n * each <= MOST_BYTES), FOLDS[-1])


def n_parts(state: State, plan: Plan) -> int:
    """Sums that an iteration makes: of halves, of quarters for local filters, or of folds of a weak set."""
    if state.weak:
        return 2 * n_folds(state)
    return N_QUARTERS if plan.local_filter else 2


def meets(state: State, references: int) -> np.ndarray:
    """Which of so many references each particle meets, from 1, `(n,)` int64."""
    return state.poses.half if references <= 2 else parts_of(state.poses.half, references // 2) + 1


def parts_to_sum(state: State, plan: Plan, *, last: bool = False) -> tuple[np.ndarray, int]:
    """Into which of how many sums each particle goes, `(n,)` int64 from 0; after the last iteration no folds follow."""
    number = 2 if last else n_parts(state, plan)
    return parts_of(state.poses.half, number // 2), number


def next_maps(
    sums: list[FourierSums],
    source: ImageSource,
    state: State,
    plan: Plan,
    executor: Executor,
    *,
    most: int,
    last: bool = False,
) -> NextMaps:
    """Solve the sums of `parts_to_sum`; the sums are used up.

    Parameters
    ----------
    most
        Largest radius of the next iteration.
    last
        No iteration follows: no references are made.
    """
    field_ = source.field
    parts = [prepare_sums(s, plan.symmetry, executor) for s in sums]
    per_half = len(parts) // 2
    halves = (_total(parts[:per_half]), _total(parts[per_half:]))
    first = state.iteration == 0 and not state.weak
    pair = solve_halves(
        halves,
        source.box,
        field_,
        plan.diameter,
        executor,
        own_masks=plan.own_masks and not first,
        mask_lowpass=max(15.0, 1.5 * field_ / state.radius),
    )
    radius = int(np.clip(pair.radius + 1, clip_radius(source, field_ / plan.initial_lowpass, low=4), most))
    volumes: list[Tensor] = []
    if last:
        volumes = list(pair.volumes)
    elif state.weak and per_half > 1:
        volumes = [
            volume
            for fold in range(per_half)
            for volume in reference_volumes(
                (halves[0].minus(parts[fold]), halves[1].minus(parts[per_half + fold])), pair, executor, radius=radius
            )
        ]
        volumes = volumes[::2] + volumes[1::2]  # those of the first half come first
    elif plan.local_filter and per_half > 1 and not first:  # in the first iteration the quarters hold too little
        volumes = local_reference_volumes(parts, pair, executor, radius=radius)
    else:
        volumes = reference_volumes(halves, pair, executor, radius=radius)
    return NextMaps(halves, pair, volumes, radius)


def _total(parts: list[SolvableSums]) -> SolvableSums:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total
