"""Pairs of frames: displacements that are consistent with all of them, and pairs that do not belong.

A pair is spoiled when both frames share something that is not the specimen and moved otherwise. Such pairs stand out
against the motion that all the others agree on, and are weighted down (iteratively reweighted least squares with
Tukey's biweight).
"""

import math

import numpy as np
import torch

from cryoloom.motion.likelihood import align_spectra
from cryoloom.motion.tiles import TileSpectra


def solve_pairs(
    n: int, first: np.ndarray, second: np.ndarray, difference: np.ndarray, weight: np.ndarray, *, n_rounds: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Displacements `d` with `d[second] - d[first] = difference` as nearly as the sound pairs allow.

    Parameters
    ----------
    n
        Number of frames.
    first, second
        Frames of each pair, `(n_pairs,)`.
    difference
        Measured displacement of `second` relative to `first`, `(n_pairs, 2)`.
    weight
        Inverse variance of each, up to a factor, `(n_pairs,)`.

    Returns
    -------
    displacement
        `(n, 2)`, mean zero.
    trust
        Robust weight of each pair, 0 to 1, `(n_pairs,)`.
    """
    design = np.zeros((len(first), n))
    design[np.arange(len(first)), second] += 1
    design[np.arange(len(first)), first] -= 1
    trust = np.ones(len(first))
    displacement = np.zeros((n, 2))
    for round_ in range(n_rounds):
        scaled = design * (weight * trust)[:, None]
        displacement = np.linalg.lstsq(scaled.T @ design, scaled.T @ difference, rcond=1e-9)[0]
        distance = np.linalg.norm(difference - design @ displacement, axis=1)
        spread = max(1.5 * float(np.median(distance)), 1e-3)
        # heavy tails first, so that a bad start does not lock sound pairs out
        if round_ < n_rounds // 2:
            trust = 1 / (1 + (distance / spread) ** 2)
        else:
            trust = np.clip(1 - (distance / (4 * spread)) ** 2, 0, None) ** 2
    return displacement - displacement.mean(0), trust


def pair_trust(spectra: TileSpectra, trajectory_px: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Trust in each pair of frames, from slope and height of its correlation at the present displacements.

    Parameters
    ----------
    spectra
        One tile that is the whole frame.
    trajectory_px
        Present displacements, `(t, 2)`.
    weight
        Weight per shell, `(n_shells,)`.

    Returns
    -------
    trust
        `(t, t)` in [0, 1], symmetric, ones on the diagonal.
    """
    n = spectra.n_frames
    aligned = align_spectra(spectra, 0, trajectory_px - spectra.offset_px[0]).reshape(n, -1)
    w = (spectra.spread(weight) * spectra.multiplicity).reshape(-1)
    real, imaginary = aligned.real.contiguous(), aligned.imag.contiguous()
    score = torch.zeros(n, n, dtype=torch.float64)
    shape = spectra.multiplicity.shape
    for k in (None, spectra.ky_per_px[:, None].expand(shape), spectra.kx_per_px.expand(shape)):
        factor = w if k is None else 2 * math.pi * w * k.reshape(-1)
        if k is None:
            product = (real * factor) @ real.T + (imaginary * factor) @ imaginary.T
        else:
            product = (imaginary * factor) @ real.T
            product = product - product.T
        error = torch.sqrt(0.5 * (factor**2).sum()).clamp_min(1e-30)
        z = (product / error).to(torch.float64).cpu()
        upper = z[torch.triu_indices(n, n, 1).unbind()]
        if k is None:
            z, upper = z - upper.median(), upper - upper.median()
        spread = max(1.0, 1.4826 * float(upper.abs().median()))
        score += (z / spread) ** 2
    # three degrees of freedom: 25 is passed by one sound pair in 65,000
    trust = np.clip(1 - score.numpy() / 50.0, 0, None) ** 2
    trust = np.where(score.numpy() < 12.0, 1.0, trust)
    np.fill_diagonal(trust, 1.0)
    return np.asarray(0.5 * (trust + trust.T))
