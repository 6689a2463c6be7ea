"""Continuous fit of defocus, astigmatism and phase shift to a spectrum in polar bins.

Levenberg-Marquardt on the phase parameters alone; background and depth of the rings are solved for exactly at every
step (`profile.py`).
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.profile import RingProfile, Solution
from cryoloom.ctf_fit.rings import RingData
from cryoloom.ctf_fit.search import WIDEST, SearchRange


@dataclass(frozen=True)
class RingFit:
    """Result of a fit.

    Attributes
    ----------
    defocus
        The maximum.
    cost
        Weighted sum of squares there.
    gain
        By how much rings lower it, compared with the background alone.
    background, depth
        Background `b` and depth `a` of the model at the bins, `(n,)`.
    model
        Expected `ratio`, `(n,)`.
    n_free
        Number of phase parameters fitted.
    profile, solution
        What it was made from.
    """

    defocus: Defocus
    cost: float
    gain: float
    background: np.ndarray
    depth: np.ndarray
    model: np.ndarray
    n_free: int
    profile: RingProfile
    solution: Solution

    def evidence(self, noise: float) -> float:
        """Logarithm of the evidence for this maximum, but for a constant; a prior of no scale for the defocus.

        Parameters
        ----------
        noise
            By how much one superfluous parameter lowers the cost.
        """
        normal, _ = self.profile.step(self.solution, self.n_free)
        widest = np.array([WIDEST, WIDEST, WIDEST, 1.0])[: self.n_free]  # one maximum is no wider
        volume = 1 / float(np.linalg.det(normal / noise + np.diag(widest**-2.0)))
        n_depths = int((self.solution.depth > 0).sum())
        prior = math.log(max(self.defocus.mean, 1_000.0))
        return 0.5 * (self.gain / noise - n_depths + math.log(volume)) - prior


def fit_rings(
    data: RingData,
    beam: Beam,
    start: Defocus,
    *,
    fit_phase_shift: bool = False,
    ring_factor: np.ndarray | None = None,
    where: SearchRange | None = None,
    n_iterations: int = 20,
    tolerance: float = 0.05,
) -> RingFit:
    """Fit from a start that lies within a ring of the truth.

    Parameters
    ----------
    ring_factor
        Known radial factor of the rings, one per shell used.
    where
        Range that is not left; None for none.
    tolerance
        Ends when the defocus moves by less, Å.
    """
    profile = RingProfile(data, beam, start.mean, ring_factor)
    n_free = 4 if fit_phase_shift else 3
    theta = start.as_array()
    solution = profile.solve(theta)
    damping = 1e-3
    for _ in range(n_iterations):
        normal, right = profile.step(solution, n_free)
        moved = False
        for _ in range(6):
            damped = normal + damping * np.diag(np.maximum(np.diag(normal), 1e-30))
            change = np.linalg.lstsq(damped, right, rcond=1e-12)[0]
            trial = theta.copy()
            trial[:n_free] += change
            trial = trial if where is None else where.inside(trial)
            new = profile.solve(trial)
            if new.cost <= solution.cost:
                theta, solution, moved = trial, new, True
                damping = max(damping * 0.2, 1e-9)
                break
            damping = max(10 * damping, 1e-3)
        if not moved or (np.abs(change[:3]).max() < tolerance and (n_free == 3 or abs(change[3]) < 1e-4)):
            break
    return fit_at(profile, theta, n_free, solution)


def fit_at(profile: RingProfile, theta: np.ndarray, n_free: int, solution: Solution | None = None) -> RingFit:
    """Background and depth for a given `theta = (mean, cos, sin, phase_shift)`."""
    solution = profile.solve(theta) if solution is None else solution
    row = profile.data.row
    background = (profile.levels(solution)[row] * profile.angular).sum(1)
    depth = (profile.depth_basis @ solution.depth)[row]
    model = background - depth * np.cos(profile.at_focus + profile.slopes @ theta)
    return RingFit(
        defocus=Defocus(*(float(x) for x in theta)),
        cost=solution.cost,
        gain=profile.cost_flat - solution.cost,
        background=background,
        depth=depth,
        model=model,
        n_free=n_free,
        profile=profile,
        solution=solution,
    )
