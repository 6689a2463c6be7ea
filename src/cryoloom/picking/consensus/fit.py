"""From the views of all candidates to one score and one probability per pick, without a label.

Three witnesses are heard: one picker (the network, where there is one), all other pickers together, and what the places
look like. Whether a candidate is a particle rather than *noise* each picker can say alone, from the decoys that it
finds on the inverted micrographs (target-decoy counting). Two pickers that err apart so label the candidates, softly;
on these labels the log odds of each witness are fitted, a ridge logistic regression in the scores and their products,
which also learns how *junk* answers the pickers (labels of one view that teach another: Blum and Mitchell 1998,
doi:10.1145/279943.279962; semi-supervised: Käll et al. 2007, doi:10.1038/nmeth1113; agreement of pickers:
Sanchez-Garcia et al. 2018, doi:10.1107/S2052252518014392). The looks need no labels: junk looks unlike the typical
particle, which has a distribution of its own (Student's), and junk comes from a much wider one about the same centre
(after Tukey's contaminated normal), whose width and share are the likeliest. Particles lie everywhere alike, so where
more stands above noise in a strip along the border than its decoys, which lie everywhere alike too, account for, the
rest is junk: the borders of images ring. Log odds of the witnesses are added, as if
they erred apart; the probability against noise is counted anew against the decoys, which have gone through the same.
Each candidate is judged by fits that have not seen its part of the micrographs. Neglected: what makes witnesses err
together, junk that looks like the particle, and particles in a view so rare that it looks like junk.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.consensus.views import Views

_CONCENTRATIONS = 6
_FOLDS = 3
_RIDGE = 1.0
_WIDER = (2.0, 3.0, 4.0, 6.0, 8.0)  # deviations of the looks of junk over those of particles: the likeliest counts
_TAIL = 5.0  # degrees of freedom of both: looks are not quite normal
_SHRINK = 0.1  # of the covariance towards its diagonal
_MOST = 6.0  # log odds of one witness, beyond which it says no more
_LEAST_JUNK = 1e-3
_SURE = (0.9, 0.8, 0.7)  # probability of a sure particle: the first that leaves half of the expected particles
_STRIPS = (0.6, 0.8, 1.0)  # core diameters from the border, outer edges of strips
_UNSURE = 1e-3  # nearest that labels come to 0 and 1
_FEW = 20


@dataclass(frozen=True)
class Agreement:
    """What all views together say.

    Attributes
    ----------
    score
        Log odds of candidates against noise and junk together, up to a constant, `(n,)`.
    probability
        Probability that each candidate is a particle, `(n,)`.
    clean
        Probability that each is not junk, if it is not noise, `(n,)`.
    trusted
        Candidates that are surely particles, `(n,)` bool.
    alone
        Probability that each candidate is no noise, by the word of each picker alone, `(n, k)`.
    """

    score: np.ndarray
    probability: np.ndarray
    clean: np.ndarray
    trusted: np.ndarray
    alone: np.ndarray


def agree(
    candidates: Views, decoys: Views, group: np.ndarray, decoy_group: np.ndarray, *, witness: int = 0
) -> Agreement:
    """Judge all candidates of all micrographs together.

    Parameters
    ----------
    candidates, decoys
        `n` and `m` of them, with the scores of two pickers or more.
    group, decoy_group
        Number of the micrograph of each, `(n,)` and `(m,)`.
    witness
        The picker that is heard on its own: the one that errs least like the others.
    """
    k = candidates.scores.shape[1]
    witness %= k
    others = [column for column in range(k) if column != witness]
    usable = ~candidates.masked & ~candidates.contested
    alone = np.column_stack(
        [no_noise(*both, usable) for both in zip(candidates.scores.T, decoys.scores.T, strict=True)]
    )
    label = _chance(_logit(np.clip(alone[:, [witness, others[0]]], _UNSURE, 1 - _UNSURE)).sum(1))
    folds = parts_of(group, candidates.position_px), parts_of(decoy_group, decoys.position_px)
    prior = _logit(label[~candidates.masked].mean()) if (~candidates.masked).sum() >= _FEW else 0.0
    odds, decoy_odds = np.full(len(candidates), -prior), np.full(len(decoys), -prior)
    for columns in ([witness], others):
        mine, theirs = word_of(
            candidates.scores[:, columns], decoys.scores[:, columns], label, ~candidates.masked, folds
        )
        odds, decoy_odds = odds + mine, decoy_odds + theirs
    above = usable & (odds > 0)
    ordinary = _ordinary(candidates.border, above, decoys.border)
    clean = _cleanness(candidates.looks, above, ordinary, folds[0])
    probability = np.where(candidates.masked, 0.0, no_noise(odds, decoy_odds, usable) * _chance(clean))
    for least in _SURE:
        trusted = usable & (probability > least)
        if trusted.sum() >= max(_FEW, 0.5 * probability[usable].sum()):
            break
    return Agreement(odds + clean, probability, _chance(clean), trusted, alone)


def no_noise(score: np.ndarray, decoys: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Probability that each candidate is no noise, by the scores of one picker, `(n,)`."""
    counted = calibrate(score[usable], decoys, false_picks=0.5, least_probability=0.0)
    return counted.probability(score)


def word_of(
    scores: np.ndarray, decoys: np.ndarray, label: np.ndarray, seen: np.ndarray, folds: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds that some pickers give to candidates `(n,)` and decoys `(m,)`, learnt from labels on other parts."""
    if seen.sum() < _FEW:
        return np.zeros(len(scores)), np.zeros(len(decoys))
    middle, spread = scores[seen].mean(0), np.maximum(scores[seen].std(0), 1e-6)
    terms, decoy_terms = (_terms((values - middle) / spread) for values in (scores, decoys))
    odds, decoy_odds = np.zeros(len(scores)), np.zeros(len(decoys))
    for part in range(_FOLDS):
        here, there = (fold == part for fold in folds)
        shown = seen & ~here
        beta = _logistic(terms[shown], label[shown]) if shown.sum() >= _FEW else _logistic(terms[seen], label[seen])
        odds[here], decoy_odds[there] = terms[here] @ beta, decoy_terms[there] @ beta
    return np.clip(odds, -_MOST, _MOST), np.clip(decoy_odds, -_MOST, _MOST)


def _terms(z: np.ndarray) -> np.ndarray:
    """1, the columns of `z` `(n, k)` and their products."""
    a, b = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, a] * z[:, b]], axis=1)


def _ordinary(border: np.ndarray, above: np.ndarray, decoy_border: np.ndarray) -> np.ndarray:
    """Share of what is above noise that is as dense as far from the border, for the strip of each candidate, `(n,)`.

    Decoys of noise stand for the area of a strip. Two deviations of the expected number are allowed for.
    """
    strip, decoy_strip = np.digitize(border, _STRIPS), np.digitize(decoy_border, _STRIPS)
    found, area = (np.bincount(s, minlength=len(_STRIPS) + 1) for s in (strip[above], decoy_strip))
    density = found[-1] / max(area[-1], 1)
    expected = density * (area + 1)
    share = np.minimum((expected + 2 * np.sqrt(expected * (1 + density))) / np.maximum(found, 1), 1.0)
    share[-1] = 1.0
    return np.asarray(share[strip])


def _cleanness(looks: np.ndarray, above: np.ndarray, ordinary: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Log odds against junk by the looks of the candidates that stand above noise, `(n,)`.

    At least the share `1 - ordinary` `(n,)` of them is junk.
    """
    if above.sum() < _FEW:
        return np.full(len(looks), _MOST)
    ratio = np.zeros((len(looks), len(_WIDER)))
    for part in range(_FOLDS):
        shown = above & (fold != part)
        typical = _Looks(looks[shown] if shown.sum() >= _FEW else looks[above])
        ratio[fold == part] = typical.ratios(looks[fold == part])
    width, share = _junk(ratio[above])
    junk = np.clip(1 - ordinary, share, 1 - _LEAST_JUNK)
    return np.asarray(np.clip(ratio[:, width] - _logit(junk), -_MOST, _MOST))


def parts_of(group: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Which part each row belongs to: whole micrographs, or stripes of them where there are few, `(n,)`."""
    if group.size and len(np.unique(group)) >= _FOLDS:
        return np.asarray(group % _FOLDS)
    edge = max(float(place[:, 0].max(initial=0)), 1.0)
    return np.asarray((place[:, 0] / edge * 4 * _FOLDS).astype(int) % _FOLDS)


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


def _logistic(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Ridge logistic regression of labels in [0, 1] `(n,)` on columns `x` `(n, k)`, the first being 1; `(k,)`."""
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[0, 0] = 1e-6
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        chance = _chance(x @ beta)
        gradient = x.T @ (label - chance) - ridge @ beta
        curvature = (x * np.maximum(chance * (1 - chance), 1e-4)[:, None]).T @ x + ridge
        step = np.linalg.solve(curvature, gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-5:
            break
    return beta


def _chance(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -500, 500))))


def _logit(chance: float | np.ndarray) -> np.ndarray:
    return np.asarray(np.log(chance) - np.log1p(-np.asarray(chance)))
