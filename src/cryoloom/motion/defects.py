"""Defective pixels, rows and columns, found from the sum of the frames as the camera wrote them.

A pixel that is hot, dead or stuck differs from its surroundings in the sum of all frames by more than counting noise
explains. Counts are made Gaussian first (Anscombe 1948, doi:10.1093/biomet/35.3-4.246), so that rare high counts are
not taken for hot pixels.
"""

import numba
import numpy as np
from scipy.ndimage import median_filter

from cryoloom.motion.frames import Frames

_SIGMA = 7.0
_AROUND = 15
_SEGMENT = 512  # rows (columns) that are looked at together for a bad piece of a column (row)


def find_defects(frames: Frames) -> np.ndarray:
    """Pixels to repair, `(h, w)` bool: zero gain, hot, dead, and pieces of rows and columns."""
    total = sum_raw(frames.raw)
    total *= frames.gain
    known = (frames.gain == 0) | ~np.isfinite(total)
    step = max(1, total.size // 250_000)
    middle = float(np.median(total.reshape(-1)[::step][~known.reshape(-1)[::step]]))
    if known.any():
        total[known] = middle
    stable = _stabilised(total)
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
    residual = np.empty_like(stable)
    # a hot pixel must not lift its surroundings
    _without_surroundings(stable, bad, np.float32(median), np.float32(5 * sigma), _AROUND // 2, residual)
    _, sigma = _robust_scale(residual)
    pixels = np.empty(stable.shape, bool)
    _split_outliers(residual, np.float32(1 / sigma), np.float32(_SIGMA), pixels)
    return pixels, _bad_lines(residual, 0) | _bad_lines(residual, 1)


def _stabilised(total: np.ndarray) -> np.ndarray:
    """Sum of counts with the same noise everywhere."""
    sample = total[:: max(1, total.shape[0] // 512), :: max(1, total.shape[1] // 512)]
    mean = float(np.median(sample))
    rows = total[::7]
    difference = rows[:, 1::2][:, : total.shape[1] // 2] - rows[:, ::2][:, : total.shape[1] // 2]
    variance = float(np.percentile(np.abs(difference), 68.27) ** 2 / 2)
    per_count = max(variance / mean, 1e-12) if mean > 0 else 1.0
    if mean <= 0 or mean / per_count < 1:  # not counts: leave the values as they are
        return total
    stable = np.empty_like(total)
    _anscombe(total, np.float32(1 / per_count), stable)
    return stable


def _robust_scale(values: np.ndarray) -> tuple[float, float]:
    sample = values[:: max(1, values.shape[0] // 400), :: max(1, values.shape[1] // 400)]
    median = float(np.median(sample))
    return median, max(1.4826 * float(np.median(np.abs(sample - median))), 1e-6)


def _bad_lines(residual: np.ndarray, axis: int) -> np.ndarray:
    """Pieces of columns (`axis` 0) or rows (1) whose mean is off by a fifth of the noise of one pixel and more."""
    h, w = residual.shape if axis == 0 else residual.shape[::-1]
    bad = np.zeros((h, w), bool)
    n = max(1, round(h / _SEGMENT))
    edges = np.linspace(0, h, n + 1).round().astype(int)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        mean = residual[a:b].mean(0) if axis == 0 else residual[:, a:b].mean(1)
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


@numba.njit(nogil=True, cache=True, fastmath=True)
def _anscombe(total, scale, out):
    for y in range(total.shape[0]):
        for x in range(total.shape[1]):
            out[y, x] = 2 * np.sqrt(max(total[y, x] * scale, np.float32(0)) + np.float32(0.375))


@numba.njit(nogil=True, cache=True, fastmath=True)
def _without_surroundings(values, bad, middle, limit, reach, out):
    """Each value minus the mean of the good ones in the square around it, none of which is off by more than `limit`.

    Outside, the image is mirrored. Where less than a tenth is good the mean is drawn towards `middle`.
    """
    h, w = values.shape
    column = np.zeros(w + 2 * reach + 1, np.float64)
    good = np.zeros(w + 2 * reach + 1, np.int32)
    area = (2 * reach + 1) ** 2
    for y in range(-reach, reach):
        _add_row(values, bad, middle, limit, reach, y, 1, column, good)
    for y in range(h):
        _add_row(values, bad, middle, limit, reach, y + reach, 1, column, good)
        total, count = 0.0, 0
        for x in range(2 * reach):
            total += column[x]
            count += good[x]
        for x in range(w):
            total += column[x + 2 * reach]
            count += good[x + 2 * reach]
            out[y, x] = values[y, x] - middle - np.float32(total / max(count, 0.1 * area))
            total -= column[x]
            count -= good[x]
        _add_row(values, bad, middle, limit, reach, y - reach, -1, column, good)


@numba.njit(nogil=True, fastmath=True)
def _add_row(values, bad, middle, limit, reach, y, sign, column, good):
    """Add (or take away) one row, mirrored at the edges, to the sums over columns."""
    h, w = values.shape
    y = -y - 1 if y < 0 else y
    y = min(max(2 * h - 1 - y if y >= h else y, 0), h - 1)
    for x in range(w):
        value = min(max(values[y, x] - middle, -limit), limit)
        is_good = np.float32(0) if bad[y, x] else np.float32(1)
        column[x + reach] += sign * (value * is_good)
        good[x + reach] += sign * np.int32(is_good)
    for x in range(min(reach, w)):
        column[reach - 1 - x], good[reach - 1 - x] = column[reach + x], good[reach + x]
        column[reach + w + x], good[reach + w + x] = column[reach + w - 1 - x], good[reach + w - 1 - x]


@numba.njit(nogil=True, cache=True, fastmath=True)
def _split_outliers(residual, scale, limit, pixels):
    """Scale in place, mark what lies beyond `limit`, and cut the values off at 5."""
    for y in range(residual.shape[0]):
        for x in range(residual.shape[1]):
            value = residual[y, x] * scale
            pixels[y, x] = abs(value) > limit
            residual[y, x] = min(max(value, np.float32(-5)), np.float32(5))
