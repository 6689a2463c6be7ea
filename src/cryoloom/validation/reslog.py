"""Resolution against the number of particles (ResLog), with the same particles at exchanged poses as control.

With true signal the resolution grows with the logarithm of the number of particles, and the slope is the B-factor of
everything that blurs: at the resolution of each subset `ln W(k) = a + B k² / 2 - ln P(k)`, where `P` is the power of
the unblurred structure and `W` the inverse of the noise of a voxel, which grows with N and falls with `k` and with the
noise of the images (Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013; Stagg et al. 2014, J. Struct. Biol.
185, who leave all but N out). `W` is measured in each subset from the difference of its halves, since thin coverage
makes it grow faster than N. Particles whose poses were exchanged among them carry the same noise and no common detail:
their curve must stay below (Heymann 2015, J. Struct. Biol. 192, reconstructs pure noise).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.halves import ball_mask
from cryoloom.em.poses import Candidates
from cryoloom.em.solve import box_for_radius
from cryoloom.fourier import fourier_crop
from cryoloom.maps.corrected import flatten_amplitudes
from cryoloom.maps.freedom import fsc_noise_covariance
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.interval import Crossing, locate_crossing
from cryoloom.maps.protein import protein_log_amplitude
from cryoloom.maps.spectrum import signal_and_noise_power
from cryoloom.validation.posed import PosedParticles, reconstruct


@dataclass(frozen=True)
class ResLog:
    """Resolution against number of particles.

    Attributes
    ----------
    n_particles
        Sizes of the subsets, `(m,)`.
    resolution, standard_error
        Å of each (mean of the draws), and error of its frequency in 1/Å, `(m,)`.
    control
        Å of the same subsets with exchanged poses, `(m,)`.
    bfactor, bfactor_error
        Å2, from the slope; NaN if fewer than three subsets show a resolution.
    """

    n_particles: np.ndarray
    resolution: np.ndarray
    standard_error: np.ndarray
    control: np.ndarray
    bfactor: float
    bfactor_error: float

    @property
    def control_is_below(self) -> bool:
        """Whether exchanged poses always give a clearly worse resolution."""
        return bool((self.control > 1.2 * self.resolution).all())

    def particles_for(self, resolution: float) -> int | None:
        """Particles like these that a resolution in Å asks for at least, by the B-factor; None if that is not known.

        That the structure's own spectrum falls is neglected: more may be needed.
        """
        if not (np.isfinite(self.bfactor) and self.bfactor > 0):
            return None
        step = 0.5 * self.bfactor * (resolution**-2 - self.resolution[-1] ** -2)
        return images_needed(1 / self.n_particles[-1], float(np.exp(min(step, 30.0))), power=True)


def images_needed(snr: float, wanted: float, *, power: bool) -> int:
    """Images whose mean has the signal-to-noise ratio `wanted`, if one has `snr`.

    Ratios of amplitudes grow as the root of the number of images, those of power (`power`) as the number.
    """
    ratio = wanted / snr
    return math.ceil(round(ratio if power else ratio**2, 9))


def measure_reslog(
    posed: PosedParticles,
    executor: Executor,
    generator: torch.Generator,
    *,
    mask: Tensor | None = None,
    symmetry: str = "C1",
    n_copies: int = 1,
    n_sizes: int = 6,
    smallest: int = 100,
    n_draws: int = 2,
    profile: np.ndarray | None = None,
    coarsest: float | None = None,
    radius: int | None = None,
) -> ResLog:
    """Resolution of random subsets of posed particles.

    Parameters
    ----------
    posed
        Particles with poses and halves.
    mask
        Cube over the field; the ball of the particle by default.
    n_copies
        Operators of `symmetry`.
    n_sizes, smallest
        Sizes from `smallest` to all, in equal steps of their logarithm.
    n_draws
        Subsets of each size (one of all).
    profile
        Logarithm of the amplitude of the unblurred structure per shell of the box; that of an average protein by
        default, which holds beyond 10 Å only.
    coarsest
        Å; subsets of a worse resolution do not enter the fit. 10 with the protein's profile, else no limit.
    radius
        Last shell that is reconstructed, in the smallest box that holds it; all by default.
    """
    field, last = posed.source.field, posed.source.points.radius if radius is None else radius
    box = box_for_radius(last, posed.source.box)
    outline = ball_mask(box, field / box, posed.source.mask_diameter)
    if mask is not None:
        outline = mask if mask.shape[0] == box else fourier_crop(mask.float(), (box,) * 3).clamp(0, 1)
    covariance = fsc_noise_covariance((box,) * 3, outline) * n_copies
    total = len(posed.poses)
    sizes = np.unique(np.geomspace(min(smallest, total), total, n_sizes).astype(int))
    shell, error, control, weight = (np.zeros(len(sizes)) for _ in range(4))
    for i, size in enumerate(sizes):
        found, errors, weights = [], [], []
        for draw in range(n_draws if size < total else 1):
            halves = tuple(_draw(posed.of_half(h), size // 2, generator) for h in (1, 2))
            crossing, levels = _crossing(posed, halves, executor, outline, covariance, symmetry, last)
            weights.append(np.interp(crossing.shell, np.arange(len(levels)), levels))
            found.append(crossing.shell)
            errors.append(crossing.standard_error)
            if draw == 0:
                exchanged = tuple(_exchange_poses(half, generator) for half in halves)
                control[i] = _crossing(posed, exchanged, executor, outline, covariance, symmetry, last)[0].shell
        weight[i] = np.mean(weights)
        shell[i] = np.mean(found)
        error[i] = max(float(np.mean(errors)) / np.sqrt(len(found)), 0.05)
    bfactor, bfactor_error = _fit_slope(posed, weight, shell, error, profile, coarsest)
    return ResLog(
        n_particles=sizes,
        resolution=field / np.maximum(shell, 0.5),
        standard_error=error / field,
        control=field / np.maximum(control, 0.5),
        bfactor=bfactor,
        bfactor_error=bfactor_error,
    )


def _draw(poses: Candidates, n: int, generator: torch.Generator) -> Candidates:
    """A random subset, rows ascending."""
    n = min(max(n, 1), len(poses))
    chosen = torch.randperm(len(poses), generator=generator)[:n].sort().values.numpy()
    return poses.select(chosen)


def _exchange_poses(poses: Candidates, generator: torch.Generator) -> Candidates:
    """Every particle gets the rotation of another one; shifts stay."""
    order = torch.randperm(len(poses), generator=generator).numpy()
    return replace(poses, rotation=poses.rotation[order])


def _crossing(
    posed: PosedParticles,
    halves: tuple[Candidates, ...],
    executor: Executor,
    outline: Tensor,
    covariance: np.ndarray,
    symmetry: str,
    radius: int,
) -> tuple[Crossing, np.ndarray]:
    """Where the FSC of two halves crosses 0.143, and the logarithm of the weight of a voxel per shell."""
    box = outline.shape[0]
    maps = [reconstruct(posed, half, executor, symmetry=symmetry, radius=radius, box=box) for half in halves]
    flat1, flat2 = flatten_amplitudes(*maps)
    fsc = fourier_shell_correlation(flat1 * outline, flat2 * outline).numpy()
    noise = signal_and_noise_power(maps[0] * outline, maps[1] * outline)[1].clamp_min(1e-30).log().numpy()
    smooth = np.convolve(np.pad(noise, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    return locate_crossing(fsc, covariance), -smooth


def _fit_slope(
    posed: PosedParticles,
    log_weight: np.ndarray,
    shell: np.ndarray,
    error: np.ndarray,
    profile: np.ndarray | None,
    coarsest: float | None,
) -> tuple[float, float]:
    """B-factor and its standard error from the crossings of the subsets."""
    field = posed.source.field
    limit = (10.0 if profile is None else np.inf) if coarsest is None else coarsest
    last = posed.source.points.radius
    used = (shell > 2) & (field / np.maximum(shell, 1e-6) <= limit) & (shell < last - 1)
    if used.sum() < 3:
        return float("nan"), float("nan")
    k = shell / field
    if profile is None:
        structure = 2 * protein_log_amplitude(k)
    else:
        structure = 2 * np.interp(shell, np.arange(len(profile)), profile)
    y = log_weight + structure
    # An error of k moves y along the line: its size in y is that times the slope, found in a second round.
    bfactor, spread = 100.0, np.ones(used.sum())
    normal = np.eye(2)
    for _ in range(3):
        spread = np.maximum(bfactor, 20.0) * k[used] * error[used] / field
        design = np.stack([np.ones(used.sum()), 0.5 * k[used] ** 2], axis=1) / spread[:, None]
        normal = np.linalg.inv(design.T @ design)
        bfactor = float((normal @ (design.T @ (y[used] / spread)))[1])
    residual = design @ (normal @ (design.T @ (y[used] / spread))) - y[used] / spread
    inflate = max(1.0, float((residual**2).sum()) / max(used.sum() - 2, 1))
    return bfactor, float(np.sqrt(normal[1, 1] * inflate))
