"""Motion of one movie: from frames in memory to a field with its uncertainty.

Frames are low-passed and decimated to about 2 Å per pixel; the whole frame is aligned at still lower sampling, from
all pairs; then tiles that follow the whole-frame motion give the full field, whole-frame motion included.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.decimate import decimate_frames
from cryoloom.motion.field import MotionField, rigid_field, still_field
from cryoloom.motion.fit import FieldFit, fit_field
from cryoloom.motion.frames import Frames
from cryoloom.motion.initial import initial_trajectory
from cryoloom.motion.likelihood import likelihood_weight
from cryoloom.motion.pairs import pair_trust
from cryoloom.motion.static import measure_pattern
from cryoloom.motion.tiles import TileSpectra, cut_tiles, without_pattern

_K_MIN = 1 / 300.0  # 1/Å: ice gradients and illumination are left out
_K_MAX = 1 / 4.5
_BAND_PER_PX = 0.42  # of the decimated frames
_SUPPOSED_FALL = 150.0  # Å²: signal falls as exp(-150 k²) before anything is known
_LEAST_SIGNIFICANCE = 4.0


@dataclass(frozen=True)
class MotionEstimate:
    """What was found of one movie.

    Attributes
    ----------
    field
        In pixels of the frames.
    frame_snr
        Variance of the specimen over variance of the noise, per pixel of a frame, in the band that was looked at; 0
        where what the aligned frames share does not stand above noise by 4 standard errors: such a movie is not
        aligned.
    ssnr_frequency, ssnr
        Signal over noise of one frame by frequency in 1/Å.
    pair_trust
        `(t, t)`, 0 for spoiled pairs.
    pattern
        Power of the detector's fixed pattern over the noise power of one frame.
    n_tiles
        Tiles of the local fit.
    iterations
        Steps taken.
    """

    field: MotionField
    frame_snr: float
    ssnr_frequency: np.ndarray
    ssnr: np.ndarray
    pair_trust: np.ndarray
    pattern: float
    n_tiles: int
    iterations: int


def estimate_motion(
    frames: Frames,
    pixel_size: float,
    *,
    dose_per_frame: float = 1.0,
    degree: int = 3,
    max_shift: float = 150.0,
    tile: float = 250.0,
    regularised: bool = True,
    device: torch.device | str = "cpu",
) -> MotionEstimate:
    """Estimate the motion field of a movie.

    Parameters
    ----------
    pixel_size
        Å per pixel of the frames.
    dose_per_frame
        e-/Å2.
    degree
        Largest degree of the local motion in place; 0 for whole-frame motion only.
    max_shift
        Largest displacement between two frames looked for, Å.
    tile
        Side of a tile, Å.
    regularised
        False fits the local motion without its prior, for comparison.
    """
    n, (h, w) = frames.n_frames, frames.shape
    if n == 1:
        empty = np.zeros(1)
        return MotionEstimate(still_field(1, (h, w)), float("nan"), empty, empty, np.ones((1, 1)), 0.0, 0, 0)
    factor = max(1, int(2.5 / pixel_size))
    small = torch.from_numpy(decimate_frames(frames, factor)).to(device)
    small_pixel = pixel_size * factor
    pattern = measure_pattern(frames)
    whole, trust = _align_whole_frames(small, small_pixel, dose_per_frame, max_shift, pattern)

    tile_px = max(64, min(round(tile / small_pixel), min(small.shape[1:]) // 4))
    k_max = min(_K_MAX * small_pixel, _BAND_PER_PX)
    spectra = cut_tiles(small, whole.field.trajectory_px, (tile_px, tile_px), _K_MIN * small_pixel, k_max)
    spectra = without_pattern(spectra, pattern)
    shape = (int(small.shape[1]), int(small.shape[2]))
    del small
    frequency = spectra.shell_frequency_per_px() / small_pixel
    ssnr = np.interp(frequency, whole.ssnr_frequency, whole.ssnr)
    beyond = frequency > whole.ssnr_frequency[-1]
    ssnr[beyond] = whole.ssnr[-1] * np.exp(-_SUPPOSED_FALL * (frequency[beyond] ** 2 - whole.ssnr_frequency[-1] ** 2))
    degree = min(degree, _largest_degree(spectra.centre_px))
    rough = trust if trust.min() < 1 else None
    fit = fit_field(
        spectra, shape, degree=degree, initial=rigid_field(whole.field.trajectory_px, shape), ssnr=ssnr,
        dose_per_frame=dose_per_frame, pair_weight=rough, tolerance_px=0.01, regularised=regularised,
    )  # fmt: skip
    return MotionEstimate(
        field=fit.field.scaled(factor, (h, w)),
        frame_snr=_frame_snr(spectra, fit, factor)
        if _significance(spectra, fit, frequency) > _LEAST_SIGNIFICANCE
        else 0.0,
        ssnr_frequency=frequency,
        ssnr=fit.ssnr,
        pair_trust=trust,
        pattern=pattern,
        n_tiles=spectra.n_tiles,
        iterations=len(fit.step_rms_px),
    )


@dataclass(frozen=True)
class _Whole:
    field: MotionField  # in pixels of the decimated frames
    ssnr_frequency: np.ndarray
    ssnr: np.ndarray


def _align_whole_frames(
    small: Tensor, pixel_size: float, dose_per_frame: float, max_shift: float, pattern: float
) -> tuple[_Whole, np.ndarray]:
    """Whole-frame motion from one tile that is the whole frame, at 4 to 5 Å per pixel."""
    pool = max(1, round(4.5 / pixel_size))
    coarse = torch.nn.functional.avg_pool2d(small[:, None], pool)[:, 0] if pool > 1 else small
    shape = (int(coarse.shape[1]), int(coarse.shape[2]))
    coarse_pixel = pixel_size * pool
    still = np.zeros((small.shape[0], 2))
    spectra = without_pattern(cut_tiles(coarse, still, shape, _K_MIN * coarse_pixel, _BAND_PER_PX), pattern)
    k = spectra.shell_frequency_per_px() / coarse_pixel
    supposed = 1e-2 * np.exp(-_SUPPOSED_FALL * k**2)
    trajectory = initial_trajectory(spectra, supposed, max_shift / coarse_pixel)
    first = fit_field(
        spectra, shape, degree=0, initial=rigid_field(trajectory, shape), ssnr=supposed,
        dose_per_frame=dose_per_frame, max_iterations=4,
    )  # fmt: skip
    weight = likelihood_weight(first.ssnr, small.shape[0])
    trust = pair_trust(spectra, first.field.trajectory_px, weight)
    second = fit_field(
        spectra, shape, degree=0, initial=first.field, ssnr=first.ssnr,
        dose_per_frame=dose_per_frame, pair_weight=trust, max_iterations=4,
    )  # fmt: skip
    field = second.field.scaled(pool, (int(small.shape[1]), int(small.shape[2])))
    return _Whole(field, k, second.ssnr), trust


def _largest_degree(centre_px: np.ndarray) -> int:
    """Degree that the grid of tiles can carry."""
    rows, columns = (len(np.unique(centre_px[:, c])) for c in range(2))
    return max(0, min(rows, columns) - 1)


def _significance(spectra: TileSpectra, fit: FieldFit, frequency: np.ndarray) -> float:
    """What the aligned frames share, summed over shells with the supposed fall, in standard errors of noise."""
    weight = np.exp(-_SUPPOSED_FALL * frequency**2)
    counts = spectra.shell_counts() * spectra.n_tiles
    error = spectra.n_frames * np.sqrt(float((weight**2 * counts).sum()) * spectra.alike)
    return float((weight * fit.excess).sum()) / error


def _frame_snr(spectra: TileSpectra, fit: FieldFit, factor: int) -> float:
    """Mean signal-to-noise ratio over all coefficients of the full band, nothing counted beyond the tiles' band.

    Frames were divided by the amplitude of all they hold, so the fit's ratio is signal over signal and noise.
    """
    share = np.clip(fit.ssnr, 0.0, 0.95)
    area = np.pi * ((np.arange(spectra.n_shells) + 1) ** 2 - np.arange(spectra.n_shells) ** 2)
    return float((share / (1 - share) * area).sum() * (spectra.shell_width_per_px / factor) ** 2)
