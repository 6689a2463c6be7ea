"""Defective pixels, rows and columns, found from the sum of the frames as the camera wrote them.

A pixel that is hot, dead or stuck differs from its surroundings in the sum of all frames by more than counting noise
explains. Counts are made Gaussian first (Anscombe 1948, doi:10.1093/biomet/35.3-4.246), so that rare high counts are
not taken for hot pixels.
"""

import numba
import numpy as np
from scipy.ndimage import median_filter, uniform_filter

from cryoloom.motion.frames import Frames

_SIGMA = 7.0
_AROUND = 15
_SEGMENT = 512  # rows (columns) that are looked at together for a bad piece of a column (row)


def find_defects(frames: Frames) -> np.ndarray:
    """Pixels to repair, `(h, w)` bool: zero gain, hot, dead, and pieces of rows and columns."""
    total = sum_raw(frames.raw) * frames.gain
    known = (frames.gain == 0) | ~np.isfinite(total)
    middle = float(np.median(total[~known][:: max(1, total.size // 1_000_000)]))
    stable = _stabilised(np.where(known, middle, total))
    if frames.raw.dtype.kind in "ui" and middle > np.log(10 * total.size):
        known |= total == 0  # no counts at all, where chance leaves a tenth of a pixel so
    bad = known
    for _ in range(2):  # a bad row lowers the surroundings of its neighbours: look again without it
        pixels, lines = _outliers(stable, bad)
        bad = known | pixels | lines
        if not lines.any():
            break
    if bad.mean() > 0.2:  # then this is no list of defects: only what is certain is repaired
        return known
    return bad


def _outliers(stable: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and pieces of rows and columns, that differ from their surroundings without those that are `bad`."""
    median, sigma = _robust_scale(stable)
    # a hot pixel must not lift its surroundings
    clipped = np.clip(np.where(bad, median, stable), median - 5 * sigma, median + 5 * sigma)
    local = uniform_filter(clipped, _AROUND, mode="reflect")
    if bad.any():
        share = uniform_filter((~bad).astype(np.float32), _AROUND, mode="reflect")
        local = median + (local - median) / np.maximum(share, 0.1)
    residual = stable - local
    _, sigma = _robust_scale(residual)
    residual /= sigma
    pixels = np.abs(residual) > _SIGMA
    np.clip(residual, -5, 5, out=residual)
    return pixels, _bad_lines(residual, 0) | _bad_lines(residual, 1)


def _stabilised(total: np.ndarray) -> np.ndarray:
    """Sum of counts with the same noise everywhere."""
    sample = total[:: max(1, total.shape[0] // 512), :: max(1, total.shape[1] // 512)]
    mean = float(np.median(sample))
    difference = (total[:, 1::2][:, : total.shape[1] // 2] - total[:, ::2][:, : total.shape[1] // 2])[::7]
    variance = float(np.percentile(np.abs(difference), 68.27) ** 2 / 2)
    per_count = max(variance / mean, 1e-12) if mean > 0 else 1.0
    counts = np.maximum(total / per_count, 0)
    if mean <= 0 or mean / per_count < 1:  # not counts: leave the values as they are
        return total.astype(np.float32)
    return (2 * np.sqrt(counts + 0.375)).astype(np.float32)


def _robust_scale(values: np.ndarray) -> tuple[float, float]:
    sample = values[:: max(1, values.shape[0] // 700), :: max(1, values.shape[1] // 700)]
    median = float(np.median(sample))
    return median, max(1.4826 * float(np.median(np.abs(sample - median))), 1e-6)


def _bad_lines(residual: np.ndarray, axis: int) -> np.ndarray:
    """Pieces of columns (`axis` 0) or rows (1) whose mean is off by a fifth of the noise of one pixel and more."""
    image = residual if axis == 0 else residual.T
    h, w = image.shape
    bad = np.zeros((h, w), bool)
    n = max(1, round(h / _SEGMENT))
    edges = np.linspace(0, h, n + 1).round().astype(int)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        mean = image[a:b].mean(0)
        mean = mean - median_filter(mean, 15, mode="reflect")
        limit = max(_SIGMA / np.sqrt(b - a), 0.3)
        bad[a:b, np.abs(mean) > limit] = True
    return bad if axis == 0 else bad.T


def sum_raw(raw: np.ndarray) -> np.ndarray:
    """Sum of frames `(t, h, w)` as they are, `(h, w)` float32."""
    total = np.zeros(raw.shape[1:], np.float32)
    for frame in raw:
        _add(frame, total)
    return total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add(frame, total):
    for y in range(frame.shape[0]):
        source = frame[y]
        target = total[y]
        for x in range(frame.shape[1]):
            target[x] += np.float32(source[x])
