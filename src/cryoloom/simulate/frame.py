"""Rigid superposition of points, and the turn that puts a point group on its conventional axes."""

import numpy as np
import torch

from cryoloom.geometry import matrix_to_axis_angle, symmetry_matrices


def superpose_points(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation with `b ~ R @ a + t` (Kabsch 1976), points `(n, 3)`."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    u, _, vt = np.linalg.svd((b - mean_b).T @ (a - mean_a))
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, mean_b - rotation @ mean_a


def standard_frame(rotations: np.ndarray, symmetry: str) -> np.ndarray:
    """The rotation `Q` for which `Q G Q^T` are the operators of `symmetry`.

    Parameters
    ----------
    rotations
        The operators of a group in some frame, `(m, 3, 3)`, in any order, the identity among them; may be noisy.
    symmetry
        Name of the group.

    Raises
    ------
    ValueError
        If the operators do not form that group to within 5 degrees.
    """
    standard = symmetry_matrices(symmetry).numpy()
    if len(rotations) != len(standard):
        raise ValueError(f"symmetry: {symmetry} has {len(standard)} operators, got {len(rotations)}")
    if len(standard) == 1:
        return np.eye(3)
    given_axes, given_angles = _axes(rotations)
    wanted_axes, wanted_angles = _axes(standard)
    first = int(np.argmin(wanted_angles))  # the finest turn, which lies on the main axis
    across = np.abs(wanted_axes @ wanted_axes[first])
    second = int(np.argmin(across)) if across.min() < 0.98 else None
    best, best_error = np.eye(3), np.inf
    for i in np.flatnonzero(np.abs(given_angles - wanted_angles[first]) < 0.1):
        for sign in (1.0, -1.0) if second is None or wanted_angles[first] > np.pi - 0.1 else (1.0,):
            if second is None:
                pairs = [(sign * given_axes[i], wanted_axes[first], None, None)]
            else:
                pairs = [
                    (sign * given_axes[i], wanted_axes[first], s * given_axes[j], wanted_axes[second])
                    for j in np.flatnonzero(np.abs(given_angles - wanted_angles[second]) < 0.1)
                    for s in (1.0, -1.0)
                ]
            for a, wa, b, wb in pairs:
                frame = _frame_from_axes(a, b) if b is not None else _frame_from_axes(a, _any_across(a))
                wanted = _frame_from_axes(wa, wb) if wb is not None else _frame_from_axes(wa, _any_across(wa))
                if frame is None or wanted is None:
                    continue
                q = wanted @ frame.T
                error = _group_error(q @ rotations @ q.T, standard)
                if error < best_error - 1e-9:
                    best, best_error = q, error
    if best_error > np.deg2rad(5):
        raise ValueError(f"symmetry: the operators differ from {symmetry} by {np.rad2deg(best_error):.1f} degrees")
    return _polish(best, rotations, standard)


def _polish(q: np.ndarray, rotations: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """Least-squares turn of the axes of all operators onto those they stand for."""
    turned = q @ rotations @ q.T
    match = np.argmax(np.einsum("aij,bij->ab", turned, standard), axis=1)
    axes, angles = _axes(turned)
    wanted, _ = _axes(standard)
    use = angles > 1e-3
    a, b = axes[use], wanted[match[use]]
    b = b * np.sign((a * b).sum(1, keepdims=True))
    if np.linalg.matrix_rank(b, tol=0.1) < 2:
        a, b = np.concatenate([a, [[1.0, 0, 0]]]), np.concatenate([b, [[1.0, 0, 0]]])
    u, _, vt = np.linalg.svd(b.T @ a)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt @ q


def _group_error(turned: np.ndarray, standard: np.ndarray) -> float:
    """Largest angle between an operator and the nearest of the standard ones, each used once."""
    traces = np.einsum("aij,bij->ab", turned, standard)
    if len(set(traces.argmax(1).tolist())) < len(standard):
        return np.pi
    return float(np.arccos(np.clip((traces.max(1).min() - 1) / 2, -1, 1)))


def _axes(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit axes `(m, 3)` and angles in [0, pi] `(m,)`; the identity gets the angle 2 pi so that it is never picked."""
    vectors = matrix_to_axis_angle(torch.from_numpy(np.ascontiguousarray(rotations))).numpy()
    angles = np.linalg.norm(vectors, axis=1)
    identity = angles < 1e-3
    axes = vectors / np.where(identity, 1.0, angles)[:, None]
    axes[identity] = [0.0, 0.0, 1.0]
    return axes, np.where(identity, 2 * np.pi, angles)


def _any_across(axis: np.ndarray) -> np.ndarray:
    return np.eye(3)[np.argmin(np.abs(axis))]


def _frame_from_axes(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Right-handed frame, columns: `a`, the part of `b` across it, and their product."""
    b = b - a * (a @ b)
    length = np.linalg.norm(b)
    if length < 0.1:
        return None
    b = b / length
    return np.stack([a, b, np.cross(a, b)], axis=1)
