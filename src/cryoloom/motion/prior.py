"""What is known of motion before it is measured: it is smooth in time, and fastest at first.

The steps of each mode of the field are a Gaussian process: neighbours are correlated, their size falls from early
frames to late ones, and their variance is found from the data (expectation–maximisation of the evidence), for the
whole frame and for the local modes of each degree. So the strength of the regularisation is never set by hand.
(Gaussian process motion: Zivanov, Nakane, Scheres 2019, doi:10.1107/S205225251801463X.)
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from cryoloom.motion.field import mode_orders


@dataclass(frozen=True)
class MotionPrior:
    """Bases in time and the shape of the prior of each mode.

    Attributes
    ----------
    bases
        Per mode `(t, n_m)`: `θ_m = basis @ v_m`; the first row is zero.
    precisions
        Per mode `(n_m, n_m)`: precision of `v_m` for a step variance of 1.
    groups
        Group of each mode, `(m,)`; modes of a group share their step variance.
    """

    bases: tuple[np.ndarray, ...]
    precisions: tuple[np.ndarray, ...]
    groups: np.ndarray

    @property
    def slices(self) -> list[slice]:
        """Where each mode lies in the stacked `v`."""
        ends = np.cumsum([0, *[b.shape[1] for b in self.bases]])
        return [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def motion_prior(n_frames: int, degree: int, dose_per_frame: float) -> MotionPrior:
    """Prior for `n_frames` frames and modes up to `degree`.

    Parameters
    ----------
    dose_per_frame
        e-/Å2; steps are largest in the first few e-/Å2. Not known: 1.
    """
    orders = mode_orders(degree).sum(1)
    early = 1 + 3 * np.exp(-dose_per_frame * np.arange(n_frames - 1) / 3.0)
    lag = np.abs(np.subtract.outer(np.arange(n_frames - 1), np.arange(n_frames - 1)))
    whole = _basis_and_precision(np.tril(np.ones((n_frames, n_frames - 1)), -1), early, 0.6**lag)
    local = _basis_and_precision(_time_splines(n_frames), early, 0.9**lag)
    parts = [whole if order == 0 else local for order in orders]
    return MotionPrior(tuple(p[0] for p in parts), tuple(p[1] for p in parts), orders)


def _basis_and_precision(basis: np.ndarray, size: np.ndarray, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = np.diff(basis, axis=0)
    covariance = correlation * np.outer(size, size)
    return basis, steps.T @ np.linalg.solve(covariance, steps)


def _time_splines(n_frames: int) -> np.ndarray:
    """Cubic B-splines in time, closer at the start, minus their value in the first frame, `(t, n)`."""
    n = int(min(max(4, round(n_frames / 4)), 14, n_frames - 1))
    order = min(3, n - 1)
    inner = np.linspace(0, 1, n - order + 2) ** 1.4 * (n_frames - 1)
    knots = np.concatenate([[inner[0]] * order, inner, [inner[-1]] * order])
    basis = _spline_values(np.arange(n_frames, dtype=np.float64), knots, order)
    return (basis - basis[:1])[:, 1:]


def _spline_values(x: np.ndarray, knots: np.ndarray, order: int) -> np.ndarray:
    """B-splines on `knots` at `x` `(t,)`, `(t, n)`, by the recursion of Cox and de Boor.

    The last knot belongs to the last piece. (SciPy has them too, in a module that takes a sixth of a second to load.)
    """
    last = np.flatnonzero(np.diff(knots) > 0)[-1]
    piece = np.minimum(np.searchsorted(knots, x, side="right") - 1, last)
    values = (np.arange(len(knots) - 1) == piece[:, None]).astype(np.float64)
    for k in range(1, order + 1):
        span = knots[k:] - knots[:-k]
        rise = np.divide(x[:, None] - knots[:-k], span, out=np.zeros((len(x), len(span))), where=span > 0)
        values = rise[:, :-1] * values[:, :-1] + (1 - rise[:, 1:]) * (span[1:] > 0) * values[:, 1:]
    return values


def solve_motion(
    prior: MotionPrior,
    information: np.ndarray,
    score: np.ndarray,
    variance: np.ndarray,
    n_updates: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Most probable modes for a quadratic log-likelihood, and the step variances that its evidence prefers.

    Parameters
    ----------
    information
        `(m t, m t)`, the same for both axes.
    score
        `information @ θ_hat`, `(m t, 2)`.
    variance
        Step variance per group, `(n_groups,)`.
    n_updates
        Updates of `variance`.

    Returns
    -------
    modes
        `(m, t, 2)`.
    covariance
        `(m t, m t)`.
    variance
        As given, updated.
    """
    n_modes, n_frames = len(prior.bases), prior.bases[0].shape[0]
    total = sum(b.shape[1] for b in prior.bases)
    stacked = np.zeros((n_modes * n_frames, total))
    for m, part in enumerate(prior.slices):
        stacked[m * n_frames : (m + 1) * n_frames, part] = prior.bases[m]
    reduced = stacked.T @ information @ stacked
    right = stacked.T @ score
    variance = variance.copy()
    for update in range(n_updates + 1):
        precision = reduced.copy()
        for m, part in enumerate(prior.slices):
            precision[part, part] += prior.precisions[m] / variance[prior.groups[m]]
        inverse = cho_solve(cho_factor(precision), np.eye(total))
        v = inverse @ right
        if update == n_updates:
            break
        squares = np.zeros_like(variance)
        counts = np.zeros_like(variance)
        for m, part in enumerate(prior.slices):
            q = prior.precisions[m]
            squares[prior.groups[m]] += 0.5 * np.sum(v[part] * (q @ v[part])) + np.sum(q * inverse[part, part])
            counts[prior.groups[m]] += q.shape[0]
        variance = np.maximum(squares / counts, 1e-10)
    modes = (stacked @ v).reshape(n_modes, n_frames, 2)
    if n_updates:
        inverse = inverse + _spread_of_variances(prior, inverse, v, variance)
    return modes, stacked @ inverse @ stacked.T, variance


def _spread_of_variances(prior: MotionPrior, inverse: np.ndarray, v: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Covariance that comes from not knowing the step variances exactly, `(n, n)`.

    The logarithm of a variance found from `g` well determined numbers has the variance `2 / g` (MacKay 1992,
    doi:10.1162/neco.1992.4.3.415); what it moves adds to the covariance (Kass, Steffey 1989,
    doi:10.1080/01621459.1989.10478825).
    """
    out = np.zeros_like(inverse)
    for group in np.unique(prior.groups):
        pull, determined = np.zeros_like(v), 0.0
        for m, part in enumerate(prior.slices):
            if prior.groups[m] == group:
                precision = prior.precisions[m] / variance[group]
                pull[part] = precision @ v[part]
                determined += 2 * (len(precision) - float(np.sum(precision * inverse[part, part])))
        moved = inverse @ pull  # by a unit of the logarithm
        out += 2 / max(determined, 1.0) * 0.5 * moved @ moved.T
    return out
