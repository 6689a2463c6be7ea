"""Stages on particle sets: rows keep their order, their image names, their unknown columns and their half."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import ParticleSet
from cryoloom.em.groups import half_sets
from cryoloom.io.cs import is_cs, read_cs_particles
from cryoloom.io.particle_columns import particle_column
from cryoloom.io.records import read_particles
from cryoloom.particle_tools.consensus import compare_poses, reliable_rows
from cryoloom.particle_tools.duplicates import keep_apart, keep_one_of_each_image
from cryoloom.particle_tools.expand import expand_symmetry
from cryoloom.particle_tools.merge import image_codes, merge_sets
from cryoloom.particle_tools.recentre import recentre_on_point, shifts_into_coordinates
from cryoloom.particle_tools.select import equal_parts, extreme_rows, rows_between, rows_by_number, rows_with_values
from cryoloom.particle_tools.settings import (
    CONSENSUS,
    EXPAND,
    MERGE,
    RECENTRE,
    SPLIT,
    SUBSET,
    UNIQUE,
    ConsensusSettings,
    ExpandSettings,
    MergeSettings,
    RecentreSettings,
    SplitSettings,
    SubsetSettings,
    UniqueSettings,
)

MOST_PARTS = 10_000


@stage(MERGE)
def merge_particles(files: tuple[Path, ...], settings: MergeSettings, run: Run) -> dict[str, ParticleSet]:
    """Merge particle sets."""
    sets = [read_cs_particles(file) if is_cs(file) else read_particles(file) for file in files]
    n_with_halves = sum(part.half is not None for part in sets)
    if 0 < n_with_halves < len(sets) and not settings.without_halves:
        lacking = next(file for file, part in zip(files, sets, strict=True) if part.half is None)
        raise InputError(
            f"{lacking}: no half sets, other sets have them; give it halves first, or merge with --without-halves."
        )
    merged = merge_sets(sets)
    particles, n = merged.particles, len(merged.particles)
    keep = keep_one_of_each_image(particles)
    n_double = int((~keep).sum())
    if n_double and settings.duplicates == "refuse":
        raise InputError(f"{n_double} images stand in more than one row; merge with --duplicates drop or keep.")
    if n_double and settings.duplicates == "keep" and _meet(particles):
        run.warn("Rows of one image lie in different halves; the halves are no longer independent.")
    if settings.duplicates == "drop":
        particles = particles.select(keep) if n_double else particles
    if merged.dropped:
        run.warn(f"Columns that not all sets have were left out: {', '.join(merged.dropped)}.")
    for change in merged.renamed:
        run.warn(f"Optics group renamed, one name stood for different optics: {change}.")
    _tell(run, n, len(particles), f"{len(sets)} sets, {n_double} rows of the same images.", particles)
    run.summarise(n_sets=len(sets), n_duplicates=n_double, n_optics_groups=len(particles.optics))
    return {"particles": particles}


@stage(SPLIT)
def split_particles(particles: ParticleSet, settings: SplitSettings, run: Run) -> dict[str, ParticleSet]:
    """Split a particle set."""
    if problem := settings.problem():
        raise InputError(problem)
    if settings.by is not None:
        column = particle_column(particles, settings.by)
        kept = column if column.dtype.kind in "iufb" else column.astype(str)
        values, part = np.unique(kept, return_inverse=True)
        names = [str(value) for value in values]
    else:
        assert settings.parts is not None
        together = None if settings.together is None else particle_column(particles, settings.together)
        seed = int(run.generator("split").initial_seed()) % 2**63
        random = np.random.default_rng(seed) if settings.order == "random" else None
        part = equal_parts(len(particles), settings.parts, together, random)
        names = [str(i + 1) for i in range(settings.parts)]
    if len(names) > MOST_PARTS:
        raise InputError(f"--by {settings.by}: {len(names)} different values, too many for one file each.")
    parts = {f"part{i + 1:03d}": particles.select(np.flatnonzero(part == i)) for i in range(len(names))}
    _tell(run, len(particles), len(particles), f"{len(parts)} parts.", particles)
    run.summarise(
        parts=[{"name": key, "value": name, "rows": len(parts[key])} for key, name in zip(parts, names, strict=True)]
    )
    return parts


@stage(SUBSET)
def select_particles(particles: ParticleSet, settings: SubsetSettings, run: Run) -> dict[str, ParticleSet]:
    """Select rows of a particle set."""
    if problem := settings.problem():
        raise InputError(problem)
    n = len(particles)
    keep = np.ones(n, bool)
    if settings.rows is not None:
        keep &= rows_by_number(settings.rows, n)
    if settings.column is not None:
        column = particle_column(particles, settings.column)
        if settings.values is not None:
            keep &= rows_with_values(column, settings.values)
        if settings.least is not None or settings.most is not None:
            keep &= rows_between(column, settings.least, settings.most)
        for count, highest in ((settings.highest, True), (settings.lowest, False)):
            if count is not None:
                keep = extreme_rows(column, count, highest=highest, allowed=keep)
    if settings.random is not None:
        rows = np.flatnonzero(keep)
        random = np.random.default_rng(int(run.generator("subset").initial_seed()) % 2**63)
        chosen = random.permutation(len(rows))[: settings.random]
        keep = np.zeros(n, bool)
        keep[rows[chosen]] = True
    if settings.invert:
        keep = ~keep
    selected = particles.select(np.flatnonzero(keep))
    if not len(selected):
        run.warn("No row fulfils the conditions.")
    _tell(run, n, len(selected), "Rows that fulfil the conditions.", selected)
    return {"particles": selected}


@stage(UNIQUE)
def remove_duplicates(particles: ParticleSet, settings: UniqueSettings, run: Run) -> dict[str, ParticleSet]:
    """Remove rows that are the same particle."""
    score = None if settings.best is None else particle_column(particles, settings.best)
    keep = keep_one_of_each_image(particles, score)
    n_same = int((~keep).sum())
    if settings.distance is not None:
        rows = np.flatnonzero(keep)
        near = keep_apart(particles.select(rows), settings.distance, None if score is None else score[rows])
        keep[rows[~near]] = False
    kept, removed = particles.select(np.flatnonzero(keep)), particles.select(np.flatnonzero(~keep))
    _tell(run, len(particles), len(kept), "One row of each particle.", kept)
    run.summarise(n_same_image=n_same, n_near=len(removed) - n_same)
    return {"particles": kept, "removed": removed}


@stage(RECENTRE)
def recentre_particles(particles: ParticleSet, settings: RecentreSettings, run: Run) -> dict[str, ParticleSet]:
    """Centre particles on another point of the map."""
    point = (settings.x, settings.y, settings.z)
    if any(point):
        particles = recentre_on_point(particles, point, adjust_defocus=settings.adjust_defocus)
    if settings.move_coordinates:
        particles = shifts_into_coordinates(particles)
        run.warn("Coordinates moved: extract the particles anew, the old images belong to the old centres.")
    _tell(run, len(particles), len(particles), "Centres moved.", particles)
    return {"particles": particles}


@stage(EXPAND)
def expand_particles(particles: ParticleSet, settings: ExpandSettings, run: Run) -> dict[str, ParticleSet]:
    """Every particle in each of its equivalent poses."""
    if particles.rotation is None:
        raise InputError("The particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run refine first.")
    expanded = expand_symmetry(particles, settings.symmetry, half_sets(particles, run.generator("halves")))
    n_copies = len(expanded) // max(len(particles), 1)
    _tell(run, len(particles), len(expanded), f"{n_copies} equivalent poses each.", expanded)
    run.summarise(symmetry=settings.symmetry, n_copies=n_copies)
    return {"particles": expanded}


@stage(CONSENSUS)
def agree_on_poses(
    particles: ParticleSet, second: ParticleSet, settings: ConsensusSettings, run: Run
) -> dict[str, ParticleSet]:
    """Particles on whose poses two runs agree."""
    if particles.rotation is None or second.rotation is None:
        raise InputError("Both sets need poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run refine first.")
    if len(particles) != len(second) or not np.array_equal(particles.image_index, second.image_index):
        raise InputError("The two sets are not the same particles in the same order.")
    zero = np.zeros((len(particles), 2))
    found = compare_poses(
        particles.rotation,
        second.rotation,
        zero if particles.shift is None else particles.shift,
        zero if second.shift is None else second.shift,
        settings.symmetry,
    )
    keep = reliable_rows(found, particles.pose_error, second.pose_error, np.deg2rad(settings.largest_angle))
    for run_of in (particles, second):
        if run_of.reliability is not None:
            keep &= np.nan_to_num(run_of.reliability) >= settings.least_reliability
    kept, removed = particles.select(np.flatnonzero(keep)), particles.select(np.flatnonzero(~keep))
    share = float(keep.mean())
    _tell(
        run, len(particles), len(kept), f"{100 * share:.1f} % of the particles have the same pose in both runs.", kept
    )
    turn = np.arccos(np.clip(0.5 * (np.trace(found.frame) - 1.0), -1.0, 1.0))
    run.summarise(
        agreeing_fraction=round(share, 4),
        median_angle_deg=round(float(np.rad2deg(np.median(found.angle))), 3),
        frame_turn_deg=round(float(np.rad2deg(turn)), 3),
    )
    return {"particles": kept, "removed": removed}


def _meet(particles: ParticleSet) -> bool:
    """Whether rows of one image lie in different halves."""
    if particles.half is None:
        return False
    codes, half = image_codes(particles), np.asarray(particles.half)
    return bool(len(np.intersect1d(codes[half == 1], codes[half == 2])))


def _tell(run: Run, n_in: int, n_out: int, reason: str, particles: ParticleSet) -> None:
    halves = None
    if particles.half is not None:
        halves = [int((np.asarray(particles.half) == h).sum()) for h in (1, 2)]
    run.summarise(verdict="found" if n_out else "not found", reasons=[reason], n_in=n_in, n_out=n_out, halves=halves)
