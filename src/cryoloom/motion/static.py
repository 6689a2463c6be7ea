"""Pattern that stays fixed on the detector while the specimen moves: an imperfect gain, seen in every frame.

A frame is specimen + pattern + noise. The pattern of an imperfect gain is white, so its strength `g` (power over that
of the noise of one frame) is measured at the highest frequencies, where frames that are not aligned yet share no
specimen.
Integrated out with its power as prior, it leaves the likelihood of `likelihood.py` for the frames minus

`κ b_t Σ_s conj(b_s) F_s,  κ = 1 / (1/g + T)`

with `b_t` the phase of the detector's origin in the tile of frame `t`. What is left of the noise is then correlated,
`E[F_t conj(F_s)] = δ_ts - κ b_t conj(b_s)`; the fit adds the missing products back, so still frames are neither
favoured nor shunned. (The purpose is that of the weights of Shigematsu, Sigworth 2013, doi:10.1093/jmicro/dft040.)
"""

import math

import numpy as np
import scipy.fft

from cryoloom.motion.frames import Frames

_TILE = 256
_LOW = 0.35  # cycles per pixel


def measure_pattern(frames: Frames, n_tiles: int = 16) -> float:
    """Power of the fixed pattern over the noise power of one frame; 0 if there is none to be seen.

    Odd frames are summed apart from even ones; what both sums share at high frequencies is the pattern.
    """
    n, (h, w) = frames.n_frames, frames.shape
    size = min(_TILE, h, w)
    if n < 4 or size < 32:
        return 0.0
    side = max(1, math.isqrt(n_tiles))
    rows = np.linspace(0, h - size, side).astype(int)
    columns = np.linspace(0, w - size, side).astype(int)
    k = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size))
    high = (k > _LOW) & (np.abs(scipy.fft.fftfreq(size))[:, None] > 2 / size) & (scipy.fft.rfftfreq(size) > 2 / size)
    bad = np.zeros((h, w), bool)
    bad.reshape(-1)[frames.bad] = True
    n_first, n_second = (n + 1) // 2, n // 2
    shared, power, count = 0.0, 0.0, 0
    for y in rows:
        for x in columns:
            part = (slice(y, y + size), slice(x, x + size))
            first = _sum(frames, slice(0, n, 2), part, bad)
            second = _sum(frames, slice(1, n, 2), part, bad)
            a, b = scipy.fft.rfft2(first)[high], scipy.fft.rfft2(second)[high]
            shared += float((a * b.conj()).real.sum(dtype=np.float64))
            power += float((np.abs(a) ** 2).sum(dtype=np.float64)) + float((np.abs(b) ** 2).sum(dtype=np.float64))
            count += a.size
    pattern = shared / (n_first * n_second)
    noise = (power - (n_first**2 + n_second**2) * pattern) / n
    if noise <= 0:
        return 0.0
    g = pattern / noise
    error = 1 / math.sqrt(2.0 * count * n_first * n_second)
    return g if g > 6 * error else 0.0


def pattern_share(g: float, n_frames: int) -> float:
    """`κ`, 0 if the pattern is too weak to matter."""
    if n_frames * g < 0.01:
        return 0.0
    return 1 / (1 / g + n_frames)


def _sum(frames: Frames, which: slice, part: tuple[slice, slice], bad: np.ndarray) -> np.ndarray:
    total = frames.raw[(which, *part)].sum(0, dtype=np.float32) * frames.gain[part]
    hidden = bad[part]
    if hidden.any() and not hidden.all():
        total[hidden] = total[~hidden].mean()
    return total
