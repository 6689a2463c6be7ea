"""From many candidate poses to few, and to the one that a particle takes."""

from dataclasses import replace

import numpy as np
import torch

from cryoloom.em.gauss_newton import pose_errors, pose_radii
from cryoloom.em.poses import Candidates, PoseTable, best_of, group_starts, posterior_of
from cryoloom.geometry import pose_distance


def survivors(candidates: Candidates, most: int, least_share: float, symmetry: str) -> Candidates:
    """Of each particle the best `most` candidates with at least `least_share` of its posterior, copies removed.

    Copies are candidates that ran into one optimum, up to symmetry.
    """
    share = posterior_of(candidates)
    order = np.lexsort((np.arange(len(share)), -share, candidates.row))
    ordered = candidates.select(order)
    share = share[order]
    starts = group_starts(ordered.row)
    rank = np.arange(len(share)) - np.repeat(starts, np.diff(np.r_[starts, len(share)]))
    keep = (rank < most) & ((share >= least_share) | (rank == 0))
    for back in range(1, most):
        i = np.flatnonzero(keep & (rank >= back))
        j = i - back
        near = (np.linalg.norm(ordered.shift_px[i] - ordered.shift_px[j], axis=1) < 0.5) & (
            ordered.reference[i] == ordered.reference[j]
        )
        i, j = i[near], j[near]
        turn = pose_distance(torch.from_numpy(ordered.rotation[i]), torch.from_numpy(ordered.rotation[j]), symmetry)
        keep[i[turn.numpy() < np.deg2rad(0.5)]] = False
    return ordered.select(np.flatnonzero(keep))


def normalise_scale(candidates: Candidates, half: np.ndarray) -> Candidates:
    """Bring the mean scale of each half (values of `half` by row) to 1; the map takes up the rest."""
    assert candidates.posterior is not None
    scale = candidates.scale.copy()
    for h in np.unique(half):
        mine = half[candidates.row] == h
        if mine.any():
            scale[mine] /= np.average(scale[mine], weights=candidates.posterior[mine])
    return replace(candidates, scale=scale)


def take_best(poses: PoseTable, candidates: Candidates, before: np.ndarray, symmetry: str) -> None:
    """Write the most likely candidate of each particle into the table; `before` are the poses that it moved from."""
    assert candidates.posterior is not None and candidates.information is not None
    best = best_of(candidates, candidates.posterior)
    rows = candidates.row[best]
    poses.rotation[rows] = candidates.rotation[best]
    poses.shift_px[rows] = candidates.shift_px[best]
    poses.scale[rows] = candidates.scale[best]
    poses.reference[rows] = candidates.reference[best]
    poses.log_likelihood[rows] = candidates.log_likelihood[best]
    information = candidates.information[best]
    poses.expected_gain[rows] = 0.5 * information[:, 5, 5]
    poses.posterior_max[rows] = candidates.posterior[best]
    starts = group_starts(candidates.row)
    poses.n_significant[rows] = 1.0 / np.add.reduceat(candidates.posterior**2, starts)
    poses.pose_error[rows], poses.shift_error_px[rows] = pose_errors(information)
    poses.pose_radius[rows], poses.shift_radius_px[rows] = pose_radii(information)
    distance = pose_distance(torch.from_numpy(before[rows]), torch.from_numpy(poses.rotation[rows]), symmetry).numpy()
    poses.moved[rows] = np.where(poses.known[rows], distance, np.pi)
    poses.known[rows] = True
