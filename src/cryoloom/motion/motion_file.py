"""The motion file of one movie, as RELION's polishing reads it (`interfaces.md` 2.3).

RELION's local model is a polynomial of third order in the frame number `z` and second in place, 18 coefficients per
axis; our field is projected on it by least squares, and kept as it is beside it.
"""

from pathlib import Path

import numpy as np

from cryoloom.io.motion_tracks import MovieFacts, write_motion_tracks
from cryoloom.motion.field import MotionField


def write_motion_file(
    path: Path,
    field: MotionField,
    movie: MovieFacts,
    *,
    hot_pixels: np.ndarray,
    tile_centres_px: np.ndarray | None = None,
) -> None:
    """Write the motion file.

    Parameters
    ----------
    path
        STAR file.
    field
        The motion.
    movie
        How the movie was taken.
    hot_pixels
        Repaired pixels `(n, 2)` yx.
    tile_centres_px
        Where to list the local shifts, `(j, 2)` yx; None lists none.
    """
    h, w = field.shape
    places = tile_centres_px if field.degree else None
    error = None
    if field.covariance_px2 is not None:
        error = field.standard_error_px(np.array([[0.5 * (h - 1), 0.5 * (w - 1)]]))[0]
    write_motion_tracks(
        path,
        movie,
        field.shape,
        field.trajectory_px,
        modes_px=field.modes_px,
        polynomial=relion_polynomial(field) if field.degree else None,
        hot_px=hot_pixels,
        position_px=places,
        tracks_px=None if places is None else field.at(places),
        error_px=error,
    )


def relion_polynomial(field: MotionField) -> np.ndarray:
    """The 36 coefficients of RELION's local model, 18 for x then 18 for y, that fit the local part of a field best.

    For each of 1, x, x², y, y², xy the terms z, z², z³; x and y from -0.5 to 0.5 over the frame, z from 0.
    """
    h, w = field.shape
    n_frames = field.modes_px.shape[1]
    nodes = (np.arange(12) + 0.5) / 12 - 0.5
    v, u = np.repeat(nodes, 12), np.tile(nodes, 12)
    local = field.at(np.stack([(v + 0.5) * h - 0.5, (u + 0.5) * w - 0.5], -1)) - field.trajectory_px
    place = np.stack([np.ones_like(u), u, u**2, v, v**2, u * v], -1)  # (n, 6)
    z = np.arange(n_frames, dtype=np.float64)
    scale = max(n_frames - 1.0, 1.0)
    time = np.stack([z / scale, (z / scale) ** 2, (z / scale) ** 3], -1)  # (t, 3)
    design = np.einsum("na,tb->ntab", place, time).reshape(-1, 18)
    found = np.linalg.lstsq(design, -local.reshape(-1, 2), rcond=1e-10)[0]  # (18, 2) yx
    by_term = found.reshape(6, 3, 2) / (scale ** np.arange(1, 4))[None, :, None]
    return np.concatenate([by_term[..., 1].reshape(-1), by_term[..., 0].reshape(-1)])


def evaluate_relion_polynomial(
    coefficients: np.ndarray, position_px: np.ndarray, shape: tuple[int, int], n_frames: int
) -> np.ndarray:
    """Local shift of RELION's model at positions `(n, 2)` yx, `(n, t, 2)` yx in pixels (minus a trajectory)."""
    v = (position_px[:, 0] + 0.5) / shape[0] - 0.5
    u = (position_px[:, 1] + 0.5) / shape[1] - 0.5
    place = np.stack([np.ones_like(u), u, u**2, v, v**2, u * v], -1)
    z = np.arange(n_frames, dtype=np.float64)
    time = np.stack([z, z**2, z**3], -1)
    both = coefficients.reshape(2, 6, 3)
    return np.stack([np.einsum("na,ab,tb->nt", place, both[c], time) for c in (1, 0)], -1)
