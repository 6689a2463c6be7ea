"""cryoSPARC tables (`.cs`) to particle, micrograph and movie sets.

A `.cs` file is a NumPy structured array. What the main file lacks comes from passthrough files, joined by `uid`. Poses
are rotation vectors and `R = exp([pose])` (image frame to volume frame); shifts are pixels of `alignments3D/psize_A`
with RELION's sign. Aberrations become those of `Optics` (`cs_aberrations`). Fields without a home travel as columns
whose labels begin with `cryosparc`; what `cs_writer` put beside the fields of cryoSPARC comes back as it was.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, MovieSet, Optics, ParticleSet
from cryoloom.geometry.rotation import axis_angle_to_matrix
from cryoloom.io.cs_aberrations import CsAberrations, optics_fields
from cryoloom.io.paths import PathFinder, map_unique

_MOST_HEADER = 1 << 22
_USED = {
    "uid", "blob/path", "blob/idx", "blob/shape", "blob/psize_A", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast",
    "ctf/exp_group_id", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/phase_shift_rad", "ctf/tilt_A",
    "ctf/bfactor", "ctf/scale", "alignments3D/split", "alignments3D/shift",
    "alignments3D/pose", "alignments3D/psize_A", "alignments3D/class", "alignments2D/shift", "alignments2D/pose",
    "alignments2D/psize_A", "alignments2D/class", "location/micrograph_path",
    "location/center_x_frac", "location/center_y_frac", "pick_stats/ncc_score",
    "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag",
}  # fmt: skip
_TEXT, _WHOLE, _REAL = "SU", "iu", "iuf"
_TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "uid": (_WHOLE, ()), "blob/idx": (_WHOLE, ()), "blob/shape": (_WHOLE, (2,)), "alignments3D/split": (_WHOLE, ()),
    "alignments3D/class": (_WHOLE, ()), "alignments2D/class": (_WHOLE, ()), "alignments3D/pose": (_REAL, (3,)),
    "alignments3D/shift": (_REAL, (2,)), "alignments2D/shift": (_REAL, (2,)), "alignments2D/pose": (_REAL, ()),
    "ctf/tilt_A": (_REAL, (2,)), "ctf/shift_A": (_REAL, (2,)), "ctf/trefoil_A": (_REAL, (2,)),
    "ctf/tetra_A": (_REAL, (4,)), "ctf/anisomag": (_REAL, (4,)),
    "ctf/exp_group_id": (_WHOLE, ()), "mscope_params/exp_group_id": (_WHOLE, ()),
    "location/micrograph_shape": (_WHOLE, (2,)),
}  # fmt: skip
_TYPES |= dict.fromkeys(
    ("blob/path", "micrograph_blob/path", "micrograph_blob_non_dw/path", "movie_blob/path", "gain_ref_blob/path",
     "location/micrograph_path"),
    (_TEXT, ()),
)  # fmt: skip
_TYPES |= dict.fromkeys(
    ("blob/psize_A", "micrograph_blob/psize_A", "micrograph_blob_non_dw/psize_A", "movie_blob/psize_A",
     "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad",
     "ctf/phase_shift_rad", "ctf/bfactor", "ctf/scale", "mscope_params/accel_kv", "mscope_params/cs_mm",
     "mscope_params/amp_contrast", "alignments3D/psize_A", "alignments2D/psize_A", "location/center_x_frac",
     "location/center_y_frac", "pick_stats/ncc_score"),
    (_REAL, ()),
)  # fmt: skip
_ABERRATIONS = {"shift": "ctf/shift_A", "tilt": "ctf/tilt_A", "trefoil": "ctf/trefoil_A", "tetra": "ctf/tetra_A",
                "anisomag": "ctf/anisomag"}  # fmt: skip
OWN, FOREIGN = "cryoloom/", "relion/"
SIGN_ASSUMED = "cryoloom/sign_assumed"
"""Groups that `cs_writer` adds: fields of the record as they were, and columns of RELION."""


def read_cs_table(path: Path | str, passthrough: Sequence[Path | str] = ()) -> np.ndarray:
    """A `.cs` table, with the fields of passthrough files joined to its rows by `uid`.

    Parameters
    ----------
    path
        Main file; its rows and their order are kept.
    passthrough
        Files with more fields of the same rows. By default a file `*passthrough*.cs` beside the main one is taken if
        it holds all its rows.

    Raises
    ------
    InputError
        If a file is no such table, or a passthrough file lacks rows.
    """
    path = Path(path)
    table = _load(path)
    files = [Path(file) for file in passthrough] or _passthrough_beside(path)
    for file in files:
        table = _join(table, _load(file), path, file, optional=not passthrough)
    return table


def read_cs_particles(
    path: Path | str, *, passthrough: Sequence[Path | str] = (), root: Path | str | None = None
) -> ParticleSet:
    """Read particles from a `.cs` file.

    Parameters
    ----------
    path
        The file.
    passthrough
        See `read_cs_table`.
    root
        cryoSPARC project folder, which paths in the file start from; the folders above the file are tried too.
    """
    from cryoloom.io.cs_writer import with_originals

    table = read_cs_table(path, passthrough)
    return with_originals(particles_of_table(table, path, PathFinder(path, root)), table)


def particles_of_table(table: np.ndarray, path: Path | str, finder: PathFinder) -> ParticleSet:
    """Particles of a table, from the fields of cryoSPARC alone; `path` is for messages."""
    names = set(table.dtype.names or ())
    for name in ("blob/path", "blob/idx"):
        if name not in names:
            raise InputError(f"{path}: no field {name}; these are no particles, or a passthrough file is missing.")
    blob = _text(table["blob/path"])
    fields: dict[str, Any] = {
        "image_path": finder.find_all(map_unique(blob, lambda name: name.lstrip(">"))),
        "image_index": table["blob/idx"].astype(np.int64),
    }
    _read_ctf(table, names, fields)
    _read_alignment(table, names, fields, path)
    read_location(table, names, fields, finder)
    groups, index = _optics(table, names, path, "blob")
    return ParticleSet(**fields, optics=groups, optics_index=index, extra=_extra(table))


def read_cs_exposures(
    path: Path | str, *, passthrough: Sequence[Path | str] = (), root: Path | str | None = None
) -> MicrographSet | MovieSet:
    """Read exposures from a `.cs` file: micrographs where there are any, else movies."""
    table = read_cs_table(path, passthrough)
    names = set(table.dtype.names or ())
    finder = PathFinder(path, root)
    kind = next((k for k in ("micrograph_blob", "micrograph_blob_non_dw", "movie_blob") if f"{k}/path" in names), None)
    if kind is None:
        raise InputError(f"{path}: neither micrograph_blob/path nor movie_blob/path; these are no exposures.")
    paths = finder.find_all(map_unique(_text(table[f"{kind}/path"]), lambda name: name.lstrip(">")))
    groups, index = _optics(table, names, path, kind)
    common: dict[str, Any] = {"path": paths, "optics": groups, "optics_index": index}
    if kind == "movie_blob":
        gains = sorted(set(_text(table["gain_ref_blob/path"])) - {""}) if "gain_ref_blob/path" in names else []
        if len(gains) > 1:
            raise InputError(f"{path}: {len(gains)} different gain references; process the movies of each apart.")
        return MovieSet(**common, gain_path=Path(finder.find(gains[0])) if gains else None)
    fields: dict[str, Any] = {}
    _read_ctf(table, names, fields)
    for name in ("ctf_bfactor", "ctf_scale"):
        fields.pop(name, None)
    return MicrographSet(**common, **fields)


def is_cs(path: Path | str) -> bool:
    """Whether the name is that of a cryoSPARC table."""
    return Path(path).suffix.lower() == ".cs"


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            start = file.read(6)
            file.seek(0)
            if start == b"\x95CSDAT":
                raise InputError(
                    f"{path}: the newer CSDAT container is not read; export the group from cryoSPARC (it writes the "
                    "older kind) or save it by cryosparc-tools with format NUMPY."
                )
            if start != b"\x93NUMPY":
                raise InputError(f"{path}: not a cryoSPARC table (it begins with {start!r}).")
            size = path.stat().st_size
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(file, max_header_size=_MOST_HEADER)
            if dtype.names is None or dtype.hasobject or len(shape) != 1 or fortran:
                raise InputError(f"{path}: a NumPy file, but no table of rows with named fields.")
            if shape[0] * dtype.itemsize > size - file.tell():
                raise InputError(f"{path}: {shape[0]} rows are announced, the file is cut short. Copy it again.")
            _check_types(dtype, path)
            return np.fromfile(file, dtype, shape[0])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path.") from error
    except Exception as error:  # NumPy parses the header as Python text, which can fail in any way
        raise InputError(f"{path}: the table cannot be read ({str(error)[:100]}); copy it again.") from error


def _check_types(dtype: np.dtype, path: Path) -> None:
    for name, (kinds, shape) in _TYPES.items():
        if name in (dtype.names or ()):
            found = dtype[name]
            if found.base.kind not in kinds or found.shape != shape:
                raise InputError(
                    f"{path}: field {name} is {found.base} {found.shape}, which it never is; damaged file."
                )


def _passthrough_beside(path: Path) -> list[Path]:
    """Passthrough files in the same folder that belong to the file: cryoSPARC names both after the job."""
    if "passthrough" in path.name:
        return []
    job = path.stem.split("_0")[0].removesuffix("_particles").split("_particles")[0]
    found = sorted(path.parent.glob("*passthrough*particles*.cs"))
    return [file for file in found if file.stem.startswith(job) or len(found) == 1]


def _join(table: np.ndarray, more: np.ndarray, path: Path, file: Path, *, optional: bool) -> np.ndarray:
    if "uid" not in (table.dtype.names or ()) or "uid" not in (more.dtype.names or ()):
        raise InputError(f"{file}: cannot be joined to {path.name}, one of them has no field uid.")
    order = np.argsort(more["uid"], kind="stable")
    place = np.searchsorted(more["uid"], table["uid"], sorter=order)
    row = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(table), np.int64)
    missing = int((more["uid"][row] != table["uid"]).sum()) if len(order) else len(table)
    if missing:
        if optional:
            return table
        raise InputError(f"{file}: {missing} of {len(table)} rows of {path.name} are not in it; is it of the same job?")
    new = [name for name in more.dtype.names or () if name not in (table.dtype.names or ())]
    dtype = np.dtype([*table.dtype.descr, *[(name, more.dtype[name]) for name in new]])
    joined = np.empty(len(table), dtype)
    for name in table.dtype.names or ():
        joined[name] = table[name]
    for name in new:
        joined[name] = more[name][row]
    return joined


def _text(column: np.ndarray) -> np.ndarray:
    """Fixed-width bytes or text as `(n,)` str objects."""
    if column.dtype.kind == "S":
        values, codes = np.unique(column, return_inverse=True)
        return np.array([v.decode("utf-8", "replace") for v in values], dtype=object)[codes]
    return column.astype(str).astype(object)


def _read_ctf(table: np.ndarray, names: set[str], fields: dict[str, Any]) -> None:
    for field, name in (
        ("defocus_u", "ctf/df1_A"), ("defocus_v", "ctf/df2_A"), ("defocus_angle", "ctf/df_angle_rad"),
        ("phase_shift", "ctf/phase_shift_rad"), ("ctf_bfactor", "ctf/bfactor"), ("ctf_scale", "ctf/scale"),
    ):  # fmt: skip
        if name in names:
            fields[field] = table[name].astype(np.float64)


def _read_alignment(table: np.ndarray, names: set[str], fields: dict[str, Any], path: Path | str) -> None:
    if "alignments3D/pose" in names:
        pose = torch.from_numpy(table["alignments3D/pose"].astype(np.float64))
        fields["rotation"] = axis_angle_to_matrix(pose).numpy()
    if "alignments2D/pose" in names:
        fields["psi"] = -table["alignments2D/pose"].astype(np.float64)
    group = "alignments3D" if "alignments3D/shift" in names else "alignments2D"
    if f"{group}/shift" in names:
        size_field = f"{group}/psize_A" if f"{group}/psize_A" in names else "blob/psize_A"
        if size_field not in names:
            raise InputError(f"{path}: {group}/shift without {group}/psize_A; the shifts have no unit.")
        shift = table[f"{group}/shift"].astype(np.float64) * table[size_field].astype(np.float64)[:, None]
        fields["shift"] = 0.0 - shift[:, ::-1]
    if "alignments3D/split" in names:
        split = table["alignments3D/split"].astype(np.int64)
        if len(np.unique(split)) == 2 and set(np.unique(split)) == {0, 1}:
            fields["half"] = split + 1
    for group in ("alignments3D", "alignments2D"):
        if f"{group}/class" in names and "class_number" not in fields:
            fields["class_number"] = table[f"{group}/class"].astype(np.int64) + 1


def read_location(table: np.ndarray, names: set[str], fields: dict[str, Any], finder: PathFinder) -> None:
    """Micrograph, place and score of each row into `fields`, of what the table has."""
    if "location/micrograph_path" in names:
        micrographs = _text(table["location/micrograph_path"])
        fields["micrograph"] = finder.find_all(map_unique(micrographs, lambda name: name.lstrip(">")))
    if {"location/center_x_frac", "location/center_y_frac", "location/micrograph_shape"} <= names:
        shape = table["location/micrograph_shape"].astype(np.float64)
        x = table["location/center_x_frac"].astype(np.float64) * shape[:, 1]
        y = (1.0 - table["location/center_y_frac"].astype(np.float64)) * shape[:, 0]
        fields["position_px"] = np.stack([y, x], axis=-1)
    if "pick_stats/ncc_score" in names:
        fields["pick_score"] = table["pick_stats/ncc_score"].astype(np.float64)


def _optics(table: np.ndarray, names: set[str], path: Path | str, blob: str) -> tuple[tuple[Optics, ...], np.ndarray]:
    """One group per exposure group; the original number is kept in the name."""
    source = "ctf" if "ctf/accel_kv" in names else "mscope_params"
    needed = [f"{blob}/psize_A", f"{source}/accel_kv", f"{source}/cs_mm"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(f"{path}: no field {missing[0]}; the optics are unknown. A passthrough file may hold it.")
    if not len(table):
        return (), np.zeros(0, dtype=np.int64)
    group_id = table[f"{source}/exp_group_id"] if f"{source}/exp_group_id" in names else np.zeros(len(table), np.uint32)
    ids, first, index = np.unique(group_id, return_index=True, return_inverse=True)
    groups = []
    for i, number in enumerate(ids):
        rows = index == i
        row = table[first[i]]
        for name in needed:
            values = table[name][rows]
            if float(values.max() - values.min()) > 1e-4 * abs(float(values.max())):
                raise InputError(
                    f"{path}: {name} runs from {values.min():g} to {values.max():g} in exposure group {number}; "
                    "give these particles different exposure groups."
                )
        box = int(row["blob/shape"][1]) if blob == "blob" and "blob/shape" in names and row["blob/shape"][1] else None
        cs_mm = _decimal(row[f"{source}/cs_mm"])
        voltage = _decimal(row[f"{source}/accel_kv"])
        aberrations: dict[str, Any] = {}
        if voltage > 0:
            aberrations = dict(optics_fields(_stored(table, rows, names, f"{path}: group {number}"), voltage, cs_mm))
        contrast = f"{source}/amp_contrast" if f"{source}/amp_contrast" in names else None
        try:
            groups.append(
                Optics(
                    name=f"exposureGroup{int(number)}",
                    pixel_size=_decimal(row[f"{blob}/psize_A"]),
                    voltage_kv=voltage,
                    cs_mm=cs_mm,
                    amplitude_contrast=_decimal(row[contrast]) if contrast else 0.1,
                    box=box,
                    **aberrations,
                )
            )
        except ValueError as error:
            raise InputError(f"{path}: exposure group {number}: {error}.") from error
    return tuple(groups), index.astype(np.int64)


def _stored(table: np.ndarray, rows: np.ndarray, names: set[str], where: str) -> CsAberrations:
    """Aberrations of one exposure group: the median of its rows, which should be alike."""
    found = {}
    for field, name in _ABERRATIONS.items():
        if name in names:
            values = table[name][rows].astype(np.float64)
            found[field] = np.median(values, axis=0)
            if np.abs(values - found[field]).max() > 1e-3 * max(np.abs(values).max(), 1e-6):
                warnings.warn(f"{where}: {name} differs between particles; the median is used.", stacklevel=6)
    return CsAberrations(**found)


def _decimal(value: Any) -> float:
    """A float32 as the decimal number that was meant (2.95, not 2.950000047)."""
    return float(f"{float(value):.7g}")


def _extra(table: np.ndarray) -> dict[str, np.ndarray]:
    """Fields without a home as columns."""
    names = table.dtype.names or ()
    out: dict[str, np.ndarray] = {}
    if "uid" in names:
        out["cryosparcUid"] = table["uid"].astype(str).astype(object)
    for name in names:
        column = table[name]
        if (
            name.startswith(OWN)
            or (name == "blob/sign" and SIGN_ASSUMED in names)
            or (name in _USED and not _is_needed(name, table))
        ):
            continue
        if name.startswith(FOREIGN):
            label = name.removeprefix(FOREIGN)
            out[label] = _text(column) if column.dtype.kind in "SU" else column.copy()
            continue
        label = extra_label(name)
        if column.dtype.kind in "SU" and column.ndim == 1:
            out[label] = _text(column)
        elif column.dtype.kind in "iufb":
            parts = column.reshape(len(column), -1) if len(column) else column.reshape(0, 1)
            for i in range(parts.shape[1]):
                values = parts[:, i]
                wide = values.astype(np.float64) if values.dtype.kind == "f" else values
                if values.dtype == np.uint64:
                    wide = values.astype(str).astype(object)
                out[label if parts.shape[1] == 1 else f"{label}{i}"] = wide
    return out


def extra_label(name: str) -> str:
    """Label of a column that holds a field of cryoSPARC without a home: `blob/sign` is `cryosparcBlobSign`."""
    return "cryosparc" + "".join(w[:1].upper() + w[1:] for w in name.replace("/", "_").split("_"))


def _is_needed(name: str, table: np.ndarray) -> bool:
    """Whether a field that is read into the record says more than the record can."""
    names = table.dtype.names or ()
    if name == "alignments3D/split":
        return set(np.unique(table[name]).tolist()) != {0, 1}
    if name == "alignments3D/psize_A":
        return "blob/psize_A" not in names or not np.array_equal(table[name], table["blob/psize_A"])
    if name in ("alignments2D/shift", "alignments2D/psize_A", "alignments2D/class"):
        return "alignments3D/pose" in names
    return False
