"""Whether an image shows what its class shows: robust weights of the averages, and the score that finds junk.

The grey scale that fits an image best to the average of its class scatters about that of its fellows, by the noise and
by the thickness of the ice. What shows no particle fits any average badly, and its scale is far too small. A mixture
of two normal distributions in the standardised scale, pooled over all classes, separates both without a threshold: the
posterior of the upper one is the weight of the image (weighted estimators of class averages: Huang, Tagare 2016,
doi:10.1109/TIP.2016.2532366). What scatters upwards is never junk, so the spread is taken from there at first.
"""

import numpy as np

ROUNDS = 30
"""Steps of the expectation-maximisation."""
FEWEST = 8
"""Images of a class below which nothing is known of it."""


def member_probability(scale: np.ndarray, norm: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Probability that each image belongs to what its class shows, `(n,)`; 1 where too little is known.

    Parameters
    ----------
    scale
        Grey-scale factor of the best fit, `(n,)`.
    norm
        Its information `1 / variance` from the noise alone, `(n,)`.
    class_index
        Class, -1 unknown, `(n,)`.
    """
    out = np.ones(len(scale))
    counts = np.bincount(class_index[class_index >= 0], minlength=1)
    known = (class_index >= 0) & (norm > 0) & np.isfinite(scale)
    known &= counts[np.clip(class_index, 0, None)] >= FEWEST
    if known.sum() < 4 * FEWEST:
        return out
    x, group = scale[known], class_index[known]
    middle = _by_class(x, group, lambda values: np.quantile(values, 0.6))
    above = (x - middle)[x > middle]
    spread = max(float(np.median(above)) / 0.6745, 1e-6)
    error = 1.0 / norm[known]
    own = max(spread**2 - float(np.median(error)), (0.02 * abs(float(np.median(middle)))) ** 2, 1e-12)
    share, low, wide = 0.1, -5.0, 3.0
    p = np.ones(len(x))
    for _ in range(ROUNDS):
        deviation = np.sqrt(own + error)
        z = (x - middle) / deviation
        member = (1 - share) * _normal(z, 0.0, 1.0)
        other = share * _normal(z, low, wide)
        p = member / np.maximum(member + other, 1e-300)
        p = np.where(z >= 0, member_at_centre(share, low, wide), p)
        share = float(np.clip(1 - p.mean(), 0.01, 0.9))
        if (1 - p).sum() > 3:
            low = min(float(np.average(z, weights=1 - p)), -2.5)
            wide = max(float(np.sqrt(np.average((z - low) ** 2, weights=1 - p))), 1.5)
        middle = _weighted_mean(x, p, group)
        excess = np.average((x - middle) ** 2 - error, weights=p)
        own = max(float(excess), (0.02 * abs(float(np.median(middle)))) ** 2, 1e-12)
    out[known] = p
    return out


def member_at_centre(share: float, low: float, wide: float) -> float:
    """Probability of a member whose scale is that of its class: nothing above it is less probable."""
    member = (1 - share) * float(_normal(np.zeros(1), 0.0, 1.0)[0])
    return member / (member + share * float(_normal(np.zeros(1), low, wide)[0]))


def _normal(z: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((z - mean) / deviation) ** 2) / deviation


def _by_class(x: np.ndarray, group: np.ndarray, figure) -> np.ndarray:  # type: ignore[no-untyped-def]
    out = np.empty(len(x))
    for c in np.unique(group):
        mine = group == c
        out[mine] = figure(x[mine])
    return out


def _weighted_mean(x: np.ndarray, weight: np.ndarray, group: np.ndarray) -> np.ndarray:
    total = np.bincount(group, weight)
    mean = np.bincount(group, weight * x) / np.maximum(total, 1e-12)
    return mean[group]
