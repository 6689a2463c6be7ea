"""First guess of the whole-frame motion: all pairs of groups of frames, then each frame against the others.

Groups of neighbouring frames have enough signal for each pair's cross-correlation to show a peak; the peaks of all
pairs are made consistent by robust least squares, so spoiled pairs lose their say.
"""

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier.resize import good_size
from cryoloom.fourier.transform import irfftn
from cryoloom.motion.likelihood import align_spectra, phase_factors
from cryoloom.motion.pairs import solve_pairs
from cryoloom.motion.tiles import TileSpectra

N_GROUPS = 10


def initial_trajectory(spectra: TileSpectra, ssnr: np.ndarray, max_shift_px: float) -> np.ndarray:
    """Whole-frame motion from spectra of one tile that is the whole frame (and was not moved).

    Parameters
    ----------
    ssnr
        Supposed signal per shell; only its shape matters.
    max_shift_px
        Largest displacement between two frames.

    Returns
    -------
    trajectory_px
        `(t, 2)`, zero in the first frame.
    """
    n = spectra.n_frames
    weight = spectra.spread(ssnr) * spectra.multiplicity
    edges = np.linspace(0, n, min(n, N_GROUPS) + 1).round().astype(int)
    groups = torch.stack([spectra.dft[0, a:b].sum(0) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    sizes = np.diff(edges)
    first, second = np.triu_indices(len(groups), 1)
    peaks, heights = [], []
    for a, b in zip(first, second, strict=True):
        product = groups[b] * groups[a].conj() + spectra.pattern * float(sizes[a] * sizes[b])
        peak, height = _correlation_peak(spectra, weight * product, max_shift_px)
        peaks.append(peak)
        heights.append(height)
    centres = 0.5 * (edges[:-1] + edges[1:] - 1)
    found, _ = solve_pairs(len(groups), first, second, np.asarray(peaks), np.asarray(heights) ** 2)
    frames = np.arange(n)
    trajectory = np.stack([_interpolate(frames, centres, found[:, c]) for c in range(2)], -1)
    for half_width, radius in ((2, 0.5), (1, 0.25), (1, 0.12), (0, 0.12)):
        trajectory = _against_the_others(spectra, weight, trajectory, half_width, max(4.0, radius * max_shift_px))
    return trajectory - trajectory[:1]


def _interpolate(x: np.ndarray, nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear, the end pieces continued."""
    if len(nodes) < 2:
        return np.full(len(x), values[0])
    inner = np.interp(x, nodes, values)
    before = values[0] + (x - nodes[0]) * (values[1] - values[0]) / (nodes[1] - nodes[0])
    after = values[-1] + (x - nodes[-1]) * (values[-1] - values[-2]) / (nodes[-1] - nodes[-2])
    return np.where(x < nodes[0], before, np.where(x > nodes[-1], after, inner))


def _against_the_others(
    spectra: TileSpectra, weight: Tensor, trajectory: np.ndarray, half_width: int, radius_px: float
) -> np.ndarray:
    """One round: each frame (with `half_width` neighbours on each side) against the sum of the others."""
    aligned = align_spectra(spectra, 0, trajectory)
    total = aligned.sum(0)
    phase = spectra.pattern**0.5 * phase_factors(spectra, trajectory) if spectra.pattern else None
    phase_total = None if phase is None else phase.sum(0)
    n = len(trajectory)
    moves = np.zeros_like(trajectory)
    for t in range(n):
        product = torch.zeros_like(total)
        for s in range(max(0, t - half_width), min(n, t + half_width + 1)):
            part = aligned[s] * (total - aligned[s]).conj()
            if phase is not None and phase_total is not None:
                part += phase[s] * (phase_total - phase[s]).conj()
            product += (1 - abs(s - t) / (half_width + 1)) * part
        moves[t], _ = _correlation_peak(spectra, weight * product, radius_px)
    return trajectory + moves - moves.mean(0)


def _correlation_peak(spectra: TileSpectra, product: Tensor, radius_px: float) -> tuple[np.ndarray, float]:
    """Displacement within `radius_px` at the peak of a cross-spectrum, and its height over the spread of the map."""
    ny, nx = product.shape
    m_y, m_x = ny // 2, nx - 1
    size_y, size_x = good_size(2 * m_y + 2), good_size(2 * m_x + 2)
    padded = torch.zeros(size_y, size_x // 2 + 1, dtype=product.dtype, device=product.device)
    padded[: m_y + 1, :nx] = product[: m_y + 1]
    padded[size_y - m_y :, :nx] = product[m_y + 1 :]
    image = irfftn(padded, (size_y, size_x)).cpu().numpy()
    # a step of this map in pixels of the frames
    step_y = 1 / (float(spectra.ky_per_px[1]) * size_y)
    step_x = 1 / (float(spectra.kx_per_px[1]) * size_x)
    reach_y = min(max(2, round(radius_px / step_y)), size_y // 2 - 2)
    reach_x = min(max(2, round(radius_px / step_x)), size_x // 2 - 2)
    rows, columns = np.arange(-reach_y - 1, reach_y + 2), np.arange(-reach_x - 1, reach_x + 2)
    window = image[np.ix_(rows % size_y, columns % size_x)]
    inner = window[1:-1, 1:-1]
    i, j = np.unravel_index(int(np.argmax(inner)), inner.shape)
    y = i + _vertex(window[i : i + 3, j + 1]) - reach_y
    x = j + _vertex(window[i + 1, j : j + 3]) - reach_x
    spread = float(image.std()) or 1.0
    return np.array([y * step_y, x * step_x]), float(inner[i, j]) / spread


def _vertex(three: np.ndarray) -> float:
    """Place of the top of the parabola through three values, in steps from the middle one."""
    curvature = float(three[0] - 2 * three[1] + three[2])
    if curvature >= 0:
        return 0.0
    return float(np.clip(0.5 * (three[0] - three[2]) / curvature, -0.5, 0.5))
