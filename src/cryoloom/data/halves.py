"""Half sets: which particles may never meet before the end.

Two images that share pixels share noise, so boxes that overlap on a micrograph, copies of one image, and segments of
one filament go to the same half (Scheres and Chen 2012, doi 10.1038/nmeth.2115, for the reason halves exist).
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cryoloom.data.sets import ParticleSet


def assign_halves(
    particles: ParticleSet,
    random: np.random.Generator,
    *,
    overlap_px: float | np.ndarray | None = None,
    imbalance: float = 0.4,
) -> np.ndarray:
    """Half of each particle, 1 or 2, `(n,)` int64, balanced to the size of the largest linked group.

    Where overlapping boxes chain so many particles together that the halves would differ by more than `imbalance`, the
    largest groups are cut across their longer axis, so that only boxes along the cut meet; copies of one image and
    filaments stay whole.

    Parameters
    ----------
    particles
        The set.
    random
        Decides which group goes where.
    overlap_px
        Edge of the extracted box in pixels of the micrograph, one number or one per particle. Boxes whose centres
        are nearer than this along both axes overlap. None links copies of one image and filaments only.
    imbalance
        Largest difference of the halves, as a fraction of all particles, before groups are cut.
    """
    group = linked_groups(particles, overlap_px=overlap_px)
    half = _balanced(group, random)
    if overlap_px is None or particles.position_px is None:
        return half
    whole = linked_groups(particles)
    position = np.asarray(particles.position_px, np.float64)
    while abs(excess := int((half == 1).sum()) - int((half == 2).sum())) > max(1.0, imbalance * len(half)):
        larger = 1 if excess > 0 else 2
        members = _largest_that_parts(group, whole, half == larger)
        if members is None:
            break
        end = _end_of(members, position, whole, abs(excess) // 2)
        half[end] = 3 - larger
        group[end] = group.max() + 1
    return half


def groups_in_both_halves(group: np.ndarray, half: np.ndarray) -> int:
    """Number of groups with members in both halves."""
    first, second = (np.unique(group[half == h]) for h in (1, 2))
    return len(np.intersect1d(first, second))


def _largest_that_parts(group: np.ndarray, whole: np.ndarray, allowed: np.ndarray) -> np.ndarray | None:
    """Rows of the largest group of the allowed rows that holds two things which may be parted, or None."""
    rows = np.flatnonzero(allowed)
    n_whole = np.zeros(int(group.max()) + 1, np.int64)
    np.add.at(n_whole, np.unique(np.stack([group[rows], whole[rows]]), axis=1)[0], 1)
    size = np.where(n_whole > 1, np.bincount(group[rows], minlength=len(n_whole)), 0)
    return np.flatnonzero(group == size.argmax()) if size.any() else None


def _end_of(members: np.ndarray, position: np.ndarray, whole: np.ndarray, n_wanted: int) -> np.ndarray:
    """About `n_wanted` members, at most half of them, from one end of the group's longer axis; what is whole stays."""
    span = np.nanmax(position[members], axis=0) - np.nanmin(position[members], axis=0)
    axis = int(span.argmax())
    order = members[np.argsort(position[members, axis], kind="stable")]
    part = order[: int(np.clip(n_wanted, 1, len(order) // 2))]
    chosen = np.isin(whole[members], whole[part])
    if chosen.all():  # one end reaches through to the other: the first thing alone
        chosen = whole[members] == whole[order[0]]
    return members[chosen]


def _balanced(group: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half of each particle so that groups stay whole and both halves get about the same number."""
    n_groups = int(group.max()) + 1 if len(group) else 0
    size = np.bincount(group, minlength=n_groups)
    order = random.permutation(n_groups)
    order = order[np.argsort(-size[order], kind="stable")]  # large groups first, ties in random order
    half_of_group = np.ones(n_groups, dtype=np.int64)
    total = [0, 0]
    for g in order.tolist():
        smaller = int(random.integers(2)) if total[0] == total[1] else int(total[1] < total[0])
        half_of_group[g] = smaller + 1
        total[smaller] += int(size[g])
    return half_of_group[group]


def linked_groups(particles: ParticleSet, *, overlap_px: float | np.ndarray | None = None) -> np.ndarray:
    """Number of the group of each particle, `(n,)`; see `assign_halves`."""
    n = len(particles)
    links = [_same_key(_image_codes(particles))]
    if particles.micrograph is not None:
        codes = _codes(particles.micrograph)
        if "filament" in particles.extra:
            links.append(_same_key(_pair_codes(codes, _codes(particles.extra["filament"]))))
        if overlap_px is not None and particles.position_px is not None:
            links.append(_overlapping(codes, np.asarray(particles.position_px, np.float64), overlap_px))
    pairs = np.concatenate(links) if links else np.zeros((0, 2), np.int64)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _image_codes(particles: ParticleSet) -> np.ndarray:
    return _pair_codes(_codes(particles.image_path), np.asarray(particles.image_index, np.int64))


def _codes(values: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)


def _pair_codes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    span = int(b.max()) + 1 if len(b) else 1
    return np.unique(a * span + b, return_inverse=True)[1].astype(np.int64)


def _same_key(codes: np.ndarray) -> np.ndarray:
    """Links between rows of equal code: each to the next one, `(m, 2)`."""
    order = np.argsort(codes, kind="stable")
    same = codes[order[1:]] == codes[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=-1)


def _overlapping(codes: np.ndarray, position: np.ndarray, overlap_px: float | np.ndarray) -> np.ndarray:
    """Links between particles of one micrograph whose boxes overlap, `(m, 2)`."""
    reach = np.broadcast_to(np.asarray(overlap_px, np.float64), len(codes))
    order = np.argsort(codes, kind="stable")
    bounds = np.flatnonzero(np.diff(codes[order])) + 1
    found = []
    for rows in np.split(order, bounds):
        rows = rows[np.isfinite(position[rows]).all(axis=1)]
        if len(rows) < 2:
            continue
        tree = cKDTree(position[rows])
        pairs = tree.query_pairs(float(reach[rows].max()), p=np.inf, output_type="ndarray")
        if len(pairs):
            a, b = rows[pairs[:, 0]], rows[pairs[:, 1]]
            distance = np.abs(position[a] - position[b]).max(axis=1)
            near = distance < (reach[a] + reach[b]) / 2
            found.append(np.stack([a[near], b[near]], axis=-1))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)
