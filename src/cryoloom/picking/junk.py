"""Which candidates are not particles: local statistics that lie far from those of the other candidates.

Ice crystals and aggregates are denser, carbon is rougher than a particle. The typical candidate is a particle, so
its statistics set the scale; this needs no number that belongs to one data set.
"""

import numpy as np


def outliers(density: np.ndarray, texture: np.ndarray, weight: np.ndarray, *, n_sigma: float = 5.0) -> np.ndarray:
    """Candidates whose mean density or texture lies far above that of the trusted candidates.

    Parameters
    ----------
    density, texture
        Statistics of all candidates, `(n,)`.
    weight
        True for candidates that are trusted to be particles mostly, `(n,)` bool.
    n_sigma
        Robust standard deviations.

    Returns
    -------
    bad
        `(n,)` bool.
    """
    bad = np.zeros(len(density), dtype=bool)
    if weight.sum() < 10:
        return bad
    for column, both in ((density, False), (np.log(np.maximum(texture, 1e-6)), False)):
        middle = np.median(column[weight])
        spread = 1.4826 * np.median(np.abs(column[weight] - middle))
        distance = (column - middle) / max(spread, 1e-9)
        bad |= (np.abs(distance) if both else distance) > n_sigma
    return bad
