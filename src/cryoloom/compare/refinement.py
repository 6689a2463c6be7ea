"""`compare refinement`: poses by marginalised expectation maximisation against poses by branch and bound.

The first method searches a grid of poses whole and inserts every particle at all of its likely poses; the second
searches a grid twice as fine, of which a bound rules out most, and keeps the best pose alone. Both see the same halves.
What is compared are the poses: their angle, up to the point group and to how the two maps are turned against each
other. A method that is torn between several poses of a particle does not agree with one of them: the distance is the
mean over its posterior. Where the methods disagree, the pose is taken that fits the maps of the half better which has
not seen the particle; both methods' maps are asked.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.settings import COMPARE_REFINEMENT, CompareRefinementSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.groups import half_sets
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import Candidates
from cryoloom.em.products import slice_products
from cryoloom.geometry import axis_angle_to_matrix, matrix_to_axis_angle, pose_distance, symmetry_matrices
from cryoloom.particle_tools.consensus import PoseAgreement, compare_poses
from cryoloom.refine.settings import RefineSettings
from cryoloom.refine.stage import open_images, plan_of, posed_particles, run_schedule
from cryoloom.refine.state import Outcome, State

METHODS = {
    "all likely poses": {"search": "exhaustive", "soft": "soft"},
    "branch and bound": {"search": "branch", "soft": "hard"},
}
CORRELATION = 0.8
"""Of the errors of the two poses of a particle: the noise of its image is the same in both."""
TYPICAL = 3.0
"""Times the typical difference, beyond which two poses do not agree."""
LEAST_TOLERANCE, LARGEST_TOLERANCE = 1.0, 10.0
"""Degrees. Poses further apart are not the same pose, however many particles are lost."""


@dataclass(frozen=True)
class TwoPoses:
    """Poses of the same particles by both methods, in the frame of the first.

    Attributes
    ----------
    rotation
        Per method, `(2, n, 3, 3)`; of all that the point group makes equal, the second's nearest to the first's.
    shift
        yx Å, `(2, n, 2)`.
    agreement
        How the frames lie to each other.
    """

    rotation: np.ndarray
    shift: np.ndarray
    agreement: PoseAgreement

    @property
    def turn_deg(self) -> np.ndarray:
        """Rotation vectors in the frame of each image from the first pose to the second, degrees, `(n, 3)`."""
        between = self.rotation[0].transpose(0, 2, 1) @ self.rotation[1]
        return np.rad2deg(matrix_to_axis_angle(torch.from_numpy(between)).numpy())


def lay_together(first: ParticleSet, second: ParticleSet, symmetry: str) -> TwoPoses:
    """Poses of two refinements of the same particles, in the frame of the first."""
    assert first.rotation is not None and second.rotation is not None
    assert first.shift is not None and second.shift is not None
    found = compare_poses(first.rotation, second.rotation, first.shift, second.shift, symmetry)
    turned = found.frame.T @ second.rotation
    equal = symmetry_matrices(symmetry).numpy()[:, None] @ turned
    nearest = np.einsum("gnij,nij->gn", equal, first.rotation).argmax(0)
    return TwoPoses(
        np.stack([first.rotation, equal[nearest, np.arange(len(turned))]]),
        np.stack([first.shift, first.shift + found.offset]),
        found,
    )


def expected_distance(poses: TwoPoses, modes: tuple[Candidates, Candidates], symmetry: str) -> np.ndarray:
    """Angle between one method's pose and the other's, its mean over the other's posterior, degrees, `(n,)`.

    The larger of the two such means: either method may be the one that is unsure.

    Parameters
    ----------
    modes
        What each method leaves of each particle's posterior, each in the method's own frame; rows ascending.
    """
    frames = np.eye(3), poses.agreement.frame.T
    means = []
    for frame, own, other in zip(frames, modes, poses.rotation[::-1], strict=True):
        assert own.posterior is not None
        turned = torch.from_numpy(frame @ own.rotation)
        angle = np.rad2deg(pose_distance(turned, torch.from_numpy(other[own.row]), symmetry).numpy())
        weight = np.bincount(own.row, own.posterior, len(other))
        means.append(np.bincount(own.row, own.posterior * angle, len(other)) / np.maximum(weight, 1e-12))
    return np.maximum(*means)


def support_elsewhere(
    source: ImageSource, outcome: Outcome, rotation: np.ndarray, shift: np.ndarray, run: Run
) -> np.ndarray:
    """Log-likelihood of poses under the maps of the half that has not seen the particle, `(n,)`."""
    state = outcome.state
    references = prepare_references(state.volumes, run.executor, state.radius)
    radius = min(r.radius for r in references)
    cross, gram = slice_products(
        source, [[reference] for reference in references], 2 - state.poses.half, np.arange(len(source)), rotation,
        shift / source.pixel_size, state.noise, run.executor, radius=radius,
    )  # fmt: skip
    return cross[:, 0] - 0.5 * gram[:, 0, 0]


def compare_two_poses(
    poses: TwoPoses,
    error_deg: tuple[np.ndarray, np.ndarray],
    support: np.ndarray,
    distance: np.ndarray,
    tolerance: float | None,
) -> Comparison:
    """Hold both poses of all particles together.

    Parameters
    ----------
    error_deg
        Standard error of each pose per method, `(n,)` each.
    support
        Of each pose by other data, `(2, n)`.
    distance
        Between the two answers, degrees, `(n,)`: `expected_distance`.
    tolerance
        Degrees; None: three times the typical difference.
    """
    turn = poses.turn_deg
    angle = np.linalg.norm(turn, axis=1)
    if tolerance is None:
        tolerance = float(np.clip(TYPICAL * np.median(angle), LEAST_TOLERANCE, LARGEST_TOLERANCE))
    answers = [
        Answers(method, values, error, own)
        for method, values, error, own in zip(METHODS, (np.zeros_like(turn), turn), error_deg, support, strict=True)
    ]
    items = np.array([f"particle {i + 1}" for i in range(len(turn))])
    return compare_answers(
        "pose", "°", items, *answers, tolerance=tolerance, correlation=CORRELATION, distance=distance
    )  # fmt: skip


def consensus_poses(poses: TwoPoses, comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Rotations `(n, 3, 3)` and shifts `(n, 2)` that both methods say together, in the frame of the first."""
    turn = torch.from_numpy(np.deg2rad(comparison.consensus))
    rotation = poses.rotation[0] @ axis_angle_to_matrix(turn).numpy()
    whole = np.maximum(np.linalg.norm(poses.turn_deg, axis=1), 1e-9)
    part = np.clip(np.linalg.norm(comparison.consensus, axis=1) / whole, 0.0, 1.0)[:, None]
    return rotation, (1 - part) * poses.shift[0] + part * poses.shift[1]


@stage(COMPARE_REFINEMENT)
def compare_refinements(
    particles: ParticleSet, reference: VolumeMap, settings: CompareRefinementSettings, run: Run
) -> dict[str, Any]:
    """Refine by both methods, and say what both agree on."""
    symmetry_matrices(settings.symmetry)
    half = half_sets(particles, run.generator("halves"))
    outcomes, posed, sources = [], [], []
    for i, (method, how) in enumerate(METHODS.items()):
        chosen = RefineSettings(**(settings.model_dump(exclude={"tolerance"}) | how))
        source, placed = open_images(particles, reference, chosen, run)
        run.log(f"refinement by {method}")
        outcome = run_schedule(source, placed, half, plan_of(chosen, source.mask_diameter), run, f"refinement_{i + 1}")
        outcomes.append(outcome)
        sources.append(source)
        posed.append(posed_particles(particles, half, outcome.state, source.pixel_size))
    poses = lay_together(posed[0], posed[1], settings.symmetry)
    frame = poses.agreement.frame
    # a pose of frame 1 in frame 2: its shift differs by what the displacement of the map explains
    displaced = posed[1].shift - poses.shift[1]
    support = np.stack(
        [
            support_elsewhere(sources[0], outcomes[0], rotation, shift, run)
            + support_elsewhere(sources[1], outcomes[1], frame @ rotation, shift + displaced, run)
            for rotation, shift in zip(poses.rotation, poses.shift, strict=True)
        ]
    )
    errors = [np.rad2deg(np.asarray(p.pose_error)) for p in posed]
    modes = tuple(_modes_of(outcome.state) for outcome in outcomes)
    distance = expected_distance(poses, (modes[0], modes[1]), settings.symmetry)
    comparison = compare_two_poses(poses, (errors[0], errors[1]), support, distance, settings.tolerance)
    show_comparison(comparison, run, symmetry=settings.symmetry)
    rotation, shift = consensus_poses(poses, comparison)
    return {
        "first": posed[0],
        "second": posed[1],
        "particles": posed[0].replace(
            rotation=rotation,
            shift=shift,
            pose_error=np.deg2rad(comparison.error),
            extra=dict(posed[0].extra) | {"cryoloomMethodsDisagree": comparison.disagree.astype(np.float64)},
        ),
    }


def _modes_of(state: State) -> Candidates:
    """What a refinement leaves of each particle's posterior."""
    return state.poses.candidates(np.arange(len(state.poses))) if state.modes is None else state.modes
