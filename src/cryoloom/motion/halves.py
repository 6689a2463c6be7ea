"""What the sums of even and odd frames share: how sharp a movie is after correction, whatever found the motion."""

import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.decimate import decimate_frames
from cryoloom.motion.field import MotionField
from cryoloom.motion.frames import Frames
from cryoloom.motion.likelihood import align_spectra, phase_factors
from cryoloom.motion.static import measure_pattern
from cryoloom.motion.tiles import TileSpectra, cut_tiles, pattern_phase, without_pattern


def half_products(spectra: TileSpectra, residual_px: np.ndarray) -> np.ndarray:
    """Products of the sums of even and odd frames, and powers of both, by shell over all tiles, `(3, n_shells)`.

    Where a fixed pattern was taken out, the products of the noise that went with it are added back.

    Parameters
    ----------
    residual_px
        Displacement of each tile in each frame beyond the whole pixels by which it was moved, `(j, t, 2)`.
    """
    sums = np.zeros((3, spectra.n_shells))
    for j in range(spectra.n_tiles):
        sums += _products(spectra, align_spectra(spectra, j, residual_px[j]))
        if spectra.pattern:
            still = spectra.pattern**0.5 * pattern_phase(spectra, j)
            sums += _products(spectra, still * phase_factors(spectra, residual_px[j]))
    return sums


def _products(spectra: TileSpectra, aligned: Tensor) -> np.ndarray:
    """Product of the even and odd sums of frames `(t, ny, nx)`, and powers of both, by shell, `(3, n_shells)`."""
    even, odd = aligned[::2].sum(0), aligned[1::2].sum(0)
    pairs = ((even, odd), (even, even), (odd, odd))
    return np.stack([spectra.shell_sums((a * b.conj()).real * spectra.multiplicity) for a, b in pairs])


def shared_information(frames: Frames, field: MotionField, pixel_size: float, *, tile: float = 250.0) -> float:
    """Information (nats) that the sums of even and odd frames along a field have of each other.

    `-½ Σ n ln(1 - c²)` over shells with `n` coefficients and correlation `c`, negative where `c` is. It serves to
    choose between two fields: both were fitted to all frames, but neither by this measure.

    Parameters
    ----------
    pixel_size
        Å per pixel of the frames.
    tile
        Side of the tiles in which the field is taken as constant, Å.
    """
    factor = max(1, int(2.5 / pixel_size))
    small = torch.from_numpy(decimate_frames(frames, factor))
    shape = (int(small.shape[1]), int(small.shape[2]))
    seen = field.scaled(1 / factor, shape)
    size = max(32, min(round(tile / (pixel_size * factor)), min(shape) // 4))
    step = pixel_size * factor
    spectra = cut_tiles(small, seen.trajectory_px, (size, size), step / 300.0, min(step / 4.5, 0.42))
    spectra = without_pattern(spectra, measure_pattern(frames))  # frames that stand still share that too
    shared, even, odd = half_products(spectra, seen.at(spectra.centre_px) - spectra.offset_px)
    c = np.clip(shared / np.sqrt(np.maximum(even * odd, 1e-30)), -0.999, 0.999)
    return float((-0.5 * spectra.n_tiles * spectra.shell_counts() * np.log(1 - c**2) * np.sign(c)).sum())
