"""Any column of a particle set by name: that of the record (`class_number`) or the label of the file (`rlnClassNumber`,
with or without an underscore before it), in the units of the file: Å, degrees, pixels.
"""

from difflib import get_close_matches

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.io.records import join_image_names
from cryoloom.io.relion_columns import EXTRA_LABELS, PARTICLES, euler_deg_of, to_degrees

_LABELS = {column.field: column.label for column in PARTICLES}
_BY_LABEL = {label: column for column in PARTICLES for label in (column.label, *column.aliases)}
_OPTICS = {
    "rlnVoltage": "voltage_kv",
    "rlnSphericalAberration": "cs_mm",
    "rlnAmplitudeContrast": "amplitude_contrast",
    "rlnImagePixelSize": "pixel_size",
    "rlnImageSize": "box",
    "rlnOpticsGroupName": "name",
}
_VECTORS = {
    "rlnCoordinateX": ("position_px", 1, 1.0),
    "rlnCoordinateY": ("position_px", 0, 1.0),
    "rlnOriginXAngst": ("shift", 1, -1.0),
    "rlnOriginYAngst": ("shift", 0, -1.0),
}
_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def column_names(particles: ParticleSet) -> list[str]:
    """Names that `particle_column` knows for this set, labels of the file first."""
    labels = [label for field, label in _LABELS.items() if getattr(particles, field) is not None]
    labels += [label for label, (field, _, _) in _VECTORS.items() if getattr(particles, field) is not None]
    labels += list(_EULER) if particles.rotation is not None else []
    labels += ["rlnAnglePsi"] if particles.rotation is None and particles.psi is not None else []
    labels += ["rlnImageName", "rlnOpticsGroup", *_OPTICS]
    labels += [EXTRA_LABELS.get(name, name) for name in particles.extra]
    fields = [field for field in _LABELS if getattr(particles, field) is not None]
    return [*labels, *fields, "image_path", "image_index", *_OPTICS.values(), *particles.extra]


def particle_column(particles: ParticleSet, name: str) -> np.ndarray:
    """One column, `(n,)`.

    Raises
    ------
    InputError
        If the set has no such column; the message names the nearest one.
    """
    wanted = name.strip().removeprefix("_")
    label = _LABELS.get(wanted, wanted)
    plain = {EXTRA_LABELS.get(key, key): key for key in particles.extra}
    if wanted in particles.extra or label in plain:
        return np.asarray(particles.extra[wanted if wanted in particles.extra else plain[label]])
    if wanted == "psi":
        label = "rlnAnglePsi"
    if label in _BY_LABEL:
        column = _BY_LABEL[label]
        values = getattr(particles, column.field)
        if values is not None:
            return to_degrees(values) if column.kind == "degrees" else np.asarray(values)
    if label in _VECTORS:
        field, axis, sign = _VECTORS[label]
        if getattr(particles, field) is not None:
            return 0.0 + sign * np.asarray(getattr(particles, field))[:, axis]
    if label in _EULER and particles.rotation is not None:
        return euler_deg_of(particles.rotation)[:, _EULER.index(label)]
    if label == "rlnAnglePsi" and particles.psi is not None:
        return to_degrees(-np.asarray(particles.psi))
    if label == "rlnImageName":
        return join_image_names(particles.image_path, particles.image_index)
    if label == "rlnOpticsGroup":
        return np.asarray(particles.optics_index) + 1
    if wanted in ("image_path", "image_index"):
        return np.asarray(getattr(particles, wanted))
    field = _OPTICS.get(label, label)
    if field in _OPTICS.values():
        return particles.per_row(field)
    known = column_names(particles)
    near = get_close_matches(wanted, known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(dict.fromkeys(known))}."
    raise InputError(f"The particles have no column {wanted}; {hint}")
