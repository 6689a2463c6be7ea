"""Poses of particles against one reference or several competing ones, in two halves that do not meet.

Searches over all poses and classes until few particles move far, then steps off the grid and a search for those that
fit badly; every particle keeps the likely poses of all classes and goes into each class with its share. Each half has
class maps of its own. With several references this is a heterogeneous refinement; the classes that come out are sorted
further at fixed poses (`mixture.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.gauss_newton import PosePriors, refine_poses
from cryoloom.em.halves import ball_mask, prepare_references, reference_volumes, solve_halves
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel, estimate_image_power, estimate_noise
from cryoloom.em.poses import Candidates, PoseTable, best_of, empty_poses, group_starts, join_candidates, posterior_of
from cryoloom.em.rescue import SafetyNet, rescue
from cryoloom.em.search import search_directions, search_poses, shift_grid
from cryoloom.em.solve import prepare_sums
from cryoloom.em.survivors import normalise_scale, survivors, take_best
from cryoloom.fourier import fourier_crop
from cryoloom.fourier.slices import PaddedSpectrum

FAR = np.deg2rad(10.0)
"""Turn from which a particle counts as moved far."""


@dataclass(frozen=True)
class AlignmentPlan:
    """How to align; lengths in Å.

    Attributes
    ----------
    symmetry, diameter, initial_lowpass, shift_range
        Point group, diameter of the particle's ball, resolution of the references, largest shift.
    n_global, most_global
        Iterations with a search over all poses: these, and more, up to `most_global`, while one particle in twenty
        still moves by more than 10°.
    n_local
        Iterations after them, in which those that fit badly are searched again.
    finest
        Finest detail that is used.
    """

    symmetry: str
    diameter: float
    initial_lowpass: float
    shift_range: float
    n_global: int = 2
    most_global: int = 5
    n_local: int = 2
    finest: float = 5.0


def align_to_references(
    source: ImageSource,
    references: list[Tensor],
    half: np.ndarray,
    plan: AlignmentPlan,
    executor: Executor,
    log: Callable[[str], None],
) -> tuple[PoseTable, np.ndarray, NoiseModel]:
    """Poses, shares of the references `(n, K)`, and noise."""
    rows, n_classes = np.arange(len(source)), len(references)
    field = source.field
    poses = empty_poses(len(rows), half)
    ball = ball_mask(references[0].shape[0], field / references[0].shape[0], plan.diameter)
    volumes = [[r * ball for r in references]] * 2
    noise = estimate_image_power(source, executor, rows)
    start = _clip(source, field / plan.initial_lowpass)
    limit = _clip(source, field / plan.finest)
    radius = min(_clip(source, 1.2 * start), limit)
    modes: Candidates | None = None
    share = np.full((len(rows), n_classes), 1.0 / n_classes)
    iteration, n_searched, n_settled = 0, 0, 0
    while n_settled < plan.n_local:
        spectra = [prepare_references(v, executor, radius, source.place) for v in volumes]
        turn = float(np.clip(field / radius / plan.diameter * 1.5, np.deg2rad(1.0), np.deg2rad(8.0)))
        priors = PosePriors(scale_sd=0.5 if iteration == 0 else 0.15)
        before = poses.rotation.copy()
        moved_far = float(np.mean(poses.moved > FAR))
        search_all = n_searched < plan.n_global or (
            n_settled == 0 and n_searched < plan.most_global and moved_far > 0.05
        )
        if search_all:
            found = _search(source, spectra, poses, noise, plan, executor, iteration, radius)
            if iteration == 0:
                volumes, spectra = _match_grey_scale(source, volumes, found, n_classes, executor, radius)
            found = replace(found, scale=np.ones(len(found)))
            if modes is not None:
                found = join_candidates([found, replace(modes, information=None)])
        else:
            assert modes is not None
            found = modes

        def fit(
            some: Candidates,
            last: int,
            n_steps: int,
            spectra: list[list[PaddedSpectrum]] = spectra,
            noise: NoiseModel = noise,
            priors: PosePriors = priors,
            turn: float = turn,
        ) -> Candidates:
            return refine_poses(
                source, spectra, half, some, noise, executor,
                radius=last, n_steps=n_steps, priors=priors, largest_turn=turn,
            )  # fmt: skip

        found = survivors(fit(found, radius, 4), 4 + 2 * n_classes, 1e-3, plan.symmetry)
        found = fit(found, radius, 4)
        n_rescued = 0
        if not search_all:
            net = SafetyNet(plan.symmetry, plan.diameter, plan.shift_range / source.pixel_size, top=6 + 2 * n_classes)
            found, n_rescued = rescue(source, spectra, half, found, noise, executor, fit, net, radius=radius)
        found = survivors(found, 4 + 2 * n_classes, 1e-3, plan.symmetry)
        found = normalise_scale(replace(found, posterior=posterior_of(found)), half)
        take_best(poses, found, before, plan.symmetry)
        modes = found
        share = class_share(found, n_classes)
        noise = estimate_noise(source, spectra, poses, rows, noise, executor, radius=radius)
        reach = min(_clip(source, max(radius + 10, 1.5 * radius)), max(limit, radius))
        target = (half[found.row] - 1) * n_classes + found.reference
        sums = accumulate(source, found, target, 2 * n_classes, noise, executor, radius=reach)
        solved = [prepare_sums(s, plan.symmetry, executor) for s in sums]
        del sums
        new: list[list[Tensor]] = [[], []]
        reached = []
        for c in range(n_classes):
            halves = (solved[c], solved[n_classes + c])
            pair = solve_halves(
                halves, source.box, field, plan.diameter, executor, own_masks=iteration > 0,
                mask_lowpass=max(15.0, 1.5 * field / radius),
            )  # fmt: skip
            reached.append(int(np.clip(pair.radius + 1, start, min(reach, limit))))
            for h, volume in enumerate(reference_volumes(halves, pair, executor, radius=reached[-1])):
                new[h].append(volume)
        # all classes are compared at one resolution
        radius = max(reached)
        volumes = [[_in_box(v, max(w.shape[0] for w in new[0])) for v in per_half] for per_half in new]
        log(
            f"alignment {iteration + 1}: reached {field / radius:.1f} Å, moved "
            f"{np.rad2deg(np.median(poses.moved)):.2f}° (median), {100 * np.mean(poses.moved > FAR):.1f} % more than "
            f"10°, {n_rescued} rescued, shares {np.round(share.mean(0), 3)}"
        )
        iteration, n_searched, n_settled = iteration + 1, n_searched + search_all, n_settled + (not search_all)
    return poses, share, noise


def class_share(candidates: Candidates, n_classes: int) -> np.ndarray:
    """Posterior of each class, `(n, K)`, summed over the poses of every particle."""
    assert candidates.posterior is not None
    starts = group_starts(candidates.row)
    out = np.zeros((len(starts), n_classes))
    particle = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(candidates)]))
    np.add.at(out, (particle, candidates.reference), candidates.posterior)
    return out


def _search(
    source: ImageSource,
    spectra: list[list[PaddedSpectrum]],
    poses: PoseTable,
    noise: NoiseModel,
    plan: AlignmentPlan,
    executor: Executor,
    iteration: int,
    radius: int,
) -> Candidates:
    across = source.field / plan.diameter
    n_rings = int(np.clip(round((5.0, 10.0, 15.0)[min(iteration, 2)] * across), 4, radius))
    step = float(np.clip((0.15 if iteration == 0 else 0.2) * source.field / n_rings / source.pixel_size, 1.0, 4.0))
    reach = plan.shift_range / source.pixel_size if iteration == 0 else 2 * step
    return search_poses(
        source,
        spectra,
        poses.half,
        np.arange(len(source)),
        noise,
        executor,
        n_rings=n_rings,
        rotations=search_directions((4, 4, 6)[min(iteration, 2)], plan.symmetry),
        shifts_px=shift_grid(reach, step),
        centre_px=poses.shift_px,
        top=4 + 2 * (len(spectra[0]) - 1),
    )


def _match_grey_scale(
    source: ImageSource, volumes: list[list[Tensor]], found: Candidates, n_classes: int, executor: Executor, radius: int
) -> tuple[list[list[Tensor]], list[list[PaddedSpectrum]]]:
    """Bring every foreign reference to the grey scale of the data."""
    best = best_of(found, found.log_likelihood)
    gains = []
    for c in range(n_classes):
        mine = found.scale[best[found.reference[best] == c]]
        gain = float(np.median(mine)) if len(mine) >= 5 else float(np.median(found.scale[best]))
        gains.append(gain if np.isfinite(gain) and gain > 0 else 1.0)
    scaled = [v * g for v, g in zip(volumes[0], gains, strict=True)]
    return [scaled, scaled], [prepare_references(scaled, executor, radius, source.place)] * 2


def _in_box(volume: Tensor, box: int) -> Tensor:
    """The same transform in a box of another size."""
    if volume.shape[0] == box:
        return volume
    return fourier_crop(volume, (box,) * 3) * (volume.shape[0] / box) ** 3


def _clip(source: ImageSource, radius: float) -> int:
    return int(np.clip(round(radius), 4, source.points.radius))
