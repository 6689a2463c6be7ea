"""Stage `refine`: from particles and a low-passed reference to two independent half maps and their mean."""

import math
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import FscCurve, ParticleSet, VolumeMap
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.images import ImageSource, cache_bytes
from cryoloom.em.place import Place
from cryoloom.em.reliability import pose_reliability
from cryoloom.em.solve import solve, ssnr_of
from cryoloom.em.start import particle_diameter, place_reference
from cryoloom.geometry import symmetry_matrices
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.corrected import CorrectedFsc, corrected_fsc
from cryoloom.maps.filter import lowpass
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.refine.plan import Plan
from cryoloom.refine.schedule import iterate
from cryoloom.refine.settings import REFINE, RefineSettings
from cryoloom.refine.state import Outcome, State, begin, load_state, save_state


@stage(REFINE)
def refine_map(particles: ParticleSet, reference: VolumeMap, settings: RefineSettings, run: Run) -> dict[str, Any]:
    """Refine poses and map of one structure."""
    _check(particles, settings, run.device)
    symmetry_matrices(settings.symmetry)
    half = half_sets(particles, run.generator("halves"))
    source, placed = open_images(particles, reference, settings, run)
    box, pixel_size = source.box, source.pixel_size
    outcome = run_schedule(source, placed, half, plan_of(settings, source.mask_diameter), run, "refinement")
    results, curves, mask, interval, resolution = _finish(outcome, source, run, settings, pixel_size, box)
    results["particles"] = posed_particles(particles, half, outcome.state, pixel_size)
    _report(run, particles, results, outcome.state, curves, interval, resolution, settings, pixel_size, source)
    return results


def open_images(
    particles: ParticleSet, reference: VolumeMap, settings: RefineSettings, run: Run
) -> tuple[ImageSource, torch.Tensor]:
    """Images behind the mask of the diameter that was set or found, and the reference over their field."""
    reader = ParticleImages(particles)
    box = reader.shape[-1]
    pixel_size = float(particles.optics[0].pixel_size)
    field = box * pixel_size
    placed = place_reference(reference, field, box, max(settings.initial_lowpass, 4 * pixel_size))
    diameter = settings.mask_diameter
    if diameter is None:
        diameter = min(1.1 * particle_diameter(placed, field / placed.shape[0]) + 10.0, 0.95 * field)
        run.log(f"diameter of the mask found in the reference: {diameter:.0f} Å")
    source = ImageSource(
        reader,
        particles,
        min(diameter, 0.98 * field),
        noise_group=noise_groups(particles, settings.noise),
        cache_bytes=cache_bytes(run.memory_budget),
        place=Place(run.devices, torch.float64 if settings.precision == "double" else torch.float32),
    )
    return source, placed


def run_schedule(
    source: ImageSource, reference: torch.Tensor, half: np.ndarray, plan: Plan, run: Run, name: str
) -> Outcome:
    """Iterate until nothing improves; goes on where a killed run of this `name` had stopped."""
    path = run.checkpoint(f"{name}.npz")
    if path.exists():
        state = load_state(path)
        run.log(f"goes on after iteration {state.n_marginal + state.iteration}")
    else:
        state = begin(source, reference, half, plan, run.executor)
    outcome: Outcome | None = None
    with run.progress(plan.max_iterations, name) as progress:
        progress.advance(state.iteration)
        while not state.finished:
            done = state.iteration
            state, outcome = iterate(source, state, plan, run.executor, run.log)
            if not state.finished:
                save_state(path, state)
            progress.advance(state.iteration - done)  # those in which all poses share each image are not counted
    assert outcome is not None
    return outcome


def _check(particles: ParticleSet, settings: RefineSettings, device: str) -> None:
    if settings.search == "branch" and device != "cpu":
        raise InputError("search: branch and bound works on the CPU alone; add --device cpu or leave the option out.")
    if len(particles) < 20:
        raise InputError(f"The set holds {len(particles)} particles; a refinement needs at least 20.")
    if settings.local and particles.rotation is None:
        raise InputError("local: the particles have no poses to start from; leave the option out or run refine first.")
    if settings.relax_symmetry is not None:
        symmetry_matrices(settings.relax_symmetry)
        if not settings.local or settings.local_angle_deg > 0:
            raise InputError(
                "relax_symmetry: it needs `local` and no limit about the poses that were given (local_angle_deg = 0)."
            )


def plan_of(settings: RefineSettings, diameter: float) -> Plan:
    """The schedule that the settings ask for."""
    operands = settings.operands
    if operands == "auto":
        operands = "bfloat16" if _bfloat16_is_fast() else "float32"
    return Plan(
        symmetry=settings.symmetry,
        diameter=diameter,
        initial_lowpass=settings.initial_lowpass,
        max_iterations=settings.max_iterations,
        global_passes=settings.global_passes,
        shift_range=settings.shift_range or max(8.0, 0.1 * diameter),
        search=settings.search,
        local=settings.local,
        relax=settings.relax_symmetry,
        turn_sd=math.radians(settings.local_angle_deg),
        shift_sd=settings.local_shift,
        soft=settings.soft != "hard",
        own_masks=settings.mask == "auto",
        local_filter=settings.regularisation == "local",
        defocus_spread=settings.defocus_spread if settings.fit_defocus else 0.0,
        dtype=torch.bfloat16 if operands == "bfloat16" else torch.float32,
    )


def _bfloat16_is_fast() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capability()) if capability is not None else False


def _finish(
    outcome: Outcome, source: ImageSource, run: Run, settings: RefineSettings, pixel_size: float, box: int
) -> tuple[dict[str, Any], CorrectedFsc, torch.Tensor, tuple[float, float], float]:
    """Unfiltered halves, mask, corrected FSC, and the map of all particles."""
    halves = list(run.executor.map(lambda s: solve(s, box), outcome.halves))
    mean = 0.5 * (halves[0] + halves[1])
    reached = source.field / max(outcome.pair.radius, 1)
    mask = soft_mask_from_map(mean, pixel_size, lowpass_resolution=max(15.0, 1.5 * reached))
    curves = corrected_fsc(halves[0], halves[1], mask)
    covariance = curves.covariance * len(symmetry_matrices(settings.symmetry))
    crossing = locate_crossing(curves.corrected, covariance, 0.143)
    resolution = source.field / max(crossing.shell, 1e-3)
    worst, best = (source.field / max(s, 1e-3) for s in crossing.interval(len(curves.corrected)))
    trusted = np.arange(len(curves.corrected)) <= crossing.shell + 1
    ssnr = ssnr_of(np.where(trusted, curves.corrected, 0.0), both_halves=True)
    whole = solve(outcome.halves[0].plus(outcome.halves[1]), box, ssnr)
    frequency = np.arange(len(curves.corrected)) / source.field
    fsc = FscCurve(
        frequency=frequency,
        corrected=curves.corrected,
        unmasked=curves.unmasked,
        masked=curves.masked,
        phase_randomised=curves.phase_randomised,
        n_independent=0.5 / np.maximum(np.diag(covariance), 1e-12),
        randomise_from=float(frequency[curves.randomise_shell]),
    )
    results: dict[str, Any] = {
        "map": _as_map(whole, pixel_size),
        "half1": _as_map(halves[0], pixel_size),
        "half2": _as_map(halves[1], pixel_size),
        "mask": _as_map(mask, pixel_size),
        "fsc": fsc,
    }
    return results, curves, mask, (min(best, worst), max(best, worst)), resolution


def posed_particles(particles: ParticleSet, half: np.ndarray, state: State, pixel_size: float) -> ParticleSet:
    """Particles with what the refinement found of them."""
    poses = state.poses
    return particles.replace(
        rotation=poses.rotation.copy(),
        shift=poses.shift_px * pixel_size,
        half=half,
        scale=poses.scale.copy(),
        defocus_u=_moved(particles.defocus_u, poses.defocus_offset),
        defocus_v=_moved(particles.defocus_v, poses.defocus_offset),
        log_likelihood=poses.log_likelihood.copy(),
        posterior_max=poses.posterior_max.copy(),
        n_significant=poses.n_significant.copy(),
        pose_error=poses.pose_error.copy(),
        shift_error=poses.shift_error_px * pixel_size,
        pose_radius=poses.pose_radius.copy(),
        shift_radius=poses.shift_radius_px * pixel_size,
        reliability=pose_reliability(poses.log_likelihood, poses.expected_gain, poses.posterior_max),
    )


def _report(
    run: Run,
    particles: ParticleSet,
    results: dict[str, Any],
    state: State,
    curves: CorrectedFsc,
    interval: tuple[float, float],
    resolution: float,
    settings: RefineSettings,
    pixel_size: float,
    source: ImageSource,
) -> None:
    refined = results["particles"]
    verdict, reasons = _judge(resolution, interval, refined, state)
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        resolution=round(resolution, 3),
        resolution_interval=[round(interval[0], 3), round(interval[1], 3)],
        symmetry=settings.symmetry,
        pixel_size=pixel_size,
        n_in=len(particles),
        n_out=len(refined),
        n_iterations=state.iteration,
        mask_diameter=round(source.mask_diameter, 1),
        pose_error_deg=round(float(np.rad2deg(np.median(refined.pose_error))), 3),
        shift_error=round(float(np.median(refined.shift_error)), 3),
        reliable_fraction=round(float(np.mean(refined.reliability > 0.5)), 4),
    )
    frequency = results["fsc"].frequency
    run.show(
        Figure(
            name="fsc",
            kind="curves",
            title="Fourier shell correlation of the half maps",
            caption="Corrected: what the mask itself brings in is taken out. The resolution is read at 0.143.",
            x_label="resolution",
            y_label="FSC",
            data={
                "x": frequency,
                "y": {
                    "corrected": curves.corrected,
                    "masked": curves.masked,
                    "unmasked": curves.unmasked,
                    "phases random": curves.phase_randomised,
                },
                "lines": {"0.143": 0.143},
                "resolution_axis": True,
            },
        )
    )
    n = len(frequency)
    run.show(
        Figure(
            name="fsc_iterations",
            kind="curves",
            title="FSC after each iteration",
            caption="Halves behind their own masks. Each curve should lie above the one before until nothing improves.",
            x_label="resolution",
            y_label="FSC",
            data={
                "x": frequency,
                "y": {
                    f"iteration {i + 1}": np.r_[c[:n], np.full(max(0, n - len(c)), np.nan)]
                    for i, c in enumerate(state.curves)
                },
                "lines": {"0.143": 0.143},
                "resolution_axis": True,
            },
        )
    )
    run.show(
        Figure(
            name="orientations",
            kind="orientations",
            title="Directions from which the particles are seen",
            caption="Bare regions are directions that no particle shows; the map is worse along them.",
            data={"rotations": refined.rotation},
        )
    )
    shown = lowpass(torch.from_numpy(results["map"].data), pixel_size, max(resolution, 2 * pixel_size))
    run.show(
        Figure(
            name="volume",
            kind="volume",
            title=f"Map at {resolution:.1f} Å",
            caption="Central slices and surface of the map of all particles.",
            data={"volume": shown.numpy(), "pixel_size": pixel_size},
        )
    )
    run.show(
        Figure(
            name="reliability",
            kind="histogram",
            title="Reliability of the poses",
            caption="Probability that each pose is right. Junk and lost particles gather near zero.",
            x_label="probability",
            data={"values": refined.reliability},
        )
    )


def _judge(
    resolution: float, interval: tuple[float, float], refined: ParticleSet, state: State
) -> tuple[str, list[str]]:
    assert refined.reliability is not None
    reliable = float(np.mean(refined.reliability > 0.5))
    reasons = [
        f"half maps agree to {resolution:.2f} Å ({interval[0]:.2f} to {interval[1]:.2f} Å) "
        f"after {state.iteration} iterations",
        f"{100 * reliable:.0f} % of the poses are reliable",
    ]
    if resolution > 20.0:
        return "not found", ["the half maps agree no further than 20 Å: they show no structure", *reasons]
    if reliable < 0.3:
        return "doubtful", ["fewer than a third of the particles fit the map", *reasons]
    if state.history and state.history[-1].get("moved_far", 0.0) > 0.2:
        return "doubtful", ["poses of many particles still changed in the last iteration", *reasons]
    return "found", reasons


def _moved(defocus: np.ndarray | None, offset: np.ndarray) -> np.ndarray | None:
    return None if defocus is None else defocus + offset


def _as_map(volume: torch.Tensor, pixel_size: float) -> VolumeMap:
    return VolumeMap(volume.numpy().astype(np.float32), pixel_size)
