"""Raw frames with their gain and their repaired pixels, read row by row.

Frames stay in memory in the type the camera wrote (one or two bytes a pixel); the gain is applied and bad pixels are
replaced when rows are loaded into a small buffer, so no corrected copy of the movie ever exists.
"""

from dataclasses import dataclass

import numba
import numpy as np

N_DONORS = 8


@dataclass(frozen=True)
class Frames:
    """A movie in memory.

    Attributes
    ----------
    raw
        `(t, h, w)` as the camera wrote it.
    gain
        Factor per pixel, `(h, w)` float32.
    bad
        Flat indices of bad pixels, sorted, `(n,)` int64.
    bad_row
        Index into `bad` where each row starts, `(h + 1,)` int64.
    donors
        Flat indices of good pixels near each bad one, `(n, N_DONORS)`; frame `t` takes one of them, so a repaired
        pixel has the noise of its neighbours and no pattern that repeats.
    """

    raw: np.ndarray
    gain: np.ndarray
    bad: np.ndarray
    bad_row: np.ndarray
    donors: np.ndarray

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.raw.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return int(self.raw.shape[1]), int(self.raw.shape[2])

    def frame(self, t: int) -> np.ndarray:
        """Corrected frame `t`, `(h, w)` float32."""
        h, w = self.shape
        out = np.empty((h, w), np.float32)
        load_rows(self.raw[t], self.gain, self.bad, self.bad_row, self.donors, t, 0, h, 0, out)
        return out

    def with_bad_pixels(self, mask: np.ndarray, rng: np.random.Generator) -> "Frames":
        """The same frames with the pixels of `mask` `(h, w)` repaired."""
        bad, bad_row, donors = repair_plan(mask, rng)
        return Frames(self.raw, self.gain, bad, bad_row, donors)


def make_frames(raw: np.ndarray, gain: np.ndarray | None = None, bad: np.ndarray | None = None) -> Frames:
    """Frames from an array `(t, h, w)`, a multiplicative gain `(h, w)` and a mask of bad pixels `(h, w)`."""
    if raw.ndim != 3:
        raise ValueError(f"raw: expected (t, h, w), got shape {raw.shape}")
    if raw.dtype == np.float16 or raw.dtype.byteorder not in "=|":
        raw = raw.astype(np.float32 if raw.dtype.kind == "f" else raw.dtype.newbyteorder("="))
    h, w = raw.shape[1:]
    gain = np.ones((h, w), np.float32) if gain is None else np.ascontiguousarray(gain, dtype=np.float32)
    if gain.shape != (h, w):
        raise ValueError(f"gain: expected shape {(h, w)} like the frames, got {gain.shape}")
    mask = np.zeros((h, w), bool) if bad is None else bad
    return Frames(raw, gain, *repair_plan(mask, np.random.default_rng(0)))


def repair_plan(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bad pixels in order, where each row starts among them, and good donors near each.

    Donors are drawn at random from the square around the pixel, which grows until it holds enough good ones.
    """
    h, w = mask.shape
    bad = np.flatnonzero(mask)
    bad_row = np.searchsorted(bad, np.arange(h + 1) * w).astype(np.int64)
    donors = np.empty((len(bad), N_DONORS), np.int64)
    for i, index in enumerate(bad):
        y, x = divmod(int(index), w)
        radius = 2
        while True:
            y0, x0 = max(0, y - radius), max(0, x - radius)
            good = np.argwhere(~mask[y0 : y + radius + 1, x0 : x + radius + 1])
            if len(good) >= N_DONORS or radius > max(h, w):
                break
            radius *= 2
        if len(good) == 0:
            raise ValueError("bad pixels: expected at least one good pixel, got a frame that is all bad")
        chosen = good[rng.integers(0, len(good), N_DONORS)]
        donors[i] = (chosen[:, 0] + y0) * w + chosen[:, 1] + x0
    return bad.astype(np.int64), bad_row, donors


@numba.njit(nogil=True, cache=True, fastmath=True)
def load_rows(raw, gain, bad, bad_row, donors, t, y0, y1, pad, out):
    """Fill `out` `(y1 - y0, w + 2 pad)` with corrected rows `y0 ... y1 - 1`; what lies outside is mirrored."""
    h, w = raw.shape
    for y in range(y0, y1):
        s = y
        if s < 0:
            s = -s - 1
        if s >= h:
            s = 2 * h - 1 - s
        s = min(max(s, 0), h - 1)
        row = out[y - y0]
        source = raw[s]
        factor = gain[s]
        inner = row[pad : pad + w]
        for x in range(w):
            inner[x] = np.float32(source[x]) * factor[x]
        for i in range(bad_row[s], bad_row[s + 1]):
            donor = donors[i, (t * 5 + i * 3) % N_DONORS]
            inner[bad[i] - s * w] = np.float32(raw[donor // w, donor % w]) * gain[donor // w, donor % w]
        for x in range(min(pad, w)):
            row[pad - 1 - x] = inner[x]
            row[pad + w + x] = inner[w - 1 - x]
