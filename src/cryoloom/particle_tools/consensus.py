"""Poses on which two independent runs agree.

A right pose is found again from another start; a wrong one is wrong in another way. The frames of two maps may be
turned against each other: the turn that most particles share is found first, up to the symmetry of the map.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.geometry import pose_distance, symmetry_matrices


@dataclass(frozen=True)
class PoseAgreement:
    """How two sets of poses compare.

    Attributes
    ----------
    frame
        Turn from the first run's frame to the second's, `(3, 3)`.
    angle
        Smallest angle between the two poses of each particle, radians, `(n,)`.
    offset
        What the second run's shifts, yx Å, have beyond the first's when the map's displacement is taken out, `(n, 2)`.
    """

    frame: np.ndarray
    angle: np.ndarray
    offset: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """Between the two shifts of each particle, Å, `(n,)`."""
        return np.linalg.norm(self.offset, axis=1)


def compare_poses(
    first: np.ndarray, second: np.ndarray, first_shift: np.ndarray, second_shift: np.ndarray, symmetry: str
) -> PoseAgreement:
    """Compare poses `(n, 3, 3)` and shifts `(n, 2)` yx Å of the same particles.

    The turn between the frames is the one with the smallest median angle among those that single particles suggest,
    then the mean over the particles that follow it.
    """
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    some = torch.linspace(0, len(a) - 1, min(len(a), 400)).long()
    suggested = torch.cat([torch.eye(3, dtype=a.dtype)[None], b[some[::4]] @ a[some[::4]].mT])
    medians = torch.stack([pose_distance(b[some], q @ a[some], symmetry).quantile(0.4) for q in suggested])
    frame = suggested[int(medians.argmin())]
    operators = symmetry_matrices(symmetry).to(a.dtype)
    for _ in range(3):
        turned = frame @ a
        angle = pose_distance(b, turned, symmetry)
        follow = angle <= torch.clamp(2.0 * angle.median(), min=np.deg2rad(1.0), max=np.deg2rad(20.0))
        # every particle's own turn, by the operator that brings it nearest
        turns = torch.einsum("gij,njk,nlk->gnil", operators, b[follow], a[follow])
        near = torch.einsum("gnij,ij->gn", turns, frame).argmax(0)
        mean = turns[near, torch.arange(turns.shape[1])].mean(0)
        u, _, vh = torch.linalg.svd(mean)
        if float(torch.det(u @ vh)) > 0:
            frame = u @ vh
    apart = pose_distance(b, frame @ a, symmetry).numpy()
    return PoseAgreement(frame.numpy(), apart, _without_offset(first, first_shift, second_shift))


def _without_offset(rotation: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Difference of shifts less what one displacement of the map explains, `(n, 2)`; robust least squares."""
    # a map displaced by c moves the projection by the x, y of R.T @ c
    rows = np.swapaxes(rotation, 1, 2)[:, 1::-1, :]  # (n, 2 yx, 3)
    difference = second - first
    weight = np.ones(len(difference))
    for _ in range(5):
        matrix = np.einsum("n,nai,naj->ij", weight, rows, rows) + 1e-9 * np.eye(3)
        c = np.linalg.solve(matrix, np.einsum("n,nai,na->i", weight, rows, difference))
        rest = difference - rows @ c
        length = np.linalg.norm(rest, axis=1)
        weight = 1.0 / np.maximum(length, np.median(length) + 1e-9) ** 2
    return rest


def reliable_rows(
    agreement: PoseAgreement, first_error: np.ndarray | None, second_error: np.ndarray | None, largest_angle: float
) -> np.ndarray:
    """Particles whose two poses agree, `(n,)` bool.

    Poses agree within three times their joint standard error where that is known, and never beyond `largest_angle`
    (radians); shifts within three times their typical difference.
    """
    limit = np.full(len(agreement.angle), largest_angle)
    if first_error is not None and second_error is not None:
        joint = 3.0 * np.hypot(first_error, second_error)
        limit = np.minimum(limit, np.maximum(joint, 3.0 * np.median(agreement.angle)))
    typical = np.median(agreement.distance[agreement.angle <= limit]) if (agreement.angle <= limit).any() else 0.0
    return (agreement.angle <= limit) & (agreement.distance <= max(3.0 * typical, 1e-6))
