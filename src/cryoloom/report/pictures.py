"""Images with picks or masks over them, galleries, and maps as slices and surfaces."""

import hashlib
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure as MplFigure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from cryoloom.contract import Figure
from cryoloom.report.style import INK, PALETTE, SEQUENTIAL, new_figure
from cryoloom.report.surface import (
    oblique_rotation,
    render_surface,
    smooth_for_surface,
    suggest_level,
    view_rotations,
    without_dust,
)

LARGEST_VIEW = 560
"""Edge in pixels of the largest picture of a surface on a page."""

MOST_VIEWS = 24
"""Views that are kept, a little more than 1 MB each."""

_drawn_views: dict[tuple[object, ...], np.ndarray] = {}


def draw_image(figure: Figure) -> MplFigure:
    """One image with circles on its points, an overlay and a scale bar."""
    data = figure.data
    image = np.asarray(data["image"], dtype=np.float32)
    h, w = image.shape
    drawn = new_figure(6.4, max(2.4, 6.4 * h / w))
    axes = drawn.add_subplot()
    _show_gray(axes, image)
    overlay = data.get("overlay")
    if overlay is not None:
        overlay = np.asarray(overlay, dtype=np.float32)
        if overlay.min() < 0.5 < overlay.max():
            axes.contour(overlay, levels=[0.5], colors=[PALETTE[1]], linewidths=1.3)
        tint = np.zeros((h, w, 4), np.float32)
        tint[..., :3] = (0.88, 0.51, 0.08)
        tint[..., 3] = 0.13 * np.clip(overlay, 0, 1)
        axes.imshow(tint, origin="lower", interpolation="nearest")
    points = data.get("points")
    if points is not None and len(points):
        points = np.asarray(points, dtype=float)
        radius = float(data.get("radius") or max(h, w) / 100)
        circles = PatchCollection([Circle((x, y), radius) for y, x in points], facecolors="none", linewidths=1.1)
        values = data.get("values")
        if values is not None and np.isfinite(np.asarray(values, dtype=float)).any():
            values = np.asarray(values, dtype=float)
            circles.set_array(values)
            circles.set_cmap("plasma")
            circles.set_facecolor("none")
            if 0 <= np.nanmin(values) and np.nanmax(values) <= 1:
                circles.set_clim(0, 1)
            bar = drawn.colorbar(circles, ax=axes, fraction=0.03, pad=0.01, shrink=0.6)
            bar.outline.set_visible(False)
        else:
            circles.set_edgecolor("#ffd23f")
        axes.add_collection(circles, autolim=False)
    axes.set_xlim(-0.5, w - 0.5)
    axes.set_ylim(-0.5, h - 0.5)
    if data.get("pixel_size"):
        _scale_bar(axes, w, h, float(data["pixel_size"]))
    return drawn


def draw_gallery(figure: Figure) -> MplFigure:
    """Small images side by side, each with its own grey scale, or all on one scale of colours."""
    if figure.data.get("scale"):
        return _draw_on_one_scale(figure)
    images = np.asarray(figure.data["images"], dtype=np.float32)
    labels = figure.data.get("labels")
    n = len(images)
    h, w = images.shape[1:]
    columns = int(figure.data.get("columns") or min(n, 10 if n > 40 else 8 if n > 12 else 4 if w > 150 else 6))
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    label_height = 0.19 if labels is not None else 0.0
    cell = 9.6 / columns
    drawn = new_figure(9.6, max(1.0, rows * (cell * h / w + label_height + 0.04)))
    for i in range(rows * columns):
        axes = drawn.add_subplot(rows, columns, i + 1)
        axes.axis("off")
        if i < n:
            _show_gray(axes, images[i], frame=False)
            if labels is not None:
                text = str(labels[i])
                room = max(8, int(13 * cell))
                axes.set_title(text if len(text) <= room else "…" + text[-room + 1 :], fontsize=8, pad=2, color=INK)
    drawn.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    return drawn


def _draw_on_one_scale(figure: Figure) -> MplFigure:
    """A row of images of one quantity, with the bar of its colours; NaN is blank."""
    images = np.asarray(figure.data["images"], dtype=np.float32)
    labels = figure.data.get("labels") or [""] * len(images)
    values = images[np.isfinite(images)]
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99]) if values.size else (0.0, 0.5, 1.0)
    # Differences of a few per cent must not fill the whole scale.
    spare = max(0.0, 0.15 * abs(middle) - (high - low)) / 2
    low, high = low - spare, high + spare
    images = _without_margin(images)
    drawn = new_figure(9.6, 9.6 / (len(images) + 0.35) * images.shape[1] / images.shape[2] + 0.25)
    grid = drawn.subplots(1, len(images), squeeze=False)[0]
    for axes, image, label in zip(grid, images, labels, strict=True):
        shown = axes.imshow(image, cmap=f"{SEQUENTIAL}_r", vmin=low, vmax=high, origin="lower")
        axes.set_title(str(label), fontsize=9)
        axes.axis("off")
    bar = drawn.colorbar(shown, ax=list(grid), fraction=0.025, pad=0.01, shrink=0.8, label=str(figure.data["scale"]))
    bar.outline.set_visible(False)  # type: ignore[operator]
    return drawn


def _without_margin(images: np.ndarray) -> np.ndarray:
    """Images `(n, h, w)` cropped alike to where any of them is finite, and two pixels more."""
    finite = np.isfinite(images).any(axis=0)
    if not finite.any():
        return images
    (top, left), (bottom, right) = (np.argwhere(finite).min(0) - 2).clip(0), np.argwhere(finite).max(0) + 3
    return images[:, top:bottom, left:right]


def draw_volume(figure: Figure) -> MplFigure:
    """Surface views above, central slices below."""
    volume = np.asarray(figure.data["volume"], dtype=np.float32)
    pixel_size = float(figure.data.get("pixel_size") or 1.0)
    drawn = new_figure(9.6, 6.6)
    surfaces = surface_pictures(surface_volume(figure), figure.data.get("level"), size=360)
    for i, (name, picture) in enumerate(surfaces[:3]):
        axes = drawn.add_subplot(2, 3, i + 1)
        axes.imshow(picture, interpolation="lanczos")
        axes.axis("off")
        axes.set_title(name, fontsize=9)
    for i, (name, image) in enumerate(central_slices(volume)):
        axes = drawn.add_subplot(2, 3, 4 + i)
        _show_gray(axes, image, frame=False)
        axes.set_title(name, fontsize=9)
        _scale_bar(axes, image.shape[1], image.shape[0], pixel_size)
    return drawn


def surface_pictures(
    volume: np.ndarray, level: float | None = None, size: int = 420, n_views: int = 3
) -> list[tuple[str, np.ndarray]]:
    """Named RGBA pictures of a map's surface: an oblique view, the side and the top, or the first of them.

    A view is drawn once, at the largest size that pages show, and kept: the pages of a job and of its project show the
    same maps at several sizes.
    """
    volume = np.asarray(volume, dtype=np.float32)
    side = max(size, LARGEST_VIEW)
    digest = hashlib.sha256(volume.tobytes()).hexdigest()
    views = [("surface", oblique_rotation()), *view_rotations()[1:]][:n_views]
    keys: list[tuple[object, ...]] = [(digest, volume.shape, level, name, side) for name, _ in views]
    if any(key not in _drawn_views for key in keys):
        fine, height = _surface_of(volume, level)
        for key, (_, rotation) in zip(keys, views, strict=True):
            if key not in _drawn_views:
                _drawn_views[key] = render_surface(fine, height, rotation, size=side)
    pictures = [(name, _resized(_drawn_views[key], size)) for key, (name, _) in zip(keys, views, strict=True)]
    for oldest in list(_drawn_views)[:-MOST_VIEWS]:
        _drawn_views.pop(oldest, None)
    return pictures


def _surface_of(volume: np.ndarray, level: float | None) -> tuple[np.ndarray, float]:
    """A smooth cube without dust, and the grey level of its surface."""
    if len(set(volume.shape)) != 1:
        n = max(volume.shape)
        pad = [((n - s) // 2, n - s - (n - s) // 2) for s in volume.shape]
        volume = np.pad(volume, pad)
    if level is None:
        level = suggest_level(volume)
    fine = smooth_for_surface(volume)
    if not (fine > level).any():
        level = float(np.quantile(fine, 0.98))
    return without_dust(fine, float(level)), float(level)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    """An RGBA picture at another size; colours of clear pixels do not bleed into the edge."""
    if picture.shape[0] == size:
        return picture
    image = Image.fromarray(picture).convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGBA"))


def surface_volume(figure: Figure) -> np.ndarray:
    """The map of a `volume` figure from which its surface is drawn: `surface` where the stage gave one."""
    return np.asarray(figure.data.get("surface", figure.data["volume"]), dtype=np.float32)


def central_slices(volume: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The three central planes, `(rows, columns)` with the first axis up."""
    z, y, x = (n // 2 for n in volume.shape)
    return [("xy", volume[z]), ("xz", volume[:, y]), ("yz", volume[:, :, x])]


def gray_limits(image: np.ndarray) -> tuple[float, float]:
    """Black and white of an image: it should neither drown in hot pixels nor look flat."""
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.quantile(values, [0.003, 0.997])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _show_gray(axes: Axes, image: np.ndarray, *, frame: bool = True) -> None:
    low, high = gray_limits(image)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(frame)


def _scale_bar(axes: Axes, width: int, height: int, pixel_size: float) -> None:
    """A bar of a round length, about a fifth of the width."""
    wanted = 0.22 * width * pixel_size
    power = 10 ** math.floor(math.log10(wanted))
    length = max(m for m in (1, 2, 5, 10) if m * power <= wanted or m == 1) * power
    text = f"{length / 10:g} nm" if length >= 1000 else f"{length:g} Å"
    x, y = 0.03 * width, 0.03 * height
    axes.add_patch(Rectangle((x, y), length / pixel_size, 0.012 * height, color="white", ec="black", lw=0.4, zorder=6))
    axes.text(
        x, y + 0.025 * height, text, color="white", fontsize=8.5, zorder=6,
        bbox={"facecolor": "black", "alpha": 0.35, "pad": 1, "linewidth": 0},
    )  # fmt: skip
