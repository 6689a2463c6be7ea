"""Half sets: particles whose boxes overlap share noise, so they must share a half.

Boxes of one micrograph that overlap, directly or through others, form a cluster; clusters are dealt to the two
halves, the largest first, each to the smaller half. A cluster too large to balance is cut in two along its longer
axis, which lets only the boxes along the cut meet.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def assign_halves(
    micrograph: np.ndarray, position_px: np.ndarray, box_px: float, *, seed: int = 0, imbalance: float = 0.1
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
    rng = np.random.default_rng(seed)
    n_cut = 0
    while True:
        half = _deal(clusters, n, rng)
        difference = abs(int((half == 1).sum()) - int((half == 2).sum()))
        largest = max(range(len(clusters)), key=lambda i: len(clusters[i]))
        if difference <= max(1, imbalance * n) or len(clusters[largest]) < 2:
            return half, n_cut
        clusters[largest : largest + 1] = _cut(clusters[largest], position_px)
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


def _cut(members: np.ndarray, position_px: np.ndarray) -> list[np.ndarray]:
    points = position_px[members]
    axis = int(np.ptp(points, axis=0).argmax())
    order = members[np.argsort(points[:, axis], kind="stable")]
    return [order[: len(order) // 2], order[len(order) // 2 :]]
