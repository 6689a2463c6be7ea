"""Poses against the truth, up to what no image can tell: the frame of the map, its hand, its symmetry and origin.

A map in another frame, `V'(G p) = V(p)`, has the poses `G S R`, S any operator of the group; its z-mirror gives the
same
images at `M R M`, `M = diag(1, 1, -1)`. The frame is found by vote: every particle proposes the frame that would make
it right, and the proposal that makes most others right is polished by averaging over them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.geometry import random_rotations, symmetry_matrices
from cryoloom.scoring.matching import match_particles

_MIRROR = np.diag([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class PoseScore:
    """How far poses are from the truth.

    Attributes
    ----------
    n
        Particles compared.
    mirrored
        True if the poses are those of the mirror image.
    gauge
        Frame of the truth to frame of the result, `(3, 3)`.
    origin
        Where the origin of the truth sits in the frame of the result, xyz Å, `(3,)`.
    angle
        Error of each pose in radians, `(n,)`.
    shift
        Error of each shift in Å, yx, `(n, 2)`, or None.
    share_right, share_by_chance
        Share of poses within 10 degrees, and that of random poses in the frame that suits them best.
    hand_margin
        By how much the chosen hand explains more poses than the other one, as a share of all.
    """

    n: int
    mirrored: bool
    gauge: np.ndarray
    origin: np.ndarray
    angle: np.ndarray
    shift: np.ndarray | None
    share_right: float
    share_by_chance: float
    hand_margin: float

    @property
    def median_deg(self) -> float:
        """Median error in degrees."""
        return float(np.rad2deg(np.median(self.angle)))

    @property
    def shift_rms(self) -> float:
        """Root mean square error of a shift along one axis in Å, over poses within 10 degrees."""
        if self.shift is None:
            return float("nan")
        right = self.angle < np.deg2rad(10)
        chosen = self.shift[right] if right.any() else self.shift
        return float(np.sqrt((chosen**2).mean()))

    def summary(self) -> dict[str, float | int | bool]:
        """The figures a report shows."""
        return {
            "n": self.n,
            "mirrored": self.mirrored,
            "median_error_deg": round(self.median_deg, 4),
            "share_within_10_deg": round(self.share_right, 4),
            "share_by_chance": round(self.share_by_chance, 4),
            "shift_rms": round(self.shift_rms, 4),
            "hand_margin": round(self.hand_margin, 4),
        }


def score_poses(estimated: ParticleSet, truth: ParticleSet, symmetry: str = "C1", *, seed: int = 0) -> PoseScore:
    """Score the poses of a particle set; particles of class 0 of the truth (junk) do not count.

    Raises
    ------
    InputError
        If a set has no poses or no particle is in both.
    """
    if estimated.rotation is None or truth.rotation is None:
        raise InputError("score: poses are missing (no angles in the particles).")
    a, b = match_particles(estimated, truth)
    if truth.class_number is not None:
        real = truth.class_number[b] > 0
        a, b = a[real], b[real]
    if not len(a):
        raise InputError("score: none of the particles is a true one.")
    shifts = None
    if estimated.shift is not None and truth.shift is not None:
        shifts = (estimated.shift[a], truth.shift[b])
    return score_rotations(estimated.rotation[a], truth.rotation[b], symmetry, shifts=shifts, seed=seed)


def score_rotations(
    estimated: np.ndarray,
    truth: np.ndarray,
    symmetry: str = "C1",
    *,
    shifts: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> PoseScore:
    """Score rotations `(n, 3, 3)` row by row; `shifts` are those of the estimate and of the truth, Å yx `(n, 2)`."""
    estimated, truth = np.asarray(estimated, np.float64), np.asarray(truth, np.float64)
    operators = symmetry_matrices(symmetry).numpy()
    rng = np.random.default_rng(seed)
    found = []
    for mirrored in (False, True):
        turned = _MIRROR @ truth @ _MIRROR if mirrored else truth
        # The mirror image has the mirrored group.
        group = _MIRROR @ operators @ _MIRROR if mirrored else operators
        gauge = _find_gauge(estimated, turned, group, rng)
        found.append((gauge, *_errors(estimated, turned, group, gauge)))
    quality = [float(_soft_share(angle).mean()) for _, angle, _ in found]
    mirrored = quality[1] > quality[0] + 1e-9
    gauge, angle, _ = found[mirrored]
    gauge = _refine_gauge(estimated, _MIRROR @ truth @ _MIRROR if mirrored else truth,
                          _MIRROR @ operators @ _MIRROR if mirrored else operators, gauge)  # fmt: skip
    angle, _ = _errors(
        estimated, _MIRROR @ truth @ _MIRROR if mirrored else truth,
        _MIRROR @ operators @ _MIRROR if mirrored else operators, gauge,
    )  # fmt: skip
    origin, shift_error = np.zeros(3), None
    if shifts is not None:
        origin, shift_error = _origin(estimated, np.asarray(shifts[0]) - np.asarray(shifts[1]), angle)
    return PoseScore(
        n=len(estimated),
        mirrored=bool(mirrored),
        gauge=gauge,
        origin=origin,
        angle=angle,
        shift=shift_error,
        share_right=float((angle < np.deg2rad(10)).mean()),
        share_by_chance=_share_by_chance(truth, operators, rng),
        hand_margin=abs(quality[1] - quality[0]),
    )


def _soft_share(angle: np.ndarray) -> np.ndarray:
    """1 for a right pose, about 0 beyond 15 degrees."""
    return np.exp(-((angle / np.deg2rad(8)) ** 2))


def _errors(
    estimated: np.ndarray, truth: np.ndarray, group: np.ndarray, gauge: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Angle between `G S R_true` and the estimate, smallest over S, `(n,)`, and that S, `(n,)`."""
    difference = estimated @ truth.transpose(0, 2, 1)  # trace(S' G' D) is the trace of the difference
    traces = np.einsum("sab,nab->ns", gauge @ group, difference)
    best = traces.argmax(1)
    # The angle from the distance of the matrices: exact near 0, where the arccosine of the trace is not.
    chord = np.linalg.norm(difference - (gauge @ group)[best], axis=(1, 2))
    return 2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1)), best


def _find_gauge(estimated: np.ndarray, truth: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(estimated)
    proposals = rng.choice(n, min(n, 300), replace=False)
    voters = rng.choice(n, min(n, 1500), replace=False)
    frames = estimated[proposals] @ truth[proposals].transpose(0, 2, 1)
    difference = (estimated[voters] @ truth[voters].transpose(0, 2, 1)).reshape(-1, 9)
    best, best_votes = np.eye(3), -1.0
    for frame in frames:
        trace = ((frame @ group).reshape(-1, 9) @ difference.T).max(0)
        angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
        votes = float(_soft_share(angle).sum())
        if votes > best_votes:
            best, best_votes = frame, votes
    return _refine_gauge(estimated, truth, group, best)


def _refine_gauge(estimated: np.ndarray, truth: np.ndarray, group: np.ndarray, gauge: np.ndarray) -> np.ndarray:
    for _ in range(12):
        angle, best = _errors(estimated, truth, group, gauge)
        limit = max(3 * np.median(angle[angle < np.deg2rad(20)]) if (angle < np.deg2rad(20)).any() else 0.0, 1e-4)
        use = angle <= min(limit, np.deg2rad(20))
        if not use.any():
            return gauge
        frames = estimated[use] @ truth[use].transpose(0, 2, 1) @ group[best[use]].transpose(0, 2, 1)
        u, _, vt = np.linalg.svd(frames.sum(0))
        refined = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        if np.linalg.norm(refined - gauge) < 1e-10:
            return refined
        gauge = refined
    return gauge


def _origin(rotation: np.ndarray, difference: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin of the frame xyz that explains the differences of shifts yx, and what remains of them."""
    rows = rotation.transpose(0, 2, 1)[:, :2][:, ::-1]  # y and x of R^T t
    use = angle < np.deg2rad(10) if (angle < np.deg2rad(10)).sum() >= 3 else np.ones(len(angle), bool)
    origin = np.zeros(3)
    for _ in range(10):
        left = difference - rows @ origin
        size = np.linalg.norm(left, axis=1)
        near = use & (size <= max(4 * np.median(size[use]), 1e-6))
        solved = np.linalg.lstsq(rows[near].reshape(-1, 3), difference[near].reshape(-1), rcond=1e-6)[0]
        if np.allclose(solved, origin, atol=1e-12):
            break
        origin = solved
    return origin, difference - rows @ origin


def _share_by_chance(truth: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> float:
    n = min(len(truth), 1000)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    random = random_rotations(n, generator).numpy()
    gauge = _find_gauge(random, truth[:n], group, rng)
    return float((_errors(random, truth[:n], group, gauge)[0] < np.deg2rad(10)).mean())
