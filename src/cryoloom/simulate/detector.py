"""A counting camera: sensitivity of each pixel with its faults, transfer function, and electrons.

Counts are Poisson with the mean `expected * sensitivity`; the gain reference that a pipeline multiplies by is
`1 / sensitivity`, 0 where a pixel is dead. Hot pixels count far too much and are not marked in the reference.
"""

import numba
import numpy as np


def random_sensitivity(
    shape: tuple[int, int], rng: np.random.Generator, *, n_dead: int = 40, n_hot: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity `(h, w)` float32, mean about 1, and the hot pixels `(n, 2)` yx.

    Pixels differ by 4 %, the tiles of the camera and its columns by 2 %, with a smooth fall towards a corner; some
    pixels and one column segment are dead.
    """
    h, w = shape
    tiles = 1 + 0.02 * rng.standard_normal((-(-h // 256), -(-w // 256)))
    sensitivity = np.kron(tiles, np.ones((256, 256)))[:h, :w]
    sensitivity = sensitivity * (1 + 0.02 * rng.standard_normal(w)) * (1 + 0.04 * rng.standard_normal((h, w)))
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    sensitivity = sensitivity * (1 + 0.04 * rng.normal() * y + 0.04 * rng.normal() * x - 0.03 * y * x)
    sensitivity = np.clip(sensitivity, 0.3, None)
    dead = np.stack([rng.integers(0, h, n_dead), rng.integers(0, w, n_dead)], axis=1)
    sensitivity[dead[:, 0], dead[:, 1]] = 0
    column, start = int(rng.integers(0, w)), int(rng.integers(0, max(1, h - h // 8)))
    sensitivity[start : start + h // 8, column] = 0
    hot = np.stack([rng.integers(0, h, n_hot), rng.integers(0, w, n_hot)], axis=1)
    return sensitivity.astype(np.float32), hot


def gain_reference(sensitivity: np.ndarray) -> np.ndarray:
    """Factors that frames are multiplied by, `(h, w)` float32; 0 for dead pixels."""
    return np.where(sensitivity > 0, 1 / np.maximum(sensitivity, 1e-6), 0).astype(np.float32)


def detector_mtf(frequency_per_px: np.ndarray) -> np.ndarray:
    """MTF of a counting camera: 0.5 at Nyquist, a sinc of the pixel times a slow fall."""
    k = np.asarray(frequency_per_px, np.float64)
    return np.sinc(k) * np.exp(-np.log(2 * np.sinc(0.5)) * (2 * k) ** 2)


@numba.njit(nogil=True, cache=True)
def count_electrons(expected: np.ndarray, sensitivity: np.ndarray, seed: int, counts: np.ndarray) -> None:
    """Draw Poisson counts into `counts` `(h, w)` uint8 or uint16; `expected` `(h, w)` electrons per pixel.

    One stream per row (SplitMix64 of the seed and the row, then xoroshiro128+), so the result does not depend on
    threads.
    """
    h, w = expected.shape
    for i in range(h):
        s0 = _splitmix(np.uint64(seed) + np.uint64(2 * i + 1) * np.uint64(0x9E3779B97F4A7C15))
        s1 = _splitmix(s0 ^ np.uint64(0xD1B54A32D192ED03))
        for j in range(w):
            mean = max(np.float64(expected[i, j] * sensitivity[i, j]), 0.0)
            total = 0
            while mean > 0.0:
                part = min(mean, 12.0)
                mean -= part
                out = s0 + s1
                s1 ^= s0
                s0 = ((s0 << np.uint64(24)) | (s0 >> np.uint64(40))) ^ s1 ^ (s1 << np.uint64(16))
                s1 = (s1 << np.uint64(37)) | (s1 >> np.uint64(27))
                u = (out >> np.uint64(11)) * (1.0 / 9007199254740992.0)
                p = np.exp(-part)
                k = 0
                while u >= p and k < 200:
                    u -= p
                    k += 1
                    p *= part / k
                total += k
            counts[i, j] = total


@numba.njit(nogil=True, cache=True, inline="always")
def _splitmix(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
