"""The distribution of viewing directions over the sphere, in an equal-area projection."""

import numpy as np
import torch
from matplotlib.figure import Figure as MplFigure
from scipy.spatial import cKDTree

from cryoloom.contract import Figure
from cryoloom.geometry import direction_grid
from cryoloom.report.style import MUTED, SEQUENTIAL, new_figure

KERNEL_DEG = 6.0


def draw_orientations(figure: Figure) -> MplFigure:
    """Density of viewing directions relative to an even distribution."""
    directions = np.asarray(figure.data["rotations"], dtype=np.float64)[:, :, 2]
    directions = directions[np.isfinite(directions).all(axis=1)]
    longitude = np.linspace(-np.pi, np.pi, 145)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 73)
    lon, lat = np.meshgrid(0.5 * (longitude[1:] + longitude[:-1]), 0.5 * (latitude[1:] + latitude[:-1]))
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    density = direction_density(directions, places.reshape(-1, 3)).reshape(lon.shape)
    drawn = new_figure(5.4, 3.1)
    axes = drawn.add_subplot(projection="mollweide")
    axes.grid(False)
    top = max(2.0, float(np.quantile(density, 0.995)))
    mesh = axes.pcolormesh(longitude, latitude, density, cmap=SEQUENTIAL, vmin=0, vmax=top, rasterized=True)
    axes.grid(True, color="white", alpha=0.35, linewidth=0.6)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), ["-120°", "-60°", "0°", "60°", "120°"])
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["150°", "120°", "90°", "60°", "30°"])
    axes.tick_params(axis="x", colors="white", labelsize=7.5)
    axes.set_xlabel("rot", color=MUTED)
    axes.set_ylabel("tilt", color=MUTED)
    bar = drawn.colorbar(mesh, ax=axes, fraction=0.03, pad=0.02, label="views, relative to even")
    bar.outline.set_visible(False)
    return drawn


def direction_density(directions: np.ndarray, places: np.ndarray, kernel_deg: float = KERNEL_DEG) -> np.ndarray:
    """Smoothed density of unit vectors `(n, 3)` at `places` `(m, 3)`, 1 for an even distribution, `(m,)`."""
    if not len(directions):
        return np.zeros(len(places))
    grid = direction_grid(16, dtype=torch.float64).numpy()
    _, cell = cKDTree(grid).query(directions)
    counts = np.bincount(cell, minlength=len(grid)) / len(directions)
    sharpness = 1.0 / np.deg2rad(kernel_deg) ** 2
    density = np.zeros(len(places))
    for start in range(0, len(places), 2048):
        part = places[start : start + 2048]
        kernel = np.exp(sharpness * (part @ grid.T - 1))
        density[start : start + 2048] = kernel @ counts / kernel.mean(axis=1)
    return density
