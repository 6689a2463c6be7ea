"""Exhaustive search for defocus and astigmatism without a starting value.

For each sector of the spectrum the agreement with rings of every defocus is tabulated once, band by band; the
agreement with an astigmatic CTF is then a sum of table entries, one per sector, since in a sector the defocus is
`mean + cos·cos 2θ + sin·sin 2θ`. So all of a fine grid in mean defocus and both components of astigmatism is
visited in milliseconds. Bands have free, non-negative depths of the rings: nothing is assumed about the envelope.
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.model import Beam, Defocus, spline_basis

N_BANDS = 9
DEFOCUS_STEP = 50.0
WIDEST = 600.0  # Å; standard error beyond which a defocus says nothing of one maximum among many


@dataclass(frozen=True)
class SearchRange:
    """Where to look.

    Attributes
    ----------
    defocus_min, defocus_max
        Mean defocus, Å.
    astigmatism_max
        Largest `U - V`, Å.
    phase_shifts
        Phase shifts tried, radians.
    """

    defocus_min: float = 2_000.0
    defocus_max: float = 60_000.0
    astigmatism_max: float = 2_400.0
    phase_shifts: tuple[float, ...] = (0.0,)

    def holds(self, theta: np.ndarray) -> bool:
        """Whether `theta = (mean, cos, sin, phase_shift)` lies in the range, rounding of the grid included."""
        return bool(np.abs(self.inside(theta) - theta).max() < 1e-6)

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """The nearest `(mean, cos, sin, phase_shift)` of the range: its mean defocus and astigmatism are limited."""
        near = np.array(theta, np.float64)
        near[0] = np.clip(near[0], self.defocus_min - DEFOCUS_STEP, self.defocus_max + DEFOCUS_STEP)
        half, largest = math.hypot(near[1], near[2]), 0.5 * self.astigmatism_max
        if half > largest:
            near[1:3] *= largest / half
        return near


@dataclass(frozen=True)
class Candidate:
    """A maximum of the search.

    Attributes
    ----------
    defocus
        Where.
    gain
        Decrease of the weighted sum of squares, summed over bands.
    """

    defocus: Defocus
    gain: float


def search_defocus(
    ripple: np.ndarray,
    weight: np.ndarray,
    k: np.ndarray,
    beam: Beam,
    where: SearchRange,
    *,
    n_background: int = 6,
    n_best: int = 6,
) -> list[Candidate]:
    """The best well-separated maxima of the agreement over all of `where`, best first.

    Parameters
    ----------
    ripple
        Power divided by its smooth radial mean, minus 1, `(n_k, n_sectors)`; sectors cover half a turn from -90°.
    weight
        Inverse variance of one sector of `ripple`, `(n_k,)`.
    k
        Frequency of each row, 1/Å, `(n_k,)`.
    n_background
        Smooth functions of `k` that are taken out of rings and data before they are compared.
    """
    n_sectors = ripple.shape[1]
    theta = -0.5 * math.pi + (np.arange(n_sectors) + 0.5) * math.pi / n_sectors
    half_max = 0.5 * where.astigmatism_max
    n_pad = math.ceil(half_max / DEFOCUS_STEP) + 1
    n_mean = max(1, 1 + round((where.defocus_max - where.defocus_min) / DEFOCUS_STEP))
    grid = where.defocus_min + DEFOCUS_STEP * (np.arange(n_mean + 2 * n_pad) - n_pad)
    angle = beam.double_phase_at_focus(k**2)[None, :] - 2 * math.pi * beam.wavelength * grid[:, None] * k[None, :] ** 2
    root = np.sqrt(weight)
    smooth = spline_basis(np.sqrt(k), math.sqrt(k[0]), math.sqrt(k[-1]), n_background)
    q_smooth = np.linalg.qr(smooth * root[:, None])[0]  # (n_k, n_background)
    data = ripple * root[:, None]
    data = (data - q_smooth @ (q_smooth.T @ data)).astype(np.float32)
    bands = _hats(k)  # (n_bands, n_k)
    steps = _astigmatism_grid(half_max)
    best: list[Candidate] = []
    cos_angle, sin_angle = np.cos(angle), np.sin(angle)
    for phase_shift in where.phase_shifts:
        # -cos(2χ - 2φ): brighter where the CTF is large
        rings = -(cos_angle * math.cos(2 * phase_shift) + sin_angle * math.sin(2 * phase_shift)) * root
        table, norm = _tabulate(rings, bands, q_smooth, data)
        gain = np.empty((len(steps), n_mean), np.float32)
        for n, (a_cos, a_sin) in enumerate(steps):
            offset = np.rint((a_cos * np.cos(2 * theta) + a_sin * np.sin(2 * theta)) / DEFOCUS_STEP).astype(int) + n_pad
            gain[n] = _gain(table, norm, offset, n_mean)
        best += _maxima(gain, steps, grid[n_pad : n_pad + n_mean], phase_shift, n_best)
    best.sort(key=lambda c: -c.gain)
    return best[: max(n_best, 2 * n_best if len(where.phase_shifts) > 1 else 0)]


def _hats(k: np.ndarray) -> np.ndarray:
    """Overlapping triangles in frequency that sum to one, `(N_BANDS, n_k)`."""
    place = (k - k[0]) / (k[-1] - k[0]) * (N_BANDS - 1)
    return np.clip(1 - np.abs(place[None, :] - np.arange(N_BANDS)[:, None]), 0, None)


def _astigmatism_grid(half_max: float, step: float = 200.0) -> np.ndarray:
    """Hexagonal grid of (cos, sin) components within a disc, `(n, 2)` Å, the origin first."""
    n = math.ceil(half_max / step) + 1
    i, j = np.meshgrid(np.arange(-2 * n, 2 * n + 1), np.arange(-2 * n, 2 * n + 1), indexing="ij")
    points = step * np.stack([i + 0.5 * j, math.sqrt(0.75) * j], -1).reshape(-1, 2)
    radius = np.hypot(points[:, 0], points[:, 1])
    points = points[radius <= half_max + 1e-6]
    return points[np.argsort(np.hypot(points[:, 0], points[:, 1]), kind="stable")]


def _tabulate(
    rings: np.ndarray, bands: np.ndarray, q_smooth: np.ndarray, data: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of rings and data `(n_bands, n_sectors, n_grid)`, squared norms of rings `(n_bands, n_grid)`."""
    table = np.empty((len(bands), data.shape[1], len(rings)), np.float32)
    norm = np.empty((len(bands), len(rings)), np.float32)
    for b, band in enumerate(bands):
        support = band > 0
        part = rings[:, support] * band[support]
        inside = part @ q_smooth[support]  # (n_grid, n_background): what the background would take
        table[b] = (part.astype(np.float32) @ data[support]).T
        norm[b] = np.einsum("ij,ij->i", part, part) - np.einsum("ij,ij->i", inside, inside)
    return table, norm


def _gain(table: np.ndarray, norm: np.ndarray, offset: np.ndarray, n_mean: int) -> np.ndarray:
    """Gain of one astigmatism for all mean defoci, `(n_mean,)`."""
    product = np.zeros((len(table), n_mean), np.float32)
    length = np.zeros((len(table), n_mean), np.float32)
    for sector, first in enumerate(offset):
        product += table[:, sector, first : first + n_mean]
        length += norm[:, first : first + n_mean]
    # A band whose rings are almost all background says nothing.
    return (np.clip(product, 0, None) ** 2 / (length + 0.05 * length.max(axis=1, keepdims=True))).sum(axis=0)


def _maxima(gain: np.ndarray, steps: np.ndarray, grid: np.ndarray, phase_shift: float, n_best: int) -> list[Candidate]:
    """The highest maxima that lie apart in mean defocus."""
    over_astigmatism = gain.max(axis=0)
    left = over_astigmatism.copy()
    found = []
    for _ in range(n_best):
        j = int(np.argmax(left))
        if not np.isfinite(left[j]) or left[j] <= 0:
            break
        n = int(np.argmax(gain[:, j]))
        where = Defocus(float(grid[j]), float(steps[n, 0]), float(steps[n, 1]), phase_shift)
        found.append(Candidate(where, float(left[j])))
        left[np.abs(grid - grid[j]) < max(250.0, 0.02 * grid[j])] = -np.inf
    return found
