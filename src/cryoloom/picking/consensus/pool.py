"""The word of two pickers pooled: each counts as much as it separates candidates from decoys on these micrographs.

Decoys, which the same pickers find on the inverted micrographs, are as many and as high as the candidates that noise
makes. So if `c` is the probability that a candidate is no noise, the chance that a peak is a candidate and not a decoy
is `1 / (2 - c)`, whatever the pickers say of it: that likelihood needs no labels. Two models are fitted by it.

The first adds the log odds that both pickers give alone, with a weight each and an offset, which a weak prior holds at
the weights 1 of pickers that err apart (logarithmic pool; Genest and Zidek 1986, doi:10.1214/ss/1177013825): a picker
that separates badly here loses its weight, and two that err alike share theirs. The second hears the scores themselves
and their products (`fit.word_of`), learnt from the first label of both on other micrographs, and is counted anew
against the decoys. Both models see the same evidence, so the mean of their log odds is taken, not the sum. A candidate
that stands lower than a decoy near it is noise. Neglected: what deceives both pickers, junk above all.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.consensus.fit import no_noise, parts_of, word_of
from cryoloom.picking.consensus.views import Views

SUREST = 0.02
"""A probability that is counted against decoys is never nearer to 0 or 1 than this."""

_STIFF = np.asarray([0.1, 1.0, 1.0])  # inverse variances of the prior of offset and weights


def pool(candidates: Views, decoys: Views, group: np.ndarray, decoy_group: np.ndarray) -> np.ndarray:
    """Probability that noise does not explain each candidate, by both pickers together, `(n,)`.

    Parameters
    ----------
    candidates, decoys
        `n` and `m` of them, with the scores of two pickers.
    group, decoy_group
        Number of the micrograph of each, `(n,)` and `(m,)`.

    Raises
    ------
    ValueError
        If there are not two pickers.
    """
    if candidates.scores.shape[1] != 2:
        raise ValueError(f"candidates: expected the scores of 2 pickers, got {candidates.scores.shape[1]}")
    seen, usable = ~candidates.masked, ~candidates.masked & ~candidates.contested
    if not usable.any():
        return np.full(len(candidates), SUREST)
    odds, decoy_odds = np.zeros((len(candidates), 2)), np.zeros((len(decoys), 2))
    for i, (mine, theirs) in enumerate(zip(candidates.scores.T, decoys.scores.T, strict=True)):
        counted = calibrate(mine[usable], theirs, false_picks=0.5, least_probability=0.0)
        odds[:, i], decoy_odds[:, i] = (_odds(counted.probability(scores)) for scores in (mine, theirs))
    weights = pool_weights(odds[usable], decoy_odds)
    linear = weights[0] + odds @ weights[1:]

    folds = parts_of(group, candidates.position_px), parts_of(decoy_group, decoys.position_px)
    words = word_of(candidates.scores, decoys.scores, expit(odds.sum(1)), seen, folds)
    together = expit(0.5 * (linear + _odds(no_noise(*words, usable))))
    return np.where(candidates.contested, np.minimum(together, SUREST), together)


def pool_weights(odds: np.ndarray, decoy_odds: np.ndarray) -> np.ndarray:
    """Offset and weights of two pickers, the likeliest ones, `(3,)`.

    Parameters
    ----------
    odds, decoy_odds
        Log odds by each picker alone that noise does not explain candidates `(n, 2)` and decoys `(m, 2)`.
    """
    x, y = (np.column_stack([np.ones(len(rows)), rows]) for rows in (odds, decoy_odds))
    middle = np.asarray([-_odds(expit(odds).mean()), 1.0, 1.0])  # pickers that err apart

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mine, theirs = expit(x @ weights), expit(y @ weights)
        away = weights - middle
        value = np.log(2 - mine).sum() + np.log((2 - theirs) * (1 + np.exp(y @ weights))).sum()
        slope = -x.T @ (mine * (1 - mine) / (2 - mine)) + y.T @ (theirs / (2 - theirs))
        return value + 0.5 * float(_STIFF @ away**2), slope + _STIFF * away

    return np.asarray(minimize(loss, middle, jac=True, method="L-BFGS-B").x)


def _odds(chance: float | np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(chance, SUREST, 1 - SUREST)))
