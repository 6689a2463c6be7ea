"""Stage `convert`: read a table in one form, write it in another, and name what had no home."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError, Run, stage
from cryoloom.converting.relion30 import write_relion30
from cryoloom.converting.settings import CONVERT, ConvertSettings
from cryoloom.data import MicrographSet, MovieSet, Optics, PickSet
from cryoloom.io.cistem import is_cistem, read_cistem, write_cistem
from cryoloom.io.coordinates import (
    COORDINATE_SUFFIXES,
    match_micrographs,
    read_coordinates,
    write_box,
    write_cbox,
    write_topaz,
)
from cryoloom.io.cs import is_cs, read_cs_exposures, read_cs_particles, read_cs_table
from cryoloom.io.cs_picks import read_cs_picks, write_cs_picks
from cryoloom.io.cs_writer import write_cs_particles
from cryoloom.io.ctffind import CtffindFile, is_ctffind, read_ctffind, write_ctffind
from cryoloom.io.records import read_micrographs, read_movies, read_particles, read_picks
from cryoloom.io.star import iter_tables, read_star


@stage(CONVERT)
def convert_files(
    files: tuple[Path, ...], micrographs: MicrographSet | None, settings: ConvertSettings, run: Run
) -> dict[str, Any]:
    """Convert one table, or the coordinate files of many micrographs.

    Parameters
    ----------
    files
        The table or the files.
    micrographs
        Gives coordinate files the paths of their micrographs.
    settings
        See `ConvertSettings`.
    run
        The execution.

    Returns
    -------
    sets
        The set that was read, under its kind.
    """
    kind, record = _read(files, micrographs, settings)
    kept = sorted(record.extra)
    run.summarise(
        verdict="found", reasons=[], n_in=len(record), n_out=len(record), kind=kind, columns_kept=kept,
        source=[str(file) for file in files[:20]],
    )  # fmt: skip
    if kept:
        run.log(f"columns without a meaning here, kept as they are: {', '.join(kept)}")
    if settings.to == "star":
        return {kind: record}
    if settings.to == "relion30":
        if kind != "particles":
            raise InputError(f"{files[0]}: only particles are written in the style of RELION 3.0, these are {kind}.")
        dropped = write_relion30(record, run.folder / "particles_relion30.star")
        for name in dropped:
            run.warn(f"{name} has no column in RELION 3.0 and is left out.")
        return {}
    if settings.to == "cs":
        if kind == "picks":
            write_cs_picks(record, run.folder / "picks.cs")
        elif kind == "particles":
            write_cs_particles(record, run.folder / "particles.cs")
        else:
            raise InputError(f"{files[0]}: only particles and picks are written for cryoSPARC, these are {kind}.")
        return {}
    if settings.to == "cistem":
        if kind != "particles":
            raise InputError(f"{files[0]}: only particles are written for cisTEM, these are {kind}.")
        for name in write_cistem(record, run.folder / "particles_cistem.star"):
            run.warn(f"{name} has no column in cisTEM and is left out.")
        return {}
    if settings.to == "ctffind":
        if kind != "micrographs":
            raise InputError(f"{files[0]}: only micrographs are written in the form of CTFFIND, these are {kind}.")
        write_ctffind(CtffindFile(record), run.folder / "micrographs_ctf.txt")
        return {}
    if kind == "particles":
        if record.micrograph is None or record.position_px is None:
            raise InputError(f"{files[0]}: the particles have no coordinates.")
        record = PickSet(position_px=record.position_px, micrograph=record.micrograph, score=record.pick_score)
    elif kind != "picks":
        raise InputError(f"{files[0]}: coordinates were expected, these are {kind}.")
    if settings.to == "topaz":
        write_topaz(record, run.folder / "picks.txt", scale=settings.scale or 1.0)
    else:
        write = write_box if settings.to == "box" else write_cbox
        write(record, run.folder / "boxes", settings.box)
    return {}


def _read(files: tuple[Path, ...], micrographs: MicrographSet | None, settings: ConvertSettings) -> tuple[str, Any]:
    if is_ctffind(files[0]):
        return "micrographs", join_rows([read_ctffind(file).micrographs for file in files])
    if files[0].suffix.lower() in COORDINATE_SUFFIXES:
        picks = _join([read_coordinates(file, scale=settings.scale) for file in files])
        return "picks", _with_micrographs(picks, micrographs)
    if len(files) > 1:
        raise InputError(f"{files[1]}: {len(files)} tables; convert them one by one.")
    table = files[0]
    if is_cs(table):
        names = set(read_cs_table(table).dtype.names or ())
        if "blob/path" in names:
            return "particles", read_cs_particles(table)
        if "location/center_x_frac" in names:
            return "picks", _with_micrographs(read_cs_picks(table), micrographs)
        record = read_cs_exposures(table)
        return ("movies" if isinstance(record, MovieSet) else "micrographs"), record
    blocks = [block for _, block in iter_tables(read_star(table))]
    if any(is_cistem(block) for block in blocks):
        return "particles", read_cistem(table)
    labels = {label for block in blocks for label in block.labels}
    if "rlnImageName" in labels:
        return "particles", read_particles(table)
    if "rlnCoordinateX" in labels or "rlnMicrographCoordinates" in labels:
        return "picks", _with_micrographs(read_picks(table), micrographs)
    if "rlnMicrographName" in labels:
        return "micrographs", read_micrographs(table)
    if "rlnMicrographMovieName" in labels:
        return "movies", read_movies(table)
    raise InputError(f"{table}: neither particles, micrographs, movies nor coordinates are in it.")


def _with_micrographs(picks: PickSet, micrographs: MicrographSet | None) -> PickSet:
    return picks if micrographs is None else match_micrographs(picks, [str(path) for path in micrographs.path])


def join_rows(parts: list[MicrographSet]) -> MicrographSet:
    """Micrographs of several files one after the other; equal optics are one group, a column one lacks is left out."""
    groups: list[Optics] = []
    for part in parts:
        if part.optics[0] not in groups:
            groups.append(part.optics[0])
    names = [name for name in MicrographSet.row_fields() if all(getattr(part, name) is not None for part in parts)]
    fields: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    place = [groups.index(part.optics[0]) for part in parts]
    fields["optics_index"] = np.repeat(place, [len(part) for part in parts])
    common = [label for label in parts[0].extra if all(label in part.extra for part in parts)]
    named = tuple(replace(group, name=f"opticsGroup{i + 1}") for i, group in enumerate(groups))
    extra = {label: np.concatenate([part.extra[label] for part in parts]) for label in common}
    return MicrographSet(**fields, optics=named, extra=extra)


def _join(parts: list[PickSet]) -> PickSet:
    score = None
    if all(part.score is not None for part in parts):
        score = np.concatenate([np.asarray(part.score) for part in parts])
    common = [label for label in parts[0].extra if all(label in part.extra for part in parts)]
    return PickSet(
        position_px=np.concatenate([part.position_px for part in parts]),
        micrograph=np.concatenate([part.micrograph for part in parts]),
        score=score,
        extra={label: np.concatenate([part.extra[label] for part in parts]) for label in common},
    )
