"""Stage `class3d`: from particles to their states, the maps of the states, and how many particles are in each."""

import math
from typing import Any

import numpy as np
import torch

from cryoloom.class3d.align import AlignmentPlan, align_to_references
from cryoloom.class3d.class_maps import ClassMap, realign_with_classes, solve_class
from cryoloom.class3d.common import CommonMap, common_map, given_poses
from cryoloom.class3d.generality import evidence_elsewhere
from cryoloom.class3d.latent import coordinates, sort_by_coordinates
from cryoloom.class3d.mixture import Mixture, begin_mixture, judge_apart, refine_mixture
from cryoloom.class3d.populations import Populations, measure_populations
from cryoloom.class3d.progress import Progress, load_progress, save_progress
from cryoloom.class3d.references import share_of_references
from cryoloom.class3d.settings import CLASS3D, Class3dSettings
from cryoloom.class3d.subspace import find_subspace
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.images import ImageSource, cache_bytes
from cryoloom.em.place import Place
from cryoloom.em.poses import PoseTable
from cryoloom.em.start import particle_diameter, place_reference
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.filter import lowpass

LARGEST_SUBSPACE = 6
"""Most directions looked for, however many classes there are."""
MOST_REALIGNED = 4
"""Most rounds of alignment with the maps of the classes."""


@stage(CLASS3D)
def sort_particles(
    particles: ParticleSet,
    reference: tuple[VolumeMap, ...] | None,
    mask: VolumeMap | None,
    settings: Class3dSettings,
    run: Run,
) -> dict[str, Any]:
    """Sort particles into states."""
    references = reference or ()
    _check(particles, references, settings)
    n_classes = len(references) if len(references) > 1 else settings.classes
    half = half_sets(particles, run.generator("halves"))
    reader = ParticleImages(particles)
    box, pixel_size = reader.shape[-1], float(particles.optics[0].pixel_size)
    field = box * pixel_size
    placed = [place_reference(r, field, box, max(settings.initial_lowpass, 4 * pixel_size)) for r in references]
    diameter = settings.mask_diameter
    if diameter is None:
        diameter = max((1.1 * particle_diameter(v, field / v.shape[0]) + 10.0 for v in placed), default=0.8 * field)
    diameter = min(diameter, 0.98 * field)
    source = ImageSource(
        reader,
        particles,
        diameter,
        noise_group=noise_groups(particles, settings.noise),
        cache_bytes=cache_bytes(run.memory_budget),
        place=Place(run.devices),
    )
    path = run.checkpoint("classes.npz")
    kept = load_progress(path) if path.exists() else None
    if kept is None:
        poses, share = _poses(source, particles, placed, half, diameter, settings, run)
        kept = Progress(poses, share)
        save_progress(path, kept)
    poses = kept.poses
    common = common_map(
        source, poses, diameter, run.executor, symmetry=settings.symmetry, finest=settings.finest, focus=mask
    )
    run.log(f"map of all particles: {field / common.radius:.1f} Å")
    mixture, gain = _sorted(source, kept, common, n_classes, len(references) > 1, settings, run)
    if settings.alignment and n_classes > 1:
        poses, common, mixture = _realigned(source, poses, common, mixture, mask, diameter, settings, run)
    if n_classes > 1:
        mixture = judge_apart(
            source, mixture, poses, np.arange(len(source)), common, run.executor,
            radius=_radii(field, common.radius, diameter)[-1], symmetry=settings.symmetry,
        )  # fmt: skip
    return _results(particles, half, source, poses, mixture, common, gain, len(references) > 1, settings, run)


def _check(particles: ParticleSet, references: tuple[VolumeMap, ...], settings: Class3dSettings) -> None:
    if len(particles) < 40:
        raise InputError(f"The set holds {len(particles)} particles; a classification needs at least 40.")
    if particles.rotation is None and not references:
        raise InputError(
            "The particles have no poses and no reference was given: add --reference with the map of `abinitio`, or "
            "give the particles of a refinement."
        )
    if particles.rotation is None and not settings.alignment:
        raise InputError("alignment is off, but the particles have no poses; run refine first.")


def _poses(
    source: ImageSource,
    particles: ParticleSet,
    placed: list[torch.Tensor],
    half: np.ndarray,
    diameter: float,
    settings: Class3dSettings,
    run: Run,
) -> tuple[PoseTable, np.ndarray | None]:
    """Poses given, or found against the references; and the shares of several references."""
    if particles.rotation is None:
        plan = AlignmentPlan(
            symmetry=settings.symmetry,
            diameter=diameter,
            initial_lowpass=settings.initial_lowpass,
            shift_range=_shift_range(settings, diameter),
            finest=settings.finest or max(5.0, 2.5 * source.pixel_size),
        )
        poses, share, _ = align_to_references(source, placed, half, plan, run.executor, run.log)
        return poses, share if len(placed) > 1 else None
    poses = given_poses(particles, half, source.pixel_size)
    if len(placed) < 2:
        return poses, None
    return poses, share_of_references(source, placed, poses, settings.initial_lowpass, run.executor)


def _radii(field: float, reached: int, diameter: float) -> list[int]:
    """Last shells of the sorting: from a tenth of the particle to what the common map resolves, but 6 Å."""
    last = int(min(reached, field / 6.0))
    first = int(np.clip(round(10.0 * field / diameter), 6, last))
    radii = [first]
    while radii[-1] < last:
        radii.append(min(last, math.ceil(1.6 * radii[-1])))
    return radii


def _sorted(
    source: ImageSource,
    kept: Progress,
    common: CommonMap,
    n_classes: int,
    given: bool,
    settings: Class3dSettings,
    run: Run,
) -> tuple[Mixture, tuple[float, float] | None]:
    """Memberships from a subspace (or from references), then from class maps at growing resolution."""
    rows, executor, poses, path = np.arange(len(source)), run.executor, kept.poses, run.checkpoint("classes.npz")
    if n_classes == 1:
        return begin_mixture(np.ones((len(rows), 1))), None
    radii = _radii(source.field, common.radius, source.mask_diameter)
    if kept.share is None:
        subspace = find_subspace(
            source, common.volume, common.mask, poses, rows, common.noise, executor, run.generator("directions"),
            n_directions=min(n_classes - 1, LARGEST_SUBSPACE),
            radii=sorted({radii[0], min(radii[-1], math.ceil(1.3 * radii[0]))}),
            symmetry=settings.symmetry, log=run.log,
        )  # fmt: skip
        z, _ = coordinates(subspace.cross, subspace.gram, poses.scale)
        rng = np.random.default_rng(int(run.generator("starts").initial_seed()) % 2**32)
        found = sort_by_coordinates(subspace.cross, subspace.gram, z, n_classes, rng, n_starts=settings.starts)
        run.log(f"best of {settings.starts} starts: evidence {found.evidence:.3f}, {np.round(found.population, 3)}")
        coarse = min(radii[0], max(6, round(7 * source.field / source.mask_diameter)))
        gain = evidence_elsewhere(
            source, poses, common, n_classes, min(n_classes - 1, LARGEST_SUBSPACE), coarse, executor,
            run.generator("elsewhere"), symmetry=settings.symmetry,
        )  # fmt: skip
        run.log(f"classes of one half raise the evidence of the other by {gain[0]:.3f} ± {gain[1]:.3f} per particle")
        kept = Progress(poses, found.share, gain=gain)
        save_progress(path, kept)
    else:
        run.log("memberships at hand")
    assert kept.share is not None
    mixture = refine_mixture(
        source, kept.share, poses, rows, common, executor,
        radii=list(kept.radii) or radii[1:] or radii, n_steps=settings.max_steps, symmetry=settings.symmetry,
        seed=None if given else int(run.generator("again").initial_seed()) % 2**32, n_starts=settings.starts,
        log=run.log, keep=lambda share, left: save_progress(path, Progress(poses, share, tuple(left), kept.gain)),
    )  # fmt: skip
    return mixture, kept.gain


def _realigned(
    source: ImageSource,
    poses: PoseTable,
    common: CommonMap,
    mixture: Mixture,
    mask: VolumeMap | None,
    diameter: float,
    settings: Class3dSettings,
    run: Run,
) -> tuple[PoseTable, CommonMap, Mixture]:
    """Poses by the maps of the classes and classes by these poses, until few particles are found elsewhere."""
    for _ in range(MOST_REALIGNED):
        radius = _radii(source.field, common.radius, diameter)[-1]
        poses, share, n_rescued = realign_with_classes(
            source, mixture, poses, common, run.executor, radius=radius, diameter=diameter,
            shift_range=_shift_range(settings, diameter), symmetry=settings.symmetry,
        )  # fmt: skip
        run.log(f"aligned with their classes: {n_rescued} of {len(source)} particles found elsewhere")
        few = n_rescued < 0.01 * len(source)
        if not few:
            common = common_map(
                source, poses, diameter, run.executor, symmetry=settings.symmetry, finest=settings.finest, focus=mask
            )
        mixture = refine_mixture(
            source, share, poses, np.arange(len(source)), common, run.executor,
            radii=[_radii(source.field, common.radius, diameter)[-1]], n_steps=2 if few else settings.max_steps,
            symmetry=settings.symmetry, log=run.log,
        )  # fmt: skip
        if few:
            break
    return poses, common, mixture


def _shift_range(settings: Class3dSettings, diameter: float) -> float:
    return settings.shift_range or max(8.0, 0.1 * diameter)


def _results(
    particles: ParticleSet,
    half: np.ndarray,
    source: ImageSource,
    poses: PoseTable,
    mixture: Mixture,
    common: CommonMap,
    gain: tuple[float, float] | None,
    keep_order: bool,
    settings: Class3dSettings,
    run: Run,
) -> dict[str, Any]:
    order = np.arange(len(mixture.population)) if keep_order else np.argsort(-mixture.population, kind="stable")
    share = mixture.share[:, order]
    spread = None if mixture.population_spread is None else mixture.population_spread[order]
    populations = measure_populations(share, mixture.population[order], spread)
    pixel_size = source.pixel_size
    results: dict[str, Any] = {}
    maps: list[ClassMap] = []
    for k in range(share.shape[1]):
        made = solve_class(source, share[:, k], poses, common, run.executor, symmetry=settings.symmetry)
        maps.append(made)
        name = f"class{k + 1:03d}"
        results[name] = VolumeMap(made.volume.numpy(), pixel_size)
        for h in (0, 1):
            results[f"{name}_half{h + 1}"] = VolumeMap(made.halves[h].numpy(), pixel_size)
        run.show(
            Figure(
                name=name,
                kind="volume",
                title=f"Class {k + 1}: {100 * populations.value[k]:.1f} % at {made.resolution:.1f} Å",
                caption="Central slices and surface.",
                data={"volume": lowpass(made.volume, pixel_size, max(made.resolution, 2 * pixel_size)).numpy(),
                      "pixel_size": pixel_size},
            )
        )  # fmt: skip
    extra = dict(particles.extra)
    for k in range(share.shape[1]):
        extra[f"cryoloomClassProbability{k + 1:03d}"] = share[:, k].copy()
    results["particles"] = particles.replace(
        rotation=poses.rotation.copy(),
        shift=poses.shift_px * pixel_size,
        half=half,
        class_number=share.argmax(1).astype(np.int64) + 1,
        posterior_max=share.max(1),
        extra=extra,
    )
    _summarise(run, particles, populations, maps, mixture, gain, settings)
    return results


def _summarise(
    run: Run,
    particles: ParticleSet,
    populations: Populations,
    maps: list[ClassMap],
    mixture: Mixture,
    gain: tuple[float, float] | None,
    settings: Class3dSettings,
) -> None:
    verdict, reasons = _judge(populations, gain)
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=len(particles),
        n_out=len(particles),
        symmetry=settings.symmetry,
        pixel_size=float(particles.optics[0].pixel_size),
        populations=[round(float(v), 4) for v in populations.value],
        population_intervals=[
            [round(float(a), 4), round(float(b), 4)] for a, b in zip(populations.low, populations.high, strict=True)
        ],
        expected_accuracy=round(populations.expected_accuracy, 4),
        resolutions=[round(m.resolution, 2) for m in maps],
        resolution=round(min(m.resolution for m in maps), 3),
        evidence_elsewhere=None if gain is None else [round(gain[0], 4), round(gain[1], 4)],
        evidence=round(mixture.evidence, 4) if math.isfinite(mixture.evidence) else None,
    )
    run.show(
        Figure(
            name="memberships",
            kind="histogram",
            title="How clearly particles belong to their class",
            caption="Probability of the most likely class of each particle, judged by maps that have not seen it.",
            x_label="probability",
            data={"values": mixture.share.max(1)},
        )
    )


def _judge(populations: Populations, gain: tuple[float, float] | None) -> tuple[str, list[str]]:
    k = len(populations.value)
    shown = ", ".join(
        f"{100 * v:.1f} % ({100 * a:.1f} to {100 * b:.1f})"
        for v, a, b in zip(populations.value, populations.low, populations.high, strict=True)
    )
    reasons = [
        f"{k} classes: {shown}",
        f"{100 * populations.expected_accuracy:.0f} % of particles in their right class",
    ]
    if k == 1:
        return "found", ["one class was asked for"]
    chance = float(populations.value.max())
    told_apart = (populations.expected_accuracy - chance) / max(1.0 - chance, 1e-9)
    if gain is not None:
        reasons.append(f"classes of one half raise the log-evidence of the other by {gain[0]:.3f} ± {gain[1]:.3f} each")
        if gain[0] < 3 * gain[1]:
            return "not found", ["what tells the classes of one half apart is not seen in the other half", *reasons]
    if told_apart < 0.1:
        return "not found", ["the particles show no states that can be told apart", *reasons]
    if told_apart < 0.5 or populations.value.min() < 0.01:
        return "doubtful", ["states overlap so far that many particles cannot be assigned", *reasons]
    return "found", reasons
