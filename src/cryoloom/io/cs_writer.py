"""Particle sets as cryoSPARC tables (`.cs`), without loss.

Fields of cryoSPARC are written in its own types, most of them 32-bit floats. What they cannot hold to the last digit,
or at all, stands beside them in two groups of our own: `cryoloom/...` (fields of the record as they were) and
`relion/...` (columns of RELION). When such a table is read again, the originals count only where writing them anew
gives the very fields that the table holds; what cryoSPARC changed meanwhile is taken from its fields.
"""

import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet
from cryoloom.geometry.rotation import matrix_to_axis_angle
from cryoloom.io.atomic import write_whole
from cryoloom.io.cs import FOREIGN, OWN, SIGN_ASSUMED, extra_label, particles_of_table
from cryoloom.io.cs_aberrations import aberrations_of, shifted_ctf
from cryoloom.io.mrc import read_mrc_header
from cryoloom.io.paths import PathFinder

_KNOWN: dict[str, str] = {
    "blob/sign": "<f4", "blob/import_sig": "<u8", "ctf/type": "S", "ctf/scale_const": "<f4",
    "alignments3D/split": "<u4", "alignments3D/psize_A": "<f4", "location/exp_group_id": "<u4",
    "location/micrograph_uid": "<u8", "location/micrograph_shape": "<u4", "location/micrograph_psize_A": "<f4",
    "location/min_dist_A": "<f4", "pick_stats/power": "<f4", "pick_stats/template_idx": "<u4",
    "pick_stats/angle_rad": "<f4", "alignments2D/shift": "<f4", "alignments2D/psize_A": "<f4",
    "alignments2D/class": "<u4", "ctf/cross_corr_ctffind4": "<f4", "ctf/ctf_fit_to_A": "<f4",
}  # fmt: skip
for _group in ("alignments2D", "alignments3D"):
    for _name in ("error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor", "alpha", "alpha_min",
                  "weight", "pose_ess", "shift_ess", "class_posterior", "class_ess"):  # fmt: skip
        _KNOWN[f"{_group}/{_name}"] = "<f4"
_BY_LABEL = {extra_label(name): name for name in _KNOWN}
_CTF = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "ctf_bfactor", "ctf_scale")
_BLOCKS = {
    "ctf/": _CTF,
    "alignments": ("rotation", "psi", "shift", "half", "class_number"),
    "location/": ("position_px", "micrograph"),
    "blob/": ("image_path", "image_index"),
    "pick_stats/": ("pick_score",),
}


def write_cs_particles(particles: ParticleSet, path: Path | str) -> None:
    """Write a `.cs` file.

    Parameters
    ----------
    particles
        The set; its stacks are named as they are.
    path
        The file.

    Raises
    ------
    InputError
        If an optics group has aberrations that cryoSPARC cannot hold.
    """
    table = table_with_originals(particles, Path(path))
    with write_whole(path) as file:
        np.save(file, table)


def table_with_originals(particles: ParticleSet, path: Path) -> np.ndarray:
    """Fields of cryoSPARC and, beside them, what they do not hold exactly."""
    columns = cs_columns(particles)
    back = particles_of_table(as_table(columns), path, _NoFinder())
    for name in ParticleSet.row_fields():
        values, other = getattr(particles, name), getattr(back, name)
        if name == "optics_index" or values is None:
            continue
        if other is None or not _same(values, other):
            columns[f"{OWN}{name}"] = storable(np.asarray(values))
    absent = [n for n in ParticleSet.row_fields() if getattr(particles, n) is None and getattr(back, n) is not None]
    if absent:
        columns[f"{OWN}absent"] = np.full(len(particles), ",".join(absent).encode())
    used = set(columns)
    for label, values in particles.extra.items():
        field = _BY_LABEL.get(label, _BY_LABEL.get(label[:-1]) if label[-1:].isdigit() else None)
        if label != "cryosparcUid" and field not in used:
            columns[FOREIGN + label] = storable(np.asarray(values))
    if particles.optics != back.optics or not np.array_equal(particles.optics_index, back.optics_index):
        texts = np.array([json.dumps(asdict(group), sort_keys=True).encode() for group in particles.optics])
        columns[f"{OWN}optics"] = texts[np.asarray(particles.optics_index)]
        columns[f"{OWN}optics_index"] = np.asarray(particles.optics_index, np.int64)
    return as_table(columns)


def with_originals(read: ParticleSet, table: np.ndarray) -> ParticleSet:
    """Give a set that was read from the fields of cryoSPARC the originals that still hold."""
    names = [name for name in table.dtype.names or () if name.startswith(OWN)]
    if not names or not len(table):
        return read
    stored: dict[str, Any] = {}
    for name in names:
        field = name.removeprefix(OWN)
        if field in ParticleSet.row_fields() and field != "optics_index":
            values = table[name].copy()
            stored[field] = (
                np.array([v.decode() for v in values.tolist()], dtype=object) if values.dtype.kind == "S" else values
            )
    if f"{OWN}absent" in names:
        stored |= dict.fromkeys(table[f"{OWN}absent"][0].decode().split(","))
    optics: dict[str, Any] = {}
    if f"{OWN}optics" in names:
        index = table[f"{OWN}optics_index"].copy()
        groups = []
        for i in range(int(index.max()) + 1):
            rows = np.flatnonzero(index == i)
            if not len(rows):
                return read  # rows were taken away, and with them a group: numbers no longer fit
            groups.append(_optics_of(json.loads(table[f"{OWN}optics"][rows[0]])))
        optics = {"optics": tuple(groups), "optics_index": index.astype(np.int64)}
    candidate = read.replace(**stored, **optics)
    again = cs_columns(candidate)
    homeless = {name for name in stored if not any(name in block for block in _BLOCKS.values())}
    changes: dict[str, Any] = {name: stored[name] for name in homeless}
    for prefix, block in _BLOCKS.items():
        wanted = [name for name in block if name in stored]
        held = [n for n in again if n.startswith(prefix) and n in (table.dtype.names or ())]
        same = np.ones(len(table), bool)
        for name in held:
            same &= (again[name] == table[name]).reshape(len(table), -1).all(1)
        if prefix == "ctf/":  # optics and defocus go together
            if same.all():
                changes |= {name: stored[name] for name in wanted} | optics
            continue
        for name in wanted:
            before = getattr(read, name)
            if same.all() or before is None:
                changes[name] = stored[name]
            elif stored[name] is not None:
                shape = (len(table),) + (1,) * (np.ndim(before) - 1)
                changes[name] = np.where(same.reshape(shape), stored[name], before)
    if changes.get("half") is not None:  # a half set of one value is none to cryoSPARC's reader
        split = extra_label("alignments3D/split")
        changes["extra"] = {label: values for label, values in read.extra.items() if label != split}
    return read.replace(**changes)


def cs_columns(particles: ParticleSet) -> dict[str, np.ndarray]:
    """Fields of cryoSPARC by name, from the record alone."""
    n = len(particles)
    columns: dict[str, np.ndarray] = {"uid": _uids(particles)}
    columns["blob/path"] = storable(np.asarray(particles.image_path, dtype=object))
    columns["blob/idx"] = np.asarray(particles.image_index).astype("<u4")
    boxes = np.asarray([group.box or 0 for group in particles.optics], "<u4")[particles.optics_index]
    columns["blob/shape"] = np.stack([boxes, boxes], axis=-1).reshape(n, 2)
    columns["blob/psize_A"] = particles.per_row("pixel_size").astype("<f4")
    columns |= _extra_columns(particles)
    if "blob/sign" not in columns:
        columns |= {"blob/sign": np.ones(n, "<f4"), SIGN_ASSUMED: np.ones(n, "u1")}
    columns |= _ctf_columns(particles)
    columns |= _alignment_columns(particles, columns)
    columns |= _location_columns(particles, columns)
    if particles.pick_score is not None:
        columns["pick_stats/ncc_score"] = np.asarray(particles.pick_score).astype("<f4")
    return columns


def _ctf_columns(particles: ParticleSet) -> dict[str, np.ndarray]:
    n, index = len(particles), np.asarray(particles.optics_index)
    try:
        stored = [aberrations_of(group) for group in particles.optics]
    except ValueError as error:
        raise InputError(f"{error}; write them in RELION's form.") from error
    columns: dict[str, np.ndarray] = {
        "ctf/exp_group_id": _group_ids(particles.optics)[index],
        "ctf/accel_kv": particles.per_row("voltage_kv").astype("<f4"),
        "ctf/cs_mm": np.asarray([a.cs_mm for a in stored])[index].astype("<f4"),
        "ctf/amp_contrast": particles.per_row("amplitude_contrast").astype("<f4"),
    }
    for name, field in (("shift_A", "shift"), ("tilt_A", "tilt"), ("trefoil_A", "trefoil"), ("tetra_A", "tetra"),
                        ("anisomag", "anisomag")):  # fmt: skip
        values = np.stack([getattr(a, field) for a in stored])
        columns[f"ctf/{name}"] = values[index].astype("<f4")
    if particles.defocus_u is not None and particles.defocus_v is not None:
        u, v = (np.asarray(values, np.float64).copy() for values in (particles.defocus_u, particles.defocus_v))
        angle = np.zeros(n) if particles.defocus_angle is None else np.array(particles.defocus_angle, np.float64)
        for i, change in enumerate(stored):
            rows = index == i
            u[rows], v[rows], angle[rows] = shifted_ctf(u[rows], v[rows], angle[rows], change)
        columns |= {"ctf/df1_A": u.astype("<f4"), "ctf/df2_A": v.astype("<f4"), "ctf/df_angle_rad": angle.astype("<f4")}
    phase = np.zeros(n) if particles.phase_shift is None else np.asarray(particles.phase_shift)
    columns["ctf/phase_shift_rad"] = (phase + np.asarray([a.phase_shift for a in stored])[index]).astype("<f4")
    for name, given in (("ctf/bfactor", particles.ctf_bfactor), ("ctf/scale", particles.ctf_scale)):
        if given is not None:
            columns[name] = np.asarray(given).astype("<f4")
    return columns


def _alignment_columns(particles: ParticleSet, so_far: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    group = "alignments3D" if particles.rotation is not None else "alignments2D"
    if particles.rotation is not None:
        matrix = torch.from_numpy(np.asarray(particles.rotation, np.float64))
        columns["alignments3D/pose"] = matrix_to_axis_angle(matrix).numpy().astype("<f4")
    if particles.psi is not None:
        columns["alignments2D/pose"] = (-np.asarray(particles.psi)).astype("<f4")
    if particles.shift is not None:
        size = so_far.get(f"{group}/psize_A", so_far["blob/psize_A"])
        columns[f"{group}/psize_A"] = size
        shift = -np.asarray(particles.shift, np.float64)[:, ::-1] / size.astype(np.float64)[:, None]
        columns[f"{group}/shift"] = shift.astype("<f4")
    if particles.half is not None:
        columns["alignments3D/split"] = (np.asarray(particles.half) - 1).astype("<u4")
    if particles.class_number is not None and int(np.min(particles.class_number, initial=1)) >= 1:
        columns[f"{group}/class"] = (np.asarray(particles.class_number) - 1).astype("<u4")
    return columns


def _location_columns(particles: ParticleSet, so_far: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    if particles.micrograph is None:
        return columns
    columns["location/micrograph_path"] = storable(np.asarray(particles.micrograph, dtype=object))
    shape = so_far.get("location/micrograph_shape")
    if shape is None:
        shape = micrograph_shapes(particles.micrograph)
    if shape is not None and particles.position_px is not None:
        position = np.asarray(particles.position_px, np.float64)
        columns["location/micrograph_shape"] = shape.astype("<u4")
        columns["location/center_x_frac"] = (position[:, 1] / shape[:, 1]).astype("<f4")
        columns["location/center_y_frac"] = (1.0 - position[:, 0] / shape[:, 0]).astype("<f4")
    return columns


def _extra_columns(particles: ParticleSet) -> dict[str, np.ndarray]:
    """Fields that came from a `.cs` file and travelled in `extra`, back in their type and shape."""
    columns: dict[str, np.ndarray] = {}
    for label, name in _BY_LABEL.items():
        kind = _KNOWN[name]
        several = [f"{label}{i}" for i in range(9) if f"{label}{i}" in particles.extra]
        if label in particles.extra:
            values = np.asarray(particles.extra[label])
            columns[name] = storable(values) if kind == "S" else _as_kind(values, kind)
        elif several:
            columns[name] = np.stack([_as_kind(np.asarray(particles.extra[one]), kind) for one in several], axis=-1)
    return columns


def _as_kind(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "<u8" and values.dtype.kind == "O":
        return np.array([int(v) for v in values], "<u8")
    return values.astype(kind)


def _uids(particles: ParticleSet) -> np.ndarray:
    """Uid of each row: the one it came with, else a hash of its image."""
    if "cryosparcUid" in particles.extra:
        return np.array([int(v) for v in particles.extra["cryosparcUid"]], "<u8")
    names = zip(particles.image_path, np.asarray(particles.image_index).tolist(), strict=True)
    seen: dict[tuple[str, int], int] = {}
    out = np.empty(len(particles), "<u8")
    for i, key in enumerate(names):
        seen[key] = seen.get(key, -1) + 1  # rows of one image are told apart by their number
        digest = hashlib.blake2b(f"{key[1]}@{key[0]}#{seen[key]}".encode(), digest_size=8)
        out[i] = int.from_bytes(digest.digest(), "little")
    return out


def _group_ids(groups: tuple[Optics, ...]) -> np.ndarray:
    """Numbers of exposure groups: those in their names where all have one, else 1, 2, ..."""
    numbers = [group.name.removeprefix("exposureGroup") for group in groups]
    if all(number.isdigit() for number in numbers) and len(set(numbers)) == len(groups):
        return np.array([int(number) for number in numbers], "<u4")
    return np.arange(1, len(groups) + 1).astype("<u4")


def micrograph_shapes(micrographs: np.ndarray) -> np.ndarray | None:
    """Rows and columns of the micrograph of each particle, `(n, 2)`; None where a file is not there."""
    known: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(str(m) for m in micrographs):
        if not Path(name).is_file():
            return None
        try:
            known[name] = read_mrc_header(name).shape[1:]
        except InputError:
            return None
    return np.array([known[str(name)] for name in micrographs]).reshape(-1, 2)


def storable(values: np.ndarray) -> np.ndarray:
    """Text as bytes of fixed width, numbers in their type."""
    if values.dtype.kind in "OU":
        encoded = [str(value).encode() for value in values]
        return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")
    return values


def as_table(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Structured array of columns, one of which is `uid`."""
    n = len(columns["uid"])
    table = np.zeros(n, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def _same(a: Any, b: Any) -> bool:
    first, second = np.asarray(a), np.asarray(b)
    if first.dtype.kind == "O" or second.dtype.kind == "O":
        return bool(first.astype(str).tolist() == second.astype(str).tolist())
    return bool(np.array_equal(first, second))


def _optics_of(content: dict[str, Any]) -> Optics:
    known = {field.name for field in fields(Optics)}
    values = {key: value for key, value in content.items() if key in known}
    for key in ("beam_tilt_mrad", "odd_zernike", "even_zernike"):
        values[key] = tuple(values[key])
    values["magnification"] = tuple(tuple(row) for row in values["magnification"])
    return replace(Optics(), **values)


class _NoFinder(PathFinder):
    """Leaves paths as they are."""

    def __init__(self) -> None:
        pass

    def find(self, name: str) -> str:
        """The name itself."""
        return name

    def find_all(self, names: np.ndarray) -> np.ndarray:
        """The names themselves."""
        return names
