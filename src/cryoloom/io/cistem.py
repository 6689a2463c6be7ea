"""Particles of cisTEM: one unnamed STAR table with optics in every row, to and from `ParticleSet`.

Angles are `R = Rz(phi) Ry(theta) Rz(psi)` in degrees, shifts are Å and say where the particle sits (minus RELION's
origins), defocus is Å, the phase shift is in radians. cisTEM's CTF has the opposite overall sign, which metadata do not
show. The sense of angles and shifts follows cisTEM's own exchange with RELION and was not checked on images of it.
Stacks are counted from 1; file names stand in single quotes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet
from cryoloom.io.atomic import write_whole
from cryoloom.io.relion_columns import euler_deg_of, rotations_of, to_degrees
from cryoloom.io.star import StarTable, iter_tables, read_star

_KEY = "cisTEMPositionInStack"
_PLAIN = {
    "cisTEMDefocus1": "defocus_u",
    "cisTEMDefocus2": "defocus_v",
    "cisTEMPhaseShift": "phase_shift",
    "cisTEMScore": "pick_score",
}
_OPTICS = {
    "cisTEMPixelSize": "pixel_size",
    "cisTEMMicroscopeVoltagekV": "voltage_kv",
    "cisTEMMicroscopeCsMM": "cs_mm",
    "cisTEMAmplitudeContrast": "amplitude_contrast",
}
_ALIASES = {"cisTEMVoltage": "cisTEMMicroscopeVoltagekV", "cisTEMCs": "cisTEMMicroscopeCsMM"}
_TILT = ("cisTEMBeamTiltX", "cisTEMBeamTiltY")
_ANGLES = ("cisTEMAnglePhi", "cisTEMAngleTheta", "cisTEMAnglePsi")
_SHIFTS = ("cisTEMXShift", "cisTEMYShift")
_NAMES = ("cisTEMStackFilename", "cisTEMOriginalImageFilename", "cisTEMReference3DFilename")


def is_cistem(table: StarTable) -> bool:
    """Whether a table is one of cisTEM's particles."""
    return _KEY in table


def read_cistem(path: Path | str, *, stack: Path | str | None = None) -> ParticleSet:
    """Read particles of cisTEM.

    Parameters
    ----------
    path
        STAR file.
    stack
        Stack of the images where the table does not name it.

    Raises
    ------
    InputError
        If it is no such table, or neither it nor the caller names the stack or the pixel size.
    """
    table = next((t for _, t in iter_tables(read_star(path)) if is_cistem(t)), None)
    if table is None:
        raise InputError(f"{path}: no column _{_KEY}; these are no particles of cisTEM.")
    table = StarTable(table.frame.rename({a: b for a, b in _ALIASES.items() if a in table and b not in table}))
    used = {_KEY}
    n = len(table)
    if "cisTEMStackFilename" in table:
        names = table.text("cisTEMStackFilename")
        used.add("cisTEMStackFilename")
    elif stack is not None:
        names = np.full(n, str(stack), dtype=object)
    else:
        raise InputError(f"{path}: the column _cisTEMStackFilename is missing; name the stack.")
    fields: dict[str, Any] = {"image_path": names, "image_index": table.integers(_KEY) - 1}
    if n and fields["image_index"].min() < 0:
        raise InputError(f"{path}: _{_KEY} counts from 1, found {int(fields['image_index'].min()) + 1}.")
    if "cisTEMOriginalImageFilename" in table:
        fields["micrograph"] = table.text("cisTEMOriginalImageFilename")
        used.add("cisTEMOriginalImageFilename")
    for label, field in _PLAIN.items():
        if label in table:
            fields[field] = table.numbers(label)
            used.add(label)
    if "cisTEMDefocusAngle" in table:
        fields["defocus_angle"] = np.deg2rad(table.numbers("cisTEMDefocusAngle"))
        used.add("cisTEMDefocusAngle")
    if all(label in table for label in _ANGLES):
        fields["rotation"] = rotations_of(*(table.numbers(label) for label in _ANGLES))
        used |= set(_ANGLES)
    elif "cisTEMAnglePsi" in table:
        fields["psi"] = 0.0 - np.deg2rad(table.numbers("cisTEMAnglePsi"))
        used.add("cisTEMAnglePsi")
    if all(label in table for label in _SHIFTS):
        fields["shift"] = np.stack([table.numbers(label) for label in _SHIFTS[::-1]], axis=-1)
        used |= set(_SHIFTS)
    if "cisTEMAssignedSubset" in table and set(np.unique(table.integers("cisTEMAssignedSubset"))) == {1, 2}:
        fields["half"] = table.integers("cisTEMAssignedSubset")
        used.add("cisTEMAssignedSubset")
    if "cisTEMBest2DClass" in table:
        fields["class_number"] = table.integers("cisTEMBest2DClass")
        used.add("cisTEMBest2DClass")
    groups, index, labels = _optics(table, path)
    extra = {label: table.best(label) for label in table.labels if label not in used | labels}
    return ParticleSet(**fields, optics=groups, optics_index=index, extra=extra)


def write_cistem(particles: ParticleSet, path: Path | str) -> list[str]:
    """Write particles as cisTEM does; returns the fields that have no column there and are not trivial."""
    columns = _columns(particles)
    labels = list(columns)
    lines = ["# Written by cryoloom", "", "data_", "", "loop_"]
    lines += [f"_{label} #{i}" for i, label in enumerate(labels, 1)]
    lines.append("#  " + "  ".join(label.removeprefix("cisTEM") for label in labels))
    texts = [_texts(label, values) for label, values in columns.items()]
    rows = ("  ".join(row) for row in zip(*texts, strict=True))
    with write_whole(path) as file:
        file.write(("\n".join([*lines, *rows]) + "\n").encode())
    plain = Optics()
    groups = ("odd_zernike", "even_zernike", "magnification", "mtf_path", "ctf_premultiplied", "phase_flipped")
    lost = [n for n in groups if any(getattr(g, n) != getattr(plain, n) for g in particles.optics)]
    rows_lost = ("position_px", "ctf_bfactor", "ctf_scale", "scale", "reliability", "junk_score")
    return lost + [name for name in rows_lost if getattr(particles, name) is not None]


def _columns(particles: ParticleSet) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {_KEY: np.asarray(particles.image_index, np.int64) + 1}
    if particles.rotation is not None:
        euler = euler_deg_of(particles.rotation)
        columns |= {"cisTEMAnglePsi": euler[:, 2], "cisTEMAngleTheta": euler[:, 1], "cisTEMAnglePhi": euler[:, 0]}
    elif particles.psi is not None:
        columns["cisTEMAnglePsi"] = to_degrees(-np.asarray(particles.psi))
    if particles.shift is not None:
        columns |= {label: np.asarray(particles.shift)[:, 1 - i] for i, label in enumerate(_SHIFTS)}
    for label, field in _PLAIN.items():
        if getattr(particles, field) is not None:
            columns[label] = np.asarray(getattr(particles, field), np.float64)
    if particles.defocus_angle is not None:
        columns["cisTEMDefocusAngle"] = to_degrees(particles.defocus_angle)
    if particles.optics:
        columns |= {label: particles.per_row(name).astype(np.float64) for label, name in _OPTICS.items()}
        if any(any(group.beam_tilt_mrad) for group in particles.optics):
            tilt = particles.per_row("beam_tilt_mrad")
            columns |= {label: tilt[:, i] for i, label in enumerate(_TILT)}
    if particles.class_number is not None:
        columns["cisTEMBest2DClass"] = np.asarray(particles.class_number, np.int64)
    if particles.half is not None:
        columns["cisTEMAssignedSubset"] = np.asarray(particles.half, np.int64)
    columns["cisTEMStackFilename"] = np.asarray(particles.image_path, dtype=object)
    if particles.micrograph is not None:
        columns["cisTEMOriginalImageFilename"] = np.asarray(particles.micrograph, dtype=object)
    return columns | {label: values for label, values in particles.extra.items() if label not in columns}


def _texts(label: str, values: np.ndarray) -> list[str]:
    if label in _NAMES:
        return [f"'{value}'" for value in values]
    if np.asarray(values).dtype.kind in "iub":
        return [str(int(value)) for value in values]
    if np.asarray(values).dtype.kind == "f":
        return [repr(float(value)) for value in values]
    return [_quoted(str(value)) for value in values]


def _quoted(text: str) -> str:
    return f"'{text}'" if not text or any(c.isspace() for c in text) or text[0] in "#'\";" else text


def _optics(table: StarTable, path: Path | str) -> tuple[tuple[Optics, ...], np.ndarray, set[str]]:
    """One group per distinct set of microscope values and beam tilt."""
    missing = [label for label in _OPTICS if label not in table]
    if missing:
        raise InputError(f"{path}: the column _{missing[0]} is missing; the optics are unknown.")
    labels: Sequence[str] = [*_OPTICS, *(label for label in _TILT if label in table)]
    values = np.stack([table.numbers(label) for label in labels], axis=-1).reshape(len(table), len(labels))
    distinct, index = np.unique(values, axis=0, return_inverse=True)
    groups = []
    for i, row in enumerate(distinct):
        found = dict(zip(labels, row.tolist(), strict=True))
        tilt = (found.pop(_TILT[0], 0.0), found.pop(_TILT[1], 0.0))
        named: dict[str, Any] = {_OPTICS[label]: value for label, value in found.items()}
        try:
            group = Optics(name=f"opticsGroup{i + 1}", beam_tilt_mrad=tilt, **named)
        except ValueError as error:
            raise InputError(f"{path}: {error}.") from error
        groups.append(group)
    return tuple(groups), index.reshape(-1).astype(np.int64), set(labels)
