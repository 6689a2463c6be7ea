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
import torch
from torch import Tensor

from cryoloom.ctf_fit.errors import sample_posterior
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.fourier import rfftn

N_SECTORS = 36
MERGE = 3  # sectors that are one in the search
EXTENT = 1536.0  # Å; shells are no finer than one over this
EDGE = 0.03  # part of the image that fades at each side
STEP = 60.0  # Å of defocus, of the search
N_TRIED = 4
N_SAMPLES = 64


@dataclass(frozen=True)
class PolarPeriodogram:
    """Periodogram of an image in polar bins, only those that hold coefficients.

    Attributes
    ----------
    ratio
        Mean power over the smooth radial mean, minus 1, `(n,)`.
    weight
        Inverse variance of `ratio` where it is 0, `(n,)`.
    k2, k2_cos, k2_sin
        Means of `k²`, `k² cos 2θ`, `k² sin 2θ`, 1/Å², `(n,)`.
    shell, sector
        Frequency and direction, `(n,)` int64.
    """

    ratio: np.ndarray
    weight: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    shell: np.ndarray
    sector: np.ndarray


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
    data
        What it was found from.
    """

    defocus: Defocus
    covariance: np.ndarray
    gain: float
    data: PolarPeriodogram

    @property
    def defocus_error(self) -> float:
        """Standard error of the mean defocus, Å."""
        return math.sqrt(float(self.covariance[0, 0]))


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
    tried = [_refine(data, beam, start) for start in _search(data, beam, where, shift)]
    return _posterior(max(tried, key=lambda found: found.gain), beam, where)


def gain_at(data: PolarPeriodogram, beam: Beam, defocus: Defocus) -> float:
    """How much rings of a given CTF lower the weighted sum of squares."""
    return _windows(data, beam, defocus.as_array())[2]


def polar_periodogram(image: Tensor, pixel_size: float, k_min: float, k_max: float) -> PolarPeriodogram:
    """Periodogram of the whole image, averaged in polar bins and divided by its smooth radial mean."""
    h, w = (int(n) for n in image.shape[-2:])
    fade = [torch.from_numpy(_fade(n)) for n in (h, w)]
    level = image.to(torch.float32)
    dft = rfftn(((level - level.mean()) * fade[0][:, None] * fade[1]).cpu(), 2).numpy()
    per_shell = min(EXTENT, min(h, w) * pixel_size)
    n_shells = int(k_max * per_shell) + 1
    sums = np.zeros((5, n_shells * N_SECTORS))
    _gather(dft, h, w, pixel_size, per_shell, n_shells, sums)
    count = np.maximum(sums[0], 1)
    shell = np.arange(sums.shape[1]) // N_SECTORS
    radial = sums[1].reshape(n_shells, -1).sum(1) / np.maximum(sums[0].reshape(n_shells, -1).sum(1), 1)
    k = (np.arange(n_shells)) / per_shell
    smooth = _smooth_radial(k, radial, k_min)
    use = (sums[0] > 0) & (k[shell] >= k_min) & (k[shell] <= k_max)
    if not use.any() or not np.all(np.isfinite(smooth[shell[use]])):
        raise ValueError("the power spectrum is flat or empty: this is no image of ice")
    # the taper makes neighbouring coefficients alike
    alike = float(np.prod([len(f) * float((f**4).sum()) / float((f**2).sum()) ** 2 for f in fade]))
    mean = [sums[i][use] / count[use] for i in range(1, 5)]
    return PolarPeriodogram(
        mean[0] / smooth[shell[use]] - 1, count[use] / alike, mean[1], mean[2], mean[3],
        shell[use], np.flatnonzero(use) % N_SECTORS,
    )  # fmt: skip


def _smooth_radial(k: np.ndarray, radial: np.ndarray, k_min: float) -> np.ndarray:
    """Polynomial of `log k` through the logarithm of the radial mean, robust against rings and spikes."""
    good = (k >= k_min) & (radial > 0)
    if good.sum() < 16:
        raise ValueError("the power spectrum is flat or empty: this is no image of ice")
    x = np.log(np.maximum(k, k[1]))
    low, high = x[good].min(), x[good].max()
    basis = np.polynomial.chebyshev.chebvander((2 * x - low - high) / (high - low), 5)
    target, weight = np.log(np.where(good, radial, 1.0)), good * k
    for _ in range(3):
        root = np.sqrt(weight)[:, None]
        found = np.linalg.lstsq(basis * root, target * root[:, 0], rcond=None)[0]
        misfit = np.abs(target - basis @ found)
        weight = good * k / np.maximum(1.0, misfit / (3 * np.median(misfit[good]) + 1e-9))
    return np.exp(np.where(k >= 0.5 * k_min, basis @ found, 0.0))


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


def _refine(data: PolarPeriodogram, beam: Beam, start: Defocus, n_steps: int = 12) -> DemodulatedCtf:
    """Steps that take the phase left over in all windows out, until there is none."""
    theta = start.as_array()
    normal, right, gain, noise = _windows(data, beam, theta)
    for _ in range(n_steps):
        change = np.linalg.lstsq(normal + 1e-9 * np.trace(normal) * np.eye(3), right, rcond=1e-10)[0]
        largest = 2 * math.pi * beam.wavelength * float(data.k2.max()) * float(np.abs(change).max())
        change *= min(1.0, 2.0 / max(largest, 1e-12))
        for _ in range(5):
            trial = theta.copy()
            trial[:3] += change
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
    return DemodulatedCtf(Defocus(*(float(x) for x in theta)), covariance, gain, data)


def _posterior(found: DemodulatedCtf, beam: Beam, where: SearchRange) -> DemodulatedCtf:
    """The mean of the posterior instead of its maximum, with its covariance; without rings, that of the search."""
    data, start = found.data, found.defocus.as_array()
    searched = np.diag([(where.defocus_max - where.defocus_min) ** 2 / 12, *([where.astigmatism_max**2 / 16] * 2)])
    if np.linalg.eigvalsh(found.covariance)[0] <= 0 or found.covariance[0, 0] > searched[0, 0]:
        return dataclasses.replace(found, covariance=searched)
    noise = _windows(data, beam, start)[3]
    mean, covariance = sample_posterior(
        start, found.covariance, lambda theta: 0.5 * _windows(data, beam, theta)[2] / noise, N_SAMPLES
    )
    defocus = Defocus(*(float(x) for x in mean))
    return DemodulatedCtf(defocus, covariance, gain_at(data, beam, defocus), data)


def _windows(data: PolarPeriodogram, beam: Beam, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Normal matrix and right side of the phase left over, gain and mean square residual, over all windows."""
    bend = -2 * math.pi * beam.wavelength
    slopes = bend * np.stack([data.k2, data.k2_cos, data.k2_sin], 1)
    phase = beam.double_phase_at_focus(data.k2) - 2 * theta[3] + slopes @ theta[:3]
    period = 1 / (beam.wavelength * max(abs(theta[0]), 1_000.0))
    normal, right, gain = np.zeros((3, 3)), np.zeros(3), 0.0
    residual, freedom = 0.0, 0.0
    low, high = float(data.k2.min()), float(data.k2.max())
    angular = np.stack([data.k2_cos / data.k2, data.k2_sin / data.k2], 1)
    centre = low
    while centre < high:
        half = max(1.25 * period, 0.04 * math.sqrt(centre))  # in k²
        inside = np.flatnonzero(np.abs(data.k2 - centre) < half)
        shape = 0.5 + 0.5 * np.cos(math.pi * (data.k2[inside] - centre) / half)
        w = data.weight[inside] * shape
        background = np.concatenate(
            [np.ones((len(inside), 1)), ((data.k2[inside] - centre) / half)[:, None], angular[inside]], 1
        )
        rings, sine = -np.cos(phase[inside]), np.sin(phase[inside])
        wave = sine[:, None] * slopes[inside]  # derivative of the rings
        columns = np.concatenate([background, rings[:, None], wave], 1)
        weighted = columns * w[:, None]
        gram, product = weighted.T @ columns, weighted.T @ data.ratio[inside]
        g, root = gram[:5, :5] + 1e-9 * np.trace(gram[:5, :5]) * np.eye(5), product[:5]
        flat = float(root[:4] @ np.linalg.solve(g[:4, :4], root[:4]))
        fitted = np.linalg.solve(g, root)
        depth, lowered = float(fitted[4]), float(root @ fitted) - flat
        # a window in which rings do not show has no say (what noise brings is taken off the depth)
        share = max(0.0, 1.0 - 1.0 / max(lowered, 1e-9)) if depth > 0 else 0.0
        if depth > 0:
            across = np.linalg.solve(g, gram[:5, 5:])
            normal += (share * depth) ** 2 * (gram[5:, 5:] - gram[5:, :5] @ across)
            right += share * depth * (product[5:] - gram[5:, :5] @ fitted)
            gain += lowered
        gain -= 0.5  # what a window of noise brings, so that many narrow windows are no advantage
        residual += float(w @ data.ratio[inside] ** 2) - (flat + lowered)
        freedom += float(shape.sum()) - 5
        centre += half
    return normal, right, gain, max(residual / max(freedom, 1.0), 1.0)


def _fade(n: int) -> np.ndarray:
    """Cosine edges, `(n,)` float32."""
    width = max(2, round(EDGE * n))
    ramp = np.sin(0.5 * math.pi * (np.arange(width) + 0.5) / width)
    out = np.ones(n, np.float32)
    out[:width], out[-width:] = ramp, ramp[::-1]
    return out


@numba.njit(nogil=True, cache=True)
def _gather(dft, h, w, pixel_size, per_shell, n_shells, sums):  # pragma: no cover - compiled
    """Count, power, `k²`, `k² cos 2θ`, `k² sin 2θ` summed over the coefficients of each bin."""
    n_sectors = sums.shape[1] // n_shells
    for i in range(h):
        ky = (i if 2 * i < h else i - h) / (h * pixel_size)
        for j in range(1, dft.shape[1] - 1):
            kx = j / (w * pixel_size)
            k2 = kx * kx + ky * ky
            shell = int(math.sqrt(k2) * per_shell + 0.5)
            if shell >= n_shells:
                break
            sector = min(int((math.atan2(ky, kx) / math.pi + 0.5) * n_sectors), n_sectors - 1)
            b = shell * n_sectors + sector
            value = dft[i, j]
            sums[0, b] += 1
            sums[1, b] += value.real * value.real + value.imag * value.imag
            sums[2, b] += k2
            sums[3, b] += kx * kx - ky * ky
            sums[4, b] += 2 * kx * ky
