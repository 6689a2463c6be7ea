"""First guess of the whole-frame motion: straight paths and peaks of pairs, then each frame against the others.

Groups of neighbouring frames have enough signal for cross-correlations to show something. Where each pair shows its own
peak, the peaks of all pairs are made consistent by robust least squares, so spoiled pairs lose their say. Where single
pairs drown in noise their maps are added up along straight paths of several speeds in time: one peak is looked for in
the sum of all pairs. Of these paths the one on which all maps together are highest goes on. In the end single frames
are moved, no further than their maps warrant: a frame's map is the log-likelihood of its displacement, and the spread
of the displacements is found from all of them (empirical Bayes), so that a frame without a clear peak stays on the
path of its neighbours.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from cryoloom.motion.likelihood import align_spectra, likelihood_weight, phase_factors
from cryoloom.motion.pairs import solve_pairs
from cryoloom.motion.peaks import PeakWindow, peak_window
from cryoloom.motion.tiles import TileSpectra

N_GROUPS = 10
_FAST_SHARES = (0.0, 0.4, 0.75)
"""Shares of the path that are covered in the fast motion of the first frames, for the straight paths."""


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
    pairs = _pair_maps(spectra, ssnr, max_shift_px)
    paths = [pairs.settled(path) for path in (_peaks_of_pairs(pairs), *_straight_paths(pairs))]
    best = max(paths, key=pairs.height)
    frames = np.arange(n)
    trajectory = np.stack([_interpolate(frames, pairs.time, best[:, c]) for c in range(2)], -1)
    for half_width, radius in ((2, 0.25), (1, 0.25), (1, 0.12)):
        trajectory = _against_the_others(spectra, ssnr, trajectory, half_width, max(4.0, radius * max_shift_px))
    for _ in range(2):
        trajectory = _against_the_others(spectra, ssnr, trajectory, 0, max(4.0, 0.12 * max_shift_px))
    return trajectory - trajectory[:1]


@dataclass(frozen=True)
class _PairMaps:
    """Correlation maps of pairs of groups of frames.

    Attributes
    ----------
    time
        Middle frame of each group, `(g,)`.
    first, second
        Groups of each pair.
    maps
        Correlation by the displacement of the second relative to the first, `(n_pairs, rows, columns)`.
    size
        Root of the power of each product, `(n_pairs,)`.
    window
        What the maps show.
    """

    time: np.ndarray
    first: np.ndarray
    second: np.ndarray
    maps: np.ndarray
    size: np.ndarray
    window: PeakWindow

    @functools.cached_property
    def capped(self) -> np.ndarray:
        """The maps, none higher than 1.5 times the median of their tops, so that no spoiled pair outweighs the rest."""
        return np.minimum(self.maps, 1.5 * float(np.median(self.maps.max((1, 2)))))

    def at(self, pair: int, displacement_px: np.ndarray) -> np.ndarray:
        """A capped map at displacements `(..., 2)` px; 0 outside of it."""
        middle = 0.5 * (np.array(self.maps.shape[1:]) - 1)
        place = np.moveaxis(displacement_px / self.window.step + middle, -1, 0)
        return np.asarray(map_coordinates(self.capped[pair], place, order=1, mode="constant"))

    def height(self, path: np.ndarray) -> float:
        """Sum of all maps at the displacements of a path `(g, 2)`."""
        apart = path[self.second] - path[self.first]
        return float(sum(self.at(i, d[None])[0] for i, d in enumerate(apart)))

    def offsets(self, radius: int) -> np.ndarray:
        """Displacements up to `radius` steps away, `(2 radius + 1, 2 radius + 1, 2)` px."""
        one = np.arange(-radius, radius + 1)
        return np.asarray(np.stack(np.meshgrid(one, one, indexing="ij"), -1) * self.window.step)

    def settled(self, path: np.ndarray, n_rounds: int = 3) -> np.ndarray:
        """A path `(g, 2)` whose groups were moved, one after the other, to the highest place of their maps' sum."""
        path = path.copy()
        reach = self.maps.shape[1] // 4
        for round_ in range(n_rounds):
            near = self.offsets(max(3, reach >> round_))
            for g in range(len(path)):
                total = np.zeros(near.shape[:2])
                for i in np.flatnonzero(self.second == g):
                    total += self.at(int(i), near + (path[g] - path[self.first[i]]))
                for i in np.flatnonzero(self.first == g):
                    total += self.at(int(i), path[self.second[i]] - path[g] - near)
                path[g] += near.reshape(-1, 2)[int(total.argmax())]
        return path - path.mean(0)


def _pair_maps(spectra: TileSpectra, ssnr: np.ndarray, max_shift_px: float) -> _PairMaps:
    n = spectra.n_frames
    weight = spectra.spread(ssnr) * spectra.multiplicity
    edges = np.linspace(0, n, min(n, N_GROUPS) + 1).round().astype(int)
    groups = torch.stack([spectra.dft[0, a:b].sum(0) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    sizes = np.diff(edges)
    first, second = np.triu_indices(len(groups), 1)
    window = peak_window(spectra, max_shift_px)
    maps = np.empty((len(first), window.along_y.shape[0], window.along_x.shape[1]))
    power = np.ones(len(first))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        product = weight * (groups[b] * groups[a].conj() + spectra.pattern * float(sizes[a] * sizes[b]))
        maps[i] = window.correlation(product)
        parts = torch.view_as_real(product).reshape(-1)
        power[i] = float(parts @ parts) ** 0.5 or 1.0
    return _PairMaps(0.5 * (edges[:-1] + edges[1:] - 1), first, second, maps, power, window)


def _peaks_of_pairs(pairs: _PairMaps) -> np.ndarray:
    """The path `(g, 2)` that agrees with the highest places of as many maps as possible."""
    found = [pairs.window.peak(one) for one in pairs.maps]
    heights = np.array([height for _, height in found]) / pairs.size
    return solve_pairs(len(pairs.time), pairs.first, pairs.second, np.array([p for p, _ in found]), heights**2)[0]


def _straight_paths(pairs: _PairMaps) -> list[np.ndarray]:
    """Straight paths `(g, 2)` on which the sum of all maps is highest, one for each course of the speed."""
    span = float(pairs.time[-1] - pairs.time[0])
    end_to_end = pairs.offsets(pairs.maps.shape[1] // 2)
    paths = []
    for share in _FAST_SHARES:
        passed = (pairs.time - pairs.time[0]) / span
        course = (1 - share) * passed + share * (1 - np.exp(-passed / 0.12))
        course = (course - course.mean()) / (course[-1] - course[0])
        total = np.zeros(end_to_end.shape[:2])
        for i, lag in enumerate(course[pairs.second] - course[pairs.first]):
            total += pairs.at(i, lag * end_to_end)
        paths.append(course[:, None] * end_to_end.reshape(-1, 2)[int(total.argmax())])
    return paths


def _interpolate(x: np.ndarray, nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear, the end pieces continued."""
    if len(nodes) < 2:
        return np.full(len(x), values[0])
    inner = np.interp(x, nodes, values)
    before = values[0] + (x - nodes[0]) * (values[1] - values[0]) / (nodes[1] - nodes[0])
    after = values[-1] + (x - nodes[-1]) * (values[-1] - values[-2]) / (nodes[-1] - nodes[-2])
    return np.where(x < nodes[0], before, np.where(x > nodes[-1], after, inner))


def _against_the_others(
    spectra: TileSpectra, ssnr: np.ndarray, trajectory: np.ndarray, half_width: int, radius_px: float
) -> np.ndarray:
    """One round: each frame (with `half_width` neighbours on each side) against the sum of the others.

    With neighbours a frame goes to the highest place; alone it goes as far as the maps of all frames warrant.
    """
    aligned = align_spectra(spectra, 0, trajectory)
    total = aligned.sum(0)
    phase = spectra.pattern**0.5 * phase_factors(spectra, trajectory) if spectra.pattern else None
    phase_total = None if phase is None else phase.sum(0)
    n = len(trajectory)
    weight = 2 * likelihood_weight(_amplitude(spectra, ssnr, total, phase_total) * ssnr, n)
    factor = spectra.spread(weight) * spectra.multiplicity
    window = peak_window(spectra, radius_px)
    found = []
    for s in range(n):
        product = aligned[s] * (total - aligned[s]).conj()
        if phase is not None and phase_total is not None:
            product += phase[s] * (phase_total - phase[s]).conj()
        found.append(window.correlation(product.mul_(factor)))
    maps = np.stack(found) if half_width else _with_prior(np.stack(found), window.step)
    moves = np.zeros_like(trajectory)
    for t in range(n):
        near = range(max(0, t - half_width), min(n, t + half_width + 1))
        moves[t], _ = window.peak(np.sum([(1 - abs(s - t) / (half_width + 1)) * maps[s] for s in near], axis=0))
    return trajectory + moves - moves.mean(0)


def _amplitude(spectra: TileSpectra, ssnr: np.ndarray, total: Tensor, phase_total: Tensor | None) -> float:
    """Factor by which the signal per shell of the aligned sum differs from `ssnr`; not below its standard error."""
    n, counts = spectra.n_frames, spectra.shell_counts()
    excess = spectra.shell_sums(total.real**2 + total.imag**2) - spectra.power[0]
    if phase_total is not None:
        excess += spectra.shell_sums(phase_total.real**2 + phase_total.imag**2) - spectra.pattern * n * counts
    norm = n * (n - 1) * float((ssnr**2 * counts).sum())
    error = n * float((ssnr**2 * counts).sum()) ** 0.5 / norm
    return max(float((ssnr * excess).sum()) / norm, error)


def _with_prior(maps: np.ndarray, step_px: np.ndarray, n_updates: int = 8) -> np.ndarray:
    """Log-likelihoods of displacements `(t, rows, columns)` plus the log of a Gaussian prior around zero.

    The spread of the prior is what the maps of all frames say of it (expectation-maximisation).
    """
    half = (np.array(maps.shape[1:]) - 1) // 2
    y, x = (np.arange(-h, h + 1) * s for h, s in zip(half, step_px, strict=True))
    square = y[:, None] ** 2 + x**2
    variance = float(square.max()) / 16
    for _ in range(n_updates):
        posterior = maps - square / (2 * variance)
        share = np.exp(posterior - posterior.max((1, 2), keepdims=True))
        share /= share.sum((1, 2), keepdims=True)
        variance = max(0.5 * float((share * square).sum((1, 2)).mean()), 0.1 * float(np.prod(step_px)))
    return np.asarray(maps - square / (2 * variance))
