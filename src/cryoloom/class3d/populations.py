"""Populations of classes with an interval, and how well the classes can be told apart.

Given densities of the classes, the log-likelihood of populations is `Σ_i log Σ_c π_c f_ic`; its information matrix,
with what is lost because the class of a particle is not seen (Louis 1982, doi:10.1111/j.2517-6161.1982.tb01203.x), is
the sum of outer products of the scores `p_ic / π_c - p_iK / π_K`. What the maps' own errors add shows in how the
populations change when a quarter of the particles is left out (the jackknife): the larger of the two errors is stated.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Populations:
    """Shares of the classes.

    Attributes
    ----------
    value
        `(K,)`, sum 1.
    low, high
        95 % interval of each, `(K,)`.
    error
        Standard error of each, `(K,)`.
    expected_accuracy
        Fraction of particles whose most likely class is the right one, as the memberships claim.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    expected_accuracy: float


def measure_populations(share: np.ndarray, population: np.ndarray, spread: np.ndarray | None = None) -> Populations:
    """Populations and intervals from memberships `(n, K)` and the populations that they were computed with.

    `spread` is the standard error of the populations by the jackknife, `(K,)`, where it is known.
    """
    n, n_classes = share.shape
    accuracy = float(share.max(1).mean())
    if n_classes == 1:
        one = np.ones(1)
        return Populations(one, one, one, np.zeros(1), accuracy)
    ratio = share / population
    score = ratio[:, :-1] - ratio[:, -1:]
    covariance = np.linalg.inv(score.T @ score + 1e-9 * n * np.eye(n_classes - 1))
    step = np.vstack([np.eye(n_classes - 1), -np.ones(n_classes - 1)])
    error = np.sqrt(np.einsum("ia,ab,ib->i", step, covariance, step))
    if spread is not None:
        error = np.maximum(error, spread)
    # on the scale of log odds, where an interval cannot leave 0 ... 1
    odds = np.log(population / (1.0 - population))
    width = 1.96 * error / (population * (1.0 - population))
    low, high = (1.0 / (1.0 + np.exp(-(odds + side * width))) for side in (-1, 1))
    return Populations(population, low, high, error, accuracy)
