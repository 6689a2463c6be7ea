"""From the views of all candidates to one score and one probability per pick, without a label.

A pick can be wrong in two ways, and each is judged by what is known of it. *Noise* is like the decoys that the same
pickers find on the inverted micrographs: a logistic regression in the scores of all pickers tells candidates that
surely are particles from decoys, and so learns how much each picker's word counts here (as Käll et al. 2007,
doi:10.1038/nmeth1113, do for spectra of peptides; agreement of pickers as in Sanchez-Garcia et al. 2018,
doi:10.1107/S2052252518014392). Only scores are used there, since a decoy's surroundings are not those of noise in
general. *Junk* looks unlike the typical particle: the looks of what stands above the noise make a distribution
(Student's), and junk comes from a much wider one about the same centre (after Tukey's contaminated normal); its width
and its share are the likeliest. What looks like junk joins the decoys as an example of what is wrong, so that pickers
that fall for junk count less. Each candidate is judged by fits that have not seen its part of the micrographs.
Neglected: junk that looks like the particle, and particles in a view so rare that it looks like junk.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.consensus.views import Views
from cryoloom.picking.finders import LOWEST

_ROUNDS = 3
_CONCENTRATIONS = 6
_FOLDS = 3
_RIDGE = 1.0
_WIDER = (2.0, 3.0, 4.0, 6.0, 8.0)  # deviations of the looks of junk over those of particles: the likeliest counts
_TAIL = 5.0  # degrees of freedom of both: looks are not quite normal
_SHRINK = 0.1  # of the covariance towards its diagonal
_TYPICAL = 3.5  # robust deviations within which the first sure particles look alike
_MOST = 6.0  # log odds of looks, beyond which they say no more
_LEAST_JUNK = 1e-3
_LEAST_TYPICAL = 0.9  # probability of not being junk, of sure particles
_TRUSTED = (0.05, 0.15, 0.3)  # expected share of noise among the sure particles: the first that leaves enough
_FEW = 20


@dataclass(frozen=True)
class Agreement:
    """What all views together say.

    Attributes
    ----------
    score, decoy_score
        Log odds of candidates `(n,)` and decoys `(m,)` against noise and junk together, up to a constant.
    probability
        Probability that each candidate is a particle, `(n,)`.
    clean
        Probability that each is not junk, if it is not noise, `(n,)`.
    trusted
        Candidates that are surely particles, `(n,)` bool.
    """

    score: np.ndarray
    decoy_score: np.ndarray
    probability: np.ndarray
    clean: np.ndarray
    trusted: np.ndarray


def agree(candidates: Views, decoys: Views, group: np.ndarray, decoy_group: np.ndarray) -> Agreement:
    """Judge all candidates of all micrographs together.

    Parameters
    ----------
    candidates, decoys
        `n` and `m` of them.
    group, decoy_group
        Number of the micrograph of each, `(n,)` and `(m,)`.
    """
    odds, decoy_odds = ((views.scores - LOWEST).mean(1) for views in (candidates, decoys))
    usable = ~candidates.masked & ~candidates.contested
    trusted = _above(odds, usable, decoy_odds)
    if trusted.sum() >= _FEW:
        trusted = trusted & _typical(candidates.looks, trusted)
    clean, decoy_clean = np.full(len(candidates), _MOST), np.full(len(decoys), _MOST)
    above = trusted
    ratio, decoy_ratio = (np.zeros((len(views), len(_WIDER))) for views in (candidates, decoys))
    fold, decoy_fold = _folds(group, candidates.position_px), _folds(decoy_group, decoys.position_px)
    for _ in range(_ROUNDS if trusted.sum() >= _FEW else 0):
        odds, decoy_odds = np.zeros(len(candidates)), np.zeros(len(decoys))
        for part in range(_FOLDS):
            here, there = fold == part, decoy_fold == part
            good = trusted & ~here
            use_others = good.sum() >= _FEW and (~there).sum() >= _FEW
            sure, noise = (good, ~there) if use_others else (trusted, np.ones(len(decoys), dtype=bool))
            junk = above & (clean < 0) & (~here if use_others else True)
            weights = _Weights(candidates.scores[sure], np.concatenate([decoys.scores[noise], candidates.scores[junk]]))
            odds[here], decoy_odds[there] = weights.odds(candidates.scores[here]), weights.odds(decoys.scores[there])
            looks = _Looks(candidates.looks[above & ~here] if use_others else candidates.looks[above])
            ratio[here], decoy_ratio[there] = looks.ratios(candidates.looks[here]), looks.ratios(decoys.looks[there])
        above = _above(odds, usable, decoy_odds)
        width, share = _junk(ratio[above])
        clean, decoy_clean = (np.clip(part[:, width] - _logit(share), -_MOST, _MOST) for part in (ratio, decoy_ratio))
        chosen = above & (_chance(clean) > _LEAST_TYPICAL)
        if chosen.sum() < _FEW:
            break
        trusted = chosen
    score, decoy_score = (np.asarray(-np.logaddexp(-a, -b)) for a, b in ((odds, clean), (decoy_odds, decoy_clean)))
    against = calibrate(odds[usable], decoy_odds, false_picks=_TRUSTED[-1], least_probability=0.0)
    probability = np.where(candidates.masked, 0.0, against.probability(odds) * _chance(clean))
    return Agreement(score, decoy_score, probability, _chance(clean), trusted)


def _above(odds: np.ndarray, usable: np.ndarray, decoy_odds: np.ndarray) -> np.ndarray:
    """Candidates that stand above the decoys, by the strictest rule that leaves enough of them, `(n,)` bool."""
    above = np.zeros(len(odds), dtype=bool)
    for false in _TRUSTED:
        rule = calibrate(odds[usable], decoy_odds, false_picks=false, least_probability=0.3)
        above = usable & (odds >= rule.threshold)
        if above.sum() >= max(_FEW, 0.5 * rule.n_true):
            break
    return above


def _typical(looks: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Whether no look lies far from the median of the rows `of`, `(n,)` bool."""
    middle = np.median(looks[of], axis=0)
    spread = 1.4826 * np.median(np.abs(looks[of] - middle), axis=0)
    spread = np.maximum(spread, 0.3 * looks[of].std(0).clip(1e-6))  # looks of few values have no median deviation
    return np.asarray((np.abs(looks - middle) < _TYPICAL * spread).all(1))


def _folds(group: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Which part each row belongs to: whole micrographs, or stripes of them where there are few, `(n,)`."""
    if group.size and len(np.unique(group)) >= _FOLDS:
        return np.asarray(group % _FOLDS)
    edge = max(float(place[:, 0].max(initial=0)), 1.0)
    return np.asarray((place[:, 0] / edge * 4 * _FOLDS).astype(int) % _FOLDS)


class _Weights:
    """Ridge logistic regression in the scores of the pickers; particles and decoys weigh the same in all."""

    def __init__(self, good: np.ndarray, bad: np.ndarray) -> None:
        both = np.concatenate([good, bad])
        self._middle, self._spread = both.mean(0), np.maximum(both.std(0), 1e-6)
        beta = _logistic(self._terms(both), len(good))
        beta[1:] = np.maximum(beta[1:], 0.0)  # a picker's word never counts against a pick
        self._beta = beta

    def odds(self, scores: np.ndarray) -> np.ndarray:
        """Log odds against noise where particles and noise are equally many, `(n,)`."""
        return np.asarray(self._terms(scores) @ self._beta)

    def _terms(self, scores: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(scores), 1)), (scores - self._middle) / self._spread], axis=1)


class _Looks:
    """Student's distribution of what particles look like, and a wider one of what junk looks like.

    Centre and covariance are those of the half of `above` that lies closest together (Rousseeuw and Van Driessen 1999,
    doi:10.1080/00401706.1999.10485670), made those of all particles by the factor that a normal distribution has, so
    up to half of the candidates may be junk.
    """

    def __init__(self, above: np.ndarray) -> None:
        k = above.shape[1]
        self._middle = np.median(above, axis=0)
        deviation = 1.4826 * np.median(np.abs(above - self._middle), axis=0)
        self._spread = np.maximum(deviation, 0.3 * above.std(0).clip(1e-6))  # looks of few values have no median
        z = (above - self._middle) / self._spread
        limit = chi2.ppf(0.5, k)
        factor = chi2.cdf(limit, k + 2) / 0.5
        self._centre, self._precision = np.zeros(k), np.eye(k)
        for _ in range(_CONCENTRATIONS):
            inner = z[np.argsort(self._distance(z), kind="stable")[: max(len(z) // 2, 2)]]
            covariance = np.cov(inner.T) / factor
            covariance = (1 - _SHRINK) * covariance + _SHRINK * np.eye(k)
            self._centre, self._precision = inner.mean(0), np.linalg.inv(covariance)

    def _distance(self, z: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", z - self._centre, self._precision, z - self._centre)

    def ratios(self, looks: np.ndarray) -> np.ndarray:
        """Log likelihood of a particle over that of junk of each width, `(n, len(_WIDER))`."""
        k = looks.shape[1]
        distance = self._distance((looks - self._middle) / self._spread)[:, None]
        wider = np.asarray(_WIDER)
        both = [np.log1p(d / _TAIL) for d in (distance, distance / wider**2)]
        return np.asarray(k * np.log(wider) - 0.5 * (_TAIL + k) * (both[0] - both[1]))


def _junk(ratios: np.ndarray) -> tuple[int, float]:
    """Index of the width of junk, and its share, that best explain the candidates that are not noise."""
    best = (-np.inf, 0, _LEAST_JUNK)
    for i, ratio in enumerate(ratios.T):
        share = 0.2
        for _ in range(100):
            share = float(np.clip(1 - _chance(ratio - _logit(share)).mean(), _LEAST_JUNK, 0.9)) if len(ratio) else share
        likelihood = float(np.log(1 - share + share * np.exp(-ratio)).sum())
        best = max(best, (likelihood, i, share))
    return best[1], best[2]


def _logistic(x: np.ndarray, n_good: int) -> np.ndarray:
    """Ridge logistic regression on columns `x` `(n, k)`, the first being 1; the first `n_good` rows are on one side.

    Both sides weigh the same in all.
    """
    n = len(x)
    side = (np.arange(n) < n_good).astype(float)
    weight = np.where(side > 0, 0.5 * n / n_good, 0.5 * n / (n - n_good))
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[0, 0] = 1e-6
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        chance = _chance(x @ beta)
        gradient = x.T @ (weight * (side - chance)) - ridge @ beta
        curvature = (x * (weight * np.maximum(chance * (1 - chance), 1e-4))[:, None]).T @ x + ridge
        step = np.linalg.solve(curvature, gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-5:
            break
    return beta


def _chance(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -500, 500))))


def _logit(chance: float | np.ndarray) -> np.ndarray:
    return np.asarray(np.log(chance) - np.log1p(-np.asarray(chance)))
