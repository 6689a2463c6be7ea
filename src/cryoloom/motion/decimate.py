"""Frames at lower sampling, for the measurement of motion.

Motion is measured from frequencies up to some 5 Å, so frames are low-passed by a short separable filter and every
`factor`-th pixel is kept. Pixel `i` of the result has its centre at `factor * i + (factor - 1) / 2` of the frame.
"""

import functools

import numba
import numpy as np

from cryoloom.motion.frames import Frames, load_rows

TAPS_PER_FACTOR = 6
_BAND_ROWS = 32


def decimate_frame(frames: Frames, t: int, factor: int) -> np.ndarray:
    """Frame `t` at `1 / factor` of its sampling, mean value kept.

    Returns
    -------
    small
        `(h // factor, w // factor)` float32.
    """
    if factor == 1:
        return frames.frame(t)
    h, w = frames.shape
    out = np.empty((h // factor, w // factor), np.float32)
    _decimate(
        frames.raw[t], frames.gain, frames.bad, frames.bad_row, frames.donors, t, factor, decimation_taps(factor), out
    )
    return out


@functools.cache
def decimation_taps(factor: int) -> np.ndarray:
    """Low-pass filter, symmetric, about `TAPS_PER_FACTOR * factor` taps with sum 1, float32."""
    n = TAPS_PER_FACTOR * factor + factor % 2  # so that the middle of the filter meets the middle of the pixels
    x = (np.arange(n) - (n - 1) / 2) / factor
    taps = 0.92 * np.sinc(0.92 * x) * np.cos(np.pi * x / (TAPS_PER_FACTOR + 0.5)) ** 1.5
    return (taps / taps.sum()).astype(np.float32)


def decimation_response(factor: int, k_per_px: np.ndarray) -> np.ndarray:
    """Amplitude response at frequencies in cycles per pixel of the small frame."""
    if factor == 1:
        return np.ones_like(k_per_px)
    taps = decimation_taps(factor).astype(np.float64)
    x = (np.arange(len(taps)) - (len(taps) - 1) / 2) / factor
    return np.asarray(np.cos(2 * np.pi * k_per_px[..., None] * x) @ taps)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _decimate(raw, gain, bad, bad_row, donors, t, factor, taps, out):
    w = raw.shape[1]
    n_taps = taps.shape[0]
    before = (n_taps - factor) // 2
    pad = n_taps
    n_out, m_out = out.shape
    rows = np.empty((_BAND_ROWS * factor + n_taps, w + 2 * pad), np.float32)
    line = np.empty(w + 2 * pad, np.float32)
    for first in range(0, n_out, _BAND_ROWS):
        last = min(n_out, first + _BAND_ROWS)
        top = first * factor - before
        n_rows = (last - first - 1) * factor + n_taps
        load_rows(raw, gain, bad, bad_row, donors, t, top, top + n_rows, pad, rows)
        for i in range(first, last):
            start = (i - first) * factor
            for x in range(line.shape[0]):
                line[x] = 0.0
            for j in range(n_taps):
                tap = taps[j]
                row = rows[start + j]
                for x in range(line.shape[0]):
                    line[x] += tap * row[x]
            target = out[i]
            origin = pad - before
            for k in range(m_out):
                total = np.float32(0.0)
                piece = line[origin + k * factor : origin + k * factor + n_taps]
                for j in range(n_taps):
                    total += taps[j] * piece[j]
                target[k] = total
