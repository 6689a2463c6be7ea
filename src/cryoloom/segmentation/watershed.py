"""Regions of a map by watershed from its peaks, shallow saddles filled.

Voxels above a level are taken from the brightest on; each one joins the region of its brightest neighbour or, having
none, begins one (Vincent and Soille 1991, doi:10.1109/34.87344, on 26 neighbours). Where two regions meet, the saddle
is known; if it lies less than `depth` below the lower of the two peaks, both become one at once (merging by
persistence; the smoothing by scales of Segger, Pintilie 2010, doi:10.1016/j.jsb.2010.03.007, serves the same end).
"""

import numba
import numpy as np


def watershed(volume: np.ndarray, level: float, depth: float) -> np.ndarray:
    """Region of each voxel above `level`, 1 and up by falling size, 0 below; `(d, h, w)` int32.

    Parameters
    ----------
    volume
        Smooth map, `(d, h, w)`.
    level
        Grey level.
    depth
        Grey values by which a saddle must lie below the lower peak to keep two regions apart.
    """
    padded = np.pad(np.asarray(volume, np.float32), 1, constant_values=-np.inf)
    flat = padded.ravel()
    above = np.flatnonzero(flat > level)
    order = above[np.argsort(-flat[above], kind="stable")]
    d, h, w = padded.shape
    steps = np.array([(z * h + y) * w + x for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1) if z or y or x])
    labels = _flood(flat, order, steps, np.float32(depth)).reshape(d, h, w)[1:-1, 1:-1, 1:-1]
    return by_size(labels)


def by_size(labels: np.ndarray) -> np.ndarray:
    """Labels 1, 2, ... by falling number of voxels; 0 stays."""
    names, counts = np.unique(labels[labels > 0], return_counts=True)
    rank = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    rank[names[np.argsort(-counts, kind="stable")]] = np.arange(1, len(names) + 1)
    return rank[labels]


def join_small(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Join regions of fewer voxels than `smallest` to the neighbour they share most voxels with, or leave them out."""
    labels = labels.copy()
    while True:
        counts = np.bincount(labels.ravel())
        small = [i for i in range(len(counts) - 1, 0, -1) if 0 < counts[i] < smallest]
        if not small:
            return by_size(labels)
        touching = _touching(labels, small[0])
        labels[labels == small[0]] = touching


def _touching(labels: np.ndarray, name: int) -> int:
    """The region that touches one along most faces, or 0."""
    found = np.zeros(int(labels.max()) + 1, np.int64)
    for axis in range(3):
        first, second = (np.moveaxis(labels, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        for a, b in ((first, second), (second, first)):
            found += np.bincount(b[(a == name) & (b != name)], minlength=len(found))
    found[0] = 0
    return int(found.argmax()) if found.any() else 0


@numba.njit(nogil=True, cache=True)
def _flood(flat, order, steps, depth):  # type: ignore[no-untyped-def] # pragma: no cover
    labels = np.zeros(flat.size, np.int32)
    parent = np.zeros(order.size + 1, np.int32)
    peak = np.zeros(order.size + 1, np.float32)
    n = 0
    for i in range(order.size):
        voxel = order[i]
        value = flat[voxel]
        best, best_value = 0, -np.inf
        for s in range(steps.size):
            other = voxel + steps[s]
            if labels[other] > 0 and flat[other] > best_value:
                best, best_value = labels[other], flat[other]
        if best == 0:
            n += 1
            parent[n], peak[n] = n, value
            labels[voxel] = n
            continue
        labels[voxel] = best
        a = best
        while parent[a] != a:
            a = parent[a]
        for s in range(steps.size):  # regions that meet here: this voxel is their saddle
            b = labels[voxel + steps[s]]
            if b == 0:
                continue
            while parent[b] != b:
                b = parent[b]
            if a != b and min(peak[a], peak[b]) - value < depth:
                if peak[a] < peak[b]:
                    a, b = b, a
                parent[b] = a
    for i in range(order.size):
        a = labels[order[i]]
        while parent[a] != a:
            a = parent[a]
        labels[order[i]] = a
    return labels
