"""Coordinates of other pickers: EMAN `.box`, crYOLO `.cbox` and Topaz tables, to and from `PickSet`; EMAN `_info.json`.

Boxes of `.box` and `.cbox` files are given by a corner, those of EMAN's `_info.json`, like picks, by their centre.
Topaz gives pixels of the down-sampled image, so its scale must be named.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import PickSet
from cryoloom.io.atomic import write_whole
from cryoloom.io.star import StarTable, read_star, write_star

COORDINATE_SUFFIXES = (".box", ".cbox", ".json", ".txt", ".tsv", ".coords")


def read_coordinates(path: Path | str, *, scale: float | None = None, micrograph: str | None = None) -> PickSet:
    """Read coordinates by the suffix of the file: `.box`, `.cbox`, `.json`, or a Topaz table (`.txt`, `.tsv`).

    Parameters
    ----------
    path
        The file.
    scale
        Factor from pixels of the file to pixels of the micrograph; must be given for Topaz.
    micrograph
        Micrograph of `.box`, `.cbox` and `.json` files; by default the stem of the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".box":
        return _scaled(read_box(path, micrograph=micrograph), scale)
    if suffix == ".cbox":
        return _scaled(read_cbox(path, micrograph=micrograph), scale)
    if suffix == ".json":
        return _scaled(read_eman_info(path, micrograph=micrograph), scale)
    if suffix in (".txt", ".tsv", ".coords"):
        return read_topaz(path, scale=scale)
    raise InputError(f"{path}: unknown coordinate format {suffix!r}; expected one of {', '.join(COORDINATE_SUFFIXES)}.")


_ENDS = (-1, -2)  # fifth column of EMAN's boxes: first and last box of a filament


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
        if numbers[4:] and numbers[4] in _ENDS:
            raise InputError(
                f"{path}, line {number}: the end of a filament, not a particle; let the program write segments."
            )
        rows.append(numbers[:4])
    boxes = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    centre = boxes[:, 1::-1] + boxes[:, 3:1:-1] / 2
    return PickSet(
        position_px=centre,
        micrograph=np.full(len(boxes), micrograph or path.stem, dtype=object),
        extra={"boxWidth": boxes[:, 2], "boxHeight": boxes[:, 3]},
    )


def read_cbox(path: Path | str, *, micrograph: str | None = None) -> PickSet:
    """Read crYOLO boxes, whose coordinates are corners: a STAR file, or the plain lines of versions before 1.8."""
    path = Path(path)
    lines = [line.strip() for line in _lines(path)]
    first = next(line for line in lines if line)
    if not first.startswith(("data_", "#", "_", "loop_")):
        return _read_plain_cbox(lines, path, micrograph or path.stem)
    star = read_star(path)
    table = star.get("cryolo")
    if not isinstance(table, StarTable):
        raise InputError(f"{path}: no table 'cryolo'; this is no .cbox file of crYOLO.")
    width, height = table.numbers("Width"), table.numbers("Height")
    x = table.numbers("CoordinateX") + width / 2
    y = table.numbers("CoordinateY") + height / 2
    score = None
    if "Confidence" in table and not set(table.text("Confidence")) & {"<NA>"}:
        score = table.numbers("Confidence")
    used = {"CoordinateX", "CoordinateY", "Width", "Height"} | ({"Confidence"} if score is not None else set())
    picks = PickSet(
        position_px=np.stack([y, x], axis=-1),
        micrograph=np.full(len(table), micrograph or path.stem, dtype=object),
        score=score,
        extra={"boxWidth": width, "boxHeight": height}
        | {f"cbox{label}": table.text(label) for label in table.labels if label not in used},
    )
    if "CoordinateZ" in table and not set(table.text("CoordinateZ")) & {"<NA>"} and table.numbers("CoordinateZ").any():
        raise InputError(f"{path}: the boxes have a third coordinate (a tomogram); micrographs were expected.")
    return picks


def _read_plain_cbox(lines: list[str], path: Path, micrograph: str) -> PickSet:
    """Lines `x y width height confidence` and, if given, the estimated width and height."""
    rows = []
    for number, line in enumerate(lines, 1):
        if line:
            rows.append(_numbers(line.split(), path, number))
            if len(rows[-1]) < 5:
                raise InputError(
                    f"{path}, line {number}: {len(rows[-1])} numbers, expected x, y, width, height and confidence."
                )
    boxes = np.asarray([row[:5] for row in rows], dtype=np.float64)
    return PickSet(
        position_px=boxes[:, 1::-1] + boxes[:, 3:1:-1] / 2,
        micrograph=np.full(len(boxes), micrograph, dtype=object),
        score=boxes[:, 4],
        extra={"boxWidth": boxes[:, 2], "boxHeight": boxes[:, 3]},
    )


def read_eman_info(path: Path | str, *, micrograph: str | None = None) -> PickSet:
    """Read the boxes of EMAN2's `info/<micrograph>_info.json`: centres, and a word on how each was picked.

    Raises
    ------
    InputError
        If the file has no list `boxes` of micrographs.
    """
    path = Path(path)
    try:
        content = json.loads("\n".join(_lines(path)))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}).") from error
    boxes = content.get("boxes") if isinstance(content, dict) else None
    if not isinstance(boxes, list):
        raise InputError(f"{path}: no list 'boxes'; this is no info file of EMAN2 with picks on a micrograph.")
    rows = []
    for number, box in enumerate(boxes, 1):
        if not isinstance(box, list) or len(box) < 2:
            raise InputError(f"{path}, box {number}: expected x, y and how it was picked, found {str(box)[:60]}.")
        rows.append(_numbers([str(word) for word in box[:2]], path, number))
    name = micrograph or path.stem.removesuffix("_info")
    return PickSet(
        position_px=np.asarray(rows, dtype=np.float64).reshape(-1, 2)[:, ::-1],
        micrograph=np.full(len(rows), name, dtype=object),
    )


def read_topaz(path: Path | str, *, scale: float | None = None) -> PickSet:
    """Read a Topaz table: image_name, x_coord, y_coord, optional score; origin at the first pixel."""
    path = Path(path)
    if scale is None:
        raise InputError(
            f"{path}: Topaz coordinates are pixels of the down-sampled image; give their scale (`convert --scale`)."
        )
    lines = _lines(path)
    header = re.split(r"[\t ,]+", lines[0].strip()) if lines else []
    if header[:3] != ["image_name", "x_coord", "y_coord"]:
        raise InputError(f"{path}: the first line is no header 'image_name x_coord y_coord'; this is no Topaz table.")
    n_numbers = 4 if header[3:4] == ["score"] else 3
    names: list[str] = []
    rows: list[list[float]] = []
    more: list[list[str]] = []
    for number, line in enumerate(lines[1:], 2):
        words = line.strip().split("\t") if "\t" in line else line.split()
        if not words or not words[0]:
            continue
        if len(words) < len(header):
            raise InputError(f"{path}, line {number}: {len(words)} values for {len(header)} columns.")
        names.append(words[0])
        more.append(words[n_numbers:])
        rows.append(_numbers(words[1:n_numbers], path, number))
    values = np.asarray(rows, dtype=np.float64).reshape(-1, max(n_numbers - 1, 2))
    return PickSet(
        position_px=values[:, 1::-1] * scale,
        micrograph=np.asarray(names, dtype=object),
        score=values[:, 2] if n_numbers == 4 else None,
        extra={f"topaz_{label}": _texts(more, i) for i, label in enumerate(header[n_numbers:])},
    )


def write_box(picks: PickSet, folder: Path | str, box: float | None = None) -> list[Path]:
    """Write one EMAN `.box` file per micrograph, named by its stem; boxes keep the size they were read with.

    Raises
    ------
    InputError
        If the picks have no boxes and none is given.
    """
    size = box_sizes(picks, box)
    files = []
    for name, rows in _by_micrograph(picks).items():
        corner = np.asarray(picks.position_px)[rows][:, ::-1] - size[rows] / 2
        lines = [
            f"{_short(x)}\t{_short(y)}\t{_short(w)}\t{_short(h)}\n"
            for (x, y), (w, h) in zip(corner.tolist(), size[rows].tolist(), strict=True)
        ]
        file = Path(folder) / f"{Path(name).stem}.box"
        with write_whole(file) as out:
            out.write("".join(lines).encode())
        files.append(file)
    return files


def write_cbox(picks: PickSet, folder: Path | str, box: float | None = None) -> list[Path]:
    """Write one crYOLO `.cbox` file per micrograph; sizes and columns that were read from one are kept."""
    size = box_sizes(picks, box)
    kept = {label.removeprefix("cbox"): np.asarray(v) for label, v in picks.extra.items() if label.startswith("cbox")}
    files = []
    for name, rows in _by_micrograph(picks).items():
        corner = np.asarray(picks.position_px)[rows][:, ::-1] - size[rows] / 2
        n = len(rows)
        columns: dict[str, np.ndarray] = {
            "CoordinateX": corner[:, 0],
            "CoordinateY": corner[:, 1],
            "CoordinateZ": _text_column(kept, "CoordinateZ", rows, "<NA>"),
            "Width": size[rows, 0],
            "Height": size[rows, 1],
            "Depth": _text_column(kept, "Depth", rows, "<NA>"),
            "EstWidth": _text_column(kept, "EstWidth", rows, "<NA>"),
            "EstHeight": _text_column(kept, "EstHeight", rows, "<NA>"),
            "Confidence": np.full(n, "<NA>", object) if picks.score is None else np.asarray(picks.score)[rows],
            "NumBoxes": _text_column(kept, "NumBoxes", rows, "<NA>"),
            "Angle": _text_column(kept, "Angle", rows, "<NA>"),
        }
        columns |= {label: values[rows] for label, values in kept.items() if label not in columns}
        file = Path(folder) / f"{Path(name).stem}.cbox"
        write_star(file, {"global": {"cbox_format_version": "1.0"}, "cryolo": columns}, version=None)
        files.append(file)
    return files


def box_sizes(picks: PickSet, box: float | None = None) -> np.ndarray:
    """Width and height of each box in pixels, `(n, 2)`: as given, else as they were read."""
    if box is not None:
        return np.full((len(picks), 2), float(box))
    if "boxWidth" not in picks.extra:
        raise InputError("Boxes need an edge; give --box (pixels).")
    return np.stack([np.asarray(picks.extra[f"box{side}"], np.float64) for side in ("Width", "Height")], axis=-1)


def write_topaz(picks: PickSet, path: Path | str, *, scale: float = 1.0) -> None:
    """Write a Topaz table; coordinates are divided by `scale`."""
    score = None if picks.score is None else np.asarray(picks.score)
    kept = {label.removeprefix("topaz_"): v for label, v in picks.extra.items() if label.startswith("topaz_")}
    titles = ["image_name", "x_coord", "y_coord", *([] if score is None else ["score"]), *kept]
    lines = ["\t".join(titles) + "\n"]
    for i, (name, (y, x)) in enumerate(zip(picks.micrograph, np.asarray(picks.position_px).tolist(), strict=True)):
        tail = "" if score is None else f"\t{float(score[i])!r}"
        tail += "".join(f"\t{values[i]}" for values in kept.values())
        lines.append(f"{Path(str(name)).stem}\t{_short(x / scale)}\t{_short(y / scale)}{tail}\n")
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


def _short(value: float) -> str:
    """A coordinate with the digits it needs, whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(round(float(value), 9))


def _text_column(kept: Mapping[str, np.ndarray], label: str, rows: np.ndarray, default: str) -> np.ndarray:
    return kept[label][rows] if label in kept else np.full(len(rows), default, dtype=object)


def _texts(rows: list[list[str]], i: int) -> np.ndarray:
    return np.asarray([row[i] if i < len(row) else "" for row in rows], dtype=object)


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
