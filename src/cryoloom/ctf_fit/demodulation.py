"""A second estimate of defocus and astigmatism, which shares nothing with the first but the image.

The first fits a model with splines for background and depth to spectra of tapered tiles (`estimate.py`). Here the
periodogram of the whole image is averaged over neighbouring frequencies (Daniell's estimate, no tiles), and rings are
demodulated: in windows some periods wide, `power / mean - 1 ≈ background + a cos 2χ` is solved for a local straight
background and the amplitude `a` of each window, and what phase is left over is expanded in the Zernike polynomials of
defocus and astigmatism. (Phase demodulation of rings: Vargas, Otón, Marabini et al. 2013,
doi:10.1016/j.jsb.2012.11.009; they unwrap the phase, which needs rings above the noise in every place, while here the
windows are solved together around the best of an exhaustive search.) Where rings are faint what they leave open is far
from a Gaussian: estimate and errors are mean and covariance of samples of the posterior. The phase shift is taken as
given.
"""

import dataclasses
import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from cryoloom.ctf_fit.errors import sample_posterior
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.periodogram import N_SECTORS, PolarPeriodogram, polar_periodogram
from cryoloom.ctf_fit.search import WIDEST, SearchRange

MERGE = 3  # sectors that are one in the search
STEP = 60.0  # Å of defocus, of the search
N_TRIED = 4
N_SAMPLES = 64
PERIODS = 1.25  # of the rings in half a window
K_LOW, K_HIGH, K_FALLS, N_AMPLITUDES = 1 / 30, 1 / 3.2, 0.08, 7  # amplitude of the rings over frequency


@dataclass(frozen=True)
class DemodulatedCtf:
    """Defocus by demodulation.

    Attributes
    ----------
    defocus
        The estimate.
    covariance
        Of `(mean, cos, sin)`, Å², `(3, 3)`.
    gain
        How much the rings of the estimate lower the weighted sum of squares.
    noise
        What one superfluous parameter would lower it by.
    data
        What it was found from.
    """

    defocus: Defocus
    covariance: np.ndarray
    gain: float
    noise: float
    data: PolarPeriodogram

    @property
    def defocus_error(self) -> float:
        """Standard error of the mean defocus, Å."""
        return math.sqrt(float(self.covariance[0, 0]))

    def evidence(self) -> float:
        """Logarithm of the evidence for this maximum, but for a constant; a prior of no scale for the defocus."""
        return _evidence(self.defocus, self.covariance, self.gain / self.noise)


def demodulate_ctf(
    image: Tensor, pixel_size: float, beam: Beam, where: SearchRange, *, k_min: float = 1 / 30, k_max: float = 1 / 3.2
) -> DemodulatedCtf:
    """Estimate the defocus of a micrograph `(h, w)` from its demodulated rings.

    Parameters
    ----------
    pixel_size
        Å per pixel.
    where
        Range of the search; the first of its phase shifts is taken.
    k_min, k_max
        Frequencies used, 1/Å.

    Raises
    ------
    ValueError
        If the image is smaller than 64 pixels or holds no power.
    """
    if min(image.shape[-2:]) < 64:
        raise ValueError(f"image: expected at least 64 x 64 pixels, got {tuple(image.shape)}")
    data = polar_periodogram(image, pixel_size, k_min, min(k_max, 0.47 / pixel_size))
    shift = where.phase_shifts[0]
    tried = [_refine(data, beam, start, where) for start in _search(data, beam, where, shift)]
    return _posterior(max(tried, key=DemodulatedCtf.evidence), beam, where)


def gain_at(data: PolarPeriodogram, beam: Beam, defocus: Defocus) -> float:
    """How much rings of a given CTF lower the weighted sum of squares."""
    return _windows(data, beam, defocus.as_array())[2]


def evidence_at(data: PolarPeriodogram, beam: Beam, defocus: Defocus) -> float:
    """Logarithm of the evidence for a given CTF, but for a constant (`DemodulatedCtf.evidence`)."""
    normal, _, gain, noise = _windows(data, beam, defocus.as_array())
    return _evidence(defocus, np.linalg.pinv(normal, hermitian=True) * noise, gain / noise)


def _evidence(defocus: Defocus, covariance: np.ndarray, gain: float) -> float:
    # one maximum is no wider than WIDEST
    volume = 1 / float(np.linalg.det(np.linalg.pinv(covariance, hermitian=True) + np.eye(3) / WIDEST**2))
    return 0.5 * (gain + math.log(volume)) - math.log(max(defocus.mean, 1_000.0))


def _search(data: PolarPeriodogram, beam: Beam, where: SearchRange, phase_shift: float) -> list[Defocus]:
    """Best places of a grid in mean defocus and astigmatism, for narrow and for wide bands of frequency.

    In each band all directions vote, each with its own defocus; bands in which rings have the wrong sign do not count.
    """
    n_directions = N_SECTORS // MERGE
    theta = -0.5 * math.pi + (np.arange(n_directions) + 0.5) * math.pi / n_directions
    half = 0.5 * where.astigmatism_max
    pad = math.ceil(half / STEP) + 1
    n_mean = 1 + round((where.defocus_max - where.defocus_min) / STEP)
    grid = where.defocus_min + STEP * (np.arange(n_mean + 2 * pad) - pad)
    first, n_shells = int(data.shell.min()), int(data.shell.max() - data.shell.min()) + 1
    bins = (data.shell - first) * n_directions + data.sector // MERGE

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, values, n_shells * n_directions).reshape(n_shells, n_directions)

    weight, signal = summed(data.weight), summed(data.weight * data.ratio)
    k2 = summed(data.weight * data.k2).sum(1) / np.maximum(weight.sum(1), 1e-12)
    phase = beam.double_phase_at_focus(k2) - 2 * phase_shift
    rings = -np.cos(phase - 2 * math.pi * beam.wavelength * grid[:, None] * k2)  # (grid, shells)
    reach = math.sqrt(min(float(k2.max()), 0.08))
    found: list[Defocus] = []
    for n_bands in (8, 3):
        edges = np.linspace(math.sqrt(float(k2[k2 > 0].min())), reach, n_bands + 1) ** 2
        votes, norms = [], []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            here = (k2 >= low) & (k2 < high)
            if here.sum() < 6:
                continue
            votes.append(_band_votes(rings[:, here], weight[here], signal[here], k2[here]))
            norms.append(np.maximum(0.5 * weight[here].sum(), 1e-12))
        found += _grid_maxima(votes, norms, grid, theta, half, pad, n_mean, phase_shift)
    return found


def _band_votes(rings: np.ndarray, weight: np.ndarray, signal: np.ndarray, k2: np.ndarray) -> np.ndarray:
    """Agreement of one band with rings of each defocus in each direction, `(n_directions, n_grid)`; lines are free."""
    line = np.stack([np.ones_like(k2), (k2 - k2.mean()) / np.ptp(k2)], 1)
    out = np.empty((weight.shape[1], len(rings)))
    for d in range(weight.shape[1]):
        w = weight[:, d]
        gram = line.T @ (w[:, None] * line) + 1e-9 * np.eye(2)
        out[d] = rings @ (signal[:, d] - w * (line @ np.linalg.solve(gram, line.T @ signal[:, d])))
    return out


def _grid_maxima(
    votes: list[np.ndarray], norms: list[float], grid: np.ndarray, theta: np.ndarray, half: float, pad: int,
    n_mean: int, phase_shift: float,
) -> list[Defocus]:  # fmt: skip
    """The best places that lie apart in mean defocus, each with its best astigmatism."""
    steps = np.arange(-math.floor(half / 200.0), math.floor(half / 200.0) + 1) * 200.0
    score, at = np.full(n_mean, -np.inf), np.zeros((n_mean, 2))
    for a in steps:
        for b in steps[np.hypot(a, steps) <= half + 1]:
            moved = np.rint((a * np.cos(2 * theta) + b * np.sin(2 * theta)) / STEP).astype(int) + pad
            total = np.zeros(n_mean)
            for vote, norm in zip(votes, norms, strict=True):
                band = np.sum([vote[d, m : m + n_mean] for d, m in enumerate(moved)], axis=0)
                total += np.clip(band, 0, None) ** 2 / norm
            better = total > score
            score[better], at[better] = total[better], (a, b)
    mean, best = grid[pad : pad + n_mean], []
    for _ in range(N_TRIED):
        j = int(np.argmax(score))
        if not np.isfinite(score[j]):
            break
        best.append(Defocus(float(mean[j]), float(at[j, 0]), float(at[j, 1]), phase_shift))
        score[np.abs(mean - mean[j]) < max(250.0, 0.02 * mean[j])] = -np.inf
    return best


def _refine(
    data: PolarPeriodogram, beam: Beam, start: Defocus, where: SearchRange, n_steps: int = 12
) -> DemodulatedCtf:
    """Steps that take the phase left over in all windows out, until there is none."""
    theta = start.as_array()
    normal, right, gain, noise = _windows(data, beam, theta)
    for _ in range(n_steps):
        change = np.linalg.lstsq(normal + 1e-9 * np.trace(normal) * np.eye(3), right, rcond=1e-10)[0]
        largest = 2 * math.pi * beam.wavelength * float(data.k2.max()) * float(np.abs(change).max())
        change *= min(1.0, 2.0 / max(largest, 1e-12))
        for _ in range(5):
            trial = where.inside(theta + np.append(change, 0.0))
            new = _windows(data, beam, trial)
            if new[2] >= gain - 1e-6:
                break
            change *= 0.4
        else:
            break
        theta, (normal, right, gain, noise) = trial, new
        if np.abs(change).max() < 0.1:
            break
    covariance = np.linalg.pinv(normal, hermitian=True) * noise
    return DemodulatedCtf(Defocus(*(float(x) for x in theta)), covariance, gain, noise, data)


def _posterior(found: DemodulatedCtf, beam: Beam, where: SearchRange) -> DemodulatedCtf:
    """The mean of the posterior instead of its maximum, with its covariance; without rings, that of the search."""
    data, start = found.data, found.defocus.as_array()
    searched = np.diag([(where.defocus_max - where.defocus_min) ** 2 / 12, *([where.astigmatism_max**2 / 16] * 2)])
    if np.linalg.eigvalsh(found.covariance)[0] <= 0 or found.covariance[0, 0] > searched[0, 0]:
        return dataclasses.replace(found, covariance=searched)

    def log_likelihood(theta: np.ndarray) -> float:
        return 0.5 * _windows(data, beam, theta)[2] / found.noise if where.holds(theta) else -math.inf

    mean, covariance = sample_posterior(start, found.covariance, log_likelihood, N_SAMPLES)
    defocus = Defocus(*(float(x) for x in mean))
    return DemodulatedCtf(defocus, covariance, gain_at(data, beam, defocus), found.noise, data)


def _windows(data: PolarPeriodogram, beam: Beam, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Normal matrix and right side of the phase left over, gain and mean square residual, over all windows.

    A single window of faint rings does not know its amplitude, so the amplitudes of all are one smooth curve: never
    negative, and falling beyond `K_FALLS`.
    """
    places = _window_places(data, beam, theta[0])
    sums, freedom = _window_sums(
        data.ratio, data.weight, data.k2, data.k2_cos, data.k2_sin, beam.double_phase_at_focus(data.k2) - 2 * theta[3],
        -2 * math.pi * beam.wavelength, theta[:3], places,
    )  # fmt: skip
    held = freedom > 12
    if not held.any():
        raise ValueError("the image is too small for its rings to be followed")
    sums, centres = sums[held], places[held, 0]
    # the background of each window is eliminated; left are amplitude, derivatives and data, `(n, 5, 5)`
    left = sums[:, :4, :4]
    left = left + 1e-9 * np.trace(left, axis1=1, axis2=2)[:, None, None] * np.eye(4)
    schur = sums[:, 4:, 4:] - sums[:, 4:, :4] @ np.linalg.solve(left, sums[:, :4, 4:])
    inner, outer, unexplained = schur[:, :4, :4], schur[:, :4, 4], float(schur[:, 4, 4].sum())
    basis = _amplitude_basis(np.sqrt(centres))
    curve = basis.T @ (inner[:, 0, 0, None] * basis)
    root = np.linalg.cholesky(curve + 1e-9 * np.trace(curve) * np.eye(len(curve)))
    factors, _ = nnls(root.T, solve_triangular(root, target := basis.T @ outer[:, 0], lower=True))
    depth = basis @ factors
    gain = float(2 * factors @ target - factors @ curve @ factors)
    active = basis[:, factors > 0]
    to_depth = active.T @ (depth[:, None] * inner[:, 0, 1:])
    normal = np.einsum("j,jab->ab", depth**2, inner[:, 1:, 1:])
    normal -= to_depth.T @ np.linalg.pinv(active.T @ (inner[:, 0, 0, None] * active), hermitian=True) @ to_depth
    right = depth @ (outer[:, 1:] - depth[:, None] * inner[:, 0, 1:])
    n_free = float((freedom[held] - 4).sum()) - len(active.T)
    return normal, right, gain, max((unexplained - gain) / max(n_free, 1.0), 1.0)


def _window_places(data: PolarPeriodogram, beam: Beam, defocus: float) -> np.ndarray:
    """Centre and half width of the windows, in squared frequency, `(n, 2)`."""
    period = 1 / (beam.wavelength * max(abs(defocus), 1_000.0))
    centre, high = float(data.k2.min()), float(data.k2.max())
    places = []
    while centre < high:
        half = max(PERIODS * period, 0.04 * math.sqrt(centre))
        places.append((centre, half))
        centre += half
    return np.asarray(places)


def _amplitude_basis(k: np.ndarray) -> np.ndarray:
    """Curves whose non-negative sums are amplitudes at frequencies `k`, `(n, N_AMPLITUDES)`."""
    x = np.sqrt(k)
    knots = np.linspace(math.sqrt(K_LOW), math.sqrt(K_HIGH), N_AMPLITUDES)
    step = knots[1] - knots[0]
    hats = np.clip(1 - np.abs(np.clip(x, knots[0], knots[-1])[:, None] - knots) / step, 0, None)
    first = int(np.searchsorted(knots, math.sqrt(K_FALLS)))
    combine = np.eye(N_AMPLITUDES)
    for j in range(first, N_AMPLITUDES):
        combine[first : j + 1, j] = 1.0
    return hats @ combine


@numba.njit(nogil=True, cache=True)
def _window_sums(ratio, weight, k2, k2_cos, k2_sin, at_focus, bend, theta, places):  # pragma: no cover - compiled
    """Weighted products of four background functions, rings, their derivatives and data in each window, `(n, 9, 9)`.

    Also the sum of the shapes of the windows, `(n,)`.
    """
    n = len(places)
    sums, freedom = np.zeros((n, 9, 9)), np.zeros(n)
    v = np.empty(9)
    for b in range(len(k2)):
        phase = at_focus[b] + bend * (theta[0] * k2[b] + theta[1] * k2_cos[b] + theta[2] * k2_sin[b])
        sine = bend * math.sin(phase)
        v[0], v[2], v[3], v[4] = 1.0, k2_cos[b] / k2[b], k2_sin[b] / k2[b], -math.cos(phase)
        v[5], v[6], v[7], v[8] = sine * k2[b], sine * k2_cos[b], sine * k2_sin[b], ratio[b]
        for j in range(n):
            v[1] = (k2[b] - places[j, 0]) / places[j, 1]
            if v[1] >= 1.0:
                continue
            if v[1] <= -1.0:
                break
            shape = 0.5 + 0.5 * math.cos(math.pi * v[1])
            freedom[j] += shape
            w = weight[b] * shape
            for p in range(9):
                wv = w * v[p]
                for q in range(p + 1):
                    sums[j, p, q] += wv * v[q]
    for p in range(9):
        for q in range(p):
            sums[:, q, p] = sums[:, p, q]
    return sums, freedom
