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
_U = np.uintp


def decimate_frames(frames: Frames, factor: int) -> np.ndarray:
    """All frames at `1 / factor` of their sampling, mean values kept.

    Returns
    -------
    small
        `(t, h // factor, w // factor)` float32.
    """
    n, (h, w) = frames.n_frames, frames.shape
    out = np.empty((n, h // factor, w // factor), np.float32)
    if factor == 1:
        for t in range(n):
            out[t] = frames.frame(t)
        return out
    taps = decimation_taps(factor)
    for first in range(0, out.shape[1], _BAND_ROWS):  # the gain of a band stays in the cache for all frames
        for t in range(n):
            _decimate_band(
                frames.raw[t], frames.gain, frames.bad, frames.bad_row, frames.donors, t, factor, taps,
                first, out[t, first : first + _BAND_ROWS],
            )  # fmt: skip
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
def _decimate_band(raw, gain, bad, bad_row, donors, t, factor, taps, first, out):
    w = raw.shape[1]
    n_taps = taps.shape[0]
    before = (n_taps - factor) // 2
    pad = n_taps
    n_out, m_out = out.shape
    top = first * factor - before
    n_rows = (n_out - 1) * factor + n_taps
    rows = np.empty((n_rows, w + 2 * pad), np.float32)
    load_rows(raw, gain, bad, bad_row, donors, t, top, top + n_rows, pad, rows)
    line = np.empty(w + 2 * pad, np.float32)
    n_part = m_out + (n_taps - 1) // factor
    part = np.empty(n_part, np.float32)
    for i in range(n_out):
        _filter_down(rows, i * factor, taps, line)
        target = out[i]
        target[:] = 0
        for c in range(factor):  # every `factor`-th value of the line, from each start
            at = _U(pad - before + c)
            for k in range(_U(n_part)):
                part[k] = line[at + k * _U(factor)]
            t0, t1, t2 = taps[c], taps[c + factor], taps[c + 2 * factor]
            t3, t4, t5 = taps[c + 3 * factor], taps[c + 4 * factor], taps[c + 5 * factor]
            for k in range(_U(m_out)):
                early = t0 * part[k] + t1 * part[k + _U(1)] + t2 * part[k + _U(2)]
                late = t3 * part[k + _U(3)] + t4 * part[k + _U(4)] + t5 * part[k + _U(5)]
                target[k] += early + late
            if c + 6 * factor < n_taps:
                tap = taps[c + 6 * factor]
                for k in range(_U(m_out)):
                    target[k] += tap * part[k + _U(6)]


@numba.njit(nogil=True, fastmath=True)
def _filter_down(rows, start, taps, line):
    """Filter columns with taps that are symmetric, three pairs at a time."""
    n_taps = taps.shape[0]
    if n_taps % 2:
        middle, row = taps[n_taps // 2], rows[start + n_taps // 2]
        for x in range(line.shape[0]):
            line[x] = middle * row[x]
    else:
        line[:] = 0
    last = start + n_taps - 1
    for j in range(0, n_taps // 2, 3):  # the number of pairs is a multiple of 3
        t0, t1, t2 = taps[j], taps[j + 1], taps[j + 2]
        a0, a1, a2 = rows[start + j], rows[start + j + 1], rows[start + j + 2]
        b0, b1, b2 = rows[last - j], rows[last - j - 1], rows[last - j - 2]
        for x in range(line.shape[0]):
            line[x] += t0 * (a0[x] + b0[x]) + t1 * (a1[x] + b1[x]) + t2 * (a2[x] + b2[x])
