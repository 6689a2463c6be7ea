"""The schedule of a refinement: iterations over the engine until nothing improves, each kept on disk.

An iteration searches (all poses, or none when the poses have settled), refines the survivors off the grid at the
present resolution, shares each particle among the modes that are left, re-estimates noise and scale, inserts,
solves both halves, and takes the next resolution from their FSC. State after each iteration is one file, so a
killed job goes on from there to the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.branch_and_bound import search_by_bound, search_tree
from cryoloom.em.defocus import defocus_shows, fit_defocus
from cryoloom.em.gauss_newton import PosePriors
from cryoloom.em.groups import N_QUARTERS, quarter_of
from cryoloom.em.halves import HalfPair, ball_mask, prepare_references, reference_volumes, solve_halves
from cryoloom.em.images import ImageSource
from cryoloom.em.local_references import local_reference_volumes
from cryoloom.em.noise import NoiseModel, estimate_image_power, estimate_noise
from cryoloom.em.poses import (
    Candidates,
    PoseTable,
    best_of,
    empty_poses,
    join_candidates,
    posterior_of,
)
from cryoloom.em.reliability import fitting_share, gain_ratio
from cryoloom.em.search import search_directions, search_poses, shift_grid
from cryoloom.em.solve import SolvableSums, prepare_sums
from cryoloom.em.survivors import normalise_scale, survivors, take_best
from cryoloom.fourier.slices import PaddedSpectrum
from cryoloom.geometry import symmetry_matrices
from cryoloom.refine.frames import Fit, join_frames, look_across, widen_errors

STILL = 0.1
"""Over the resolution, what the rims of most particles may still move by when an iteration is taken for the last."""

RELAXED = 3
"""Iterations in which the poses that a relaxed symmetry makes equal are tried afresh."""

ASKED = 300
"""Particles that are asked, in every iteration, how far the frames of the halves are apart."""


@dataclass(frozen=True)
class Plan:
    """What a refinement is asked to do; lengths in Å.

    Attributes
    ----------
    symmetry, diameter, initial_lowpass
        Point group, diameter of the particle's ball, resolution of the reference.
    max_iterations
        Most iterations, the last one included.
    global_passes
        Number of iterations with a global search, or None to decide by what still moves.
    search
        `exhaustive`, or `branch`: branch and bound on directions twice as fine.
    shift_range
        Largest shift of the first search.
    local
        Poses are given: no global search.
    relax
        Point group whose operators give other poses to try beside those at hand, or None.
    turn_sd
        Spread of the poses about those given, radians; 0 sets no limit.
    shift_sd
        Spread of the shifts about those given, Å; 0 sets no limit.
    soft
        Share particles among modes.
    own_masks
        Masks from the half maps; else the ball.
    local_filter
        Filter the references place by place.
    defocus_spread
        Spread of the particles' defocus about their micrograph's, Å; 0 keeps the values given.
    dtype
        Operands of the search.
    """

    symmetry: str
    diameter: float
    initial_lowpass: float = 40.0
    max_iterations: int = 18
    global_passes: int | None = None
    search: str = "exhaustive"
    shift_range: float = 20.0
    local: bool = False
    relax: str | None = None
    turn_sd: float = 0.0
    shift_sd: float = 0.0
    soft: bool = True
    own_masks: bool = True
    local_filter: bool = False
    defocus_spread: float = 300.0
    dtype: torch.dtype = torch.float32


@dataclass
class State:
    """Where a refinement stands; everything the next iteration needs.

    Attributes
    ----------
    iteration
        Iterations done.
    n_global
        Global searches done.
    radius
        Last shell that counts in the next iteration.
    grid_radius
        Rings of the last global search.
    poses
        Best pose of each particle.
    modes
        All poses that share particles, or None before the first iteration.
    noise
        Noise spectra.
    volumes
        Reference volume of each half.
    finished, last, rescued
        Whether the schedule has ended; whether the next iteration is the last; whether the safety net was out.
    history
        One dict of numbers per iteration.
    """

    iteration: int
    n_global: int
    radius: int
    grid_radius: int
    poses: PoseTable
    modes: Candidates | None
    noise: NoiseModel
    volumes: list[Tensor]
    finished: bool = False
    last: bool = False
    rescued: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What the last iteration leaves behind."""

    halves: tuple[SolvableSums, SolvableSums]
    pair: HalfPair
    state: State


def begin(source: ImageSource, reference: Tensor, half: np.ndarray, plan: Plan, executor: Executor) -> State:
    """State before the first iteration: the low-passed reference in both halves."""
    rows = np.arange(len(source))
    pixel_size = source.field / reference.shape[0]
    volume = reference * ball_mask(reference.shape[0], pixel_size, plan.diameter)
    poses = empty_poses(len(source), half)
    if plan.local and source.particles.rotation is not None:
        p = source.particles
        poses.rotation[:] = p.rotation
        poses.shift_px[:] = 0.0 if p.shift is None else p.shift / source.pixel_size
        poses.scale[:] = 1.0 if p.scale is None else np.where(np.isfinite(p.scale), p.scale, 1.0)
        poses.known[:] = True
        poses.moved[:] = 0.0
    return State(
        iteration=0,
        n_global=0,
        radius=_clip_radius(source, 1.2 * source.field / plan.initial_lowpass, low=4),
        grid_radius=0,
        poses=poses,
        modes=None,
        noise=estimate_image_power(source, executor, rows),
        volumes=[volume, volume],
    )


def iterate(
    source: ImageSource, state: State, plan: Plan, executor: Executor, log: Callable[[str], None]
) -> tuple[State, Outcome]:
    """One iteration; returns the state after it and the sums it made."""
    rows = np.arange(len(source))
    poses, radius, field_ = state.poses, state.radius, source.field
    notes: dict[str, float] = {"resolution_used": field_ / radius}
    do_global = not plan.local and _wants_global(state, plan)
    source.set_defocus(poses.defocus_offset, executor)
    references = prepare_references(state.volumes, executor, radius)
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
    fit = Fit(source, references, poses.half, noise, executor, priors, largest_turn)
    before = poses.rotation.copy()

    if do_global:
        grid_radius = _grid_radius(source, state, plan)
        candidates = _global_candidates(source, references, state, plan, executor, grid_radius, rows)
        if state.iteration == 0:
            # The grey scale of a foreign map is unknown: take it from the data.
            gain = float(np.median(candidates.scale[best_of(candidates, candidates.log_likelihood)]))
            gain = gain if np.isfinite(gain) and gain > 0 else 1.0
            volumes = [volumes[0] * gain] * 2 if volumes[0] is volumes[1] else [v * gain for v in volumes]
            references = prepare_references(volumes, executor, radius)
            fit = Fit(source, references, poses.half, noise, executor, priors, largest_turn)
            notes["gain"] = gain
        candidates = replace(candidates, scale=np.ones(len(candidates)))
        if poses.known.any():
            known = np.flatnonzero(poses.known)
            candidates = join_candidates([candidates, poses.candidates(known)])
        n_global += 1
        middle = min(radius, max(grid_radius, radius // 2))
        candidates = fit(candidates, middle, 5)
        candidates = survivors(candidates, 6 if plan.soft else 2, 1e-3, plan.symmetry)
        candidates = fit(candidates, radius, 5)
    else:
        candidates = state.modes if state.modes is not None else poses.candidates(rows)
        if plan.relax is not None and state.iteration < RELAXED:
            candidates = equal_poses(poses.candidates(rows), plan.relax)
        candidates = fit(candidates, radius, 5)
    net = not do_global and not plan.local and state.n_global > 0 and (state.last or not state.rescued)
    if net:
        candidates, rescued = _safety_net(source, references, poses, candidates, fit, plan, executor, noise, radius)
        notes["rescued"] = float(rescued)
    candidates = survivors(candidates, 6 if plan.soft else 1, 1e-3, plan.symmetry)
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
            mine = poses.half == h
            fitting[mine] = fitting_share(gain_ratio(poses.log_likelihood[mine], poses.expected_gain[mine]))
    notes["fitting"] = float(fitting.mean())
    notes["moved_deg"] = float(np.rad2deg(np.median(poses.moved)))
    # junk moves for ever: only particles that fit tell whether the poses have settled
    notes["moved_far"] = float(np.average(poses.moved > np.deg2rad(10.0), weights=fitting + 1e-9))
    notes["modes"] = float(len(candidates) / len(rows))

    # The prior's width is learnt from the last fit: spread of the means and mean width of the posteriors together.
    spread = state.history[-1].get("defocus_spread", plan.defocus_spread) if state.history else plan.defocus_spread
    if plan.defocus_spread > 0 and not do_global and defocus_shows(source, radius, plan.defocus_spread):
        offset, width = fit_defocus(source, references, poses, rows, noise, executor, radius=radius, spread=spread)
        poses.defocus_offset[:] = offset
        source.set_defocus(offset, executor)
        learnt = np.sqrt(np.average(offset**2 + width**2, weights=fitting + 1e-9))
        spread = float(np.clip(learnt, 30.0, 2 * plan.defocus_spread))
    notes["defocus_spread"] = spread

    last = state.last or state.iteration + 1 >= plan.max_iterations
    noise = estimate_noise(source, references, poses, rows, noise, executor, radius=radius)
    if references[0] is not references[1]:
        _settle_frames(fit, poses, candidates, fitting, plan, notes, everyone=last)
    reach = source.points.radius if last else _clip_radius(source, max(radius + 10, 1.5 * radius))
    parts = quarter_of(poses.half) if plan.local_filter else poses.half - 1
    weighted = replace(candidates, posterior=share * fitting[candidates.row])
    n_parts = N_QUARTERS if plan.local_filter else 2
    sums = accumulate(source, weighted, parts[candidates.row], n_parts, noise, executor, radius=reach)
    solvable = [prepare_sums(s, plan.symmetry, executor) for s in sums]
    del sums
    halves = (solvable[0], solvable[1])
    if plan.local_filter:
        halves = (solvable[0].plus(solvable[1]), solvable[2].plus(solvable[3]))
    pair = solve_halves(
        halves,
        source.box,
        field_,
        plan.diameter,
        executor,
        own_masks=plan.own_masks and state.iteration > 0,
        mask_lowpass=max(15.0, 1.5 * field_ / radius),
    )
    next_radius = int(np.clip(pair.radius + 1, _clip_radius(source, field_ / plan.initial_lowpass, low=4), reach))
    # in the first iteration the quarters hold too little
    if plan.local_filter and state.iteration > 0:
        volumes = local_reference_volumes(solvable, pair, executor, radius=next_radius)
    else:
        volumes = reference_volumes(halves, pair, executor, radius=next_radius)
    notes["resolution"] = field_ / max(pair.radius, 1)
    rim = float(np.median(poses.moved)) * 0.5 * plan.diameter  # Å by which the rim of most particles moved
    slow = next_radius <= max(radius + 1, 1.05 * radius)
    settled = next_radius <= radius or (slow and rim < STILL * notes["resolution"])
    state = State(
        iteration=state.iteration + 1,
        n_global=n_global,
        radius=next_radius,
        grid_radius=grid_radius,
        poses=poses,
        modes=candidates,
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


def equal_poses(candidates: Candidates, symmetry: str) -> Candidates:
    """Every candidate turned by every operator of a point group; the shifts stay, the axes pass through the origin."""
    turned = [
        replace(candidates, rotation=operator @ candidates.rotation) for operator in symmetry_matrices(symmetry).numpy()
    ]
    return join_candidates(turned)


def _given_shift(source: ImageSource) -> np.ndarray | None:
    """Shifts that the particles came with, pixels yx."""
    shift = source.particles.shift
    return None if shift is None else shift / source.pixel_size


def _clip_radius(source: ImageSource, radius: float, low: int = 4) -> int:
    return int(np.clip(round(radius), low, source.points.radius))


def _wants_global(state: State, plan: Plan) -> bool:
    if plan.global_passes is not None:
        return state.n_global < plan.global_passes
    if state.n_global < 2:
        return True
    # once the safety net was out, what moves far was rescued by it and needs no other global search
    if state.n_global >= 6 or not state.history or state.rescued:
        return False
    return state.history[-1]["moved_far"] > 0.05


def _grid_radius(source: ImageSource, state: State, plan: Plan) -> int:
    """Rings of this pass: about 5, 10, then 15 resolution lengths across the particle, within the present limit."""
    across = source.field / plan.diameter
    asked = (5.0, 10.0, 15.0)[min(state.n_global, 2)] * across
    return int(np.clip(round(asked), 4, state.radius))


def _global_candidates(
    source: ImageSource,
    references: list[PaddedSpectrum],
    state: State,
    plan: Plan,
    executor: Executor,
    n_rings: int,
    rows: np.ndarray,
) -> Candidates:
    first = state.n_global == 0
    resolution = source.field / n_rings
    step = float(np.clip((0.15 if first else 0.2) * resolution / source.pixel_size, 1.0, 4.0))
    reach = plan.shift_range / source.pixel_size if first else 2 * step
    n_side = (4, 4, 6)[min(state.n_global, 2)]
    if plan.search == "branch":
        found, _ = search_by_bound(
            source,
            references,
            state.poses.half,
            rows,
            state.noise,
            executor,
            n_rings=n_rings,
            grids=search_tree(2 * n_side, plan.symmetry, reach, step),
            centre_px=state.poses.shift_px,
            top=4,
        )
        return found
    return search_poses(
        source,
        references,
        state.poses.half,
        rows,
        state.noise,
        executor,
        n_rings=n_rings,
        rotations=search_directions(n_side, plan.symmetry),
        shifts_px=shift_grid(reach, step),
        centre_px=state.poses.shift_px,
        top=4,
        dtype=plan.dtype,
    )


def _safety_net(
    source: ImageSource,
    references: list[PaddedSpectrum],
    poses: PoseTable,
    candidates: Candidates,
    fit: Fit,
    plan: Plan,
    executor: Executor,
    noise: NoiseModel,
    radius: int,
) -> tuple[Candidates, int]:
    """Search the worst again over all poses and all shifts; keep what has the better likelihood.

    The worst are a tenth of the particles, or all that lie two standard deviations below the bulk (at most 40 %):
    junk must not crowd out the lost.
    """
    best = candidates.select(best_of(candidates, candidates.log_likelihood))
    assert best.information is not None
    ratio = gain_ratio(best.log_likelihood, 0.5 * best.information[:, 5, 5])
    middle = np.median(ratio)
    spread = np.median(np.abs(ratio[ratio > middle] - middle)) * 1.4826
    n_worst = int(np.clip((ratio < middle - 2.0 * spread).sum(), 0.1 * len(ratio), 0.4 * len(ratio)))
    worst = best.row[np.argsort(ratio, kind="stable")[: max(1, n_worst)]]
    n_rings = int(np.clip(round(11.0 * source.field / plan.diameter), 4, radius))
    step = float(np.clip(0.15 * source.field / n_rings / source.pixel_size, 1.0, 4.0))
    found = search_poses(
        source,
        references,
        poses.half,
        worst,
        noise,
        executor,
        n_rings=n_rings,
        rotations=search_directions(5, plan.symmetry),
        shifts_px=shift_grid(plan.shift_range / source.pixel_size, step),
        top=8,
        dtype=plan.dtype,
    )
    found = replace(found, scale=np.ones(len(found)))
    found = fit(found, min(radius, max(n_rings, radius // 2)), 5)
    found = fit(survivors(found, 2, 1e-3, plan.symmetry), radius, 8)
    old = best.log_likelihood[np.searchsorted(best.row, found.row)]
    better = np.unique(found.row[found.log_likelihood > old + 1.0])
    joined = join_candidates([replace(candidates, posterior=None), replace(found, posterior=None)])
    return joined, len(better)


def save_state(path: Path, state: State) -> None:
    """Write the state beside its place, then rename."""
    columns: dict[str, Any] = {f"poses_{k}": v for k, v in state.poses.arrays().items()}
    if state.modes is not None:
        m = state.modes
        columns |= {
            "modes_row": m.row, "modes_rotation": m.rotation, "modes_shift_px": m.shift_px, "modes_scale": m.scale,
            "modes_reference": m.reference, "modes_log_likelihood": m.log_likelihood, "modes_posterior": m.posterior,
        }  # fmt: skip
    columns |= {f"curve_{i}": c for i, c in enumerate(state.curves)}
    numbers = np.array(
        [state.iteration, state.n_global, state.radius, state.grid_radius, state.finished, state.last, state.rescued],
        dtype=np.int64,
    )
    keys = sorted({k for h in state.history for k in h})
    history = np.array([[h.get(k, np.nan) for k in keys] for h in state.history]).reshape(len(state.history), len(keys))
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez(
            file,
            numbers=numbers,
            noise=state.noise.power,
            volumes=np.stack([v.numpy() for v in state.volumes]),
            history=history,
            history_keys=np.array(keys),
            n_curves=len(state.curves),
            **columns,
        )
    temporary.replace(path)


def load_state(path: Path) -> State:
    """Read what `save_state` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        data = {k: stored[k] for k in stored.files}
    iteration, n_global, radius, grid_radius, finished, last, rescued = (int(v) for v in data["numbers"])
    poses = PoseTable(**{k[len("poses_") :]: v for k, v in data.items() if k.startswith("poses_")})
    modes = None
    if "modes_row" in data:
        modes = Candidates(**{k[len("modes_") :]: v for k, v in data.items() if k.startswith("modes_")})
    keys = [str(k) for k in data["history_keys"]]
    history = [{k: float(v) for k, v in zip(keys, row, strict=True) if np.isfinite(v)} for row in data["history"]]
    return State(
        iteration,
        n_global,
        radius,
        grid_radius,
        poses,
        modes,
        NoiseModel(data["noise"]),
        [torch.from_numpy(v) for v in data["volumes"]],
        bool(finished),
        bool(last),
        bool(rescued),
        history,
        [data[f"curve_{i}"] for i in range(int(data["n_curves"]))],
    )
