"""First guess of the whole-frame motion: all pairs of groups of frames, then each frame against the others.

Groups of neighbouring frames have enough signal for each pair's cross-correlation to show a peak; the peaks of all
pairs are made consistent by robust least squares, so spoiled pairs lose their say.
"""

import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.likelihood import align_spectra, phase_factors
from cryoloom.motion.pairs import solve_pairs
from cryoloom.motion.peaks import peak_window
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
    window = peak_window(spectra, max_shift_px)
    peaks, heights = [], []
    for a, b in zip(first, second, strict=True):
        product = weight * (groups[b] * groups[a].conj() + spectra.pattern * float(sizes[a] * sizes[b]))
        peak, height = window.peak(window.correlation(product))
        peaks.append(peak)
        parts = torch.view_as_real(product).reshape(-1)
        heights.append(height / (float(parts @ parts) ** 0.5 or 1.0))
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
    window = peak_window(spectra, radius_px)
    maps = []
    for s in range(n):
        product = aligned[s] * (total - aligned[s]).conj()
        if phase is not None and phase_total is not None:
            product += phase[s] * (phase_total - phase[s]).conj()
        maps.append(window.correlation(product.mul_(weight)))
    moves = np.zeros_like(trajectory)
    for t in range(n):
        near = range(max(0, t - half_width), min(n, t + half_width + 1))
        moves[t], _ = window.peak(np.sum([(1 - abs(s - t) / (half_width + 1)) * maps[s] for s in near], axis=0))
    return trajectory + moves - moves.mean(0)
