"""Confidence interval of the resolution from permutations: how far chance moves the crossing itself.

Beside the interval of `maps.interval`, which follows from a formula for the errors, this one is drawn. The FSC of
re-paired coefficients of a shell (`maps.permutation`) shows what chance does to that shell; in Fisher's z it does the
same at any correlation. Such errors, alike between shells as the mask makes them, are added to the smoothed curve many
times, and the crossing of each is located like that of the curve itself. The interval is turned over (the basic
bootstrap of Davison and Hinkley 1997): where chance moves crossings far outwards, the truth may lie far inwards.
"""

import numpy as np

from cryoloom.maps.interval import Crossing, locate_crossing
from cryoloom.maps.permutation import PermutedFsc

Z = 1.96
"""Standard deviations of a normal distribution that hold 95 %."""

SMOOTH = 0.08
"""Half width of the triangle by which the curve is smoothed, over its crossing."""


def permuted_interval(
    fsc: np.ndarray,
    covariance: np.ndarray,
    permuted: PermutedFsc,
    crossing: Crossing,
    generator: np.random.Generator,
    *,
    threshold: float = 0.143,
    n_draws: int = 100,
) -> tuple[float, float]:
    """Shells between which the crossing lies (95 %).

    Parameters
    ----------
    fsc, covariance
        Curve and covariance of its noise, as in `locate_crossing`, `(n,)` and `(n, n)`.
    permuted
        Permutations of the same halves behind the same mask.
    crossing
        Of the curve, from `locate_crossing`.
    generator
        Of the draws.
    threshold
        At which the crossing was located.
    n_draws
        Curves that are drawn.

    Returns
    -------
    low, high
        Within 0.5 and the last shell; `high` is the last shell for a curve that never falls below the threshold.

    Raises
    ------
    ValueError
        If the curve and the permutations are of different length.
    """
    n = len(fsc)
    if len(permuted.fsc) != n:
        raise ValueError(f"permuted: expected {n} shells, got {len(permuted.fsc)}")
    smooth = _smoothed(fsc, max(1, round(SMOOTH * crossing.shell)))
    middle = locate_crossing(smooth, covariance, threshold)
    if not (crossing.bounded and middle.bounded):
        return crossing.interval(n)[0], float(n - 1)
    z = np.arctanh(np.clip(smooth, -0.999, 0.999))
    spread = np.sqrt(np.diag(covariance))
    alike = covariance / spread[:, None] / spread[None, :]
    values, vectors = np.linalg.eigh(alike)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    moved = np.empty(n_draws)
    for i in range(n_draws):
        curve = np.tanh(z + spread * (root @ _standard_errors(permuted, generator)))
        moved[i] = locate_crossing(curve, covariance, threshold).shell - middle.shell
    # Of so few draws the ends of a 95 % interval scatter; those of one standard deviation, made longer, do less.
    below, usual, above = np.quantile(moved, [0.1587, 0.5, 0.8413])
    low = crossing.shell - usual - Z * (above - usual)
    high = crossing.shell - usual + Z * (usual - below)
    return float(np.clip(low, 0.5, n - 1)), float(np.clip(high, 0.5, n - 1))


def _standard_errors(permuted: PermutedFsc, generator: np.random.Generator) -> np.ndarray:
    """One error per shell of mean 0 and variance 1, drawn from its permutations (normal where there are none)."""
    out = generator.standard_normal(len(permuted.fsc))
    for s, null in enumerate(permuted.null):
        if len(null):
            out[s] = null[generator.integers(len(null))] / null.std()
    return out


def _smoothed(fsc: np.ndarray, reach: int) -> np.ndarray:
    """Fisher's z of the curve, averaged over neighbours by a triangle, as a correlation again."""
    z = np.arctanh(np.clip(fsc, -0.999, 0.999))
    triangle = 1.0 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    padded = np.pad(z, reach, mode="reflect", reflect_type="odd") if reach < len(z) else np.pad(z, reach, mode="edge")
    return np.tanh(np.convolve(padded, triangle / triangle.sum(), mode="valid"))
