"""Rows that are the same particle: equal images, or centres on one micrograph that nearly coincide."""

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.particle_tools.merge import image_codes, text_codes


def keep_one_of_each_image(particles: ParticleSet, score: np.ndarray | None = None) -> np.ndarray:
    """Rows to keep, `(n,)` bool: of rows of one image the one with the best score, or the first."""
    codes = image_codes(particles)
    order = _by_score(len(codes), score)
    first = order[np.unique(codes[order], return_index=True)[1]]
    keep = np.zeros(len(codes), bool)
    keep[first] = True
    return keep


def keep_apart(particles: ParticleSet, distance: float, score: np.ndarray | None = None) -> np.ndarray:
    """Rows to keep, `(n,)` bool, no two of one micrograph nearer than `distance` Å; the best of neighbours stays.

    Centres are coordinates and shifts together. Rows are taken by falling score, each one that no kept row is near.
    Rows without a coordinate are kept.
    """
    if particles.micrograph is None or particles.position_px is None:
        raise InputError("--distance needs coordinates and the name of the micrograph; these particles have none.")
    centre = centres(particles)
    rank = np.empty(len(particles), np.int64)
    rank[_by_score(len(particles), score)] = np.arange(len(particles))
    codes = text_codes(particles.micrograph)
    order = np.argsort(codes, kind="stable")
    keep = np.ones(len(particles), bool)
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        rows = rows[np.isfinite(centre[rows]).all(1)]
        if len(rows) < 2:
            continue
        pairs = cKDTree(centre[rows]).query_pairs(distance, output_type="ndarray")
        if len(pairs) == 0:
            continue
        a, b = rows[pairs[:, 0]], rows[pairs[:, 1]]
        better, worse = np.where(rank[a] < rank[b], a, b), np.where(rank[a] < rank[b], b, a)
        for i in np.argsort(rank[better], kind="stable"):  # all that is better than `better` is decided already
            if keep[better[i]]:
                keep[worse[i]] = False
    return keep


def centres(particles: ParticleSet) -> np.ndarray:
    """Where particles sit on their micrographs, shifts included, in Å yx, `(n, 2)`."""
    size = np.asarray([g.original_pixel_size or g.pixel_size for g in particles.optics])[particles.optics_index]
    place = np.asarray(particles.position_px, np.float64) * size[:, None]
    return place if particles.shift is None else place + np.asarray(particles.shift)


def _by_score(n: int, score: np.ndarray | None) -> np.ndarray:
    """Rows by falling score; equal ones, and rows without a score, in their order."""
    if score is None:
        return np.arange(n)
    if np.asarray(score).dtype.kind not in "iufb":
        raise InputError("--best: the column holds text, numbers are needed.")
    return np.argsort(-np.nan_to_num(np.asarray(score, np.float64), nan=-np.inf), kind="stable")
