"""One look for all pictures: a colour-blind-safe palette, light frames, text that can be read on a phone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure

INK = "#1d2733"
MUTED = "#66727f"
GRID = "#e4e9ee"
ACCENT = "#0b6fa4"
PALETTE = ("#0b6fa4", "#e08214", "#3a9a6c", "#b5478a", "#7a5cc2", "#8c6d46", "#4a4a4a", "#d1495b")
SEQUENTIAL = "cividis"

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "cryoloom",
}


@contextmanager
def report_style() -> Iterator[None]:
    """Matplotlib's settings of all report pictures."""
    with rc_context(_RC):
        yield


def new_figure(width: float = 4.9, height: float = 3.1) -> MplFigure:
    """An empty figure in inches, drawn without any window system."""
    figure = MplFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
