"""From scores to probabilities: peaks of the inverted map say how many are false.

The background of the same micrographs answers. Particles are bright on the working images, so the peaks of the
inverted score map come from noise (and from the fringes of particles, which makes the answer cautious). With the
numbers `n_neg(t)` and `n_pos(t)` of peaks above `t` in both maps, pooled over all micrographs, the fraction of
false picks is `n_neg / n_pos` (target-decoy counting, as in Käll et al. 2008, doi:10.1021/pr700600n), and the
probability of one pick is `1 - f_neg(score) / f_pos(score)` with the local densities, made monotone.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

_MOST_STEPS = 20_000  # of the isotonic regression; beyond, neighbouring peaks are taken together


@dataclass(frozen=True)
class Calibration:
    """What the scores mean.

    Attributes
    ----------
    threshold
        Picks are kept from this score on; infinity when nothing stands out.
    false_fraction
        Expected fraction of false picks among the kept ones.
    n_true
        Expected number of particles among all peaks.
    p_value
        Probability that noise alone favours the candidates over the decoys as much, over all thresholds tried.
    knots, probabilities
        Score and probability at the knots of a piecewise linear, rising function.
    """

    threshold: float
    false_fraction: float
    n_true: float
    p_value: float
    knots: np.ndarray
    probabilities: np.ndarray

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Probability that a peak of this score is a particle."""
        return np.interp(score, self.knots, self.probabilities)


def calibrate(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    false_picks: float,
    least_probability: float,
    threshold: float | None = None,
) -> Calibration:
    """Threshold and probabilities from the peaks of all maps and of the inverted maps.

    Parameters
    ----------
    positive, negative
        Scores of the peaks of the maps and of the inverted maps, found in the same way.
    false_picks
        Largest fraction of false picks among the kept ones.
    least_probability
        Smallest probability of a single kept pick.
    threshold
        Use this score instead.
    """
    positive, negative = np.sort(positive), np.sort(negative)
    knots, probabilities = _local_probability(positive, negative)
    grid = positive
    n_pos = len(positive) - np.searchsorted(positive, grid, side="left")
    n_neg = len(negative) - np.searchsorted(negative, grid, side="left")
    false = np.minimum((n_neg + 0.5) / np.maximum(n_pos, 1), 1.0)
    false = np.minimum.accumulate(false)
    likely = np.interp(grid, knots, probabilities) if len(knots) else np.zeros(0)
    if threshold is None:
        good = (false <= false_picks) & (likely >= least_probability)
        threshold = valley(grid[good]) if good.any() else float("inf")
    kept = positive >= threshold
    fraction = float(false[kept][0]) if kept.any() else 1.0
    n_true = float(likely.sum())
    return Calibration(float(threshold), fraction, n_true, noise_p_value(positive, negative), knots, probabilities)


def valley(kept: np.ndarray) -> float:
    """Where the sparse scores between background and particles lie, if the two are apart; else the lowest score.

    Side peaks of particles have no counterpart among the decoys. Where particles stand far above them, their scores
    form a mode of their own, and the threshold belongs into the valley before it.

    Parameters
    ----------
    kept
        Rising scores that are kept otherwise, `(n,)`.
    """
    if len(kept) < 40:
        return float(kept[0])
    counts, edges = np.histogram(kept, int(np.clip(np.sqrt(len(kept)), 8, 60)))
    density = np.convolve(np.pad(counts.astype(float), 2, mode="edge"), np.asarray([1, 2, 3, 2, 1]) / 9, mode="valid")
    top = int(density.argmax())
    if top == 0:
        top = int(density[1:].argmax()) + 1
    low = int(density[: top + 1].argmin())
    apart = (
        density[low] + 2 * np.sqrt(density[low] + 1) < 0.5 * density[top]
        and density[:low].max(initial=0) > density[low]
    )
    return float(edges[low]) if apart else float(kept[0])


def noise_p_value(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that noise alone favours one side as much.

    In noise each high peak is a candidate or a decoy with equal chance. Among the highest 8, 16, 32, ... peaks of
    both sides the number of candidates is compared with a fair coin; the smallest tail probability is multiplied by
    the number of these tests (Bonferroni).
    """
    both = np.concatenate([positive, negative])
    if len(both) < 8:
        return 1.0
    side = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])[np.argsort(-both, kind="stable")]
    sizes = 2 ** np.arange(3, int(np.log2(len(both))) + 1)
    tails = [float(binom.sf(side[:n].sum() - 1, n, 0.5)) for n in sizes]
    return min(1.0, len(sizes) * min(tails))


def _local_probability(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`1 - f_neg / f_pos` at rising scores, by isotonic regression of which side each peak is on (no bins to choose).

    With `p(score)` the chance that a peak is a candidate rather than a decoy, this is `(2 p - 1) / p`.
    """
    if not len(positive):
        return np.asarray([0.0, 1.0]), np.asarray([0.0, 0.0])
    score = np.concatenate([positive, negative])
    side = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = np.argsort(score, kind="stable")
    score, side = score[order], side[order]
    starts = np.unique(np.linspace(0, len(score), min(len(score), _MOST_STEPS) + 1).astype(int))[:-1]
    weight = np.diff(np.append(starts, len(score))).astype(float)
    middle = np.add.reduceat(score, starts) / weight
    chance = isotonic(np.add.reduceat(side, starts) / weight, weight)
    return middle, np.clip((2 * chance - 1) / np.maximum(chance, 0.5), 0.0, 1.0)


def isotonic(value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Closest rising sequence in weighted least squares."""
    blocks: list[list[float]] = []
    for v, w in zip(value, weight, strict=True):
        blocks.append([float(v), float(w), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            b, a = blocks.pop(), blocks.pop()
            total = a[1] + b[1]
            blocks.append([(a[0] * a[1] + b[0] * b[1]) / total, total, a[2] + b[2]])
    return np.concatenate([np.full(int(n), v) for v, _, n in blocks])
