"""Half sets: particles whose boxes overlap share noise, so they must share a half.

Boxes of one micrograph that overlap, directly or through others, form a cluster; clusters are dealt to the two
halves, the largest first, each to the smaller half. Where that leaves the halves unlike in size, as many members
as are needed are cut off one cluster across its longer axis, so that only boxes along the cut meet.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def assign_halves(
    micrograph: np.ndarray, position_px: np.ndarray, box_px: float, *, seed: int = 0, imbalance: float = 0.03
) -> tuple[np.ndarray, int]:
    """Half set of each particle.

    Parameters
    ----------
    micrograph
        `(n,)`, anything that can be compared.
    position_px
        Centres in pixels of the micrograph, `(n, 2)`.
    box_px
        Edge of the box in pixels of the micrograph.
    seed
        Decides ties.
    imbalance
        Largest difference of the halves, as a fraction of all particles, before clusters are cut.

    Returns
    -------
    half
        1 or 2, `(n,)` int64.
    n_cut
        Clusters that had to be cut.
    """
    n = len(position_px)
    if n == 0:
        return np.zeros(0, dtype=np.int64), 0
    clusters = _clusters(micrograph, position_px, box_px)
    half = _deal(clusters, n, np.random.default_rng(seed))
    n_cut = 0
    while True:
        excess = int((half == 1).sum()) - int((half == 2).sum())
        if abs(excess) <= max(1, imbalance * n):
            return half, n_cut
        larger = 1 if excess > 0 else 2
        candidates = [i for i, c in enumerate(clusters) if len(c) > 1 and half[c[0]] == larger]
        if not candidates:
            return half, n_cut
        largest = max(candidates, key=lambda i: len(clusters[i]))
        moved, rest = _cut(clusters[largest], position_px, abs(excess) // 2)
        half[moved] = 3 - larger
        clusters[largest : largest + 1] = [moved, rest]
        n_cut += 1


def _clusters(micrograph: np.ndarray, position_px: np.ndarray, box_px: float) -> list[np.ndarray]:
    n = len(position_px)
    _, code = np.unique(np.asarray(micrograph), return_inverse=True)
    points = np.column_stack([position_px, 4.0 * box_px * code])  # micrographs lie far apart on the third axis
    pairs = cKDTree(points).query_pairs(box_px, p=np.inf, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    n_clusters, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label, minlength=n_clusters))[:-1])


def _deal(clusters: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    half = np.zeros(n, dtype=np.int64)
    sizes = np.asarray([len(c) for c in clusters])
    total = [0, 0]
    for i in np.lexsort((rng.random(len(clusters)), -sizes)):
        smaller = int(rng.integers(2)) if total[0] == total[1] else int(total[1] < total[0])
        half[clusters[i]] = smaller + 1
        total[smaller] += len(clusters[i])
    return half


def _cut(members: np.ndarray, position_px: np.ndarray, n_moved: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut `n_moved` members (at most half of them) off the end of a cluster's longer axis."""
    points = position_px[members]
    axis = int(np.ptp(points, axis=0).argmax())
    order = members[np.argsort(points[:, axis], kind="stable")]
    n_moved = int(np.clip(n_moved, 1, len(order) // 2))
    return order[:n_moved], order[n_moved:]
