"""What the particles answer about the map, from their half sets to their tilt pairs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Run
from cryoloom.data import ParticleSet
from cryoloom.em.images import ImageReader, cache_bytes
from cryoloom.fourier import fourier_crop
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.filter import filter_map, shell_gain
from cryoloom.maps.sampling import measure_sampling
from cryoloom.validation.decoys import compare_with_decoys
from cryoloom.validation.half_map_checks import HalfMaps, low_shell
from cryoloom.validation.held_out import HeldOut, held_out_likelihood
from cryoloom.validation.items import Report, number
from cryoloom.validation.posed import PosedParticles, pose_particles
from cryoloom.validation.relaxed_symmetry import compare_relaxed_halves
from cryoloom.validation.reslog import ResLog, measure_reslog
from cryoloom.validation.settings import ValidateSettings
from cryoloom.validation.signal_checks import answer_explained, answer_random_phases
from cryoloom.validation.statistics import duplicate_rows, near_rows
from cryoloom.validation.tilt_pairs import compare_tilt_pairs

KEYS = (
    "sampling",
    "half_sets",
    "held_out",
    "explained",
    "random_phases",
    "decoys",
    "alignability",
    "reslog",
    "symmetry",
    "tilt_pairs",
)
"""Items that need particles."""

ENOUGH_DECOYS = 3.0
"""Standard errors by which the map must beat its decoys."""


@dataclass(frozen=True)
class ParticleFigures:
    """Curves to show."""

    held_out: tuple[HeldOut, HeldOut] | None
    reslog: ResLog | None


def check_particles(
    maps: HalfMaps,
    particles: ParticleSet,
    reader: ImageReader,
    tilted: ParticleSet | None,
    settings: ValidateSettings,
    run: Run,
    report: Report,
) -> ParticleFigures:
    """Answer the items that need the particles."""
    _answer_half_sets(particles, report)
    _answer_sampling(particles, settings.symmetry, report)
    diameter = settings.mask_diameter or particle_diameter(maps.mask, maps.pixel_size)
    posed = pose_particles(
        particles,
        reader,
        diameter,
        run.executor,
        run.generator("halves"),
        largest_number=settings.particles_used,
        cache_bytes=cache_bytes(run.memory_budget),
    )
    _answer_tilt_pairs(particles, tilted, settings.symmetry, run, report)
    field = maps.half1.shape[0] * maps.pixel_size
    if abs(posed.source.field / field - 1) > 0.01:
        why = f"The images show a field of {posed.source.field:.0f} Å, the maps one of {field:.0f} Å."
        report.skip(KEYS, why)
        return ParticleFigures(None, None)
    halves = tuple(_in_box(half, posed.source.box) for half in (maps.half1, maps.half2))
    mask = _in_box(maps.mask, posed.source.box).clamp(0, 1)
    held_out = _answer_held_out(maps, halves, mask, posed, run, report)
    answer_explained(maps, halves, mask, posed, run, report)
    answer_random_phases(maps, mask, posed, particles, reader, settings, run, report)
    _answer_decoys(maps, halves, mask, posed, settings, run, report)
    reslog = _answer_reslog(maps, mask, posed, settings, run, report)
    _answer_symmetry(maps, mask, posed, settings, run, report)
    return ParticleFigures(held_out, reslog)


def particle_diameter(mask: Tensor, pixel_size: float) -> float:
    """Diameter in Å of the circle about the centre of the box that holds the mask, with a margin of 10 %."""
    where = (mask > 0.5).nonzero().double() - torch.tensor([n // 2 for n in mask.shape], dtype=torch.float64)
    reach = float(where.norm(dim=1).max()) if len(where) else 0.25 * mask.shape[0]
    return float(min(2.2 * reach * pixel_size, 0.95 * mask.shape[0] * pixel_size))


def _in_box(volume: Tensor, box: int) -> Tensor:
    """A cube over the same field in another box; a smaller one is padded in Fourier space."""
    return volume if volume.shape[0] == box else fourier_crop(volume.float(), (box,) * 3)


def _answer_half_sets(particles: ParticleSet, report: Report) -> None:
    copies = duplicate_rows(particles.image_path, particles.image_index)
    shares = _shares_between_halves(particles)
    said = f"{len(copies)} images occur twice; {100 * shares:.1f} % of particles have a neighbour in the other half "
    said += "so near that their boxes overlap by more than half."
    grave = len(copies) > 0.001 * len(particles)
    report.add(
        "half_sets",
        "failed" if grave else "doubtful" if shares > 0.02 else "passed",
        said,
        value=number(100 * shares, 2),
        unit="%",
        limit="<= 2",
        detail={"copies": len(copies)},
    )


def _shares_between_halves(particles: ParticleSet) -> float:
    """Share of particles within a quarter of the box of one in the other half."""
    if particles.position_px is None or particles.micrograph is None or particles.half is None:
        return 0.0
    box = particles.optics[0].box or 0
    if not box:
        return 0.0
    position = np.asarray(particles.position_px, np.float64)
    every = near_rows(particles.micrograph, position, 0.25 * box)
    same = [
        np.flatnonzero(particles.half == h)[
            near_rows(particles.micrograph[particles.half == h], position[particles.half == h], 0.25 * box)
        ]
        for h in (1, 2)
    ]
    return max(len(every) - sum(len(s) for s in same), 0) / max(len(particles), 1)


def _answer_sampling(particles: ParticleSet, symmetry: str, report: Report) -> None:
    views = np.asarray(particles.rotation)[:, :, 2]
    views = views[np.isfinite(views).all(1)]
    views = views[:: max(1, len(views) // 10_000)]
    operators = symmetry_matrices(symmetry).numpy()
    copies = np.einsum("sij,nj->sni", operators, views).reshape(-1, 3)
    sampling = measure_sampling(copies[:: max(1, len(copies) // 20_000)])
    poor = sampling.scf < 0.5
    said = f"Sampling factor {sampling.scf:.2f} (1 for even views)."
    if sampling.best_tilt_deg:
        said += (
            f" Tilting the stage by {sampling.best_tilt_deg:.0f}° would raise it to about {sampling.scf_at_best:.2f}."
        )
    report.add(
        "sampling",
        "doubtful" if poor else "passed",
        said,
        value=number(sampling.scf),
        limit=">= 0.5",
        detail={
            "unsampled": number(sampling.unsampled),
            "efficiency": number(sampling.efficiency),
            "advised_tilt_deg": sampling.best_tilt_deg,
        },
    )


def _answer_held_out(
    maps: HalfMaps, halves: tuple[Tensor, ...], mask: Tensor, posed: PosedParticles, run: Run, report: Report
) -> tuple[HeldOut, HeldOut] | None:
    last = round(maps.found.crossing.shell)
    first = max(low_shell(maps.found, 0.6), round(0.6 * last))
    if not posed.given_halves:
        report.skip(("held_out",), "It is not known which particles went into which half map.")
        return None
    if last - first < 2 or last < 5:
        report.skip(("held_out",), "The FSC falls too steeply to tell detail from shape.")
        return None
    fsc = np.where(np.arange(len(maps.found.curves.corrected)) <= last, maps.found.curves.corrected, 0.0)
    pair = [
        held_out_likelihood(
            posed, halves[2 - h] * mask, posed.of_half(h), run.executor, fsc=fsc, from_shell=first, last_shell=last
        )
        for h in (1, 2)
    ]
    z = (pair[0].tail_z + pair[1].tail_z) / np.sqrt(2)
    field = posed.source.field
    where = f"between {field / first:.1f} and {field / last:.1f} Å"
    if z > 2:
        status, said = "passed", f"Particles of the other half gain from the detail {where} (z = {z:.1f})."
    elif z < -2:
        status, said = (
            "failed",
            f"The detail {where} makes particles of the other half fit worse (z = {z:.1f}): made up.",
        )
    else:
        status, said = "doubtful", f"The particles asked do not confirm the detail {where} (z = {z:.1f})."
    report.add("held_out", status, said, value=number(z, 2), unit="σ", limit="> 2")
    return pair[0], pair[1]


def _answer_decoys(
    maps: HalfMaps,
    halves: tuple[Tensor, ...],
    mask: Tensor,
    posed: PosedParticles,
    settings: ValidateSettings,
    run: Run,
    report: Report,
) -> None:
    found = maps.found
    radius = int(np.clip(min(low_shell(found, 0.5), posed.source.field / 8.0), 4, posed.source.points.radius))
    weight = torch.from_numpy(np.clip(found.curves.corrected, 0.0, 1.0))
    filtered = [filter_map(_on(half, maps), shell_gain(weight, maps.half1.shape)) for half in (maps.half1, maps.half2)]
    ready = tuple(_in_box(volume, posed.source.box) for volume in filtered)
    test, search, _ = compare_with_decoys(
        posed,
        (ready[0], ready[1]),
        mask,
        run.executor,
        run.generator("decoys"),
        radius=radius,
        symmetry=settings.symmetry,
        largest_number=min(400, settings.particles_used),
        n_decoys=settings.decoys,
    )
    known = test.z > ENOUGH_DECOYS
    said = f"Of {test.n_particles} particles, {100 * test.auc:.0f} % fit the map better than maps with random phases"
    report.add(
        "decoys",
        "passed" if known else "failed",
        said + (f" (z = {test.z:.1f})." if known else f" (z = {test.z:.1f}): this map is not in the images."),
        value=number(test.z, 2),
        unit="σ",
        limit=f"> {ENOUGH_DECOYS:.0f}",
        detail={"auc": number(test.auc), "advantage": number(test.advantage)},
    )
    again = float((search.angle < np.deg2rad(20)).mean())
    margin = float(np.median(search.alignability))
    said = f"A fresh search at {posed.source.field / radius:.0f} Å brings {100 * again:.0f} % of the particles back to "
    said += "their pose within 20°"
    report.add(
        "alignability",
        "passed" if again > 0.3 and margin > 0 else "doubtful",
        said + ("." if margin > 0 else "; for most of them another pose fits better."),
        value=number(100 * again, 1),
        unit="%",
        limit="> 30, and the given pose better than others for most",
        detail={"median_alignability": number(margin, 2)},
    )


def _on(half: Tensor, maps: HalfMaps) -> Tensor:
    return half.float() * maps.mask


def _answer_reslog(
    maps: HalfMaps, mask: Tensor, posed: PosedParticles, settings: ValidateSettings, run: Run, report: Report
) -> ResLog | None:
    if len(posed.poses) < 400:
        report.skip(("reslog",), f"{len(posed.poses)} particles are too few to draw subsets from.")
        return None
    radius = int(min(posed.source.points.radius, round(1.4 * maps.found.crossing.shell) + 4))
    reslog = measure_reslog(
        posed,
        run.executor,
        run.generator("reslog"),
        mask=mask,
        symmetry=settings.symmetry,
        n_copies=len(symmetry_matrices(settings.symmetry)),
        n_sizes=5,
        n_draws=1,
        radius=radius,
    )
    grows = reslog.resolution[-1] < 0.97 * reslog.resolution[0]
    good = grows and reslog.control_is_below
    said = f"From {reslog.n_particles[0]} to {reslog.n_particles[-1]} particles the resolution goes from "
    said += f"{reslog.resolution[0]:.1f} to {reslog.resolution[-1]:.1f} Å; with exchanged poses it is "
    said += f"{reslog.control.min():.1f} Å at best."
    finer = 0.9 * float(reslog.resolution[-1])
    more = reslog.particles_for(finer)
    if good and more is not None:
        said += f" {finer:.1f} Å would ask for {more:.2g} particles like these, or more."
    report.add(
        "reslog",
        "passed" if good else "failed" if not reslog.control_is_below else "doubtful",
        said,
        value=number(reslog.bfactor, 1),
        unit="Å² (B-factor of the slope)",
        detail={
            "n_particles": reslog.n_particles.tolist(),
            "resolution": [number(v) for v in reslog.resolution],
            "control": [number(v) for v in reslog.control],
            "bfactor_error": number(reslog.bfactor_error, 1),
        },
    )
    return reslog


def _answer_symmetry(
    maps: HalfMaps, mask: Tensor, posed: PosedParticles, settings: ValidateSettings, run: Run, report: Report
) -> None:
    if len(symmetry_matrices(settings.symmetry)) < 2:
        report.skip(("symmetry",), "No symmetry was imposed.")
        return
    radius = int(np.clip(min(low_shell(maps.found, 0.5), posed.source.field / 14.0), 4, posed.source.points.radius))
    test = compare_relaxed_halves(
        posed, mask, run.executor, run.generator("symmetry"), symmetry=settings.symmetry, radius=radius
    )
    said = f"Without {settings.symmetry} the two halves find asymmetric parts that correlate by {test.correlation:.2f}"
    report.add(
        "symmetry",
        "failed" if test.broken else "passed",
        said + (": the particles do not have this symmetry." if test.broken else ", as chance would."),
        value=number(test.correlation),
        limit="<= 0.4, or within 4 σ of chance",
        detail={"share": number(test.share), "z": number(test.z, 1)},
    )


def _answer_tilt_pairs(
    particles: ParticleSet, tilted: ParticleSet | None, symmetry: str, run: Run, report: Report
) -> None:
    if tilted is None or tilted.rotation is None:
        report.skip(("tilt_pairs",), "No second exposure at another tilt was given.")
        return
    if len(tilted) != len(particles):
        report.skip(("tilt_pairs",), f"{len(particles)} particles but {len(tilted)} in the tilted exposure.")
        return
    first, second = np.asarray(particles.rotation), np.asarray(tilted.rotation)
    good = np.isfinite(first).all((1, 2)) & np.isfinite(second).all((1, 2))
    if good.sum() < 3:
        report.skip(("tilt_pairs",), "Fewer than three pairs have poses.")
        return
    rows = np.flatnonzero(good)[:: max(1, int(good.sum()) // 500)]
    pairs = compare_tilt_pairs(first[rows], second[rows], run.generator("tilt"), symmetry=symmetry)
    agree = pairs.p <= 0.05
    said = f"{100 * pairs.agreeing:.0f} % of the pairs agree on a tilt of {pairs.tilt_deg:.1f}° about an axis at "
    said += f"{pairs.axis_deg:.0f}° (chance {100 * pairs.expected:.0f} %, p = {pairs.p:.3g})."
    report.add(
        "tilt_pairs",
        "passed" if agree and pairs.out_of_plane_deg < 20 else "failed",
        said,
        value=number(pairs.p, 4),
        limit="<= 0.05",
        detail={"tilt_deg": number(pairs.tilt_deg, 2), "out_of_plane_deg": number(pairs.out_of_plane_deg, 1)},
    )
