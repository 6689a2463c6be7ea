"""Local motion as a polynomial surface through tracks of patches, and how certain it is.

The surface is quadratic (or of another degree) in place and cubic in time, the motion of the whole frame is free in
every frame (Zheng 2017, doi:10.1038/nmeth.4193). Errors come from two solutions of independent halves of the patches.
Local modes are shrunk by what their size says of their significance (empirical Bayes), and the motion of the whole
frame is smoothed as far as generalised cross-validation asks for, with errors as in Wahba 1983,
doi:10.1111/j.2517-6161.1983.tb01239.x.
"""

from typing import Any

import numpy as np

from cryoloom.motion.field import mode_orders, mode_values

SMALLEST, LARGEST = 0.25, 25.0
"""Å: between these the local motion of real movies lies."""


class Surface:
    """Modes of the field at the centres of patches, and their functions of time.

    Attributes
    ----------
    values
        Modes at the centres of the patches, `(j, m)`.
    orders
        Degree of each mode, `(m,)`.
    in_time
        Functions of time of the local modes, `(t, p)`. Only differences between frames are seen, so their mean is zero.
    """

    def __init__(self, centre_px: np.ndarray, shape: tuple[int, int], degree: int, n_frames: int) -> None:
        self.values = mode_values(centre_px, shape, degree)
        self.orders = mode_orders(degree).sum(1)
        # time runs faster at first, as motion does
        time = np.log1p(4 * np.arange(n_frames) / (n_frames - 1)) / np.log(5)
        powers = np.stack([time**p for p in range(1, min(3, n_frames - 1) + 1)], 1)
        self.in_time = powers - powers.mean(0)

    def part(self, kept: np.ndarray) -> "Surface":
        """The same surface seen by some of the patches."""
        other = object.__new__(Surface)
        other.values, other.orders, other.in_time = self.values[kept], self.orders, self.in_time
        return other

    def tracks(self, modes: np.ndarray) -> np.ndarray:
        """Displacement of each patch, `(j, t, 2)`, for modes `(m, t, 2)`."""
        return np.asarray(np.einsum("jm,mtc->jtc", self.values, modes))

    def fit(self, tracks: np.ndarray, n_rounds: int = 6) -> np.ndarray:
        """Modes `(m, t, 2)` through tracks `(j, t, 2)`; outliers lose their say (Tukey's biweight)."""
        trust = np.ones(tracks.shape[:2])
        modes = self._solve(tracks, trust)
        for _ in range(n_rounds - 1):
            distance = np.linalg.norm(tracks - self.tracks(modes), axis=-1)
            spread = max(float(np.median(distance)), 1e-6)
            trust = np.clip(1 - (distance / (5 * spread)) ** 2, 0.0, None) ** 2
            modes = self._solve(tracks, trust)
        return modes

    def normal(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix of the local factors `(mp, mp)` for weights `(j, t)`, and mean local modes `(t, m - 1)`."""
        local = self.values[:, 1:]
        mean = weight.T @ local / np.maximum(weight.sum(0), 1e-9)[:, None]
        centred = local[None] - mean[:, None]  # (t, j, m - 1)
        gram = np.einsum("tjm,jt,tjn,tp,tq->mpnq", centred, weight, centred, self.in_time, self.in_time, optimize=True)
        size = gram.shape[0] * gram.shape[1]
        flat = gram.reshape(size, size)
        return flat + 1e-9 * max(np.trace(flat), 1e-30) / max(size, 1) * np.eye(size), mean

    def factors(self, modes: np.ndarray) -> np.ndarray:
        """Factors of the functions of time of the local modes, `(mp, 2)`."""
        found = np.linalg.lstsq(self.in_time, np.moveaxis(modes[1:], 0, 1).reshape(len(self.in_time), -1), rcond=None)[
            0
        ]
        return np.moveaxis(found.reshape(found.shape[0], -1, 2), 0, 1).reshape(-1, 2)

    def _solve(self, tracks: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weighted least squares; the whole-frame motion is eliminated frame by frame."""
        n_frames, n_modes = tracks.shape[1], self.values.shape[1]
        centre = np.einsum("jt,jtc->tc", weight, tracks) / np.maximum(weight.sum(0), 1e-9)[:, None]
        modes = np.zeros((n_modes, n_frames, 2))
        modes[0] = centre
        if n_modes > 1:
            flat, mean = self.normal(weight)
            away = self.values[None, :, 1:] - mean[:, None]
            right = np.einsum("tjm,jt,jtc,tp->mpc", away, weight, tracks, self.in_time, optimize=True)
            found = np.linalg.solve(flat, right.reshape(-1, 2)).reshape(right.shape)
            modes[1:] = np.einsum("mpc,tp->mtc", found, self.in_time)
            modes[0] -= np.einsum("tm,mtc->tc", mean, modes[1:])
        return modes


def settle(
    surface: Surface, whole: np.ndarray, halves: tuple[np.ndarray, np.ndarray], pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed and shrunk modes with their covariance.

    Parameters
    ----------
    whole
        Modes found from all patches, `(m, t, 2)`.
    halves
        The same from each of two halves of the patches.
    pixel_size
        Å, of the modes.

    Returns
    -------
    modes
        `(m, t, 2)`, zero in the first frame.
    covariance
        Of the modes of one axis, `(m t, m t)`.
    """
    n_modes, n_frames = whole.shape[:2]
    modes = whole.copy()
    covariance = np.zeros((n_modes, n_frames, n_modes, n_frames))
    apart = 0.5 * (halves[0][0] - halves[1][0])
    variance = float(((apart - apart.mean(0)) ** 2).sum()) / (2 * (n_frames - 1))
    smoother = smoothing_matrix(whole[0])
    modes[0] = smoother @ whole[0]
    gauge = np.eye(n_frames)  # to zero in the first frame
    gauge[:, 0] -= 1
    covariance[0, :, 0] = variance * gauge @ smoother @ gauge.T
    if n_modes > 1:
        n_times = surface.in_time.shape[1]
        normal, _ = surface.normal(np.ones((len(surface.values), n_frames)))
        inverse = np.linalg.inv(normal)
        difference = 0.5 * (surface.factors(halves[0]) - surface.factors(halves[1]))
        unit = float(np.einsum("ac,ab,bc->", difference, normal, difference)) / difference.size
        share, known = _shares(surface, whole, inverse * unit, pixel_size)
        modes[1:] *= share[1:, None, None]
        root = np.sqrt(known[1:])
        of_factors = (inverse * unit).reshape(n_modes - 1, n_times, n_modes - 1, n_times)
        of_factors = of_factors * root[:, None, None, None] * root[None, None, :, None]
        covariance[1:, :, 1:] = np.einsum(
            "mpnq,tp,uq->mtnu", of_factors, gauge @ surface.in_time, gauge @ surface.in_time, optimize=True
        )
    modes -= modes[:, :1]
    return modes, covariance.reshape(n_modes * n_frames, n_modes * n_frames)


def _shares(
    surface: Surface, whole: np.ndarray, covariance: np.ndarray, pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each mode that is kept, and what stays of its variance, `(m,)` each; one for all modes of a degree.

    How large the motion of a degree is (root mean square over patches and frames) has a prior that is flat in its
    logarithm from `SMALLEST` to `LARGEST`; share and variance are means over its posterior.
    """
    n_times = surface.in_time.shape[1]
    factors = surface.factors(whole)
    keep, known = np.ones(len(surface.orders)), np.ones(len(surface.orders))
    in_time = surface.in_time.T @ surface.in_time / len(surface.in_time)
    in_place = surface.values[:, 1:].T @ surface.values[:, 1:] / len(surface.values)
    square_of_factors = np.kron(in_place, in_time)
    for order in range(1, int(surface.orders.max()) + 1):
        here = np.repeat(surface.orders[1:] == order, n_times)
        part, noise = factors[here], covariance[np.ix_(here, here)]
        noise_px2 = float(np.sum(noise * square_of_factors[np.ix_(here, here)]))
        ratio = (np.geomspace(SMALLEST, LARGEST, 81) / pixel_size) ** 2 / max(noise_px2, 1e-12)
        share = ratio / (1 + ratio)
        square = float(np.einsum("ac,ac->", part, np.linalg.solve(noise, part)))
        log_posterior = -0.5 * part.size * np.log1p(ratio) - 0.5 * square / (1 + ratio)
        posterior = np.exp(log_posterior - log_posterior.max())
        posterior /= posterior.sum()
        mean = float(posterior @ share)
        keep[surface.orders == order] = mean
        known[surface.orders == order] = mean + float(posterior @ (share - mean) ** 2) * square / part.size
    return keep, known


def smoothing_matrix(track: np.ndarray) -> np.ndarray:
    """Smoother of a track `(t, 2)` with the strength of least generalised cross-validation, `(t, t)`.

    Squared second differences are penalised (Whittaker).
    """
    n = len(track)
    if n < 5:
        return np.eye(n)
    bend = np.diff(np.eye(n), 2, axis=0)
    size, mode = np.linalg.eigh(bend.T @ bend)
    size = np.maximum(size, 0.0)
    best: tuple[float, Any] = (np.inf, None)
    for strength in 10.0 ** np.linspace(-3, 4, 36):
        passed = 1 / (1 + strength * size)
        left = (1 - passed)[:, None] * (mode.T @ track)
        score = float((left**2).sum()) / (n - passed.sum()) ** 2
        if score < best[0]:
            best = (score, passed)
    return np.asarray((mode * best[1]) @ mode.T)
