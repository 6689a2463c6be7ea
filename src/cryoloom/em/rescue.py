"""Particles that searches have left at wrong poses, looked for once more over all poses and all shifts.

Once the maps are good, a wrong pose shows: it explains less of its image than its own information promises. Those
particles alone are searched again on a grid, fitted, and kept where the likelihood is better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates, best_of, join_candidates
from cryoloom.em.reliability import gain_ratio
from cryoloom.em.search import in_blocks, search_directions, search_poses, shift_grid
from cryoloom.em.survivors import survivors
from cryoloom.fourier.slices import PaddedSpectrum

MOST = 0.4
"""Largest share of the particles that is searched again: junk must not crowd out the lost."""


@dataclass(frozen=True)
class SafetyNet:
    """How the worst are searched again.

    Attributes
    ----------
    symmetry, diameter
        Point group; diameter of the particle, Å.
    reach_px
        Largest shift, pixels.
    least
        Smallest share of the particles that is searched again.
    n_side
        Fineness of the grid of directions (HEALPix).
    lengths
        Resolution lengths across the particle that the grid is searched with.
    step
        Step of the trial shifts over that resolution.
    top
        Candidates of the grid per particle that are fitted.
    dtype
        Operands of the products.
    """

    symmetry: str
    diameter: float
    reach_px: float
    least: float = 0.1
    n_side: int = 5
    lengths: float = 11.0
    step: float = 0.15
    top: int = 8
    dtype: torch.dtype = torch.float32


def rescue(
    source: ImageSource,
    references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]],
    half: np.ndarray,
    candidates: Candidates,
    noise: NoiseModel,
    executor: Executor,
    fit: Callable[[Candidates, int, int], Candidates],
    net: SafetyNet,
    *,
    radius: int,
    thin: Callable[[Candidates, int], Candidates] | None = None,
) -> tuple[Candidates, int]:
    """Search the worst again; keep what has the better likelihood beside what there was.

    The worst are those that lie two standard deviations below the bulk, at least `net.least` and at most `MOST` of
    all.

    Parameters
    ----------
    references, half
        As in `search_poses`.
    candidates
        Fitted poses with information, rows ascending.
    fit
        Candidates after some steps: called with candidates, last shell and steps.
    radius
        Last shell of the fits.
    thin
        Of many poses of the grid those that are worth the full fit, given the last shell; all by default.

    Returns
    -------
    candidates, n_rescued
        Old and new ones together without posteriors; particles for which a better pose was found.
    """
    best = candidates.select(best_of(candidates, candidates.log_likelihood))
    assert best.information is not None
    worst = _worst(best, net.least)
    field = source.field
    n_rings = int(np.clip(round(net.lengths * field / net.diameter), 4, radius))
    step = float(np.clip(net.step * field / n_rings / source.pixel_size, 1.0, 4.0))
    middle = min(radius, max(n_rings, radius // 2))

    def find(rows: np.ndarray) -> Candidates:
        found = search_poses(
            source,
            references,
            half,
            rows,
            noise,
            executor,
            n_rings=n_rings,
            rotations=search_directions(net.n_side, net.symmetry),
            shifts_px=shift_grid(net.reach_px, step),
            top=net.top,
            dtype=net.dtype,
        )
        found = replace(found, scale=np.ones(len(found)))
        if thin is not None:
            found = thin(found, middle)
        found = fit(found, middle, 5)
        return fit(survivors(found, 2, 1e-3, net.symmetry), radius, 8)

    found = in_blocks(source, worst, find)
    old = best.log_likelihood[np.searchsorted(best.row, found.row)]
    better = np.unique(found.row[found.log_likelihood > old + 1.0])
    joined = join_candidates([replace(candidates, posterior=None), replace(found, posterior=None)])
    return joined, len(better)


def _worst(best: Candidates, least: float) -> np.ndarray:
    """Rows whose best pose explains least of what its information promises, ascending."""
    assert best.information is not None
    ratio = gain_ratio(best.log_likelihood, 0.5 * best.information[:, 5, 5])
    middle = np.median(ratio)
    spread = np.median(np.abs(ratio[ratio > middle] - middle)) * 1.4826
    n = int(np.clip((ratio < middle - 2.0 * spread).sum(), least * len(ratio), MOST * len(ratio)))
    return np.sort(best.row[np.argsort(ratio, kind="stable")][: max(1, n)])
