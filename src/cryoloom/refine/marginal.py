"""First iterations on images too noisy to choose their poses: every pose of a grid shares each image.

At an SNR of 0.01 the best of 10^5 poses at 30 Å is mostly the luckiest, and a map of the luckiest poses goes no
further. Here the whole posterior goes into the map (`em/marginal.py`), and the map climbs by itself, shell after shell,
until images do choose. Then searches with a few poses per image, off the grid, are both faster and more accurate.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.marginal import MarginalSums, marginal_sums
from cryoloom.em.search import search_directions, shift_grid
from cryoloom.em.solve import box_for_radius
from cryoloom.fourier import fourier_crop
from cryoloom.refine.next_maps import meets, n_parts, next_maps
from cryoloom.refine.plan import Plan
from cryoloom.refine.state import State, clip_radius

WEAK = 3.0
"""Gain in log-likelihood, averaged over all poses and images, below which images are too noisy to choose."""
ENOUGH_TOLD = 0.45
"""Share of the information about its pose from which on an image chooses by itself."""
MOST = 12
"""Iterations, at most."""
ACROSS = 15.0
"""Resolution lengths across the particle beyond which a grid is too coarse and too slow; that far all searches go."""
LARGEST = 10_000
"""Particles that an iteration uses, at most: the detail that it reaches asks for no more."""
ASKED = 500
"""Particles that are asked for the grey scale of the reference and whether the set is weak."""
FEWEST = 50
"""Particles of a half that folds need."""
SPACING = 1.8
"""Distance of the directions in units of `field / (radius * diameter)`; see `abinitio/level.py`."""
GROWTH = 1.15
"""Most that the radius grows by while the halves agree to the last shell."""


def ask_whether_weak(source: ImageSource, state: State, plan: Plan, executor: Executor) -> State:
    """The state of a set that is about to begin: as it is, or weak and with its references on the images' scale."""
    if not plan.soft or plan.local or plan.search != "exhaustive" or plan.global_passes is not None:
        return state
    if np.bincount(state.poses.half, minlength=3)[1:].min() < FEWEST:
        return state
    rows = _some(len(source), ASKED)
    volumes, spread = state.volumes, 0.5 * plan.shift_range / source.pixel_size
    evidence = 0.0
    for _ in range(4):
        found = _sums(source, replace(state, volumes=volumes, shift_sd_px=spread), plan, executor, rows)
        volumes = [volumes[0] * found.gain] * 2
        spread, evidence = _spread(found, source, state), found.evidence
        if abs(found.gain - 1.0) < 0.1:
            break
    # below 0 no grey scale makes the reference better than nothing: it shows another particle
    if not 0.0 < evidence < WEAK:
        return state
    weak = replace(state, shift_sd_px=spread, weak=True, marginal=True)
    return replace(weak, volumes=volumes[:1] * n_parts(weak, plan))


def iterate_marginal(
    source: ImageSource, state: State, plan: Plan, executor: Executor, log: Callable[[str], None]
) -> State:
    """One iteration of a weak set; the state after it."""
    rows = _some(len(source), LARGEST)
    found = _sums(source, state, plan, executor, rows)
    state = replace(state, n_marginal=state.n_marginal + 1, shift_sd_px=_spread(found, source, state))
    most = clip_radius(source, GROWTH * state.radius + 1)
    maps = next_maps(found.sums, source, state, plan, executor, most=most)
    grown = most if maps.pair.radius >= state.radius else maps.radius
    state.poses.rotation[rows], state.poses.shift_px[rows] = found.rotation, found.shift_px
    fits_grid = grown <= ACROSS * source.field / plan.diameter
    goes_on = found.told < ENOUGH_TOLD and state.radius < grown and fits_grid and state.n_marginal < MOST
    notes = {
        "resolution_used": source.field / state.radius,
        "resolution": source.field / max(maps.pair.radius, 1),
        "told": found.told,
        "evidence": found.evidence,
    }
    log(
        f"all poses share each image, {state.n_marginal}: used {notes['resolution_used']:.1f} Å, reached "
        f"{notes['resolution']:.2f} Å; images tell {100 * found.told:.0f} % of what there is to know of their pose"
    )
    return replace(
        state,
        radius=grown,
        volumes=_in_box(maps.volumes, box_for_radius(grown + 1, source.box)),
        marginal=goes_on,
        history=[*state.history, notes],
        curves=[*state.curves, maps.pair.fsc],
    )


def shift_reach(state: State, plan: Plan, pixel_size: float) -> float:
    """How far shifts are searched in a weak set, pixels."""
    return min(plan.shift_range / pixel_size, 2.5 * state.shift_sd_px)


def _sums(source: ImageSource, state: State, plan: Plan, executor: Executor, rows: np.ndarray) -> MarginalSums:
    radius = state.radius
    spacing = SPACING * source.field / (radius * plan.diameter)
    n_side = max(2, math.ceil(math.radians(58.6) / spacing))
    step = max(0.33 * source.field / radius / source.pixel_size, 1.0)
    references = prepare_references(state.volumes, executor, radius, source.place)
    return marginal_sums(
        source,
        references,
        meets(state, len(references)),
        rows,
        state.noise,
        executor,
        n_rings=radius,
        rotations=search_directions(n_side, plan.symmetry),
        shifts_px=shift_grid(max(shift_reach(state, plan, source.pixel_size), step), step),
        shift_sd_px=state.shift_sd_px,
    )


def _some(n: int, most: int) -> np.ndarray:
    """At most so many rows, drawn at random, ascending."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def _spread(found: MarginalSums, source: ImageSource, state: State) -> float:
    """Spread of the shifts, no less than the grid can see."""
    return max(found.shift_spread_px, 0.15 * source.field / state.radius / source.pixel_size)


def _in_box(volumes: list[Tensor], box: int) -> list[Tensor]:
    """Volumes whose transforms have the same values in a box that reaches further."""
    before = volumes[0].shape[0]
    if before == box:
        return volumes
    return [fourier_crop(v, (box, box, box)) * (before / box) ** 3 for v in volumes]
