"""Where the two halves of a refinement stand to each other: their frames, and what one map's noise does to a pose.

Every half settles in a frame of its own: nothing holds a map without symmetry, and halves that are refined apart drift
by some tenths of a degree. Summed as they are they blur each other towards the rim. How poses of one half move when
they are fitted to the map of the other half tells the frames apart, and what is left of these movements tells what the
noise of a map adds to the error of a pose. Six numbers for all particles pass between the halves, nothing else.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em.gauss_newton import PosePriors, refine_poses
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates, PoseTable, best_of
from cryoloom.fourier import fourier_crop
from cryoloom.fourier.slices import PaddedSpectrum
from cryoloom.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from cryoloom.maps.superpose import superpose_near

SAME_OPTIMUM = 9.0
"""Largest squared distance, in squared standard errors per coordinate, between two fits of the same optimum."""
LEAST_LIKENESS = 0.7
"""Correlation of the map and the reference of the start, at its resolution, from which they show the same particle."""
FEWEST = 20
"""Particles that must have stayed in their optimum before anything is said of the frames."""


@dataclass(frozen=True)
class Fit:
    """The continuous fit with everything but candidates, radius and steps fixed.

    `half` says which of the references each particle meets, from 1: its half's, or that of its fold of the half.
    """

    source: ImageSource
    references: list[PaddedSpectrum]
    half: np.ndarray
    noise: NoiseModel
    executor: Executor
    priors: PosePriors
    largest_turn: float

    def __call__(self, candidates: Candidates, radius: int, n_steps: int) -> Candidates:
        """Candidates after `n_steps` steps with shells up to `radius`."""
        return refine_poses(
            self.source,
            self.references,
            self.half,
            candidates,
            self.noise,
            self.executor,
            radius=radius,
            n_steps=n_steps,
            priors=self.priors,
            largest_turn=self.largest_turn,
        )


@dataclass(frozen=True)
class Frames:
    """From the frame of half 1 to that of half 2.

    Attributes
    ----------
    turn
        Axis times angle in radians, xyz, `(3,)`.
    shift_px
        Origin of frame 2 minus that of frame 1 as shifts see it, xyz pixels, `(3,)`.
    """

    turn: np.ndarray
    shift_px: np.ndarray


@dataclass(frozen=True)
class LookAcross:
    """How the best poses move when they are fitted to the map of the other half.

    Attributes
    ----------
    row
        Particle of each, `(n,)`.
    turn, move_px
        Rotation vector in the frame of the image `(n, 3)`, and shift xy `(n, 2)`, from the own map to the other.
    turn_information, move_information
        Of the own fit, `(n, 3, 3)` and `(n, 2, 2)`.
    to_image
        How a vector from frame 1 to frame 2 appears in each image, `(n, 3, 3)`.
    """

    row: np.ndarray
    turn: np.ndarray
    move_px: np.ndarray
    turn_information: np.ndarray
    move_information: np.ndarray
    to_image: np.ndarray

    def frames(self, symmetry: str) -> Frames:
        """The frames that explain the movements best; only what the point group leaves free."""
        free = _free_directions(symmetry)
        turn = _common_vector(self.turn, self.to_image, self.turn_information, free)
        return Frames(turn, _common_vector(self.move_px, self.to_image[:, :2], self.move_information, free))

    def inflation(self, frames: Frames) -> tuple[float, float]:
        """Factors of the error bars of poses and of shifts that account for the noise of the maps."""
        turn = self.turn - self.to_image @ frames.turn
        move = self.move_px - self.to_image[:, :2] @ frames.shift_px
        factors = []
        for left, information in ((turn, self.turn_information), (move, self.move_information)):
            square = _per_coordinate(left, information)
            # particles that ran to another optimum say nothing of the width of this one
            near = square < SAME_OPTIMUM
            factors.append(float(np.sqrt(1.0 + square[near].mean() if near.any() else 1.0)))
        return factors[0], factors[1]


def look_across(fit: Fit, candidates: Candidates, rows: np.ndarray | None = None, *, n_steps: int = 5) -> LookAcross:
    """Fit the best pose of particles to the map of the other half; references of folds are in the order of the halves.

    Parameters
    ----------
    rows
        Particles to ask, sorted; None: all.
    """
    assert candidates.posterior is not None and candidates.information is not None
    own = candidates.select(best_of(candidates, candidates.posterior))
    if rows is not None:
        own = own.select(np.flatnonzero(np.isin(own.row, rows)))
    radius = min(r.radius for r in fit.references)
    other = replace(fit, references=fit.references[::-1])(own, radius, n_steps)
    assert own.information is not None
    to_image = own.rotation.transpose(0, 2, 1)
    covariance = np.linalg.inv(own.information + 1e-9 * np.eye(6))
    sign = np.where(2 * fit.half[own.row] <= len(fit.references), 1.0, -1.0)
    return LookAcross(
        row=own.row,
        turn=matrix_to_axis_angle(torch.from_numpy(to_image @ other.rotation)).numpy(),
        move_px=(other.shift_px - own.shift_px)[:, ::-1],
        turn_information=np.linalg.inv(covariance[:, :3, :3]),
        move_information=np.linalg.inv(covariance[:, 3:5, 3:5]),
        to_image=sign[:, None, None] * to_image,
    )


def widen_errors(poses: PoseTable, rows: np.ndarray, pose_factor: float, shift_factor: float) -> None:
    """Multiply the error bars of particles."""
    for column, factor in (
        (poses.pose_error, pose_factor),
        (poses.pose_radius, pose_factor),
        (poses.shift_error_px, shift_factor),
        (poses.shift_radius_px, shift_factor),
    ):
        column[rows] *= factor


def join_frames(frames: Frames, half: np.ndarray, rotation: np.ndarray, shift_px: np.ndarray) -> None:
    """Bring poses of both halves to the frame half way between theirs, in place.

    Parameters
    ----------
    half, rotation, shift_px
        Half (1 or 2), rotation and shift yx of each pose, `(n,)`, `(n, 3, 3)` and `(n, 2)`.
    """
    for h, part in ((1, 0.5), (2, -0.5)):
        mine = half == h
        by = axis_angle_to_matrix(torch.from_numpy(part * frames.turn)).numpy()
        rotation[mine] = by @ rotation[mine]
        shift_px[mine] += (rotation[mine].transpose(0, 2, 1)[:, :2] @ (part * frames.shift_px))[:, ::-1]


def frame_of_start(
    volumes: list[torch.Tensor], origin: torch.Tensor, field: float, lowpass: float, symmetry: str
) -> Frames:
    """From the frame of half 1 and 2, which share one, to that of the reference of the start.

    A map without symmetry may drift while it is refined, by about a degree where images are little more than noise.
    Both maps are sure at the resolution of the start; laid on each other there, the drift is seen and taken back, so
    that the result lies where the reference lay. Zeros where the maps do not show the same particle.

    Parameters
    ----------
    volumes
        References of the last iteration.
    origin
        Reference of the start, in a box of its own over the same field.
    field, lowpass
        Side of the boxes, and resolution of the start, Å.
    """
    free = _free_directions(symmetry)
    none = Frames(np.zeros(3), np.zeros(3))
    if not free.shape[1]:
        return none
    box = origin.shape[0]
    mean = torch.stack([fourier_crop(v, (box, box, box)) for v in volumes]).mean(0)
    found = superpose_near(origin, mean, field / box, resolution=lowpass)
    if found.correlation < LEAST_LIKENESS:
        return none
    onto = free @ free.T
    turn = onto @ matrix_to_axis_angle(found.rotation[None])[0].numpy()
    return Frames(turn, onto @ found.shift.numpy()[::-1] / (field / box))


def lay_in_frame(frames: Frames, scale: float, rotation: np.ndarray, shift_px: np.ndarray) -> None:
    """Bring all poses to another frame, in place; `scale` is what a voxel of the frames is in pixels."""
    rotation[:] = axis_angle_to_matrix(torch.from_numpy(frames.turn)).numpy() @ rotation
    shift_px[:] -= (rotation.transpose(0, 2, 1)[:, :2] @ (scale * frames.shift_px))[:, ::-1]


def _free_directions(symmetry: str) -> np.ndarray:
    """Directions about and along which a point group leaves a map free, `(3, k)`."""
    if symmetry.upper() == "C1":
        return np.eye(3)
    return np.eye(3)[:, 2:] if symmetry.upper().startswith("C") else np.zeros((3, 0))


def _per_coordinate(step: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Squared steps per coordinate in squared standard errors, `(n,)`."""
    return np.einsum("ni,nij,nj->n", step, information, step) / step.shape[1]


def _common_vector(step: np.ndarray, rows: np.ndarray, information: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The vector `v` in the span of `free` that explains most steps as `rows v`; zeros where too few stay near."""
    vector = np.zeros(3)
    if not free.shape[1]:
        return vector
    seen = rows @ free
    for _ in range(4):
        near = _per_coordinate(step - rows @ vector, information) < SAME_OPTIMUM
        if near.sum() < FEWEST:
            return np.zeros(3)
        weighted = information[near] @ seen[near]
        matrix = np.einsum("nij,nik->jk", seen[near], weighted)
        right = np.einsum("nik,ni->k", weighted, step[near])
        vector = free @ np.linalg.solve(matrix + 1e-9 * np.trace(matrix) * np.eye(len(matrix)), right)
    return vector
