"""Groups of beam shifts: positions of the pattern in which exposures were taken.

Exposures of one place of the pattern scatter little, places lie far apart. Shifts are joined by single linkage
(a minimum spanning tree); the widest gap between the logarithms of its sorted edges tells scatter from pattern.
"""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

CLEAR_GAP = 3.0
"""Ratio of the shortest step of the pattern to the widest scatter from which they are told apart."""

MOST_AT_ONCE = 4000


def group_shifts(shifts: np.ndarray, n_groups: int | None = None, smallest: int = 1) -> tuple[np.ndarray, float]:
    """Group of each beam shift, and how clearly groups are apart.

    Parameters
    ----------
    shifts
        `(n, 2)`.
    n_groups
        Number of groups; found by default (one, if nothing tells groups apart).
    smallest
        Smaller groups join the nearest one.

    Returns
    -------
    group
        From 0, by falling size, `(n,)` int64.
    gap
        Step of the pattern over scatter; 1 for one group.
    """
    shifts = np.asarray(shifts, np.float64)
    if len(shifts) == 1 or np.ptp(shifts, axis=0).max() == 0:
        return np.zeros(len(shifts), np.int64), 1.0
    places, inverse = np.unique(shifts, axis=0, return_inverse=True)
    if len(places) > MOST_AT_ONCE:  # the pattern shows in a part; the rest goes to the nearest place
        chosen = np.random.default_rng(0).choice(len(shifts), MOST_AT_ONCE, replace=False)
        part, gap = group_shifts(shifts[chosen], n_groups, smallest)
        return _by_size(_nearest(shifts, shifts[chosen], part)), gap
    tree = linkage(pdist(places), method="single")
    edges = np.maximum(tree[:, 2], 1e-12 * np.ptp(shifts, axis=0).max())
    limit, gap = _cut(edges, len(places), n_groups)
    group = fcluster(tree, limit, criterion="distance")[inverse.reshape(-1)] - 1
    group = _by_size(group.astype(np.int64))
    sizes = np.bincount(group)
    small = sizes[group] < smallest
    if small.any() and not small.all():
        group = np.where(small, _nearest(shifts, shifts[~small], group[~small]), group)
        group = _by_size(group)
    return group, gap


def _cut(edges: np.ndarray, n_places: int, n_groups: int | None) -> tuple[float, float]:
    """Distance between the widest scatter and the shortest step, and the ratio of the two."""
    order = np.sort(edges)
    if n_groups is not None:
        cut = max(len(order) - (n_groups - 1), 0)
        low = order[cut - 1] if cut > 0 else 0.0
        high = order[cut] if cut < len(order) else 2 * order[-1] + 1
        return float(0.5 * (low + high)), float(high / max(low, 1e-300))
    # a pattern has at least two places, and each at least two exposures on average: only gaps in that range count
    ratio = order[1:] / order[:-1]
    allowed = np.arange(1, len(order)) >= 0.5 * n_places - 1
    if not allowed.any():
        return float(2 * order[-1] + 1), 1.0
    best = int(np.argmax(np.where(allowed, ratio, 0)))
    if ratio[best] < CLEAR_GAP:
        return float(2 * order[-1] + 1), 1.0
    return float(np.sqrt(order[best] * order[best + 1])), float(ratio[best])


def _nearest(points: np.ndarray, known: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Group whose centre is nearest, `(n,)`."""
    names = np.unique(group)
    centres = np.stack([known[group == name].mean(0) for name in names])
    return names[((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)]


def _by_size(group: np.ndarray) -> np.ndarray:
    """Numbers from 0 by falling size, ties in the order of first rows."""
    names, first, index, counts = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return rank[index.reshape(-1)]
