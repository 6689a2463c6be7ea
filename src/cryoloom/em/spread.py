"""A pose that is not known sharply, as several poses: points of the normal distribution about a mode.

Inserted at its best pose alone an image puts detail where it does not belong, with the confidence of the whole image.
Averaged over its posterior it weighs less where it is unsure; the map that maximises the likelihood is the one that
these averages reproduce (Sigworth 1998, doi:10.1006/jsbi.1998.4014). About a mode the posterior over pose and shift is
taken for normal, with the curvature of the likelihood (Laplace); what deviates from that is neglected.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import ndtri

from cryoloom.em.poses import Candidates
from cryoloom.geometry import axis_angle_to_matrix


def normal_points(n: int, dimensions: int) -> np.ndarray:
    """An even number of points with the mean and variances of a standard normal distribution, `(n, dimensions)`."""
    even = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=1).draw(n // 2, dtype=torch.float64)
    half = ndtri(even.numpy())
    points = np.concatenate([half, -half])
    return points / np.sqrt((points**2).mean(0))


def spread_modes(candidates: Candidates, n: int) -> Candidates:
    """Each candidate as `n` (a power of two) poses that share its posterior.

    Parameters
    ----------
    candidates
        With `information` and `posterior`; rows ascending.
    """
    if candidates.information is None or candidates.posterior is None:
        raise ValueError("candidates: expected information and posterior, as refine_poses and posterior_of give them")
    points = normal_points(n, 5)
    covariance = np.linalg.inv(candidates.information + 1e-9 * np.eye(6))[:, :5, :5]
    step = np.einsum("nij,kj->nki", np.linalg.cholesky(covariance), points)
    turn = axis_angle_to_matrix(torch.from_numpy(step[..., :3].reshape(-1, 3))).numpy().reshape(len(step), n, 3, 3)
    repeated = replace(candidates, information=None).select(np.repeat(np.arange(len(candidates)), n))
    return replace(
        repeated,
        rotation=(candidates.rotation[:, None] @ turn).reshape(-1, 3, 3),
        shift_px=repeated.shift_px + step[..., 4:2:-1].reshape(-1, 2),  # the information holds x before y
        posterior=np.repeat(candidates.posterior / n, n),
    )
