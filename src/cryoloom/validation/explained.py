"""How much of the signal in the images a map explains, shell by shell, against what its FSC claims.

The FSC of half maps says how well two maps agree, not that what they agree on is the particle: halves refined from one
wrong reference, or under a symmetry that the particle lacks, agree in what was put in. The images know how much there
is to explain: their power inside the particle's circle over that of the background outside. A true map explains that
power at low frequency, where its FSC is high and poses are good enough not to blur it; a map that averages over wrong
poses claims the same FSC and explains a part. Each half of the particles is held against the map of the other half:

`share(s) = (Σ c)² / (Σ p F · Σ S)`, with `c = Re <X, C V>`, `p = |C V|²`, `F` the FSC (which takes the noise of the
map out of `p`), and `S` the power of the images less that of the background; over several shells it is their mean with
weights `S / σ²`. One factor between map and images is free in every shell, so a filter on the maps changes nothing. It
is 1 for the true map at the true poses and does not depend on the noise.

Neglected: neighbours in the background lower `S` and raise the share, and so do poses of very noisy images, which
follow their noise; the test may then miss a wrong map and does not accuse a right one. Particles that are not there
lower the share; those that fit worst at the lowest shells, which do not count, are left out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.poses import Candidates
from cryoloom.fourier import rfftn, shell_sum
from cryoloom.fourier.slices import prepare_volume
from cryoloom.validation.held_out import shell_gains
from cryoloom.validation.posed import PosedParticles

KEPT = 0.7
"""Part of the particles that counts: those that fit best at frequencies below those that are judged."""


@dataclass(frozen=True)
class ExplainedShare:
    """Share of the images' signal that a map explains.

    Attributes
    ----------
    by_shell
        Share of each shell, all particles, `(n,)`; NaN where the images hold no signal to speak of.
    share, standard_error
        Over the shells that are judged, particles that fit worst left out.
    first, last
        These shells.
    signal_z
        Standard errors by which the images exceed the background in these shells.
    background_ratio
        Power inside over power outside the particle in the last shells, where there is no signal: 1 if the background
        is alike.
    """

    by_shell: np.ndarray
    share: float
    standard_error: float
    first: int
    last: int
    signal_z: float
    background_ratio: float


def explained_share(
    posed: PosedParticles,
    maps: tuple[Tensor, Tensor],
    fsc: np.ndarray,
    executor: Executor,
    *,
    first: int,
    last: int,
) -> ExplainedShare:
    """Share of the signal that the map of each half explains in the particles of the other.

    Parameters
    ----------
    posed
        Images, noise, poses and halves.
    maps
        Map of half 1 and of half 2, unfiltered, masked, cubes over the field of the images.
    fsc
        Of the halves behind that mask, one value per shell, `(last + 1,)` or longer.
    first, last
        Shells that are judged.

    Raises
    ------
    ValueError
        If the shells do not lie within the images, or no particle has a pose.
    """
    if not 1 <= first <= last < posed.source.points.radius or not len(posed.poses):
        raise ValueError(f"first, last: expected shells within 1 and {posed.source.points.radius - 1} and particles")
    cross, power, signal, ratio = [], [], [], []
    for half in (1, 2):
        poses = posed.of_half(half)
        c, p = _products(posed, maps[2 - half], poses, executor, last)
        s, r = _signal_power(posed, poses.row, executor, last)
        cross.append(c)
        power.append(p * np.clip(fsc[: last + 1], 0.05, 1.0))
        signal.append(s)
        ratio.append(r)
    c, p, s = (np.concatenate(parts) for parts in (cross, power, signal))
    noise = posed.noise.power.mean(0)[: last + 1]
    total = s.sum(0)
    error = s.std(0, ddof=1) * np.sqrt(len(s))
    with np.errstate(divide="ignore", invalid="ignore"):
        by_shell = np.where(total > 3 * error, c.sum(0) ** 2 / (p.sum(0) * total), np.nan)
    kept = _best(c, p, noise, slice(1, first), KEPT)
    judged = slice(first, last + 1)
    c1, p1, s1 = (x[kept, judged] / noise[judged] for x in (c, p, s))
    share, spread = _mean_share(c1, p1, s1)
    summed = s1.sum(1)
    return ExplainedShare(
        by_shell=by_shell,
        share=share,
        standard_error=spread,
        first=first,
        last=last,
        signal_z=float(summed.sum() / max(summed.std(ddof=1) * np.sqrt(len(summed)), 1e-30)),
        background_ratio=float(np.concatenate(ratio).mean()),
    )


def _products(
    posed: PosedParticles, volume: Tensor, poses: Candidates, executor: Executor, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """`c` and `p` of each particle and shell, `(n, last + 1)` each: the gain of `a V` is `(2 a c - a² p) / σ²`."""
    unit = 1e-3 * volume.float() / volume.std().clamp_min(1e-30)
    one, two = (shell_gains(posed, prepare_volume(a * unit, last), poses, executor, last) for a in (1.0, 2.0))
    noise = posed.noise.power[posed.source.noise_group[poses.row], : last + 1]
    power = 0.5 * (2 * one - two)
    return 0.5 * (one + power) * noise, power * noise


def _signal_power(
    posed: PosedParticles, rows: np.ndarray, executor: Executor, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """Power over the background of each image in half its shells, `(n, last + 1)`, and `background_ratio`, `(n,)`."""
    source = posed.source
    inside = source.disc.to(torch.float64)
    outside = 1.0 - inside
    # Both windows spread the noise over neighbouring shells by about as much; without one nothing would be spread.
    shape, share = (source.box, source.box), float((inside**2).sum() / (outside**2).sum())
    high = slice(max(last + 1, round(0.9 * source.points.radius)), source.points.radius + 1)

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = torch.from_numpy(source.images(some).astype(np.float64))
        images = images - (images * outside).sum((1, 2), keepdim=True) / outside.sum()
        within, around = (shell_sum(rfftn(images * w, 2).abs() ** 2, shape).numpy() for w in (inside, outside))
        around *= share
        ratio = within[:, high].sum(1) / np.maximum(around[:, high].sum(1), 1e-30)
        return 0.5 * (within - around)[:, : last + 1], ratio

    parts = list(executor.map(work, source.chunk_rows(rows)))
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def _best(c: np.ndarray, p: np.ndarray, noise: np.ndarray, shells: slice, part: float) -> np.ndarray:
    """Indices of the particles whose images go best with the map in some shells, `(part * n,)`."""
    fit = (c[:, shells] / noise[shells]).sum(1) / np.sqrt((p[:, shells] / noise[shells]).sum(1).clip(1e-30))
    return np.argsort(-fit, kind="stable")[: max(2, round(part * len(fit)))]


def _mean_share(c: np.ndarray, p: np.ndarray, s: np.ndarray) -> tuple[float, float]:
    """Share over shells, each with its own factor, and its standard error over particles to first order; `(n, m)`."""
    cross, power, whole = c.sum(0), np.maximum(p.sum(0), 1e-30), max(float(s.sum()), 1e-30)
    factor = np.maximum(cross, 0.0) / power
    value = float((factor * cross).sum()) / whole
    influence = (2 * factor * c - factor**2 * p - value * s).sum(1) / whole
    return value, float(np.sqrt(((influence - influence.mean()) ** 2).sum()))
