"""Curves, histograms, scatter plots and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure

from cryoloom.contract import Figure
from cryoloom.report.style import ACCENT, INK, MUTED, PALETTE, SEQUENTIAL, new_figure

_NICE = np.array(
    [40, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.7, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1]
)
_ROLES = {"corrected": PALETTE[0], "unmasked": "#8a97a5", "masked": "#63b3d1", "phase-randomised": PALETTE[1]}


def draw_curves(figure: Figure) -> MplFigure:
    """One or more curves over a common axis, with bands, levels and a mark."""
    data = figure.data
    drawn = new_figure()
    axes = drawn.add_subplot()
    x = np.asarray(data["x"], dtype=float).copy()
    if data.get("resolution_axis"):
        x[x <= 0] = np.nan  # shell 0 has no resolution, and its correlation is a sign
    squared = bool(data.get("squared_axis", False))
    across = x**2 if squared else x
    curves: Mapping[str, Any] = data["y"]
    many = len(curves) > len(PALETTE)
    shades = _shades(len(curves))
    for i, (label, values) in enumerate(curves.items()):
        values = np.asarray(values, dtype=float)
        colour = _ROLES.get(label, shades[i] if many else PALETTE[i % len(PALETTE)])
        sparse = np.isfinite(values).sum() < 12
        axes.plot(
            across,
            values,
            label=str(label) if not many or i in (0, len(curves) - 1) else None,
            color=colour,
            linewidth=2.2 if label == "corrected" else 1.5,
            zorder=4 if label == "corrected" else 3,
            marker="o" if sparse else None,
            markersize=3,
        )
        band = (data.get("bands") or {}).get(label)
        if band is not None:
            axes.fill_between(across, band[0], band[1], color=colour, alpha=0.18, linewidth=0, zorder=2)
    for label, level in (data.get("lines") or {}).items():
        axes.axhline(float(level), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            str(label),
            (1, float(level)),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    mark = data.get("mark")
    if mark is not None and np.isfinite(mark):
        at = float(mark) ** 2 if squared else float(mark)
        axes.axvline(at, color=INK, linewidth=1.0, zorder=2)
        text = f"{1 / float(mark):.2f} Å" if data.get("resolution_axis") else f"{float(mark):.4g}"
        axes.annotate(
            text,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )
    if data.get("resolution_axis"):
        _resolution_ticks(axes, x[np.isfinite(x)], squared)
        axes.set_xlabel("resolution (Å)")
    else:
        axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if figure.y_label.strip().upper().startswith(("FSC", "FRC")):
        axes.set_ylim(-0.08, 1.03)
    if len(curves) > 1:
        columns = 2 if sum(len(str(label)) for label in curves) > 44 else 4
        drawn.legend(loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2, borderpad=0.1)
    axes.margins(x=0.01)
    return drawn


def draw_histogram(figure: Figure) -> MplFigure:
    """Counts of values, with marked values."""
    drawn = new_figure(4.9, 2.7)
    axes = drawn.add_subplot()
    values = np.asarray(figure.data["values"], dtype=float).ravel()
    values = values[np.isfinite(values)]
    if len(values):
        low, high = np.quantile(values, [0.002, 0.998]) if len(values) > 500 else (values.min(), values.max())
        if high <= low:
            low, high = low - 0.5, high + 0.5
        n_bins = int(np.clip(2 * len(values) ** (1 / 3) + 4, 8, 60))
        axes.hist(values, bins=n_bins, range=(low, high), color=ACCENT, alpha=0.85, edgecolor="white", linewidth=0.5)
    for i, (label, value) in enumerate((figure.data.get("lines") or {}).items()):
        axes.axvline(float(value), color=PALETTE[1], linewidth=1.4)
        axes.annotate(
            f"{label}: {float(value):.3g}",
            (float(value), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2 - 12 * i),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=INK,
        )
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label or "count")
    axes.grid(axis="x", visible=False)
    return drawn


def draw_scatter(figure: Figure) -> MplFigure:
    """Points, coloured by a value if there is one, joined if asked."""
    data = figure.data
    drawn = new_figure(4.9, 3.3)
    axes = drawn.add_subplot()
    x, y = np.asarray(data["x"], dtype=float), np.asarray(data["y"], dtype=float)
    values = data.get("values")
    if data.get("connect"):
        axes.plot(x, y, color="#9aa5b1", linewidth=1.0, zorder=2)
    size = float(np.clip(900 / max(len(x), 1) ** 0.7, 4, 36))
    colours: dict[str, Any] = {"c": ACCENT}
    if values is not None:
        colours = {"c": np.asarray(values, dtype=float), "cmap": SEQUENTIAL}
    points = axes.scatter(x, y, s=size, zorder=3, alpha=0.9 if len(x) < 2000 else 0.5, linewidths=0, **colours)
    if values is not None:
        drawn.colorbar(points, ax=axes, fraction=0.046, pad=0.02).outline.set_visible(False)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if data.get("equal"):
        axes.set_aspect("equal")
    axes.margins(0.05)
    return drawn


def draw_table(figure: Figure) -> MplFigure:
    """A table as a picture; pages show it as text instead."""
    columns: Mapping[str, Sequence[Any]] = figure.data["columns"]
    rows = list(zip(*[[format_value(v) for v in column] for column in columns.values()], strict=False))
    drawn = new_figure(6.0, 0.5 + 0.26 * (len(rows) + 1))
    axes = drawn.add_subplot()
    axes.axis("off")
    if rows:
        table = axes.table(cellText=rows, colLabels=[str(c) for c in columns], loc="center", edges="horizontal")
        table.auto_set_font_size(False)
        table.set_fontsize(9)
    return drawn


def format_value(value: Any) -> str:
    """A number as a person writes it, other values as text."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}".replace(",", "\u202f") if abs(int(value)) >= 10_000 else str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        if not np.isfinite(number):
            return "–"
        if number == int(number) and abs(number) < 1e7:
            return format_value(int(number))
        return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}".replace(",", "\u202f")
    if isinstance(value, list | tuple):
        return ", ".join(format_value(v) for v in value)
    return str(value)


def _resolution_ticks(axes: Axes, frequency: np.ndarray, squared: bool) -> None:
    """Label an axis of frequency (or its square) in Å."""
    if not len(frequency) or frequency.max() <= 0:
        return
    top = float(frequency.max())
    bottom = float(frequency.min())
    chosen: list[float] = []
    low, span = (bottom**2, top**2 - bottom**2) if squared else (bottom, top - bottom)
    candidates = [r for r in _NICE if bottom <= 1 / r <= top * 1.0001]
    for r in candidates:
        place = ((1 / r) ** 2 if squared else 1 / r) - low
        if not chosen or place - (((1 / chosen[-1]) ** 2 if squared else 1 / chosen[-1]) - low) > 0.085 * span:
            chosen.append(float(r))
    axes.set_xticks([(1 / r) ** 2 if squared else 1 / r for r in chosen], [f"{r:g}" for r in chosen])
    axes.minorticks_off()


def _shades(n: int) -> list[Any]:
    """Colours from light to dark for a sequence of curves."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](0.1 + 0.85 * i / max(n - 1, 1)) for i in range(n)]
