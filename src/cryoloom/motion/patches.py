"""A second estimate of motion: peaks of patch correlations against the running sum, joined by a smooth surface.

The first estimate (`estimate.py`) maximises the joint likelihood of all tiles and frames under a prior whose strength
the data choose. This one has neither likelihood nor prior. Each frame is correlated with the sum of the others and
moved to the highest place, again and again (Grant, Grigorieff 2015, doi:10.7554/eLife.06980), first with many
neighbouring frames together, in the end alone. Then the same is done in patches: peaks at first, then the linear step
of optical flow (Abrishami 2015), each time joined by a surface (`surface.py`). Frequencies are weighted by the
correlation of the sums of even and odd frames. Errors come from doing all that in two halves of the patches. The two
estimates share how frames are decimated, cut and transformed, and nothing else. Fixed patterns of the detector and
spoiled pairs of frames are not allowed for here.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.decimate import decimate_frames
from cryoloom.motion.field import MotionField, still_field
from cryoloom.motion.frames import Frames
from cryoloom.motion.halves import half_products
from cryoloom.motion.likelihood import align_spectra
from cryoloom.motion.peaks import PeakWindow, peak_window
from cryoloom.motion.surface import Surface, settle
from cryoloom.motion.tiles import TileSpectra, cut_tiles

_K_MIN, _K_MAX = 1 / 300.0, 1 / 4.5  # 1/Å
_BAND_PER_PX = 0.42
_BFACTOR = 600.0  # Å²: weights before there is a sum
# frames on each side that help, and share of the largest displacement looked at
_WHOLE_ROUNDS = ((6, 1.0), (4, 0.5), (2, 0.25), (1, 0.12), (0, 0.12), (0, 0.06), (0, 0.06))
# frames on each side, and distance in patches within which neighbours help
_LOCAL_ROUNDS = ((6, 1.5), (4, 1.0))
_FLOW_ROUNDS = 8
_LOCAL_REACH, _LAST_REACH = 12.0, 6.0  # Å


@dataclass(frozen=True)
class PatchMotion:
    """What the patches say of one movie.

    Attributes
    ----------
    field
        In pixels of the frames, with its covariance.
    shared
        Correlation of the sums of even and odd frames by shell, `(n_shells,)`.
    n_patches
        Number of patches.
    """

    field: MotionField
    shared: np.ndarray
    n_patches: int


def estimate_by_patches(
    frames: Frames, pixel_size: float, *, degree: int = 2, max_shift: float = 150.0, patch: float = 250.0
) -> PatchMotion:
    """Estimate the motion field of a movie from correlations of patches.

    Parameters
    ----------
    pixel_size
        Å per pixel of the frames.
    degree
        Degree of the surface in place; 0 for whole-frame motion only.
    max_shift
        Largest displacement between two frames looked for, Å.
    patch
        Side of a patch, Å.
    """
    n, (h, w) = frames.n_frames, frames.shape
    if n == 1:
        return PatchMotion(still_field(1, (h, w)), np.zeros(1), 0)
    factor = max(1, int(2.5 / pixel_size))
    small = torch.from_numpy(decimate_frames(frames, factor))
    shape, small_pixel = (int(small.shape[1]), int(small.shape[2])), pixel_size * factor
    pool = max(1, round(4.5 / small_pixel))
    trajectory = pool * _whole_frame(small, pool, small_pixel * pool, max_shift)
    size = max(64, min(round(patch / small_pixel), min(shape) // 4))
    band = (_K_MIN * small_pixel, min(_K_MAX * small_pixel, _BAND_PER_PX))
    spectra = cut_tiles(small, trajectory, (size, size), *band)
    del small
    rows, columns = (len(np.unique(spectra.centre_px[:, c])) for c in range(2))
    surface = Surface(spectra.centre_px, shape, max(0, min(degree, rows - 1, columns - 1)), n)
    start = np.zeros((surface.values.shape[1], n, 2))
    start[0] = trajectory
    modes = _follow(spectra, surface, start, small_pixel)
    covariance = None
    if spectra.n_tiles > 1:
        black = _checkerboard(spectra.centre_px)
        halves = [_follow(_part(spectra, kept), surface.part(kept), start, small_pixel) for kept in (black, ~black)]
        modes, covariance = settle(surface, modes, (halves[0], halves[1]), small_pixel)
    field = MotionField(modes - modes[:, :1], shape, int(surface.orders.max()), covariance)
    shared = _halves(spectra, surface.tracks(modes) - spectra.offset_px)
    return PatchMotion(field.scaled(factor, (h, w)), shared, spectra.n_tiles)


def _whole_frame(small: Tensor, pool: int, pixel_size: float, max_shift: float) -> np.ndarray:
    """Motion of the whole frame at `pixel_size` Å per pixel, `(t, 2)`."""
    coarse = torch.nn.functional.avg_pool2d(small[:, None], pool)[:, 0] if pool > 1 else small
    shape = (int(coarse.shape[1]), int(coarse.shape[2]))
    spectra = cut_tiles(coarse, np.zeros((len(coarse), 2)), shape, _K_MIN * pixel_size, _BAND_PER_PX)
    trajectory = np.zeros((len(coarse), 2))
    k = spectra.shell_frequency_per_px() / pixel_size
    weight = np.exp(-_BFACTOR / 4 * k**2)
    for half_width, reach in _WHOLE_ROUNDS:
        window = peak_window(spectra, max(4.0, reach * max_shift / pixel_size))
        maps = _maps(spectra, 0, trajectory, weight, window)
        trajectory = trajectory + _peaks(_in_time(maps, half_width)[None], window)[0]
        trajectory -= trajectory.mean(0)
        if half_width <= 2:
            weight = _halves(spectra, trajectory[None] - spectra.offset_px)
    return trajectory


def _follow(spectra: TileSpectra, surface: Surface, start: np.ndarray, pixel_size: float) -> np.ndarray:
    """Modes `(m, t, 2)` from the peaks of all patches, and whole-frame motion from those of their sum."""
    modes = start.copy()
    for half_width, spread in _LOCAL_ROUNDS if len(modes) > 1 else ():
        tracks = surface.tracks(modes)
        maps, window = _patch_maps(spectra, tracks, _LOCAL_REACH / pixel_size)
        modes = surface.fit(tracks + _peaks(_together(maps, spectra.centre_px, half_width, spread), window))
    for _ in range(_FLOW_ROUNDS if len(modes) > 1 else 0):
        tracks = surface.tracks(modes)
        maps, window = _patch_maps(spectra, tracks, 0.0)
        modes = surface.fit(tracks + _flow(maps, window), 1)
    for _ in range(3):
        maps, window = _patch_maps(spectra, surface.tracks(modes), _LAST_REACH / pixel_size)
        modes[0] += _peaks(maps.sum(0)[None], window)[0]
    return modes


def _checkerboard(centre_px: np.ndarray) -> np.ndarray:
    """Every other patch, `(j,)` bool."""
    row, column = (np.unique(centre_px[:, c], return_inverse=True)[1] for c in range(2))
    return np.asarray((row + column) % 2 == 0)


def _part(spectra: TileSpectra, kept: np.ndarray) -> TileSpectra:
    """Some of the patches."""
    return dataclasses.replace(
        spectra, dft=spectra.dft[torch.from_numpy(kept)], centre_px=spectra.centre_px[kept],
        offset_px=spectra.offset_px[kept], power=spectra.power[kept],
    )  # fmt: skip


def _patch_maps(spectra: TileSpectra, tracks: np.ndarray, reach_px: float) -> tuple[np.ndarray, PeakWindow]:
    """Correlation of each frame with the sum of the others in every patch, `(j, t, rows, columns)`."""
    residual = tracks - spectra.offset_px
    weight = _halves(spectra, residual)
    window = peak_window(spectra, reach_px)
    return np.stack([_maps(spectra, j, residual[j], weight, window) for j in range(spectra.n_tiles)]), window


def _maps(
    spectra: TileSpectra, tile: int, residual_px: np.ndarray, weight: np.ndarray, window: PeakWindow
) -> np.ndarray:
    aligned = align_spectra(spectra, tile, residual_px)
    others = (aligned.sum(0) - aligned).conj() * (spectra.spread(weight) * spectra.multiplicity)
    return np.stack([window.correlation(a * b) for a, b in zip(aligned, others, strict=True)])


def _halves(spectra: TileSpectra, residual_px: np.ndarray) -> np.ndarray:
    """Correlation of the sums of even and odd frames by shell, over all patches, smoothed, `(n_shells,)`.

    Shells whose correlation does not stand above that of noise get none.
    """
    sums = half_products(spectra, residual_px)
    smooth = np.stack([np.convolve(row, np.ones(5), "same") for row in sums])
    count = np.convolve(spectra.shell_counts() * spectra.n_tiles, np.ones(5), "same")
    found = smooth[0] / np.sqrt(np.maximum(smooth[1] * smooth[2], 1e-30))
    return np.where(found > 2 / np.sqrt(np.maximum(count, 1.0)), found, 1e-6)


def _in_time(maps: np.ndarray, half_width: int) -> np.ndarray:
    """Maps `(t, rows, columns)` summed with their neighbours in time, weights falling to the sides."""
    n = len(maps)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.asarray(np.tensordot(np.clip(1 - apart / (half_width + 1), 0, None), maps, 1))


def _together(maps: np.ndarray, centre_px: np.ndarray, half_width: int, spread: float) -> np.ndarray:
    """Maps `(j, t, ...)` summed with those of neighbours in time, and in place with a Gaussian of `spread` patches."""
    y = np.unique(centre_px[:, 0])
    pitch = float(np.diff(y).mean()) if len(y) > 1 else 1.0
    apart = np.linalg.norm(centre_px[:, None] - centre_px, axis=-1) / pitch
    joined = np.tensordot(np.exp(-0.5 * (apart / spread) ** 2), maps, 1)
    return np.stack([_in_time(part, half_width) for part in joined])


def _peaks(maps: np.ndarray, window: PeakWindow) -> np.ndarray:
    """Highest places of maps `(j, t, ...)`, `(j, t, 2)` pixels."""
    return np.array([[window.peak(one)[0] for one in part] for part in maps])


def _flow(maps: np.ndarray, window: PeakWindow) -> np.ndarray:
    """Displacements `(j, t, 2)` px from the slope in the middle of each map and the mean bend of all.

    The linear step of optical flow (Lucas and Kanade): maps without a top of their own say little instead of something
    wrong, and the surface through all of them sees their sum.
    """
    y, x = (n // 2 for n in maps.shape[2:])
    middle = maps[:, :, y - 1 : y + 2, x - 1 : x + 2]
    slope = 0.5 * np.stack([middle[:, :, 2, 1] - middle[:, :, 0, 1], middle[:, :, 1, 2] - middle[:, :, 1, 0]], -1)
    mean = middle.mean((0, 1))
    bend = 2 * mean[1, 1] - np.array([mean[2, 1] + mean[0, 1], mean[1, 2] + mean[1, 0]])
    if (bend <= 0).any():
        return np.zeros_like(slope)
    return np.asarray(slope / bend * window.step)
