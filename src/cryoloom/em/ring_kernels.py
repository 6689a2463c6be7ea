"""Inner loops of `em/ring_posterior.py` on the CPU (Numba, single-threaded, lock released).

Coefficients over the angle are stored `(image or reference, q, 2, rings)`: real parts of all rings, then imaginary
ones, so that sums over rings run over neighbours in memory.
"""

import math

import numpy as np
from numba import njit

f32 = np.float32


@njit(nogil=True, cache=True, fastmath=True)
def centre_samples_kernel(
    samples: np.ndarray,
    ctf: np.ndarray,
    shift: np.ndarray,
    radii: np.ndarray,
    unit: np.ndarray,
    box: int,
    out: np.ndarray,
) -> None:
    """`C X exp(+2πi k·t)` at the points of half rings.

    Phases run along a radius by a recurrence: one sine and one cosine for each angle.

    Parameters
    ----------
    samples, ctf
        `(n, rings, half, 2)` and `(n, rings, half)` float32.
    shift
        Pixels yx, `(n, 2)`.
    radii, unit
        Evenly spaced radii in Fourier pixels `(rings,)`, and cos and sin of the angles `(2, half)`, float64.
    out
        `(2, n, rings, half)`, real and imaginary parts.
    """
    n_rings, half = ctf.shape[1], ctf.shape[2]
    spacing = radii[1] - radii[0] if n_rings > 1 else 0.0
    turn = np.empty((4, half), f32)
    for i in range(samples.shape[0]):
        for j in range(half):
            a = 2.0 * math.pi / box * (unit[0, j] * shift[i, 1] + unit[1, j] * shift[i, 0])
            turn[0, j] = math.cos(a * radii[0])
            turn[1, j] = math.sin(a * radii[0])
            turn[2, j] = math.cos(a * spacing)
            turn[3, j] = math.sin(a * spacing)
        for r in range(n_rings):
            for j in range(half):
                c, s = turn[0, j], turn[1, j]
                x, y, f = samples[i, r, j, 0], samples[i, r, j, 1], ctf[i, r, j]
                out[0, i, r, j] = f * (x * c - y * s)
                out[1, i, r, j] = f * (x * s + y * c)
                turn[0, j] = c * turn[2, j] - s * turn[3, j]
                turn[1, j] = c * turn[3, j] + s * turn[2, j]


@njit(nogil=True, cache=True, fastmath=True)
def pair_curves_kernel(
    bank: np.ndarray,
    images: np.ndarray,
    place: np.ndarray,
    first_ring: np.ndarray,
    image: np.ndarray,
    column: np.ndarray,
    out: np.ndarray,
) -> None:
    """`Σ_r conj(V(r, q)) Y(r, q)` of chosen pairs of images and shifted references.

    Parameters
    ----------
    bank
        `(columns, n_q, 2, rings)` float32, weights of the rings included.
    images
        `(b, n_q', 2, rings')` with at least as many angular frequencies and rings.
    place
        Where each `q` of the bank lies among those of the images, `(n_q,)`.
    first_ring
        First ring at which a `q` counts, `(n_q,)`.
    image, column
        The pairs, `(pairs,)`.
    out
        `(pairs, n_q, 2)` float32.
    """
    n_rings = bank.shape[3]
    for p in range(image.shape[0]):
        i, d = image[p], column[p]
        for q in range(bank.shape[1]):
            a, b = bank[d, q, 0], bank[d, q, 1]
            x, y = images[i, place[q], 0], images[i, place[q], 1]
            real, imaginary = f32(0), f32(0)
            for r in range(first_ring[q], n_rings):
                real += a[r] * x[r] + b[r] * y[r]
                imaginary += a[r] * y[r] - b[r] * x[r]
            out[p, q, 0] = real
            out[p, q, 1] = imaginary


@njit(nogil=True, cache=True, fastmath=True)
def insert_pairs_kernel(
    spectrum: np.ndarray,
    images: np.ndarray,
    first_ring: np.ndarray,
    image: np.ndarray,
    column: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add `P(q) Y(r, q)` of chosen pairs to the sums of their shifted references.

    Parameters
    ----------
    spectrum
        `Σ_ψ p(ψ) cos qψ` and `Σ_ψ p(ψ) sin qψ`, `(pairs, n_q, 2)` float32.
    images
        `(b, n_q, 2, rings)`, at least the rings of `sums`.
    first_ring, image, column
        As in `pair_curves_kernel`.
    sums
        `(columns, n_q, 2, rings)` float32, changed in place.
    """
    n_rings = sums.shape[3]
    for p in range(image.shape[0]):
        i, d = image[p], column[p]
        for q in range(sums.shape[1]):
            c, s = spectrum[p, q, 0], spectrum[p, q, 1]
            x, y = images[i, q, 0], images[i, q, 1]
            real, imaginary = sums[d, q, 0], sums[d, q, 1]
            for r in range(first_ring[q], n_rings):
                real[r] += c * x[r] + s * y[r]
                imaginary[r] += c * y[r] - s * x[r]
