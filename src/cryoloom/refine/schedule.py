"""The schedule of a refinement: iterations over the engine until nothing improves, each kept on disk.

An iteration searches (all poses, or none when the poses have settled), refines the survivors off the grid at the
present resolution, shares each particle among the modes that are left, re-estimates noise and scale, inserts,
solves both halves, and takes the next resolution from their FSC. State after each iteration is one file, so a
killed job goes on from there to the same bits.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.defocus import defocus_shows, fit_defocus
from cryoloom.em.gauss_newton import PosePriors
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import estimate_noise
from cryoloom.em.poses import Candidates, PoseTable, posterior_of
from cryoloom.em.reliability import fitting_share, gain_ratio, right_share
from cryoloom.em.spread import spread_modes
from cryoloom.em.survivors import normalise_scale, survivors, take_best
from cryoloom.refine.finding import LEAST_SHARE, Level, find_everywhere, find_nearby, grey_scale, n_kept
from cryoloom.refine.frames import Fit, frame_of_start, join_frames, lay_in_frame, look_across, widen_errors
from cryoloom.refine.marginal import ask_whether_weak, iterate_marginal
from cryoloom.refine.near import PASSES, ask_whether_weak_nearby
from cryoloom.refine.next_maps import meets, next_maps, parts_to_sum
from cryoloom.refine.plan import Plan
from cryoloom.refine.searches import equal_poses, grid_radius_of, safety_net, wants_global
from cryoloom.refine.state import Outcome, State, clip_radius

STILL, STILL_WEAK = 0.1, 0.06
"""Over the resolution, what the rims of most particles may still move by when an iteration is taken for the last."""

SETTLING = 3
"""Iterations of a weak local refinement whose maps are too blurred to say how wide a pose's posterior is."""

RELAXED = 3
"""Iterations in which the poses that a relaxed symmetry makes equal are tried afresh."""

POINTS = 16
"""Poses that stand for each mode of the posterior of a particle of a weak set."""

ASKED = 300
"""Particles that are asked, in every iteration, how far the frames of the halves are apart."""


def iterate(
    source: ImageSource, state: State, plan: Plan, executor: Executor, log: Callable[[str], None]
) -> tuple[State, Outcome | None]:
    """One iteration; returns the state after it and, unless all poses shared each image, the sums it made."""
    rows = np.arange(len(source))
    if state.iteration == 0 and not state.weak:
        state = ask_whether_weak(source, state, plan, executor)
        state = ask_whether_weak_nearby(source, state, plan, executor)
    if state.marginal:
        return iterate_marginal(source, state, plan, executor, log), None
    poses, radius, field_ = state.poses, state.radius, source.field
    notes: dict[str, float] = {"resolution_used": field_ / radius}
    do_global = not plan.local and wants_global(state, plan)
    source.set_defocus(poses.defocus_offset, executor)
    references = prepare_references(state.volumes, executor, radius, source.place)
    noise, volumes = state.noise, state.volumes
    n_global, grid_radius = state.n_global, state.grid_radius
    priors = PosePriors(
        scale_sd=0.5 if state.iteration == 0 else 0.15,
        turn_sd=plan.turn_sd,
        shift_sd_px=plan.shift_sd / source.pixel_size,
        rotation=source.particles.rotation if plan.turn_sd > 0 else None,
        shift_px=_given_shift(source) if plan.shift_sd > 0 else None,
    )
    largest_turn = float(np.clip(field_ / radius / plan.diameter * 1.5, np.deg2rad(1.0), np.deg2rad(8.0)))
    side = meets(state, len(references))
    fit = Fit(source, references, side, noise, executor, priors, largest_turn)
    before = poses.rotation.copy()
    wrong = _wrong_before(state)

    if do_global:
        grid_radius = grid_radius_of(source, state, plan)
        if state.iteration == 0 and not state.weak:
            # The grey scale of a foreign map is unknown: take it from the data.
            notes["gain"] = grey_scale(fit, state, plan, grid_radius)
            volumes = [volumes[0] * notes["gain"]] * 2
            references = prepare_references(volumes, executor, radius, source.place)
            fit = replace(fit, references=references)
        candidates, found_wrong = find_everywhere(fit, state, plan, executor, grid_radius)
        wrong = found_wrong if state.weak else wrong
        n_global += 1
    elif plan.local and state.weak and state.iteration < PASSES:
        candidates = find_nearby(fit, state, plan)
    else:
        candidates = state.modes if state.modes is not None else poses.candidates(rows)
        if plan.relax is not None and state.iteration < RELAXED:
            candidates = equal_poses(poses.candidates(rows), plan.relax)
        candidates = fit(candidates, radius, 5)
    net = not do_global and not plan.local and state.n_global > 0 and (state.last or not state.rescued)
    if net:
        candidates, rescued = safety_net(source, references, state, candidates, fit, plan, executor)
        notes["rescued"] = float(rescued)
    candidates = survivors(candidates, n_kept(plan), LEAST_SHARE, plan.symmetry)
    share = posterior_of(candidates)
    if not plan.soft:
        share = np.ones(len(candidates))
    candidates = replace(candidates, posterior=share)
    candidates = normalise_scale(candidates, poses.half)
    take_best(poses, candidates, before, plan.symmetry)
    # Particles that do not fit the map at all do not go into it. Each half is judged from itself alone.
    fitting = np.ones(len(rows))
    if state.iteration > 0:
        for h in (1, 2):
            fitting[poses.half == h] = _share_that_fits(poses, h, wrong[h - 1])
    for h, level in enumerate(wrong, 1):
        if level is not None:
            notes[f"wrong_gain_{h}"], notes[f"wrong_gain_spread_{h}"] = level
    notes["fitting"] = float(fitting.mean())
    notes["moved_deg"] = float(np.rad2deg(np.median(poses.moved)))
    # junk moves for ever: only particles that fit tell whether the poses have settled
    notes["moved_far"] = float(np.average(poses.moved > np.deg2rad(10.0), weights=fitting + 1e-9))
    notes["modes"] = float(len(candidates) / len(rows))

    # The prior's width is learnt from the last fit: spread of the means and mean width of the posteriors together.
    spread = state.history[-1].get("defocus_spread", plan.defocus_spread) if state.history else plan.defocus_spread
    if plan.defocus_spread > 0 and not do_global and defocus_shows(source, radius, plan.defocus_spread):
        offset, width = fit_defocus(
            source, references, replace(poses, half=side), rows, noise, executor, radius=radius, spread=spread
        )
        poses.defocus_offset[:] = offset
        source.set_defocus(offset, executor)
        learnt = np.sqrt(np.average(offset**2 + width**2, weights=fitting + 1e-9))
        spread = float(np.clip(learnt, 30.0, 2 * plan.defocus_spread))
    notes["defocus_spread"] = spread

    last = state.last or state.iteration + 1 >= plan.max_iterations
    noise = estimate_noise(source, references, replace(poses, half=side), rows, noise, executor, radius=radius)
    if references[0] is not references[1]:
        _settle_frames(fit, poses, candidates, fitting, plan, notes, everyone=last)
    if last and state.origin is not None:
        _return_to_start(state.origin, volumes, field_, source.box, plan, poses, candidates)
    # the map of a weak set grows slowly, and its folds are many
    ahead = max(radius + 5, 1.2 * radius) if state.weak else max(radius + 10, 1.5 * radius)
    reach = source.points.radius if last else clip_radius(source, ahead)
    parts, n_parts = parts_to_sum(state, plan, last=last)
    weighted = replace(candidates, posterior=share * fitting[candidates.row])
    if state.weak and (last or not plan.local or state.iteration >= SETTLING):
        weighted = spread_modes(weighted, POINTS)
    sums = accumulate(source, weighted, parts[weighted.row], n_parts, noise, executor, radius=reach)
    maps = next_maps(sums, source, state, plan, executor, most=reach, last=last)
    halves, pair, next_radius, volumes = maps.halves, maps.pair, maps.radius, maps.volumes
    notes["resolution"] = field_ / max(pair.radius, 1)
    rim = float(np.median(poses.moved)) * 0.5 * plan.diameter  # Å by which the rim of most particles moved
    slow = next_radius <= max(radius + 1, 1.05 * radius)
    still = rim < (STILL_WEAK if state.weak else STILL) * notes["resolution"]
    # a weak set goes on improving where its resolution stands: better poses make a better reference, a little at a time
    settled = slow and still if state.weak else next_radius <= radius or (slow and still)
    state = replace(
        state,
        iteration=state.iteration + 1,
        n_global=n_global,
        radius=next_radius,
        grid_radius=grid_radius,
        poses=poses,
        modes=replace(candidates, information=None),  # the next fit makes it anew
        noise=noise,
        volumes=volumes,
        finished=last,
        rescued=state.rescued or net,
        last=not last and ((settled and not do_global) or state.iteration + 2 >= plan.max_iterations),
        history=[*state.history, notes],
        curves=[*state.curves, pair.fsc],
    )
    log(
        f"iteration {state.iteration}: used {notes['resolution_used']:.1f} Å, reached {notes['resolution']:.2f} Å, "
        f"moved {notes['moved_deg']:.2f}° (median), {100 * notes['moved_far']:.1f} % more than 10°, "
        f"{notes['modes']:.2f} modes per particle, {100 * notes['fitting']:.0f} % fit, "
        f"{int(notes.get('rescued', 0))} rescued"
    )
    return state, Outcome(halves, pair, state)


def _wrong_before(state: State) -> list[Level]:
    """What the last search of a weak set found that wrong poses gain, by half."""
    notes = state.history[-1] if state.history else {}
    return [
        (notes[f"wrong_gain_{h}"], notes[f"wrong_gain_spread_{h}"]) if f"wrong_gain_{h}" in notes else None
        for h in (1, 2)
    ]


def _share_that_fits(poses: PoseTable, half: int, wrong: Level) -> np.ndarray:
    """Probability that each particle of a half fits its map at all."""
    gain, expected = (column[poses.half == half] for column in (poses.log_likelihood, poses.expected_gain))
    return right_share(gain, wrong) if wrong is not None else fitting_share(gain_ratio(gain, expected))


def _settle_frames(
    fit: Fit,
    poses: PoseTable,
    candidates: Candidates,
    fitting: np.ndarray,
    plan: Plan,
    notes: dict[str, float],
    *,
    everyone: bool,
) -> None:
    """Bring both halves to one frame; at the end, when every particle is asked, widen the error bars as well."""
    good = np.flatnonzero(fitting > 0.5)
    rows = None if everyone else good[:: max(1, len(good) // ASKED)]
    across = look_across(fit, candidates, rows, n_steps=5 if everyone else 3)
    frames = across.frames(plan.symmetry)
    if everyone:
        notes["pose_inflation"], notes["shift_inflation"] = across.inflation(frames)
        widen_errors(poses, across.row, notes["pose_inflation"], notes["shift_inflation"])
    notes["frames_deg"] = float(np.rad2deg(np.linalg.norm(frames.turn)))
    notes["frames_px"] = float(np.linalg.norm(frames.shift_px))
    join_frames(frames, poses.half, poses.rotation, poses.shift_px)
    join_frames(frames, poses.half[candidates.row], candidates.rotation, candidates.shift_px)


def _return_to_start(
    origin: Tensor, volumes: list[Tensor], field_: float, full: int, plan: Plan, poses: PoseTable, modes: Candidates
) -> None:
    """Poses back to the frame of the reference that the refinement began with."""
    frames = frame_of_start(volumes, origin, field_, plan.initial_lowpass, plan.symmetry)
    for rotation, shift_px in ((poses.rotation, poses.shift_px), (modes.rotation, modes.shift_px)):
        lay_in_frame(frames, full / origin.shape[0], rotation, shift_px)


def _given_shift(source: ImageSource) -> np.ndarray | None:
    """Shifts that the particles came with, pixels yx."""
    shift = source.particles.shift
    return None if shift is None else shift / source.pixel_size
