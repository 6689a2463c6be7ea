"""Continuous refinement of poses: damped Gauss-Newton in turn, shift and scale on the likelihood.

The likelihood of a particle X with CTF C and noise σ² against a reference V is
`L = -½ Σ |X - s C V_R exp(-2πi k·t)|² / σ²` over the full plane. Steps are taken in a turn about the image's
axes (R -> R exp(ω)), the shift and the scale; the Gauss-Newton matrix at the end is the information of
the pose, its inverse the covariance (the error bar).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import chdtri

from cryoloom.contract import Executor
from cryoloom.em import tensor_kernels
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.kernels import fit_poses_kernel
from cryoloom.em.noise import NoiseModel
from cryoloom.em.place import compiled
from cryoloom.em.poses import Candidates
from cryoloom.fourier.slices import PaddedSpectrum, reach


@dataclass(frozen=True)
class PosePriors:
    """Gaussian priors of the local fit; a standard deviation of 0 means none.

    Attributes
    ----------
    scale_sd
        Spread of the grey-scale factor about 1.
    shift_sd_px
        Spread of the shift about `shift_px`.
    turn_sd
        Spread of the pose about `rotation`, radians.
    rotation, shift_px
        Centres by row of the particle set, `(n, 3, 3)` and `(n, 2)` yx; by default the candidates' own start, and 0.
    """

    scale_sd: float = 0.2
    shift_sd_px: float = 0.0
    turn_sd: float = 0.0
    rotation: np.ndarray | None = None
    shift_px: np.ndarray | None = None

    def precision(self) -> np.ndarray:
        """Precision of turn, shift and scale, `(3,)`; a scale without spread is held fixed."""
        scale = 1.0 / self.scale_sd**2 if self.scale_sd > 0 else 1e12
        return np.array(
            [
                1.0 / self.turn_sd**2 if self.turn_sd > 0 else 0.0,
                1.0 / self.shift_sd_px**2 if self.shift_sd_px > 0 else 0.0,
                scale,
            ]
        )


def refine_poses(
    source: ImageSource,
    references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]],
    half: np.ndarray,
    candidates: Candidates,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    n_steps: int = 5,
    priors: PosePriors | None = None,
    largest_turn: float = 0.1,
    largest_shift_px: float = 2.0,
) -> Candidates:
    """Refine every candidate; returns them with new poses, log-likelihoods and information.

    Parameters
    ----------
    source
        Images.
    references
        `references[h]` is the reference of half `h + 1`, or a sequence of them, one per class.
    half
        Half of each row of the particle set, `(n,)`.
    candidates
        Where to start; rows ascending.
    radius
        Shells that count, at most those of the references.
    n_steps
        Trials per candidate; 0 only scores.
    largest_turn, largest_shift_px
        Largest step, radians and pixels.
    """
    priors = priors or PosePriors()
    tables = noise.point_weights(source.points, 2.0)
    radius = min(radius, reach(references))
    copies = source.place.copies(references)

    def work(rows: np.ndarray) -> tuple[np.ndarray, Candidates]:
        first, last = np.searchsorted(candidates.row, [rows[0], rows[-1] + 1])
        where = np.arange(first, last)
        chunk = source.chunk(rows)
        refined = candidates.select(where)
        out = _refine_chunk(
            source,
            chunk,
            copies[source.lane(rows)],
            half,
            refined,
            tables,
            radius,
            n_steps,
            priors,
            largest_turn,
            largest_shift_px,
        )
        return where, out

    n = len(candidates)
    rotation, shift = np.empty((n, 3, 3)), np.empty((n, 2))
    scale, gain, information = np.empty(n), np.empty(n), np.empty((n, 6, 6))
    for where, part in executor.map(work, source.chunk_rows(np.unique(candidates.row))):
        rotation[where], shift[where], scale[where] = part.rotation, part.shift_px, part.scale
        gain[where], information[where] = part.log_likelihood, part.information
    return Candidates(
        candidates.row, rotation, shift, scale, candidates.reference, gain, information, candidates.posterior
    )


def _refine_chunk(
    source: ImageSource,
    chunk: ImageChunk,
    references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]],
    half: np.ndarray,
    candidates: Candidates,
    tables: np.ndarray,
    radius: int,
    n_steps: int,
    priors: PosePriors,
    largest_turn: float,
    largest_shift_px: float,
) -> Candidates:
    points = source.points
    n_points = points.count(radius)
    at = np.searchsorted(chunk.rows, candidates.row)
    empty = zero_cost(chunk, tables, n_points)
    m = len(candidates)
    rotation, shift, scale = candidates.rotation.copy(), candidates.shift_px.copy(), candidates.scale.copy()
    prior_rotation = rotation.copy() if priors.rotation is None else priors.rotation[candidates.row]
    prior_shift = np.zeros((m, 2)) if priors.shift_px is None else priors.shift_px[candidates.row]
    cost, information, accepted = np.empty(m), np.empty((m, 6, 6)), np.zeros(m, np.int32)
    side = half[candidates.row] - 1
    images: tensor_kernels.Images | None = None
    for h in range(len(references)):
        for c, reference in enumerate(_as_list(references[h])):
            mine = (
                np.flatnonzero((side == h) & (candidates.reference == c))
                if len(references) > 1
                else (np.flatnonzero(candidates.reference == c))
            )
            if not len(mine):
                continue
            if not compiled(reference.values):
                images = images or tensor_kernels.Images(chunk, points, n_points, reference.values)
                found = tensor_kernels.fit_poses(
                    reference, images, at[mine], rotation[mine], shift[mine], scale[mine], prior_rotation[mine],
                    prior_shift[mine], priors.precision(), tables[chunk.group, :n_points], n_steps=n_steps,
                    largest_turn=largest_turn, largest_shift=largest_shift_px,
                )  # fmt: skip
                rotation[mine], shift[mine], scale[mine], cost[mine], information[mine] = found
                continue
            r, t, s = rotation[mine], shift[mine], scale[mine]
            f, info, count = cost[mine], information[mine], accepted[mine]
            fit_poses_kernel(
                torch.view_as_real(reference.values).numpy(),
                reference.centre,
                at[mine],
                r,
                t,
                s,
                np.ascontiguousarray(prior_rotation[mine]),
                np.ascontiguousarray(prior_shift[mine]),
                priors.precision(),
                chunk.data,
                chunk.ctf,
                tables,
                chunk.group,
                points.kx,
                points.ky,
                n_points,
                source.box,
                n_steps,
                largest_turn,
                largest_shift_px,
                f,
                info,
                count,
            )
            rotation[mine], shift[mine], scale[mine], cost[mine], information[mine] = r, t, s, f, info
    return Candidates(
        candidates.row,
        rotation,
        shift,
        scale,
        candidates.reference,
        empty[at] - cost,
        information,
        candidates.posterior,
    )


def zero_cost(chunk: ImageChunk, tables: np.ndarray, n_points: int) -> np.ndarray:
    """Half the weighted squares of the data alone, `(n,)`: the cost of no particle."""
    power = (chunk.data[:, :, :n_points] ** 2).sum(1)
    out = np.empty(len(chunk))
    for g in np.unique(chunk.group):
        mine = chunk.group == g
        out[mine] = 0.5 * (power[mine] @ tables[g, :n_points].astype(np.float64))
    return out


def pose_errors(information: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of pose (radians) and shift (pixels) from information matrices `(m, 6, 6)`.

    Roots of the traces of the blocks of the inverse; scale is marginalised.
    """
    covariance = np.linalg.inv(information + 1e-9 * np.eye(6))
    pose = np.sqrt(np.clip(np.trace(covariance[:, :3, :3], axis1=1, axis2=2), 0, np.pi**2))
    shift = np.sqrt(np.clip(np.trace(covariance[:, 3:5, 3:5], axis1=1, axis2=2), 0, None))
    return pose, shift


def pose_radii(information: np.ndarray, share: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Angle (radians) and length (pixels) within which the true pose and shift lie with probability `share`.

    The squared distance is a sum of squared normal deviates whose variances are the eigenvalues of the covariance;
    its quantile is that of a scaled chi-square of equal mean and variance (Patnaik 1949,
    doi:10.1093/biomet/36.1-2.202), exact where the eigenvalues are equal or one of them rules.

    Parameters
    ----------
    information
        As in `pose_errors`, `(m, 6, 6)`.
    """
    covariance = np.linalg.inv(information + 1e-9 * np.eye(6))
    radii = []
    for part, largest in ((slice(0, 3), np.pi), (slice(3, 5), np.inf)):
        values = np.clip(np.linalg.eigvalsh(covariance[:, part, part]), 0.0, None)
        total, square = values.sum(1), (values**2).sum(1)
        degrees = total**2 / np.maximum(square, 1e-300)
        radii.append(np.minimum(np.sqrt(square / np.maximum(total, 1e-300) * chdtri(degrees, 1.0 - share)), largest))
    return radii[0], radii[1]


def _as_list(references: PaddedSpectrum | Sequence[PaddedSpectrum]) -> list[PaddedSpectrum]:
    return [references] if isinstance(references, PaddedSpectrum) else list(references)
