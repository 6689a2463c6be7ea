"""Whether the imposed symmetry is in the particles: it is given up in each half, and what appears is compared.

A symmetric map offers every particle as many equal poses as the group has operators. Each half starts from a random
choice among them and then lets every particle choose the copy that fits best, round after round. If the molecule has
less symmetry than was imposed, both halves break it in the same way (up to one operator); if the symmetry is true, what
they find is their own noise and agrees in nothing. Only the part of the maps that the group would average away is
compared.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.poses import Candidates
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.filter import lowpass
from cryoloom.maps.rotate import transform_map
from cryoloom.validation.held_out import fit_grey_scale, shell_gains
from cryoloom.validation.posed import PosedParticles, reconstruct


@dataclass(frozen=True)
class SymmetryTest:
    """What is left when the symmetry is given up.

    Attributes
    ----------
    correlation
        Of the asymmetric parts of the two halves, the best over the operators that may relate them.
    share
        Power of that common asymmetric part over the power of the symmetric part.
    z
        Of the correlation, against the same parts after rotations that are no symmetry.
    broken
        Whether the particles contradict the symmetry.
    """

    correlation: float
    share: float
    z: float
    broken: bool


def compare_relaxed_halves(
    posed: PosedParticles,
    mask: Tensor,
    executor: Executor,
    generator: torch.Generator,
    *,
    symmetry: str,
    radius: int,
    rounds: int = 10,
) -> SymmetryTest:
    """Give up an imposed symmetry and see whether both halves find the same asymmetry.

    Parameters
    ----------
    posed
        Particles with poses in the symmetric map.
    mask
        Outline, cube of the box of the images.
    symmetry
        The point group that was imposed, not C1.
    radius
        Shells that count.
    rounds
        Rounds of choosing.
    """
    operators = symmetry_matrices(symmetry).numpy()
    if len(operators) < 2:
        raise ValueError("symmetry: C1 has nothing to give up")
    coarse = posed.source.field / radius
    odd, even = [], []
    for half in (1, 2):
        volume = _relax(posed, posed.of_half(half), operators, executor, generator, radius, rounds, mask)
        volume = lowpass(volume, posed.source.pixel_size, coarse)
        whole = torch.stack([transform_map(volume, torch.from_numpy(g), torch.zeros(3)) for g in operators]).mean(0)
        odd.append((volume - whole) * mask)
        even.append(whole * mask)
    turned = [transform_map(odd[1], torch.from_numpy(g), torch.zeros(3)) for g in operators]
    values = [_correlation(odd[0], t) for t in turned]
    correlation = max(values)
    # Null: the same parts in relation that cannot be: mirrored through planes and turned by odd angles.
    strangers = [odd[1].flip(a).transpose(*b) for a in (0, 1, 2) for b in ((0, 1), (1, 2), (0, 2))]
    null = np.array([_correlation(odd[0], s) for s in strangers])
    z = (correlation - float(null.mean())) / max(float(null.std(ddof=1)), 0.02)
    common = max(correlation, 0.0) * float(odd[0].norm() * odd[1].norm())
    share = common / max(float(even[0].norm() * even[1].norm()), 1e-30)
    return SymmetryTest(correlation, share, z, broken=correlation > 0.4 and z > 4.0)


def _relax(
    posed: PosedParticles,
    poses: Candidates,
    operators: np.ndarray,
    executor: Executor,
    generator: torch.Generator,
    radius: int,
    rounds: int,
    mask: Tensor,
) -> Tensor:
    """Map of one half after its particles have chosen among the copies of their pose."""
    n, m = len(poses), len(operators)
    copy = torch.randint(m, (n,), generator=generator).numpy()
    volume = torch.zeros(0)
    for done in range(rounds + 1):
        chosen = replace(poses, rotation=operators[copy] @ poses.rotation)
        volume = reconstruct(posed, chosen, executor, radius=radius)
        if done == rounds:
            break
        model = volume * mask
        scale = fit_grey_scale(posed, model, chosen, executor, radius)
        reference = prepare_volume(model * scale, radius)
        gains = np.stack(
            [
                shell_gains(posed, reference, replace(poses, rotation=g @ poses.rotation), executor, radius).sum(1)
                for g in operators
            ]
        )  # (operators, particles)
        # The own image raises the gain of the copy it went into; the temperature falls as the choice settles.
        heat = max(0.0, 1.0 - done / (0.6 * rounds)) * float(np.median(gains.std(0)))
        noise = torch.rand(gains.shape, generator=generator, dtype=torch.float64).clamp_min(1e-12).numpy()
        copy = (gains - heat * np.log(-np.log(noise))).argmax(0)
    return volume


def _correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))
