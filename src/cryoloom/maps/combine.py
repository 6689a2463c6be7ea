"""Two estimates of one quantity, each with its error, as one.

The mean of least variance of two estimates whose errors are correlated (the best linear unbiased estimate; Lyons,
Gibaut and Clifford 1988, doi:10.1016/0168-9002(88)90018-6): with errors `s1`, `s2` and correlation `r` the first weighs
`(s2² - r s1 s2) / (s1² + s2² - 2 r s1 s2)`.
"""

import numpy as np


def weight_of_first(error1: np.ndarray, error2: np.ndarray, correlation: np.ndarray | float = 0.0) -> np.ndarray:
    """Weight of the first of two estimates in their mean of least variance, kept in [0, 1].

    Parameters
    ----------
    error1, error2
        Standard errors, any equal shape.
    correlation
        Of the two errors, in [-1, 1].
    """
    both = correlation * error1 * error2
    total = error1**2 + error2**2 - 2 * both
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(total > 0, (error2**2 - both) / total, 0.5)
    return np.clip(weight, 0.0, 1.0)


def error_of_mean(
    weight: np.ndarray, error1: np.ndarray, error2: np.ndarray, correlation: np.ndarray | float = 0.0
) -> np.ndarray:
    """Standard error of the mean of two estimates, the first of weight `weight`."""
    first, second = weight * error1, (1 - weight) * error2
    return np.sqrt(first**2 + second**2 + 2 * correlation * first * second)
