"""Tilt pairs: the same particles seen twice, with the stage turned in between.

The poses of both images, found apart from each other against one map, give the turn of the stage, `R_t^T g R_u` for
some operator `g` of the point group. With a true map the turns of all particles agree (Rosenthal and Henderson 2003,
doi:10.1016/j.jmb.2003.07.013; Henderson et al. 2011, doi:10.1016/j.jmb.2011.09.008); with a wrong map they scatter over
all rotations. How many agree is compared with what random poses would give (the question of Russo and Henderson 2014,
doi:10.1016/j.jsb.2014.06.007, asked by exact counting instead of Fisher's distribution).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.geometry import matrix_to_axis_angle, random_rotations, symmetry_matrices


@dataclass(frozen=True)
class TiltPairs:
    """What tilt pairs say.

    Attributes
    ----------
    tilt_deg, axis_deg
        Turn of the stage where most pairs agree, and azimuth of its axis in the image, -180 to 180 from +x towards +y.
    out_of_plane_deg
        Angle between that axis and the image plane; near 0 for a real tilt.
    agreeing
        Fraction of pairs within `within_deg` of it.
    expected
        The same for random poses.
    p
        Probability that random poses agree as well as this somewhere.
    turns
        Nearest turn of each pair as axis times angle, xyz degrees, `(n, 3)`.
    """

    tilt_deg: float
    axis_deg: float
    out_of_plane_deg: float
    agreeing: float
    expected: float
    p: float
    turns: np.ndarray


def compare_tilt_pairs(
    untilted: np.ndarray,
    tilted: np.ndarray,
    generator: torch.Generator,
    *,
    symmetry: str = "C1",
    within_deg: float = 12.0,
    n_random: int = 199,
) -> TiltPairs:
    """Find the turn on which most tilt pairs agree, and how likely chance would do as well.

    Parameters
    ----------
    untilted, tilted
        Poses of the same particles in both exposures, `(n, 3, 3)`.
    generator
        Of the random poses.
    symmetry
        Point group of the map.
    within_deg
        Turns within this of one another agree.
    n_random
        Sets of random poses; the smallest `p` is `1 / (n_random + 1)`.

    Raises
    ------
    ValueError
        If the sets differ in length or hold fewer than three pairs.
    """
    if untilted.shape != tilted.shape or len(untilted) < 3:
        raise ValueError(f"tilted: expected at least 3 pairs, got {untilted.shape} and {tilted.shape}")
    operators = symmetry_matrices(symmetry).numpy()
    turns = _turns(untilted, tilted, operators)
    count, centre = _mode(turns, within_deg)
    chance = np.empty(n_random)
    for i in range(n_random):
        random = random_rotations(len(turns), generator).numpy()
        chance[i] = _mode(_turns(random, np.broadcast_to(np.eye(3), random.shape), operators), within_deg)[0]
    p = (1 + int((chance >= count).sum())) / (n_random + 1)
    nearest, centre = _settle(turns, centre, within_deg)
    vector = matrix_to_axis_angle(torch.from_numpy(centre)).numpy()
    angle = float(np.linalg.norm(vector))
    axis = vector / max(angle, 1e-9)
    return TiltPairs(
        tilt_deg=math.degrees(angle),
        axis_deg=math.degrees(math.atan2(axis[1], axis[0])),
        out_of_plane_deg=math.degrees(math.asin(float(np.clip(abs(axis[2]), 0, 1)))),
        agreeing=count / len(turns),
        expected=float(chance.mean()) / len(turns),
        p=p,
        turns=np.rad2deg(matrix_to_axis_angle(torch.from_numpy(nearest)).numpy()),
    )


def _turns(untilted: np.ndarray, tilted: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """All turns that would explain each pair, `(n, operators, 3, 3)`."""
    return np.einsum("nji,gjk,nkl->ngil", tilted, operators, untilted, optimize=True)


def _mode(turns: np.ndarray, within_deg: float, most: int = 240) -> tuple[int, np.ndarray]:
    """Largest number of pairs that agree with one turn, and that turn; at most `most` candidates are tried."""
    every = turns.reshape(-1, 9)
    centres = every[:: max(1, len(every) // most)]
    limit = 1 + 2 * math.cos(math.radians(within_deg))
    # trace(A^T B) = 1 + 2 cos of the angle between two rotations
    agree = (centres @ every.T).reshape(len(centres), *turns.shape[:2]) >= limit
    counts = agree.any(-1).sum(-1)
    best = int(counts.argmax())
    return int(counts[best]), centres[best].reshape(3, 3)


def _settle(turns: np.ndarray, centre: np.ndarray, within_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearest turn of each pair to the mode, and the mean of those that agree, after a few rounds."""
    limit = 1 + 2 * math.cos(math.radians(within_deg))
    nearest = turns[:, 0]
    for _ in range(5):
        trace = np.einsum("ngij,ij->ng", turns, centre)
        nearest = turns[np.arange(len(turns)), trace.argmax(1)]
        close = trace.max(1) >= limit
        u, _, vt = np.linalg.svd(nearest[close].mean(0))
        centre = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return nearest, centre
