"""Coordinates of other pickers: EMAN `.box`, crYOLO `.cbox` and Topaz tables, to and from `PickSet`.

Boxes are given by a corner, picks by their centre. Topaz gives pixels of the down-sampled image, so its scale must be
named.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import PickSet
from cryoloom.io.atomic import write_whole
from cryoloom.io.star import StarTable, read_star

COORDINATE_SUFFIXES = (".box", ".cbox", ".txt", ".tsv", ".coords")


def read_coordinates(path: Path | str, *, scale: float | None = None, micrograph: str | None = None) -> PickSet:
    """Read coordinates by the suffix of the file: `.box`, `.cbox`, or a Topaz table (`.txt`, `.tsv`).

    Parameters
    ----------
    path
        The file.
    scale
        Factor from pixels of the file to pixels of the micrograph; must be given for Topaz.
    micrograph
        Micrograph of `.box` and `.cbox` files; by default the stem of the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".box":
        return _scaled(read_box(path, micrograph=micrograph), scale)
    if suffix == ".cbox":
        return _scaled(read_cbox(path, micrograph=micrograph), scale)
    if suffix in (".txt", ".tsv", ".coords"):
        return read_topaz(path, scale=scale)
    raise InputError(f"{path}: unknown coordinate format {suffix!r}; expected one of {', '.join(COORDINATE_SUFFIXES)}.")


def read_box(path: Path | str, *, micrograph: str | None = None) -> PickSet:
    """Read EMAN boxes: `x y width height` per line, x and y being the corner with the smallest indices."""
    path = Path(path)
    rows = []
    for number, line in enumerate(_lines(path), 1):
        words = re.split(r"[\s,]+", line.strip())
        if not words[0] or words[0].startswith("#"):
            continue
        numbers = _numbers(words, path, number)
        if len(numbers) < 4:
            raise InputError(f"{path}, line {number}: {len(numbers)} numbers, expected x, y, width and height.")
        if numbers[2] <= 0 or numbers[3] <= 0:
            raise InputError(f"{path}, line {number}: a box of {numbers[2]:g} x {numbers[3]:g} pixels.")
        rows.append(numbers[:4])
    boxes = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    centre = boxes[:, 1::-1] + boxes[:, 3:1:-1] / 2
    return PickSet(position_px=centre, micrograph=np.full(len(boxes), micrograph or path.stem, dtype=object))


def read_cbox(path: Path | str, *, micrograph: str | None = None) -> PickSet:
    """Read crYOLO boxes: a STAR file whose coordinates are corners."""
    path = Path(path)
    star = read_star(path)
    table = star.get("cryolo")
    if not isinstance(table, StarTable):
        raise InputError(f"{path}: no table 'cryolo'; this is no .cbox file of crYOLO 1.8 or later.")
    width, height = table.numbers("Width"), table.numbers("Height")
    x = table.numbers("CoordinateX") + width / 2
    y = table.numbers("CoordinateY") + height / 2
    score = None
    if "Confidence" in table and not set(table.text("Confidence")) & {"<NA>"}:
        score = table.numbers("Confidence")
    picks = PickSet(
        position_px=np.stack([y, x], axis=-1),
        micrograph=np.full(len(table), micrograph or path.stem, dtype=object),
        score=score,
    )
    if "CoordinateZ" in table and not set(table.text("CoordinateZ")) & {"<NA>"} and table.numbers("CoordinateZ").any():
        raise InputError(f"{path}: the boxes have a third coordinate (a tomogram); micrographs were expected.")
    return picks


def read_topaz(path: Path | str, *, scale: float | None = None) -> PickSet:
    """Read a Topaz table: image_name, x_coord, y_coord, optional score; origin at the first pixel."""
    path = Path(path)
    if scale is None:
        raise InputError(f"{path}: Topaz coordinates are pixels of the down-sampled image; give their scale.")
    lines = _lines(path)
    header = re.split(r"[\t ,]+", lines[0].strip()) if lines else []
    if header[:3] != ["image_name", "x_coord", "y_coord"]:
        raise InputError(f"{path}: the first line is no header 'image_name x_coord y_coord'; this is no Topaz table.")
    names, rows = [], []
    for number, line in enumerate(lines[1:], 2):
        words = line.strip().split("\t") if "\t" in line else line.split()
        if not words or not words[0]:
            continue
        if len(words) < len(header):
            raise InputError(f"{path}, line {number}: {len(words)} values for {len(header)} columns.")
        names.append(words[0])
        rows.append(_numbers(words[1 : len(header)], path, number))
    values = np.asarray(rows, dtype=np.float64).reshape(-1, max(len(header) - 1, 2))
    return PickSet(
        position_px=values[:, 1::-1] * scale,
        micrograph=np.asarray(names, dtype=object),
        score=values[:, 2] if len(header) > 3 and header[3] == "score" else None,
    )


def write_box(picks: PickSet, folder: Path | str, box: int) -> list[Path]:
    """Write one EMAN `.box` file per micrograph, named by its stem."""
    files = []
    for name, rows in _by_micrograph(picks).items():
        corner = np.asarray(picks.position_px)[rows][:, ::-1] - box / 2
        lines = [f"{x:g}\t{y:g}\t{box}\t{box}\n" for x, y in np.round(corner, 2).tolist()]
        file = Path(folder) / f"{Path(name).stem}.box"
        with write_whole(file) as out:
            out.write("".join(lines).encode())
        files.append(file)
    return files


def write_topaz(picks: PickSet, path: Path | str, *, scale: float = 1.0) -> None:
    """Write a Topaz table; coordinates are divided by `scale`."""
    score = None if picks.score is None else np.asarray(picks.score)
    lines = ["image_name\tx_coord\ty_coord" + ("" if score is None else "\tscore") + "\n"]
    for i, (name, (y, x)) in enumerate(zip(picks.micrograph, np.asarray(picks.position_px).tolist(), strict=True)):
        tail = "" if score is None else f"\t{float(score[i])!r}"
        lines.append(f"{Path(str(name)).stem}\t{x / scale:.2f}\t{y / scale:.2f}{tail}\n")
    with write_whole(path) as out:
        out.write("".join(lines).encode())


def match_micrographs(picks: PickSet, micrographs: Mapping[str, str] | list[str]) -> PickSet:
    """Give picks that name micrographs by stem the full path of the micrograph with that stem.

    Raises
    ------
    InputError
        If a name fits no micrograph or several.
    """
    stems: dict[str, list[str]] = {}
    for name in micrographs:
        stems.setdefault(Path(name).stem, []).append(str(name))
    out = []
    for name in picks.micrograph:
        found = stems.get(Path(str(name)).stem) or stems.get(str(name)) or []
        if len(found) != 1:
            what = "no micrograph has" if not found else f"{len(found)} micrographs have"
            raise InputError(f"{name}: {what} this name; rename the coordinate file like its micrograph.")
        out.append(found[0])
    return picks.replace(micrograph=np.asarray(out, dtype=object), micrographs=tuple(str(m) for m in micrographs))


def _scaled(picks: PickSet, scale: float | None) -> PickSet:
    return picks if scale is None else picks.replace(position_px=np.asarray(picks.position_px) * scale)


def _by_micrograph(picks: PickSet) -> dict[str, np.ndarray]:
    names, codes = np.unique(np.asarray(picks.micrograph, dtype=object), return_inverse=True)
    return {str(name): np.flatnonzero(codes == i) for i, name in enumerate(names)}


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}).") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}: the file is empty.")
    return lines


def _numbers(words: list[str], path: Path, number: int) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{path}, line {number}: expected numbers, found {' '.join(words)[:60]!r}.") from error
    if not np.isfinite(values).all():
        raise InputError(f"{path}, line {number}: a number is NaN or infinite.")
    return values
