"""Poses: one per particle (`PoseTable`), or several candidates per particle (`Candidates`)."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """Poses that compete for particles; several rows may belong to one particle.

    Attributes
    ----------
    row
        Row of the particle set, `(m,)` int64, ascending.
    rotation
        `(m, 3, 3)` float64.
    shift_px
        Where the projected centre sits, pixels yx, `(m, 2)` float64.
    scale
        Grey-scale factor, `(m,)` float64.
    reference
        Which reference (class) the candidate belongs to, `(m,)` int64.
    log_likelihood
        Gain over no particle, `(m,)` float64.
    information
        Gauss-Newton matrix of the likelihood in (turn about x, y, z; shift x, y; scale), `(m, 6, 6)`, or None.
    posterior
        Share of each candidate in its particle, `(m,)`; 1 where there is one candidate.
    """

    row: np.ndarray
    rotation: np.ndarray
    shift_px: np.ndarray
    scale: np.ndarray
    reference: np.ndarray
    log_likelihood: np.ndarray
    information: np.ndarray | None = None
    posterior: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    def select(self, which: np.ndarray) -> "Candidates":
        """The candidates given by indices or a boolean mask."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        picked: dict[str, Any] = {k: None if v is None else v[which] for k, v in columns.items()}
        return Candidates(**picked)


def single_candidates(
    row: np.ndarray,
    rotation: np.ndarray,
    shift_px: np.ndarray,
    scale: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> Candidates:
    """Candidates from bare arrays, with scale 1, reference 0 and equal likelihoods where not given."""
    n = len(row)
    return Candidates(
        row=np.asarray(row, np.int64),
        rotation=np.asarray(rotation, np.float64),
        shift_px=np.asarray(shift_px, np.float64),
        scale=np.ones(n) if scale is None else np.asarray(scale, np.float64),
        reference=np.zeros(n, np.int64) if reference is None else np.asarray(reference, np.int64),
        log_likelihood=np.zeros(n),
        posterior=np.ones(n),
    )


def join_candidates(parts: list[Candidates]) -> Candidates:
    """One set of candidates, sorted by row; within a row in the order of the parts."""
    joined: dict[str, Any] = {}
    for f in fields(Candidates):
        columns = [getattr(p, f.name) for p in parts]
        joined[f.name] = None if any(c is None for c in columns) else np.concatenate(columns)
    both = Candidates(**joined)
    return both.select(np.argsort(both.row, kind="stable"))


def group_starts(row: np.ndarray) -> np.ndarray:
    """First candidate of each particle, `(n_particles,)`, for ascending rows."""
    return np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) if len(row) else np.zeros(0, np.int64)


@dataclass
class PoseTable:
    """The state of an alignment: one entry per particle of the set.

    Attributes
    ----------
    rotation, shift_px, scale
        The best pose, `(n, 3, 3)`, `(n, 2)` yx pixels, `(n,)`.
    half
        1 or 2, `(n,)` int64.
    reference
        Class from 0, `(n,)` int64.
    known
        Whether the particle was ever aligned, `(n,)` bool.
    log_likelihood, expected_gain
        Gain over no particle, and what the model itself predicts for it, `(n,)`.
    posterior_max, n_significant
        Largest posterior of a candidate, and effective number of candidates, `(n,)`.
    pose_error, shift_error_px
        Standard errors from the curvature: root of the trace of the covariance, radians and pixels, `(n,)`.
    pose_radius, shift_radius_px
        The truth lies within this angle and this distance with 95 %, by the same curvature, `(n,)`.
    moved
        Turn in the last iteration, radians, `(n,)`.
    defocus_offset
        Change of defocus against the value the particle came with, Å, `(n,)`.
    """

    rotation: np.ndarray
    shift_px: np.ndarray
    scale: np.ndarray
    half: np.ndarray
    reference: np.ndarray
    known: np.ndarray
    log_likelihood: np.ndarray
    expected_gain: np.ndarray
    posterior_max: np.ndarray
    n_significant: np.ndarray
    pose_error: np.ndarray
    shift_error_px: np.ndarray
    pose_radius: np.ndarray
    shift_radius_px: np.ndarray
    moved: np.ndarray
    defocus_offset: np.ndarray

    def __len__(self) -> int:
        return len(self.scale)

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns by name, for checkpoints."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def candidates(self, rows: np.ndarray) -> Candidates:
        """The current pose of each row as its one candidate."""
        single = single_candidates(
            rows, self.rotation[rows], self.shift_px[rows], self.scale[rows], self.reference[rows]
        )
        return single


def empty_poses(n: int, half: np.ndarray) -> PoseTable:
    """A table in which nothing is known yet."""
    return PoseTable(
        rotation=np.tile(np.eye(3), (n, 1, 1)),
        shift_px=np.zeros((n, 2)),
        scale=np.ones(n),
        half=np.asarray(half, np.int64).copy(),
        reference=np.zeros(n, np.int64),
        known=np.zeros(n, bool),
        log_likelihood=np.zeros(n),
        expected_gain=np.ones(n),
        posterior_max=np.zeros(n),
        n_significant=np.zeros(n),
        pose_error=np.full(n, np.pi),
        shift_error_px=np.full(n, np.inf),
        pose_radius=np.full(n, np.pi),
        shift_radius_px=np.full(n, np.inf),
        moved=np.full(n, np.pi),
        defocus_offset=np.zeros(n),
    )


def posterior_of(candidates: Candidates, temperature: float = 1.0) -> np.ndarray:
    """Posterior share of each candidate within its particle, `(m,)` float64.

    With curvatures at hand a candidate's evidence is that of its whole mode (Laplace): `L - ½ log det H` over pose and
    shift; else it is its likelihood alone.
    """
    evidence = candidates.log_likelihood / temperature
    if candidates.information is not None:
        _, logdet = np.linalg.slogdet(candidates.information[:, :5, :5] + 1e-6 * np.eye(5))
        evidence = evidence - 0.5 * logdet
    starts = group_starts(candidates.row)
    counts = np.diff(np.r_[starts, len(evidence)])
    top = np.repeat(np.maximum.reduceat(evidence, starts), counts)
    share = np.exp(evidence - top)
    return share / np.repeat(np.add.reduceat(share, starts), counts)


def best_of(candidates: Candidates, score: np.ndarray) -> np.ndarray:
    """Index of the best candidate of each particle, `(n_particles,)`; the first among equals."""
    starts = group_starts(candidates.row)
    order = np.lexsort((np.arange(len(score)), -score, candidates.row))
    return order[starts]
