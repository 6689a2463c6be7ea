"""Results of CTFFIND 4 and 5: text with five lines of comment, then one row per micrograph.

Columns are number, defocus 1 and 2 (Å), azimuth (degrees), phase shift (radians), score, and the spacing in Å to which
rings were fitted (`inf` when none was). Later versions add columns (tilt axis, tilt, thickness), which are kept.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, Optics
from cryoloom.io.atomic import write_whole

_FACTS = {
    "pixel_size": r"pixel size:\s*([-+.\deE]+)",
    "voltage_kv": r"acceleration voltage:\s*([-+.\deE]+)",
    "cs_mm": r"spherical aberration:\s*([-+.\deE]+)",
    "amplitude_contrast": r"amplitude contrast:\s*([-+.\deE]+)",
}
_MORE = ("ctffindTiltAxisDeg", "ctffindTiltDeg", "ctffindThickness")


@dataclass(frozen=True)
class CtffindFile:
    """A file of CTFFIND: its set, and the comment lines as they are.

    Attributes
    ----------
    micrographs
        One row per micrograph; columns beyond the seventh are in `extra`.
    comments
        Lines that begin with `#`.
    """

    micrographs: MicrographSet
    comments: list[str] = field(default_factory=list)


def is_ctffind(path: Path | str) -> bool:
    """Whether a text file is one of CTFFIND's results."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            head = [next(file, "") for _ in range(6)]
    except OSError:
        return False
    return any(line.startswith("#") and "CTFFind" in line for line in head)


def read_ctffind(path: Path | str) -> CtffindFile:
    """Read a result file.

    Raises
    ------
    InputError
        If it is no such file, a row is too short, or a number is none.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}).") from error
    comments = [line for line in lines if line.startswith("#")]
    head = "\n".join(comments)
    if "ctffind" not in head.lower():
        raise InputError(f"{path}: no comment of CTFFIND at its head; this is no result of it.")
    facts: dict[str, Any] = {}
    for name, pattern in _FACTS.items():
        found = re.search(pattern, head, re.IGNORECASE)
        if not found:
            raise InputError(f"{path}: the head does not give the {name.replace('_', ' ')}; was it edited?")
        facts[name] = float(found[1])
    rows = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            values = [float(word) for word in line.split()]
        except ValueError as error:
            raise InputError(f"{path}, line {number}: expected numbers, found {line.strip()[:60]!r}.") from error
        if len(values) < 7:
            raise InputError(f"{path}, line {number}: {len(values)} numbers, expected at least 7 (a failed fit?).")
        if not all(math.isfinite(v) for v in values[:6]):
            raise InputError(f"{path}, line {number}: the fit failed ({line.strip()[:60]}); leave this micrograph out.")
        rows.append(values)
    if not rows:
        raise InputError(f"{path}: no row with numbers; the fit failed or the file was cut short.")
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{path}: rows of different length; the file was cut short.")
    table = np.asarray(rows, dtype=np.float64)
    source = re.search(r"input file:\s*(.*?)\s*(?:;|$)", head, re.IGNORECASE | re.MULTILINE)
    name = source[1] if source else path.stem
    names = [name] if len(table) == 1 else [f"{int(row[0]):06d}@{name}" for row in table]
    extra = {
        _MORE[i] if i < len(_MORE) else f"ctffindColumn{i + 8}": table[:, 7 + i] for i in range(table.shape[1] - 7)
    }
    micrographs = MicrographSet(
        path=np.asarray(names, dtype=object),
        optics=(Optics(**facts),),
        optics_index=np.zeros(len(table), np.int64),
        defocus_u=table[:, 1],
        defocus_v=table[:, 2],
        defocus_angle=np.deg2rad(table[:, 3]),
        phase_shift=table[:, 4],
        ctf_score=table[:, 5],
        ctf_resolution=table[:, 6],
        extra=extra,
    )
    return CtffindFile(micrographs, comments)


def write_ctffind(result: CtffindFile, path: Path | str) -> None:
    """Write a result file; the comments given are kept, else a head that `read_ctffind` understands is made."""
    micrographs = result.micrographs
    if micrographs.defocus_u is None or micrographs.defocus_v is None:
        raise InputError("The micrographs have no defocus; estimate their CTF first.")
    n = len(micrographs)
    zeros = np.zeros(n)
    angle = micrographs.defocus_angle
    columns = [
        np.arange(1, n + 1, dtype=np.float64),
        micrographs.defocus_u,
        micrographs.defocus_v,
        zeros if angle is None else np.round(np.rad2deg(angle), 9),
        zeros if micrographs.phase_shift is None else micrographs.phase_shift,
        zeros if micrographs.ctf_score is None else micrographs.ctf_score,
        np.full(n, np.inf) if micrographs.ctf_resolution is None else micrographs.ctf_resolution,
        *(values for label, values in micrographs.extra.items() if label.startswith("ctffind")),
    ]
    lines = result.comments or _head(micrographs)
    body = [" ".join(repr(float(v)) for v in row) for row in zip(*columns, strict=True)]
    with write_whole(path) as file:
        file.write(("\n".join([*lines, *body]) + "\n").encode())


def _head(micrographs: MicrographSet) -> list[str]:
    optics = micrographs.optics[int(micrographs.optics_index[0])]
    return [
        "# Output in the form of CTFFind version 4.1, written by cryoloom",
        f"# Input file: {micrographs.path[0]} ; Number of micrographs: {len(micrographs)}",
        f"# Pixel size: {optics.pixel_size!r} Angstroms ; acceleration voltage: {optics.voltage_kv!r} keV ; spherical "
        f"aberration: {optics.cs_mm!r} mm ; amplitude contrast: {optics.amplitude_contrast!r}",
        "# Box size: unknown",
        "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; "
        "#5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF "
        "rings were fit successfully",
    ]
