"""Sum of frames, each moved back along the motion field, in one pass over the movie.

Each frame is read where the content sits in it by two short one-dimensional filters, first along x, then along y.
The shift is constant over runs of 32 pixels, over which the field changes by some hundredths of a pixel at most.
Dose weighting costs no transform per frame: the frame enters a few sums with weights `a_j(t)`, and the exposure filter
is `Σ_j a_j(t) b_j(k)` (`dose_basis.py`), applied to those few sums at the end.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.motion.field import MotionField
from cryoloom.motion.frames import Frames, load_rows
from cryoloom.motion.interpolation import N_FRACTIONS, N_TAPS, filter_bank, mean_response

RUN = 32
_BAND_ROWS = 48
_U = np.uintp


def sum_frames(frames: Frames, field: MotionField, coefficients: np.ndarray, n_groups: int = 1) -> np.ndarray:
    """Weighted sums of the frames, each moved back by its displacement.

    Parameters
    ----------
    frames
        The movie.
    field
        Where content sits in each frame.
    coefficients
        Weight of frame `t` in sum `j`, `(t, j)`.
    n_groups
        1, or 2 to keep frames 1, 3, 5, ... (counted from 1) apart from frames 2, 4, 6, ...

    Returns
    -------
    sums
        `(n_groups, j, h, w)` float32.
    """
    h, w = frames.shape
    n_frames, n_sums = coefficients.shape
    sums = np.zeros((n_groups, n_sums, h, w), np.float32)
    weights = np.ascontiguousarray(coefficients, dtype=np.float32)
    bank = filter_bank()
    n_runs = -(-w // RUN)
    run_centre = np.minimum(np.arange(n_runs) * RUN + 0.5 * (RUN - 1), w - 1)
    edges = np.append(np.arange(0, h, _BAND_ROWS), h)
    nodes = np.stack(np.broadcast_arrays(edges[:, None], run_centre), axis=-1).astype(np.float64)
    shift = field.at(nodes.reshape(-1, 2)).reshape(len(edges), n_runs, n_frames, 2)
    shift = np.ascontiguousarray(np.moveaxis(shift, 2, 0), dtype=np.float32)  # (t, edges, runs, 2)
    pad = int(np.ceil(np.abs(shift).max())) + N_TAPS + 1
    if pad >= min(h, w):
        raise ValueError(f"field: expected displacements smaller than the frame, got {pad} pixels")
    for band, (y0, y1) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        for t in range(n_frames):
            _add_band(
                frames.raw[t], frames.gain, frames.bad, frames.bad_row, frames.donors,
                t, y0, y1, pad, shift[t, band : band + 2], bank, weights[t], sums[t % n_groups],
            )  # fmt: skip
    return sums


def flatten_response(dft: Tensor, field: MotionField, image_shape: tuple[int, int]) -> Tensor:
    """Divide the transform of a sum `(*batch, h, w // 2 + 1)` by the mean response of the filters, in place.

    The response is averaged over the fractions that occur; it is not divided out beyond a factor of two.
    """
    h, w = image_shape
    y, x = np.meshgrid(np.linspace(0, h - 1, 12), np.linspace(0, w - 1, 12), indexing="ij")
    shift = field.at(np.stack([y, x], -1).reshape(-1, 2))
    fraction = shift - np.floor(shift)
    along_y = mean_response(fraction[..., 0], np.abs(np.fft.fftfreq(h)))
    along_x = mean_response(fraction[..., 1], np.fft.rfftfreq(w))
    gain_y = torch.as_tensor(1 / np.clip(along_y, 0.5, None), dtype=torch.float32, device=dft.device)
    gain_x = torch.as_tensor(1 / np.clip(along_x, 0.5, None), dtype=torch.float32, device=dft.device)
    return dft.mul_(gain_y[:, None] * gain_x)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_band(raw, gain, bad, bad_row, donors, t, y0, y1, pad, shift, bank, weights, sums):
    """Add rows `y0 ... y1 - 1` of one frame to `sums` `(j, h, w)`; `shift` `(2, runs, 2)` is that at their edges."""
    w = raw.shape[1]
    n_runs = shift.shape[1]
    low = np.float32(1e9)
    high = np.float32(-1e9)
    for e in range(2):
        for r in range(n_runs):
            low = min(low, shift[e, r, 0])
            high = max(high, shift[e, r, 0])
    top = int(np.floor(low)) - N_TAPS // 2
    bottom = int(np.floor(high)) + N_TAPS // 2 + 2
    n_rows = y1 - y0 + bottom - top
    rows = np.empty((n_rows, w + 2 * pad), np.float32)
    load_rows(raw, gain, bad, bad_row, donors, t, y0 + top, y1 + bottom, pad, rows)
    moved = np.empty((n_rows, w), np.float32)
    height = np.float32(y1 - y0)
    middle = 0.5 * (top + bottom)
    for i in range(n_rows):
        below = min(max((i + top - middle) / height, 0.0), 1.0)
        above = 1.0 - below  # type: ignore[operator]
        for r in range(n_runs):
            d = above * shift[0, r, 1] + below * shift[1, r, 1]
            whole = int(np.floor(d))
            f = int((d - whole) * N_FRACTIONS)
            start = _U(pad + r * RUN + whole - (N_TAPS // 2 - 1))
            _filter_run(rows[i], start, bank[f], moved[i], _U(r * RUN), _U(min(w, (r + 1) * RUN)))
    line = np.empty(w, np.float32)
    for i in range(y1 - y0):
        part = i / height
        for r in range(n_runs):
            d = (1 - part) * shift[0, r, 0] + part * shift[1, r, 0]
            whole = int(np.floor(d))
            f = int((d - whole) * N_FRACTIONS)
            start = _U(i - top + whole - (N_TAPS // 2 - 1))
            _filter_column_run(moved, start, bank[f], line, _U(r * RUN), _U(min(w, (r + 1) * RUN)))
        for j in range(sums.shape[0]):
            total = sums[j, y0 + i]
            a = weights[j]
            for x in range(w):
                total[x] += a * line[x]


@numba.njit(nogil=True, fastmath=True, inline="always")
def _filter_run(row, start, taps, out, x0, x1):
    """`out[x0:x1]` = the row from `start` on, filtered along x."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    t6, t7, t8, t9, ta, tb = taps[6], taps[7], taps[8], taps[9], taps[10], taps[11]
    for j in range(x1 - x0):
        q = start + j
        first = t0 * row[q] + t1 * row[q + _U(1)] + t2 * row[q + _U(2)] + t3 * row[q + _U(3)]
        second = t4 * row[q + _U(4)] + t5 * row[q + _U(5)] + t6 * row[q + _U(6)] + t7 * row[q + _U(7)]
        third = t8 * row[q + _U(8)] + t9 * row[q + _U(9)] + ta * row[q + _U(10)] + tb * row[q + _U(11)]
        out[x0 + j] = first + second + third


@numba.njit(nogil=True, fastmath=True, inline="always")
def _filter_column_run(rows, s, taps, out, x0, x1):
    """`out[x0:x1]` = rows from `s` on, filtered along y."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    t6, t7, t8, t9, ta, tb = taps[6], taps[7], taps[8], taps[9], taps[10], taps[11]
    for q in range(x0, x1):
        first = t0 * rows[s, q] + t1 * rows[s + _U(1), q] + t2 * rows[s + _U(2), q] + t3 * rows[s + _U(3), q]
        second = t4 * rows[s + _U(4), q] + t5 * rows[s + _U(5), q] + t6 * rows[s + _U(6), q] + t7 * rows[s + _U(7), q]
        third = t8 * rows[s + _U(8), q] + t9 * rows[s + _U(9), q] + ta * rows[s + _U(10), q] + tb * rows[s + _U(11), q]
        out[q] = first + second + third


def sum_frames_torch(
    frames: Frames,
    field: MotionField,
    coefficients: np.ndarray,
    n_groups: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The twin of `sum_frames` in plain torch, a shift per pixel; used on a GPU.

    Returns
    -------
    sums
        `(n_groups, j, h, w)` float32 on `device`.
    """
    h, w = frames.shape
    n_frames, n_sums = coefficients.shape
    bank = torch.as_tensor(filter_bank(), device=device)
    sums = torch.zeros(n_groups, n_sums, h, w, device=device)
    y = torch.arange(h, device=device)
    x = torch.arange(w, device=device)
    offset = torch.arange(N_TAPS, device=device) - (N_TAPS // 2 - 1)

    def mirrored(index: Tensor, n: int) -> Tensor:
        index = torch.where(index < 0, -index - 1, index)
        return torch.where(index >= n, 2 * n - 1 - index, index).clamp(0, n - 1)

    for t in range(n_frames):
        frame = torch.as_tensor(frames.frame(t), device=device)
        dy = torch.as_tensor(field.on_grid(np.arange(h), np.arange(w), t)[0], device=device)
        # a row of the frame shows what sits dy higher: dx is taken there
        dx = torch.as_tensor(field.on_grid(np.arange(h) - float(dy.mean()), np.arange(w), t)[1], device=device)
        whole, tap = _split(dx, bank)
        moved = torch.zeros_like(frame)
        for j in range(N_TAPS):
            moved += tap[..., j] * frame.gather(1, mirrored(x + whole + offset[j], w))
        whole, tap = _split(dy, bank)
        line = torch.zeros_like(frame)
        for j in range(N_TAPS):
            line += tap[..., j] * moved.gather(0, mirrored(y[:, None] + whole + offset[j], h))
        weights = torch.as_tensor(coefficients[t], dtype=torch.float32, device=device)
        sums[t % n_groups] += weights[:, None, None] * line
    return sums


def _split(shift: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Whole pixels `(h, w)` int64 and the taps of the rest `(h, w, N_TAPS)`."""
    whole = torch.floor(shift)
    index = ((shift - whole) * N_FRACTIONS).to(torch.int64).clamp_max(N_FRACTIONS - 1)
    return whole.to(torch.int64), bank[index]
