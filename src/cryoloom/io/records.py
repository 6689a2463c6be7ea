"""STAR files to and from the sets of `data`: RELION 3.0, 3.1, 4 and 5 are read, 3.1 is written.

RELION 3.1 and later, and cryoDRGN, read the results as they are. Columns that have no field travel in `extra`.
Paths are made absolute where the file is found, and written relative to the project folder `root`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import FscCurve, MicrographSet, MovieSet, Optics, ParticleSet, PickSet
from cryoloom.io.coordinates import COORDINATE_SUFFIXES, read_coordinates
from cryoloom.io.cs import is_cs
from cryoloom.io.cs_picks import read_cs_picks
from cryoloom.io.paths import PathFinder, map_unique, relative_to_root
from cryoloom.io.relion_columns import (
    MICROGRAPHS,
    MOVIES,
    PARTICLES,
    PICKS,
    columns_of,
    euler_deg_of,
    extra_columns,
    read_columns,
    read_extra,
    rotations_of,
    to_degrees,
)
from cryoloom.io.relion_optics import optics_columns, read_optics_columns, read_optics_table
from cryoloom.io.star import StarFile, StarTable, iter_tables, read_star, write_star

_MICROGRAPH_PATHS = (
    "path", "path_even", "path_odd", "path_undosed", "movie_path", "motion_path", "ctf_image", "defocus_map",
)  # fmt: skip
_NEVER_SET = (-999, -9999)
_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_movies(path: Path | str, *, root: Path | str | None = None) -> MovieSet:
    """Read the movies of a STAR file.

    Parameters
    ----------
    path
        STAR file.
    root
        Project folder that relative paths start from.
    """
    table, groups, index, used = _table_with_optics(read_star(path), ("movies", "micrographs"), "movies", MOVIES[0])
    fields, labels = read_columns(table, MOVIES)
    finder = PathFinder(path, root)
    fields["path"] = finder.find_all(_required(fields, "path", table, "rlnMicrographMovieName"))
    for field, label in (("gain_path", "rlnMicrographGainName"), ("defect_path", "rlnMicrographDefectFile")):
        if label in table and len(table):
            names = sorted(set(table.text(label)) - {"", "None"})
            if len(names) > 1:
                raise InputError(f"{table.where}: {len(names)} different _{label}; process the movies of each apart.")
            fields[field] = Path(finder.find(names[0])) if names else None
            labels.add(label)
    groups = _with_mtf_paths(groups, finder.find)
    return MovieSet(**fields, optics=tuple(groups), optics_index=index, extra=read_extra(table, labels | used))


def write_movies(movies: MovieSet, path: Path | str, *, root: Path | str | None = None) -> None:
    """Write movies as `data_optics` and `data_movies`; paths inside `root` relative to it."""
    shorten = relative_to_root(root)
    columns = columns_of(movies, MOVIES)
    columns["rlnMicrographMovieName"] = map_unique(columns["rlnMicrographMovieName"], shorten)
    for label, value in (("rlnMicrographGainName", movies.gain_path), ("rlnMicrographDefectFile", movies.defect_path)):
        if value is not None:
            columns[label] = np.full(len(movies), shorten(str(value)), dtype=object)
    _write_set(path, movies, "movies", columns, shorten)


def read_micrographs(path: Path | str, *, root: Path | str | None = None) -> MicrographSet:
    """Read the micrographs of a STAR file; the arguments are those of `read_movies`."""
    table, groups, index, used = _table_with_optics(read_star(path), ("micrographs",), "micrographs", MICROGRAPHS[0])
    if "rlnImageName" in table:
        raise InputError(f"{table.where}: these are particles (_rlnImageName), micrographs were expected.")
    fields, labels = read_columns(table, MICROGRAPHS)
    _required(fields, "path", table, "rlnMicrographName")
    finder = PathFinder(path, root)
    for name in _MICROGRAPH_PATHS:
        if name in fields:
            names = map_unique(fields[name], _without_type_suffix)
            fields[name] = finder.find_all(names)
    labels.add("rlnCtfAstigmatism")
    groups = _with_mtf_paths(groups, finder.find)
    return MicrographSet(**fields, optics=tuple(groups), optics_index=index, extra=read_extra(table, labels | used))


def write_micrographs(micrographs: MicrographSet, path: Path | str, *, root: Path | str | None = None) -> None:
    """Write micrographs as `data_optics` and `data_micrographs`; paths inside `root` relative to it."""
    shorten = relative_to_root(root)
    columns = columns_of(micrographs, MICROGRAPHS)
    for column in MICROGRAPHS:
        if column.kind == "text" and column.label in columns:
            columns[column.label] = map_unique(columns[column.label], shorten)
    if micrographs.ctf_image is not None:
        columns["rlnCtfImage"] = map_unique(columns["rlnCtfImage"], lambda n: n if n.endswith(".mrc") else f"{n}:mrc")
    if micrographs.defocus_u is not None and micrographs.defocus_v is not None:
        columns["rlnCtfAstigmatism"] = np.abs(np.asarray(micrographs.defocus_u) - np.asarray(micrographs.defocus_v))
    _write_set(path, micrographs, "micrographs", columns, shorten)


def read_particles(path: Path | str, *, root: Path | str | None = None) -> ParticleSet:
    """Read the particles of a STAR file.

    Parameters
    ----------
    path
        STAR file.
    root
        Project folder that relative paths start from.

    Notes
    -----
    `rotation` is set where all three Euler angles are there, `psi` where only psi is there or where rot and tilt are
    0 in every row (a table of 2D classes). `shift = -(rlnOriginYAngst, rlnOriginXAngst)`.
    """
    table, groups, index, used = _table_with_optics(read_star(path), ("particles", "images"), "particles", None)
    fields, labels = read_columns(table, PARTICLES)
    finder = PathFinder(path, root)
    if "rlnImageName" not in table:
        raise InputError(f"{table.where}: the column _rlnImageName is missing; these are no particles.")
    fields["image_path"], fields["image_index"] = split_image_names(table.text("rlnImageName"), table.where)
    fields["image_path"] = finder.find_all(map_unique(fields["image_path"], _without_type_suffix))
    labels.add("rlnImageName")
    if "micrograph" in fields:
        fields["micrograph"] = finder.find_all(fields["micrograph"])
    _read_positions(table, fields, labels)
    _read_pose(table, fields, labels, groups, index)
    groups = _with_boxes(groups, index, fields["image_path"])
    groups = _with_mtf_paths(groups, finder.find)
    return ParticleSet(**fields, optics=tuple(groups), optics_index=index, extra=read_extra(table, labels | used))


def write_particles(particles: ParticleSet, path: Path | str, *, root: Path | str | None = None) -> None:
    """Write particles as `data_optics` and `data_particles`; paths inside `root` relative to it."""
    shorten = relative_to_root(root)
    _write_set(path, particles, "particles", particle_columns(particles, shorten), shorten)


def read_picks(path: Path | str, *, root: Path | str | None = None) -> PickSet:
    """Read picks: one table of all picks, a RELION `coordinate_files` table, or the file of one micrograph.

    Parameters
    ----------
    path
        STAR file, table of cryoSPARC, or coordinates of EMAN or crYOLO. A file of one micrograph that does not name it
        gives the stem of its own name without `_autopick`, `_manualpick` or `_manual`.
    root
        Project folder that relative paths start from.
    """
    path = Path(path)
    if is_cs(path):
        return read_cs_picks(path, root=root)
    if path.suffix.lower() in COORDINATE_SUFFIXES:
        return read_coordinates(path)
    star = read_star(path)
    finder = PathFinder(path, root)
    table = _find_table(star, ("picks", "particles", "", "images"), "rlnCoordinateX")
    diameter, searched = None, ()
    settings = star.get("picks_general")
    if isinstance(settings, dict) and "cryoloomParticleDiameter" in settings:
        diameter = float(settings["cryoloomParticleDiameter"])
    listed = star.get("searched_micrographs")
    if isinstance(listed, StarTable):
        searched = tuple(finder.find_all(listed.text("rlnMicrographName")))
    if table is not None:
        return _picks_of(table, path, finder).replace(diameter=diameter, micrographs=searched)
    files = star.get("coordinate_files")
    if not isinstance(files, StarTable):
        raise InputError(f"{path}: neither _rlnCoordinateX nor a block 'coordinate_files'; these are no picks.")
    names = finder.find_all(files.text("rlnMicrographName"))
    parts = []
    for name, file in zip(names, files.text("rlnMicrographCoordinates"), strict=True):
        found = Path(finder.find(str(file)))
        if not found.exists():
            raise InputError(f"{path}: the coordinate file {file} of {name} does not exist; give the project folder.")
        one = _find_table(read_star(found), ("", "picks", "particles", "images"), "rlnCoordinateX")
        if one is not None and len(one):
            part = _picks_of(one, found, finder)
            parts.append(part.replace(micrograph=np.full(len(part), name, dtype=object)))
    if not parts:
        none = np.zeros(0, dtype=object)
        return PickSet(position_px=np.zeros((0, 2)), micrograph=none, micrographs=tuple(names), diameter=diameter)
    return _join_picks(parts).replace(micrographs=tuple(names), diameter=diameter)


def write_picks(picks: PickSet, path: Path | str, *, root: Path | str | None = None) -> None:
    """Write all picks into one STAR file (`data_picks`), with the micrographs that were searched.

    Where `coordinates/<stem>.star` lie beside the file (see `write_coordinates`), a `data_coordinate_files` table
    names them, so RELION's extraction reads the file as it is.
    """
    path = Path(path)
    shorten = relative_to_root(root)
    blocks: dict[str, Any] = {}
    files = []
    for name in picks.micrographs:
        own = path.parent / "coordinates" / f"{Path(name).stem}.star"
        if own.exists():
            files.append((shorten(name), shorten(str(own.absolute()))))
    if files:
        blocks["coordinate_files"] = {
            "rlnMicrographName": [name for name, _ in files],
            "rlnMicrographCoordinates": [file for _, file in files],
        }
    if picks.diameter is not None:
        blocks["picks_general"] = {"cryoloomParticleDiameter": float(picks.diameter)}
    if picks.micrographs:
        blocks["searched_micrographs"] = {"rlnMicrographName": [shorten(name) for name in picks.micrographs]}
    columns = _pick_columns(picks)
    columns["rlnMicrographName"] = map_unique(columns["rlnMicrographName"], shorten)
    blocks["picks"] = columns | extra_columns(picks.extra)
    write_star(path, blocks)


def write_coordinates(picks: PickSet, path: Path | str) -> None:
    """Write the picks of one micrograph as RELION does: one unnamed table without the micrograph's name."""
    columns = _pick_columns(picks)
    columns.pop("rlnMicrographName", None)
    write_star(path, {"": columns | extra_columns(picks.extra)})


def write_fsc(curve: FscCurve, path: Path | str) -> None:
    """Write an FSC curve with the labels of RELION's `postprocess.star`."""
    n = len(curve.frequency)
    frequency = np.asarray(curve.frequency, dtype=np.float64)
    with np.errstate(divide="ignore"):
        angstrom = np.where(frequency > 0, 1 / frequency, 999.0)
    columns: dict[str, Any] = {
        "rlnSpectralIndex": np.arange(n),
        "rlnResolution": frequency,
        "rlnAngstromResolution": angstrom,
        "rlnFourierShellCorrelationCorrected": np.asarray(curve.corrected, dtype=np.float64),
    }
    for field, label in _FSC_LABELS.items():
        values = getattr(curve, field)
        if values is not None:
            columns[label] = np.asarray(values, dtype=np.float64)
    blocks: dict[str, Any] = {}
    if curve.randomise_from is not None and curve.randomise_from > 0:
        blocks["general"] = {"rlnRandomiseFrom": 1 / float(curve.randomise_from)}
    blocks["fsc"] = columns
    write_star(path, blocks)


def read_fsc(path: Path | str) -> FscCurve:
    """Read an FSC curve from `fsc.star`, from RELION's `postprocess.star`, or from a `model_class_1` table."""
    star = read_star(path)
    table = star.get("fsc") or _find_table(star, ("model_class_1",), "rlnResolution")
    if not isinstance(table, StarTable):
        raise InputError(f"{path}: no block 'fsc'; this is no FSC curve.")
    present = [label for label in _FSC_CURVES if label in table]
    if not present:
        raise InputError(f"{table.where}: the column _rlnFourierShellCorrelationCorrected is missing.")
    general = star.get("general")
    randomise = None
    if isinstance(general, dict) and "rlnRandomiseFrom" in general:
        try:
            randomise = 1 / float(general["rlnRandomiseFrom"])
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f"{path}: rlnRandomiseFrom is {general['rlnRandomiseFrom']!r}.") from error
    return FscCurve(
        frequency=table.numbers("rlnResolution"),
        corrected=table.numbers(present[0]),
        randomise_from=randomise,
        **{field: table.numbers(label) if label in table else None for field, label in _FSC_LABELS.items()},
    )


_FSC_CURVES = (
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelation",
    "rlnGoldStandardFsc",
    "rlnFourierShellCorrelationUnmaskedMaps",
)
_FSC_LABELS = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "phase_randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    "n_independent": "cryoloomIndependentCoefficients",
}


def split_image_names(names: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Stack `(n,)` str and slice from 0 `(n,)` int64 of names such as `000001@stack.mrcs`."""
    paths = np.empty(len(names), dtype=object)
    index = np.zeros(len(names), dtype=np.int64)
    shared: dict[str, str] = {}
    for i, name in enumerate(names):
        number, at, stack = name.partition("@")
        if not at:
            number, stack = "1", name
        try:
            index[i] = int(number) - 1
        except (ValueError, OverflowError):
            index[i] = -1
        if index[i] < 0 or not stack:
            raise InputError(f"{where}, row {i + 1}: _rlnImageName is {name!r}, expected 000001@stack.mrcs (from 1).")
        paths[i] = shared.setdefault(stack, stack)
    return paths, index


def join_image_names(paths: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Names such as `000001@stack.mrcs`; a stack not named `.mrcs` gets RELION's suffix `:mrcs`."""
    stacks = map_unique(paths, lambda name: name if name.endswith(".mrcs") else f"{name}:mrcs")
    out = np.empty(len(stacks), dtype=object)
    for i, (stack, number) in enumerate(zip(stacks, np.asarray(index).tolist(), strict=True)):
        out[i] = f"{number + 1:06d}@{stack}"
    return out


def particle_columns(particles: ParticleSet, shorten: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Columns of a particle table of RELION 3.1, by label; `shorten` is applied to paths."""
    columns: dict[str, np.ndarray] = {}
    if particles.position_px is not None:
        columns["rlnCoordinateX"] = np.asarray(particles.position_px)[:, 1]
        columns["rlnCoordinateY"] = np.asarray(particles.position_px)[:, 0]
    columns["rlnImageName"] = join_image_names(map_unique(particles.image_path, shorten), particles.image_index)
    columns |= columns_of(particles, PARTICLES)
    if particles.micrograph is not None:
        columns["rlnMicrographName"] = map_unique(columns["rlnMicrographName"], shorten)
    if particles.n_significant is not None:
        whole = np.nan_to_num(np.asarray(particles.n_significant, dtype=np.float64), posinf=0, neginf=0)
        columns["rlnNrOfSignificantSamples"] = np.round(whole).astype(np.int64)
    if particles.rotation is not None:
        columns |= dict(zip(_EULER, euler_deg_of(particles.rotation).T, strict=True))
        if particles.psi is not None:
            columns["cryoloomAnglePsi2D"] = to_degrees(-np.asarray(particles.psi))
    elif particles.psi is not None:
        columns["rlnAnglePsi"] = to_degrees(-np.asarray(particles.psi))
    if particles.shift is not None:
        columns["rlnOriginXAngst"] = 0.0 - np.asarray(particles.shift)[:, 1]
        columns["rlnOriginYAngst"] = 0.0 - np.asarray(particles.shift)[:, 0]
    return columns


def _table_with_optics(
    star: StarFile, names: tuple[str, ...], kind: str, key: Any
) -> tuple[StarTable, list[Optics], np.ndarray, set[str]]:
    """The table wanted, its optics groups, the group of each row, and the labels used up."""
    wanted = ("rlnImageName",) if key is None else (key.label, *key.aliases)
    table = next((t for label in wanted if (t := _find_table(star, names, label)) is not None), None)
    if table is None:
        found = ", ".join(f"data_{name}" for name in star)
        raise InputError(f"{star.path}: no table with _{wanted[0]} (found {found}); these are no {kind}.")
    optics = star.get("optics")
    if isinstance(optics, dict) and optics:  # one group, written as a list
        optics = _as_one_row(optics, f"{star.path}, block 'optics'")
    if not isinstance(optics, StarTable):
        groups, index, used = read_optics_columns(table, kind)
        return table, groups, index, used | {"rlnOpticsGroup"}
    groups, number_to_index = read_optics_table(optics, kind)
    if "rlnOpticsGroup" not in table:
        if len(groups) > 1:
            raise InputError(
                f"{table.where}: the column _rlnOpticsGroup is missing, and there are {len(groups)} groups."
            )
        warnings.warn(f"{table.where}: no column _rlnOpticsGroup; all rows belong to the only group.", stacklevel=3)
        return table, groups, np.zeros(len(table), dtype=np.int64), set()
    numbers = table.integers("rlnOpticsGroup")
    unknown = sorted(set(np.unique(numbers).tolist()) - set(number_to_index))
    if unknown:
        row = int(np.argmax(numbers == unknown[0])) + 1
        raise InputError(f"{table.where}, row {row}: optics group {unknown[0]} is not in the block 'optics'.")
    if not len(numbers):
        return table, groups, np.zeros(0, dtype=np.int64), {"rlnOpticsGroup"}
    values, inverse = np.unique(numbers, return_inverse=True)
    index = np.array([number_to_index[int(v)] for v in values], dtype=np.int64)[inverse]
    return table, groups, index, {"rlnOpticsGroup"}


def _as_one_row(values: dict[str, str], where: str) -> StarTable:
    import polars as pl

    return StarTable(pl.DataFrame({label: [value] for label, value in values.items()}), where)


def _find_table(star: StarFile, names: tuple[str, ...], label: str) -> StarTable | None:
    """The table of one of these names, else the first one, that has the label."""
    candidates = [table for name in names if isinstance(table := star.get(name), StarTable)]
    candidates += [table for _, table in iter_tables(star)]
    return next((table for table in candidates if label in table), None)


def _required(fields: Mapping[str, Any], name: str, table: StarTable, label: str) -> np.ndarray:
    if name not in fields:
        raise InputError(f"{table.where}: the column _{label} is missing.")
    return fields[name]


def _without_type_suffix(name: str) -> str:
    """`name.mrc:mrcs` and `name.ctf:mrc` without what stands behind the colon."""
    head, colon, tail = name.rpartition(":")
    return head if colon and tail in ("mrc", "mrcs", "ctf", "tif", "tiff", "spi") and head else name


def _read_positions(table: StarTable, fields: dict[str, Any], labels: set[str]) -> None:
    if "rlnCoordinateX" in table and "rlnCoordinateY" in table:
        x, y = table.numbers("rlnCoordinateX"), table.numbers("rlnCoordinateY")
        fields["position_px"] = np.stack([y, x], axis=-1)
        labels |= {"rlnCoordinateX", "rlnCoordinateY"}


def _read_pose(
    table: StarTable, fields: dict[str, Any], labels: set[str], groups: list[Optics], index: np.ndarray
) -> None:
    if all(label in table for label in _EULER):
        rot, tilt, psi = (table.numbers(label) for label in _EULER)
        fields["rotation"] = rotations_of(rot, tilt, psi)
        if len(table) and not rot.any() and not tilt.any():
            fields["psi"] = 0.0 - np.deg2rad(psi)
        labels |= set(_EULER)
    elif "rlnAnglePsi" in table:
        fields["psi"] = 0.0 - np.deg2rad(table.numbers("rlnAnglePsi"))
        labels.add("rlnAnglePsi")
    if "cryoloomAnglePsi2D" in table:
        fields["psi"] = 0.0 - np.deg2rad(table.numbers("cryoloomAnglePsi2D"))
        labels.add("cryoloomAnglePsi2D")
    if "rlnOriginXAngst" in table and "rlnOriginYAngst" in table:
        x, y = table.numbers("rlnOriginXAngst"), table.numbers("rlnOriginYAngst")
        labels |= {"rlnOriginXAngst", "rlnOriginYAngst"}
    elif "rlnOriginX" in table and "rlnOriginY" in table:
        size = np.asarray([group.pixel_size for group in groups])[index] if len(table) else np.zeros(0)
        x, y = table.numbers("rlnOriginX") * size, table.numbers("rlnOriginY") * size
        labels |= {"rlnOriginX", "rlnOriginY"}
    else:
        return
    fields["shift"] = 0.0 - np.stack([y, x], axis=-1)


def _with_boxes(groups: list[Optics], index: np.ndarray, paths: np.ndarray) -> list[Optics]:
    """Groups whose box the table does not give get it from a stack, if one is there."""
    from dataclasses import replace

    from cryoloom.io.mrc import read_mrc_header

    out = list(groups)
    for i, group in enumerate(groups):
        rows = np.flatnonzero(index == i)
        if group.box is None and len(rows) and Path(str(paths[rows[0]])).is_file():
            try:
                out[i] = replace(group, box=read_mrc_header(str(paths[rows[0]])).shape[2])
            except InputError:
                continue  # the fault is reported where the images are read
    return out


def _picks_of(table: StarTable, path: Path, finder: PathFinder) -> PickSet:
    fields, labels = read_columns(table, PICKS)
    _read_positions(table, fields, labels)
    if "position_px" not in fields:
        raise InputError(f"{table.where}: the column _rlnCoordinateY is missing.")
    for field in ("score", "class_number"):
        if field in fields and _never_set(fields[field]):
            del fields[field]
    if "rlnAnglePsi" in table:
        angle = table.numbers("rlnAnglePsi")
        if not _never_set(angle):
            fields["psi"] = 0.0 - np.deg2rad(angle)
        labels.add("rlnAnglePsi")
    if "micrograph" in fields:
        fields["micrograph"] = finder.find_all(fields["micrograph"])
    else:
        stem = path.stem
        for ending in ("_autopick", "_manualpick", "_manual", "_picks"):
            stem = stem.removesuffix(ending)
        fields["micrograph"] = np.full(len(table), stem, dtype=object)
    return PickSet(**fields, extra=read_extra(table, labels))


def _never_set(values: np.ndarray) -> bool:
    """Whether all values are those that RELION and crYOLO write where nothing was measured."""
    return bool(len(values)) and bool(np.isin(np.asarray(values), _NEVER_SET).all())


def _join_picks(parts: list[PickSet]) -> PickSet:
    """Picks of several micrographs; a column that one of them lacks is dropped."""
    names = [n for n in PickSet.row_fields() if all(getattr(part, n) is not None for part in parts)]
    fields: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    common = [label for label in parts[0].extra if all(label in part.extra for part in parts)]
    return PickSet(**fields, extra={label: np.concatenate([part.extra[label] for part in parts]) for label in common})


def _pick_columns(picks: PickSet) -> dict[str, np.ndarray]:
    columns = columns_of(picks, PICKS)
    out = {"rlnMicrographName": columns.pop("rlnMicrographName")} if "rlnMicrographName" in columns else {}
    position = np.asarray(picks.position_px, dtype=np.float64).reshape(-1, 2)
    out |= {"rlnCoordinateX": position[:, 1], "rlnCoordinateY": position[:, 0]} | columns
    if picks.psi is not None:
        out["rlnAnglePsi"] = to_degrees(-np.asarray(picks.psi))
    return out


def _with_mtf_paths(groups: Sequence[Optics], convert: Callable[[str], str]) -> list[Optics]:
    """Optics groups with the paths of their MTF files converted."""
    return [replace(group, mtf_path=convert(group.mtf_path)) if group.mtf_path else group for group in groups]


def _write_set(
    path: Path | str, record: Any, block: str, columns: dict[str, np.ndarray], shorten: Callable[[str], str]
) -> None:
    """Optics and rows; labels of `extra` that a field took over are left out."""
    columns = dict(columns)
    columns["rlnOpticsGroup"] = np.asarray(record.optics_index, dtype=np.int64) + 1
    columns |= {label: values for label, values in extra_columns(record.extra).items() if label not in columns}
    blocks: dict[str, Any] = {}
    if record.optics:
        blocks["optics"] = optics_columns(_with_mtf_paths(record.optics, shorten), block)
    blocks[block] = columns
    write_star(path, blocks)
