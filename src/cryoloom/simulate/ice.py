"""What is on a micrograph besides particles: water that never lies still, and what stays: thickness, carbon, dirt.

Water moves so fast under the beam (McMullan, Vinothkumar, Henderson 2015, doi:10.1016/j.ultramic.2015.05.017) that its
detail is another one in each frame: `water_amplitude`. Carbon, ice crystals and aggregates stay; they are drawn once
on a coarse grid, since they are band-limited to 10 Å here, and are displaced with the motion field: `warp_into`.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from cryoloom.optics.ctf import electron_wavelength

FINEST = 10.0
"""Finest detail of what stays, Å."""

_WATER_PER_A3 = 0.0311
_WATER_FACTOR = 3.05  # Å, scattering factor of a molecule at k = 0
_CARBON_PER_A3 = 0.1
_CARBON_FACTOR = 2.5


def phase_per_density(voltage_kv: float) -> float:
    """Phase in radians per 1/Å of projected scattering length density: `γ λ`."""
    return (1 + voltage_kv / 510.999) * electron_wavelength(voltage_kv)


def water_amplitude(k: Tensor, thickness: float, voltage_kv: float) -> Tensor:
    """Root of the phase power of ice per Å2, radians Å, at frequencies `k` in 1/Å.

    `n t f(k)² S(k)` with a structure factor that is low below 1/6 1/Å (water is hardly compressible) and peaks at
    1/3.7 1/Å.
    """
    structure = 0.06 + 0.94 / (1 + torch.exp(-(k - 0.21) / 0.025)) + 0.5 * torch.exp(-(((k - 0.27) / 0.04) ** 2))
    factor = _WATER_FACTOR * torch.exp(-3.0 * k**2)
    return phase_per_density(voltage_kv) * factor * (_WATER_PER_A3 * thickness * structure).sqrt()


@dataclass(frozen=True)
class Surroundings:
    """What stays on one micrograph.

    Attributes
    ----------
    phase
        Phase of carbon and dirt in radians on a grid `step` times coarser than the frame, before the CTF, `(h', w')`.
    transmission
        Share of electrons that get through, on the same grid.
    step
        Frame pixels per grid point.
    blobs
        Centres yx in pixels and radii in pixels of crystals and aggregates, `(n, 3)`.
    hole
        Centre yx and radius in pixels of the hole in the carbon, or None where no carbon shows.
    """

    phase: np.ndarray
    transmission: np.ndarray
    step: int
    blobs: np.ndarray
    hole: tuple[float, float, float] | None

    def is_free(self, position_px: np.ndarray, margin_px: float) -> np.ndarray:
        """Whether positions `(n, 2)` keep a margin to dirt and carbon, `(n,)` bool."""
        free = np.ones(len(position_px), bool)
        for y, x, radius in self.blobs:
            free &= np.hypot(position_px[:, 0] - y, position_px[:, 1] - x) > radius + margin_px
        if self.hole is not None:
            y, x, radius = self.hole
            free &= np.hypot(position_px[:, 0] - y, position_px[:, 1] - x) < radius - margin_px
        return free


def random_surroundings(
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
    *,
    voltage_kv: float,
    contamination: float,
    carbon: bool,
) -> Surroundings:
    """Draw what stays on one micrograph."""
    step = max(1, int(FINEST / 4 / pixel_size))
    h, w = (-(-n // step) + 8 for n in shape)  # a rim of four points for the motion
    y, x = np.meshgrid((np.arange(h) - 4) * step, (np.arange(w) - 4) * step, indexing="ij")
    thin = 0.03 * (rng.normal() * (2 * y / shape[0] - 1) + rng.normal() * (2 * x / shape[1] - 1))
    transmission = 0.85 * (1 + np.clip(thin, -0.1, 0.1))
    phase = np.zeros((h, w))
    phi = phase_per_density(voltage_kv)
    blobs = []
    for _ in range(rng.poisson(contamination)):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        crystal = rng.random() < 0.5
        radius = rng.uniform(80, 300) if crystal else rng.uniform(120, 260)  # Å
        blobs.append((cy, cx, radius / pixel_size))
        away = np.hypot(y - cy, x - cx) * pixel_size
        if crystal:
            angle = np.arctan2(y - cy, x - cx)
            facets = 1 + 0.12 * np.cos(6 * angle + rng.uniform(0, 6)) * rng.random()
            lump = np.sqrt(np.clip(1 - (away / (radius * facets)) ** 2, 0, None))
            phase += phi * 0.03 * 2 * radius * lump
            transmission = transmission * (1 - 0.25 * lump)
        else:
            for _ in range(int(rng.integers(12, 40))):
                place = rng.normal(0, 0.45 * radius, 2) / pixel_size
                size = rng.uniform(20, 60)
                near = np.hypot(y - cy - place[0], x - cx - place[1]) * pixel_size
                phase += phi * 0.05 * 2 * np.sqrt(np.clip(size**2 - near**2, 0, None))
    hole = None
    if carbon:
        radius = rng.uniform(0.8, 1.6) * max(shape)
        angle = rng.uniform(0, 2 * np.pi)
        reach = radius - rng.uniform(0.1, 0.35) * min(shape)
        cy = shape[0] / 2 - np.sin(angle) * reach
        cx = shape[1] / 2 - np.cos(angle) * reach
        hole = (cy, cx, radius)
        cover = scipy.ndimage.gaussian_filter((np.hypot(y - cy, x - cx) > radius).astype(float), 10 / pixel_size / step)
        thickness = 150.0
        texture = rng.standard_normal((h, w)) / (step * pixel_size)
        phase += (
            cover
            * phi
            * (_CARBON_FACTOR * np.sqrt(_CARBON_PER_A3 * thickness) * texture + 0.3 * _CARBON_PER_A3 * thickness)
        )
        transmission = transmission * (1 - 0.15 * cover)
    return Surroundings(phase, transmission, step, np.asarray(blobs).reshape(-1, 3), hole)


@numba.njit(nogil=True, cache=True, fastmath=True)
def warp_into(
    coarse: np.ndarray,
    step: int,
    rim: int,
    in_y: np.ndarray,
    in_x: np.ndarray,
    orders: np.ndarray,
    modes_px: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add a coarse image, displaced by a motion field, to a frame.

    Parameters
    ----------
    coarse
        `(h', w')` float32, point `(rim, rim)` lies on pixel (0, 0), points are `step` pixels apart.
    in_y, in_x
        Legendre polynomials at rows `(h, degree + 1)` and columns `(w, degree + 1)`.
    orders, modes_px
        Orders `(m, 2)` and displacement in pixels `(m, 2)` yx of this frame.
    out
        `(h, w)` float32, changed in place.
    """
    h, w = out.shape
    n_modes = orders.shape[0]
    degree = in_y.shape[1] - 1
    last_y, last_x = coarse.shape[0] - 3, coarse.shape[1] - 3
    for i in range(h):
        along_y = np.zeros(degree + 1)
        along_x = np.zeros(degree + 1)
        for m in range(n_modes):
            along_y[orders[m, 1]] += in_y[i, orders[m, 0]] * modes_px[m, 0]
            along_x[orders[m, 1]] += in_y[i, orders[m, 0]] * modes_px[m, 1]
        for j in range(w):
            dy = 0.0
            dx = 0.0
            for b in range(degree + 1):
                dy += along_y[b] * in_x[j, b]
                dx += along_x[b] * in_x[j, b]
            y = (i - dy) / step + rim
            x = (j - dx) / step + rim
            y = min(max(y, 1.0), last_y + 0.999)
            x = min(max(x, 1.0), last_x + 0.999)
            y0, x0 = int(y), int(x)
            fy, fx = np.float32(y - y0), np.float32(x - x0)
            wy0, wy1, wy2, wy3 = _catmull_rom(fy)
            wx0, wx1, wx2, wx3 = _catmull_rom(fx)
            value = np.float32(0.0)
            for a in range(4):
                weight = wy0 if a == 0 else (wy1 if a == 1 else (wy2 if a == 2 else wy3))
                row = coarse[y0 - 1 + a]
                value += weight * (wx0 * row[x0 - 1] + wx1 * row[x0] + wx2 * row[x0 + 1] + wx3 * row[x0 + 2])
            out[i, j] += value


@numba.njit(nogil=True, cache=True, inline="always")
def _catmull_rom(f):  # type: ignore[no-untyped-def]
    f2 = f * f
    f3 = f2 * f
    return (
        np.float32(0.5) * (-f + 2 * f2 - f3),
        np.float32(0.5) * (2 - 5 * f2 + 3 * f3),
        np.float32(0.5) * (f + 4 * f2 - 3 * f3),
        np.float32(0.5) * (f3 - f2),
    )
