"""Pictures and tables of motion correction."""

from typing import Any

import numpy as np

from cryoloom.contract import Figure, Run

MAX_PATHS = 24
MAX_ROWS = 500
_COLUMNS = {
    "total (Å)": "total",
    "early (Å)": "early",
    "late (Å)": "late",
    "local at the end (Å)": "local_motion",
    "frame SNR": "frame_snr",
    "repaired pixels": "n_bad_pixels",
}


def show_motion(done: list[tuple[int, dict[str, Any]]], names: list[str], total: np.ndarray, run: Run) -> None:
    """Paths of some movies in one picture, the spread over the set, and what was found of each movie.

    Parameters
    ----------
    done
        Row of each movie that was corrected, and its figures as the stage keeps them.
    names
        Of all movies.
    total
        Length of the path of each movie that was corrected, Å, `(n,)`.
    run
        Takes the pictures.
    """
    paths = [np.asarray(result["trajectory"]) for _, result in done[:MAX_PATHS]]
    gap = np.full((1, 2), np.nan)  # the line is broken between two movies
    joined = np.concatenate([piece for path in paths for piece in (path, gap)])
    run.show(
        Figure(
            "motion_paths",
            "scatter",
            "Paths of whole frames",
            caption=f"Where the content sits in each frame (colour: number of the frame), first frame at zero, in "
            f"{len(paths)} of {len(done)} movies, {names[done[0][0]]} the first. "
            f"Median length {np.median(total):.1f} Å.",
            x_label="x (Å)",
            y_label="y (Å)",
            data={
                "x": joined[:, 1],
                "y": joined[:, 0],
                "values": np.concatenate([np.arange(1, len(path) + 2) for path in paths]),
                "connect": True,
            },
        )
    )
    run.show(Figure("motion_total", "histogram", "Total motion", x_label="Å", data={"values": total}))
    rows = done[:MAX_ROWS]
    columns: dict[str, list[Any]] = {"movie": [names[row] for row, _ in rows]}
    for title, key in _COLUMNS.items():
        columns[title] = [_short(result[key]) for _, result in rows]
    columns["error of a shift (Å)"] = [_short(float(np.median(result["shift_error"]))) for _, result in rows]
    run.show(
        Figure(
            "motion_table",
            "table",
            "Movie by movie",
            caption=f"{len(rows)} of {len(done)} movies. Early is before 4 e⁻/Å². The error is the standard error of a "
            "frame's shift against the first one, in the median; those of all frames stand in the motion files.",
            data={"columns": columns},
        )
    )


def _short(value: Any) -> Any:
    """Three digits of a number that is no count."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
