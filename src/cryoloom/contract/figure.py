"""Figure data: what a stage wants to show, without knowing how it is drawn.

A stage hands a `Figure` to its `Run`; it is stored beside the results and drawn by `report/` when the
job ends, so no stage imports a plotting library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("curves", "image", "gallery", "histogram", "scatter", "orientations", "volume", "table")


@dataclass(frozen=True)
class Figure:
    """One picture to be.

    Attributes
    ----------
    name
        File stem, unique within the job.
    kind
        One of `KINDS`. What `data` holds for each:

        - `curves`: `x` (n,), `y` mapping label -> (n,) [`lines` mapping label -> level, `bands` mapping
          label -> (2, n)]. With `resolution_axis=True`, `x` is a frequency in 1/Å and is labelled in Å.
        - `image`: `image` (h, w) [`pixel_size` Å, `points` (n, 2) pixels yx, `values` (n,), `radius` pixels,
          `overlay` (h, w) in [0, 1]].
        - `gallery`: `images` (n, h, w) [`labels` (n,) strings, `columns`]; each on its own grey scale, or, with
          `scale` naming their values with unit, all on one colour scale where NaN stays blank.
        - `histogram`: `values` (n,) [`lines` mapping label -> value].
        - `scatter`: `x` (n,), `y` (n,) [`values` (n,), `connect` bool].
        - `orientations`: `rotations` (n, 3, 3).
        - `volume`: `volume` (d, h, w), `pixel_size` [`level`]: central slices and a rendered surface.
        - `table`: `columns` mapping title -> list.
    title, caption
        Shown above and below the picture; the caption tells a reader what to look for.
    x_label, y_label
        Axis labels with units.
    data
        NumPy arrays, numbers, strings and mappings of them.
    """

    name: str
    kind: str
    title: str
    caption: str = ""
    x_label: str = ""
    y_label: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"figure kind: expected one of {KINDS}, got {self.kind!r}")
