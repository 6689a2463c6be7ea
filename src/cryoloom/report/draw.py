"""Stored figure data to matplotlib figures, one function per kind of `contract.Figure`."""

from collections.abc import Callable

from matplotlib.figure import Figure as MplFigure

from cryoloom.contract import Figure
from cryoloom.report.pictures import draw_gallery, draw_image, draw_volume
from cryoloom.report.plots import draw_curves, draw_histogram, draw_scatter, draw_table
from cryoloom.report.sphere import draw_orientations
from cryoloom.report.style import report_style

_DRAWERS: dict[str, Callable[[Figure], MplFigure]] = {
    "curves": draw_curves,
    "image": draw_image,
    "gallery": draw_gallery,
    "histogram": draw_histogram,
    "scatter": draw_scatter,
    "orientations": draw_orientations,
    "volume": draw_volume,
    "table": draw_table,
}


def draw_figure(figure: Figure) -> MplFigure:
    """Draw stored figure data.

    Parameters
    ----------
    figure
        As a stage showed it; title and caption are left to the page around the picture.

    Returns
    -------
    drawn
        Matplotlib figure, not shown anywhere; save it with `drawn.savefig(path)`.
    """
    with report_style():
        return _DRAWERS[figure.kind](figure)


class Drawings:
    """Figures of one job, each made once for all the files it goes to; saving it first also lays it out."""

    def __init__(self) -> None:
        self._drawn: dict[str, MplFigure] = {}

    def __call__(self, figure: Figure) -> MplFigure:
        """The figure as `draw_figure` draws it, told apart by its name."""
        drawn = self._drawn.get(figure.name)
        if drawn is None:
            drawn = self._drawn[figure.name] = draw_figure(figure)
        else:
            drawn.set_layout_engine("none")
        return drawn
