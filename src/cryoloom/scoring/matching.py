"""Which row of a result is which row of the truth."""

from pathlib import PurePath

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet


def match_particles(
    estimated: ParticleSet, truth: ParticleSet, *, distance_px: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `estimated` and of `truth` that are the same particle, two int64 arrays of equal length.

    Rows are matched by stack name and slice; where no stack is shared (or stacks only share their names: both sides
    know positions, and those lie apart), by micrograph and nearest position within `distance_px` (pixels of the
    micrograph).

    Raises
    ------
    InputError
        If nothing matches.
    """
    by_image = {key: i for i, key in enumerate(_image_keys(truth))}
    pairs = [(i, by_image[key]) for i, key in enumerate(_image_keys(estimated)) if key in by_image]
    if pairs:
        rows = np.asarray(pairs, np.int64)
        if _lie_together(estimated, truth, rows, distance_px):
            return rows[:, 0], rows[:, 1]
    if any(s.position_px is None or s.micrograph is None for s in (estimated, truth)):
        raise InputError("score: the particles share no stack with the truth, and have no positions on micrographs.")
    assert estimated.micrograph is not None and truth.micrograph is not None
    a, b = match_positions(
        stems(estimated.micrograph), _centred_position(estimated), stems(truth.micrograph), _centred_position(truth),
        distance_px,
    )  # fmt: skip
    if not len(a):
        raise InputError("score: no particle of the result lies near one of the truth.")
    return a, b


def _lie_together(estimated: ParticleSet, truth: ParticleSet, rows: np.ndarray, distance_px: float) -> bool:
    """Whether rows of equal stack and slice are at equal places, as far as places are known."""
    if estimated.position_px is None or truth.position_px is None:
        return True
    apart = _centred_position(estimated)[rows[:, 0]] - _centred_position(truth)[rows[:, 1]]
    return bool(np.median(np.hypot(*apart.T)) <= distance_px)


def match_positions(
    names_a: np.ndarray, positions_a: np.ndarray, names_b: np.ndarray, positions_b: np.ndarray, distance_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions on equal micrographs within a distance, each used once: as many as can be, the nearest."""
    found_a, found_b = [], []
    for name in np.intersect1d(names_a, names_b):
        rows_a, rows_b = np.flatnonzero(names_a == name), np.flatnonzero(names_b == name)
        near = cKDTree(positions_a[rows_a]).sparse_distance_matrix(cKDTree(positions_b[rows_b]), distance_px)
        near = near.tocoo()
        cost = np.zeros((len(rows_a), len(rows_b)))
        cost[near.row, near.col] = near.data - 1e3 * distance_px
        i, j = linear_sum_assignment(cost)
        hit = cost[i, j] < 0
        found_a.append(rows_a[i[hit]])
        found_b.append(rows_b[j[hit]])
    if not found_a:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(found_a), np.concatenate(found_b)


def stems(paths: np.ndarray) -> np.ndarray:
    """File names without folder and suffix, `(n,)` str."""
    unique, inverse = np.unique(paths, return_inverse=True)
    return np.asarray([PurePath(str(p)).name.split(".")[0] for p in unique])[inverse]


def _image_keys(particles: ParticleSet) -> list[tuple[str, int]]:
    names = [PurePath(str(p)).name for p in particles.image_path]
    return list(zip(names, particles.image_index.tolist(), strict=True))


def _centred_position(particles: ParticleSet) -> np.ndarray:
    """Where the centre of the particle sits on the micrograph, pixels yx."""
    assert particles.position_px is not None
    if particles.shift is None:
        return particles.position_px
    size = np.asarray([o.original_pixel_size or o.pixel_size for o in particles.optics])[particles.optics_index]
    return particles.position_px + np.nan_to_num(particles.shift) / size[:, None]
