"""Which column of a RELION table is which field of a record.

Lengths are Å on both sides, angles degrees in files and radians in records, positions are xy in files and yx in
records. Poses are three Euler angles in files: `R = Rz(rot) @ Ry(tilt) @ Rz(psi)` (`style.md`, section 2). The
in-plane angle of a 2D class has the opposite sign: RELION's psi turns the image into the reference, the field `psi`
turns the average into the image. Fields that RELION has no label for get labels that begin with `cryoloom`. A few
columns without a field travel in `extra` under a plain name (`EXTRA_LABELS`), all others there under their label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from cryoloom.geometry.rotation import euler_to_matrix, matrix_to_euler
from cryoloom.io.star import StarTable

Kind = Literal["text", "float", "int", "degrees"]


@dataclass(frozen=True)
class Column:
    """One field that is one column.

    Attributes
    ----------
    field
        Name in the record.
    label
        Label that is written.
    kind
        `text`, `float`, `int`, or `degrees` (radians in the record).
    aliases
        Other labels that are read, in this order.
    """

    field: str
    label: str
    kind: Kind
    aliases: tuple[str, ...] = ()


CTF = (
    Column("defocus_u", "rlnDefocusU", "float"),
    Column("defocus_v", "rlnDefocusV", "float"),
    Column("defocus_angle", "rlnDefocusAngle", "degrees"),
    Column("phase_shift", "rlnPhaseShift", "degrees"),
)
MOVIES = (
    Column("path", "rlnMicrographMovieName", "text", ("rlnMicrographName",)),
    Column("dose_per_frame", "rlnMicrographDoseRate", "float"),
    Column("pre_exposure", "rlnMicrographPreExposure", "float"),
)
MICROGRAPHS = (
    Column("path", "rlnMicrographName", "text"),
    Column("path_even", "rlnMicrographNameEven", "text"),
    Column("path_odd", "rlnMicrographNameOdd", "text"),
    Column("path_undosed", "rlnMicrographNameNoDW", "text"),
    Column("movie_path", "rlnMicrographMovieName", "text"),
    Column("motion_path", "rlnMicrographMetadata", "text"),
    Column("motion_total", "rlnAccumMotionTotal", "float"),
    Column("motion_early", "rlnAccumMotionEarly", "float"),
    Column("motion_late", "rlnAccumMotionLate", "float"),
    Column("dose", "cryoloomTotalDose", "float"),
    *CTF,
    Column("defocus_error", "cryoloomDefocusError", "float"),
    Column("ctf_score", "rlnCtfFigureOfMerit", "float"),
    Column("ctf_resolution", "rlnCtfMaxResolution", "float", ("rlnFinalResolution",)),
    Column("ctf_image", "rlnCtfImage", "text"),
    Column("defocus_map", "cryoloomDefocusMap", "text"),
)
PICKS = (
    Column("micrograph", "rlnMicrographName", "text"),
    Column("score", "rlnAutopickFigureOfMerit", "float"),
    Column("probability", "cryoloomPickProbability", "float"),
    Column("class_number", "rlnClassNumber", "int"),
)
PARTICLES = (
    Column("micrograph", "rlnMicrographName", "text"),
    *CTF,
    Column("ctf_bfactor", "rlnCtfBfactor", "float"),
    Column("ctf_scale", "rlnCtfScalefactor", "float"),
    Column("class_number", "rlnClassNumber", "int"),
    Column("half", "rlnRandomSubset", "int"),
    Column("scale", "cryoloomIntensityScale", "float"),
    Column("log_likelihood", "rlnLogLikeliContribution", "float"),
    Column("posterior_max", "rlnMaxValueProbDistribution", "float"),
    Column("n_significant", "cryoloomEffectivePoses", "float", ("rlnNrOfSignificantSamples",)),
    Column("pose_error", "cryoloomPoseError", "degrees"),
    Column("shift_error", "cryoloomShiftError", "float"),
    Column("pose_radius", "cryoloomPoseRadius95", "degrees"),
    Column("shift_radius", "cryoloomShiftRadius95", "float"),
    Column("reliability", "cryoloomReliability", "float"),
    Column("pick_score", "rlnAutopickFigureOfMerit", "float"),
    Column("junk_score", "cryoloomJunkScore", "float"),
)

EXTRA_LABELS = {
    "eer_grouping": "rlnEERGrouping",
    "eer_upsampling": "rlnEERUpsampling",
    "filament": "rlnHelicalTubeID",
    "ice_ring": "rlnCtfIceRingDensity",
}
_EXTRA_NAMES = {label: name for name, label in EXTRA_LABELS.items()}


def read_extra(table: StarTable, used: set[str]) -> dict[str, np.ndarray]:
    """Columns of the table that no field took, by plain name where there is one, else by label."""
    return {_EXTRA_NAMES.get(label, label): table.best(label) for label in table.labels if label not in used}


def extra_columns(extra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of `extra` by label."""
    return {EXTRA_LABELS.get(name, name): values for name, values in extra.items()}


def read_columns(table: StarTable, columns: tuple[Column, ...]) -> tuple[dict[str, Any], set[str]]:
    """Fields that the table has, and the labels they came from."""
    fields: dict[str, Any] = {}
    used: set[str] = set()
    for column in columns:
        present = [label for label in (column.label, *column.aliases) if label in table]
        if not present:
            continue
        label = present[0]
        used |= set(present)
        if column.kind == "text":
            fields[column.field] = table.text(label)
        elif column.kind == "int":
            fields[column.field] = table.integers(label)
        elif column.kind == "degrees":
            fields[column.field] = np.deg2rad(table.numbers(label))
        else:
            fields[column.field] = table.numbers(label)
    return fields, used


def columns_of(record: Any, columns: tuple[Column, ...]) -> dict[str, np.ndarray]:
    """Columns of a table by label, for the fields that the record has."""
    out: dict[str, np.ndarray] = {}
    for column in columns:
        values = getattr(record, column.field)
        if values is None:
            continue
        values = np.asarray(values)
        if column.kind == "degrees":
            values = to_degrees(values)
        elif column.kind == "int":
            values = np.asarray(values, dtype=np.int64)
        elif column.kind == "text":
            values = values.astype(object)
        out[column.label] = values
    return out


def to_degrees(radians: np.ndarray) -> np.ndarray:
    """Degrees, rounded to 1e-9 so that a value read from a file is written with the same digits."""
    return np.round(np.rad2deg(np.asarray(radians, dtype=np.float64)), 9)


def rotations_of(rot: np.ndarray, tilt: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Matrices `R`, `(n, 3, 3)` float64, from Euler angles in degrees, `(n,)` each."""
    euler = torch.from_numpy(np.deg2rad(np.stack([rot, tilt, psi], axis=-1)))
    return euler_to_matrix(euler).numpy()


def euler_deg_of(rotation: np.ndarray) -> np.ndarray:
    """Euler angles rot, tilt, psi in degrees, `(n, 3)`, from matrices `R`, `(n, 3, 3)`; NaN stays NaN."""
    euler = matrix_to_euler(torch.as_tensor(np.asarray(rotation, dtype=np.float64)))
    degrees = np.round(np.rad2deg(euler.numpy()), 7)
    return np.where(degrees <= -180, degrees + 360, degrees) + 0.0
