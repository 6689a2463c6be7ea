"""Fit of background and depth of the rings for a given defocus, in a fraction of a millisecond.

The model of `model.py` is linear in the background (radial splines, and slower ones times `cos 2θ` and `sin 2θ`)
and in the depth of the rings (radial splines, non-negative, falling beyond 1/12 Å). All these functions are radial
but for the rings, `cos 2θ` and `sin 2θ`; so sums over the directions of each shell are all that depends on the
defocus, and the least-squares problem is put together from them. The same sums with the derivative of the rings
give the Gauss-Newton step (variable projection: Golub, Pereyra 1973).
"""

import copy
import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from cryoloom.ctf_fit.model import Beam, spline_basis
from cryoloom.ctf_fit.rings import RingData

K_FALLS = 0.08


@dataclass(frozen=True)
class Solution:
    """Background and depth for one defocus.

    Attributes
    ----------
    cost
        Weighted sum of squares that is left.
    background
        Coefficients of the background, `(n_background,)`.
    depth
        Coefficients of the depth, `(n_depth,)`, none negative.
    moments
        Sums over directions of products with the rings: 1, `cos 2θ`, `sin 2θ`, the rings themselves, the data;
        `(n_rows, 5)`.
    phase
        `2χ` at the bins, `(n,)`.
    """

    cost: float
    background: np.ndarray
    depth: np.ndarray
    moments: np.ndarray
    phase: np.ndarray


class RingProfile:
    """The part of a fit that does not change with the defocus.

    Parameters
    ----------
    data
        Spectrum.
    beam
        Microscope.
    defocus
        Rough mean defocus in Å: it says how many rings there are, and so how flexible the background may be.
    ring_factor
        Known radial factor of the rings, for instance of a thick specimen, `(n_rows,)`.
    """

    def __init__(self, data: RingData, beam: Beam, defocus: float, ring_factor: np.ndarray | None = None) -> None:
        self.data, self.beam = data, beam
        self.at_focus = beam.double_phase_at_focus(data.k2)
        bend = -2 * math.pi * beam.wavelength
        ones = np.ones_like(data.k2)
        self.slopes = np.ascontiguousarray(
            np.stack([bend * data.k2, bend * data.k2_cos, bend * data.k2_sin, -2 * ones], 1)
        )
        self.angular = np.ascontiguousarray(np.stack([ones, data.k2_cos / data.k2, data.k2_sin / data.k2], 1))
        radial, slow, self.depth_basis = _bases(data.k, defocus, beam)
        if ring_factor is not None:
            self.depth_basis = self.depth_basis * ring_factor[:, None]
        self.ring_factor = ring_factor
        self.parts = (radial, slow, slow)
        weighted = data.weight[:, None] * self.angular
        n = len(data.k)
        inner = np.zeros((n, 3, 3))
        right = np.zeros((n, 3))
        np.add.at(inner, data.row, weighted[:, :, None] * self.angular[:, None, :])
        np.add.at(right, data.row, weighted * data.ratio[:, None])
        self.normal = np.block(
            [[p.T @ (inner[:, i, j, None] * q) for j, q in enumerate(self.parts)] for i, p in enumerate(self.parts)]
        )
        self.normal[np.diag_indices_from(self.normal)] *= 1 + 1e-9
        self.right = np.concatenate([p.T @ right[:, i] for i, p in enumerate(self.parts)])
        self.total = float((data.weight * data.ratio**2).sum())
        self.root = np.linalg.cholesky(self.normal)
        self.half = np.linalg.solve(self.root, self.right)
        self.cost_flat = self.total - float(self.half @ self.half)

    def with_ring_factor(self, ring_factor: np.ndarray) -> "RingProfile":
        """The same with another known factor of the rings."""
        other = copy.copy(self)
        plain = self.depth_basis if self.ring_factor is None else self.depth_basis / self.ring_factor[:, None]
        other.depth_basis, other.ring_factor = plain * ring_factor[:, None], ring_factor
        return other

    def solve(self, theta: np.ndarray) -> Solution:
        """Best background and depth for `theta = (mean, cos, sin, phase_shift)`."""
        data = self.data
        phase = self.at_focus + self.slopes @ theta
        moments = _moments(phase, data.weight, data.ratio, self.angular, data.row, len(data.k))
        across = np.concatenate([p.T @ (moments[:, i, None] * self.depth_basis) for i, p in enumerate(self.parts)])
        inner = self.depth_basis.T @ (moments[:, 3, None] * self.depth_basis)
        right = self.depth_basis.T @ moments[:, 4]
        through = solve_triangular(self.root, across, lower=True, check_finite=False)
        left = inner - through.T @ through
        left[np.diag_indices_from(left)] += 1e-9 * np.trace(inner) / len(inner)
        root = np.linalg.cholesky(left)
        target = solve_triangular(root, right - through.T @ self.half, lower=True, check_finite=False)
        depth, misfit = nnls(root.T, target)
        cost = self.cost_flat - float(target @ target) + misfit**2
        background = solve_triangular(self.root, self.half - through @ depth, lower=True, trans=1, check_finite=False)
        return Solution(cost, background, depth, moments, phase)

    def step(self, solution: Solution, n_free: int) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix and right side of the Gauss-Newton step of the first `n_free` phase parameters.

        Background and depth are eliminated.
        """
        depth = self.depth_basis @ solution.depth
        levels = self.levels(solution)
        moments = solution.moments
        data = self.data
        slope = _slope_moments(
            solution.phase, data.weight, data.ratio, self.angular, self.slopes, data.row, len(data.k)
        )
        m_dg = slope[:, :12].reshape(-1, 4, 3)[:, :n_free]  # derivative x (1, cos 2θ, sin 2θ)
        m_dc = slope[:, 12:16][:, :n_free]  # derivative x rings
        m_dy = slope[:, 16:20][:, :n_free]  # derivative x data
        m_dd = slope[:, 20:].reshape(-1, 4, 4)[:, :n_free, :n_free]
        left = np.einsum("s,sij->ij", depth**2, m_dd)
        right = depth @ (m_dy - np.einsum("sij,sj->si", m_dg, levels) - depth[:, None] * m_dc)
        active = self.depth_basis[:, solution.depth > 0]
        to_background = np.concatenate(
            [p.T @ (depth[:, None] * m_dg[:, :, i]) for i, p in enumerate(self.parts)]
        )  # (n_background, n_free)
        to_depth = active.T @ (depth[:, None] * m_dc)
        across = np.concatenate([p.T @ (moments[:, i, None] * active) for i, p in enumerate(self.parts)])
        inner = active.T @ (moments[:, 3, None] * active)
        normal = np.block([[self.normal, across], [across.T, inner]])
        coupling = np.concatenate([to_background, to_depth])
        solved = np.linalg.lstsq(normal, coupling, rcond=1e-12)[0]
        return left - coupling.T @ solved, right

    def levels(self, solution: Solution) -> np.ndarray:
        """Radial parts of the background that go with 1, `cos 2θ`, `sin 2θ`, `(n_rows, 3)`."""
        out, first = [], 0
        for part in self.parts:
            out.append(part @ solution.background[first : first + part.shape[1]])
            first += part.shape[1]
        return np.stack(out, 1)

    def design(self, theta: np.ndarray, solution: Solution, n_free: int) -> np.ndarray:
        """Derivatives of the model at the bins: phase parameters, background, active depth, `(n, p)`."""
        phase = self.at_focus + self.slopes @ theta
        depth = (self.depth_basis @ solution.depth)[self.data.row]
        row = self.data.row
        columns = [(depth * np.sin(phase))[:, None] * self.slopes[:, :n_free]]
        columns += [part[row] * self.angular[:, i, None] for i, part in enumerate(self.parts)]
        columns.append(-np.cos(phase)[:, None] * self.depth_basis[row][:, solution.depth > 0])
        return np.concatenate(columns, 1)


def _bases(k: np.ndarray, defocus: float, beam: Beam) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radial background, its slow directional part, and depth, all over `sqrt(k)`."""
    low, high = float(k[0]), float(k[-1])
    # Background functions must be slower than the rings: count the rings in the range.
    rings = abs(beam.wavelength * defocus * (high**2 - low**2) - 0.5 * beam.cs_mm * 1e7 * beam.wavelength**3 * high**4)
    x, x_low, x_high = np.sqrt(k), math.sqrt(low), math.sqrt(high)
    n_background = int(np.clip(round(1.6 * rings), 6, 16))
    n_depth = int(np.clip(round(0.8 * rings), 4, 9))
    depth = spline_basis(x, x_low, x_high, n_depth) @ _falling(x_low, x_high, n_depth)
    return spline_basis(x, x_low, x_high, n_background), spline_basis(x, x_low, x_high, 4), depth


def _falling(x_low: float, x_high: float, n: int) -> np.ndarray:
    """Combinations of `n` splines over `sqrt(k)` whose non-negative sums fall beyond `K_FALLS`, `(n, n)`."""
    centre = x_low + (x_high - x_low) * np.arange(n) / (n - 1)
    first = int(np.searchsorted(centre, math.sqrt(K_FALLS)))
    combine = np.eye(n)
    for j in range(first, n):
        combine[first : j + 1, j] = 1.0
    return combine


@numba.njit(nogil=True, cache=True)
def _moments(
    phase: np.ndarray, weight: np.ndarray, ratio: np.ndarray, angular: np.ndarray, row: np.ndarray, n_rows: int
) -> np.ndarray:  # pragma: no cover - compiled
    """Sums over the bins of each shell of products of the rings with background functions, themselves and data."""
    out = np.zeros((n_rows, 5))
    for b in range(len(phase)):
        s = row[b]
        rings = -math.cos(phase[b])
        w = weight[b] * rings
        for i in range(3):
            out[s, i] += w * angular[b, i]
        out[s, 3] += w * rings
        out[s, 4] += w * ratio[b]
    return out


@numba.njit(nogil=True, cache=True)
def _slope_moments(
    phase: np.ndarray,
    weight: np.ndarray,
    ratio: np.ndarray,
    angular: np.ndarray,
    slopes: np.ndarray,
    row: np.ndarray,
    n_rows: int,
) -> np.ndarray:  # pragma: no cover - compiled
    """The same with the derivatives of the rings for the four phase parameters."""
    out = np.zeros((n_rows, 36))
    derivative = np.empty(4)
    for b in range(len(phase)):
        s, w, y = row[b], weight[b], ratio[b]
        rings, sine = -math.cos(phase[b]), math.sin(phase[b])
        for m in range(4):
            derivative[m] = sine * slopes[b, m]
        for m in range(4):
            d = w * derivative[m]
            for i in range(3):
                out[s, 3 * m + i] += d * angular[b, i]
            out[s, 12 + m] += d * rings
            out[s, 16 + m] += d * y
            for n in range(4):
                out[s, 20 + 4 * m + n] += d * derivative[n]
    return out
