"""Shifts of whole frames from logs of MotionCor2 and MotionCor3.

Two layouts exist: up to version 1.5 lines `Frame ( 1) shift: x y` below "Full-frame alignment shift", from 1.6 on a
table with the columns Frame, x Shift, y Shift (file `-Full.log`). Shifts move a frame back, as in RELION: the motion
of the content is minus the shift. Unknown layouts are an error, never zeros; so are -9999 and a missing frame.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole

_OLD_LINE = re.compile(r"\(?\s*(\d+)\s*\)?\s*shift:\s*(\S+)\s+(\S+)", re.IGNORECASE)
_NOT_OBSERVED = -9999.0


@dataclass(frozen=True)
class FrameShifts:
    """Motion of whole frames.

    Attributes
    ----------
    trajectory_px
        Where content sits in each frame, yx, in the pixels of the log, `(t, 2)`.
    first_frame
        Number of the first frame as the log counts.
    layout
        `"1.5"` or `"1.6"`.
    """

    trajectory_px: np.ndarray
    first_frame: int
    layout: str


def read_motioncor_log(path: Path | str) -> FrameShifts:
    """Read the shifts of whole frames.

    Raises
    ------
    InputError
        If the layout is unknown, a frame is missing or was not observed.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}).") from error
    table = _table(lines)
    layout = "1.6"
    if table is None:
        table, layout = _old_lines(lines), "1.5"
    if not table:
        raise InputError(
            f"{path}: neither 'shift:' lines nor a table of Frame, x Shift, y Shift; this layout of a MotionCor log "
            "is not known."
        )
    rows: list[tuple[int, float, float]] = []
    for number, words in table:
        try:
            frame, x, y = int(float(words[0])), float(words[1]), float(words[2])
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}, line {number}: expected a frame and two shifts.") from error
        if not (np.isfinite(x) and np.isfinite(y)) or _NOT_OBSERVED in (x, y):
            raise InputError(f"{path}, line {number}: frame {frame} was not observed ({x:g}, {y:g}).")
        if rows and frame != rows[-1][0] + 1:
            raise InputError(f"{path}, line {number}: frame {frame} follows frame {rows[-1][0]}; a line is missing.")
        rows.append((frame, x, y))
    shifts = np.array([[y, x] for _, x, y in rows])
    return FrameShifts(0.0 - shifts, rows[0][0], layout)


def write_motioncor_log(shifts: FrameShifts, path: Path | str) -> None:
    """Write a log in the layout that `shifts` names; frames are counted from `first_frame`."""
    moves = 0.0 - np.asarray(shifts.trajectory_px, np.float64)
    numbered = [(shifts.first_frame + i, float(x), float(y)) for i, (y, x) in enumerate(moves)]
    if shifts.layout == "1.5":
        lines = ["Full-frame alignment shift"]
        lines += [f"...... Frame ({frame:3d}) shift: {x!r} {y!r}" for frame, x, y in numbered]
    else:
        lines = ["# full-frame alignment", "# Frame     x Shift     y Shift"]
        lines += [f"{frame:6d} {x!r} {y!r}" for frame, x, y in numbered]
    with write_whole(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _table(lines: list[str]) -> list[tuple[int, list[str]]] | None:
    """Rows below a line with the titles, until the first line that is none; None without such titles."""
    for i, line in enumerate(lines):
        words = line.lower()
        if "frame" in words and re.search(r"x\s*shift", words) and re.search(r"y\s*shift", words):
            rows: list[tuple[int, list[str]]] = []
            for j, row in enumerate(lines[i + 1 :], i + 2):
                split = row.split()
                if not split or not re.fullmatch(r"[-+.\deE]+", split[0]):
                    if rows:
                        break
                    continue
                rows.append((j, split))
            return rows
    return None


def _old_lines(lines: list[str]) -> list[tuple[int, list[str]]]:
    start = next((i for i, line in enumerate(lines) if "full-frame alignment shift" in line.lower()), None)
    if start is None:
        return []
    rows: list[tuple[int, list[str]]] = []
    for i, line in enumerate(lines[start + 1 :], start + 2):
        found = _OLD_LINE.search(line)
        if found:
            rows.append((i, list(found.groups())))
        elif rows:
            break
    return rows
