"""Sums of a set whose images are too noisy to choose a pose: every pose of a grid shares each image.

Where the best of many poses is mostly the luckiest, a map of best poses holds the luck as well: it shows the reference
again, in both halves alike. The marginalised likelihood (Sigworth 1998, doi:10.1006/jsbi.1998.4014; Scheres 2012,
doi:10.1016/j.jmb.2011.11.010) has no such bias. The posterior of `em/full_posterior.py` goes over all directions,
angles and shifts of a grid; its sums are averages per direction, so images enter the volume as slices of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import FourierSums
from cryoloom.em.full_posterior import (
    RingReferences,
    RingSums,
    posterior_sums,
    ring_images,
    ring_references,
    samples_of_sums,
)
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.rings import RingPlan
from cryoloom.em.search import RingSearcher
from cryoloom.fourier.slices import PaddedSpectrum, empty_sums, extract_points, insert_points
from cryoloom.geometry import rotation_about_z

IMAGES_PER_BLOCK = 4


@dataclass(frozen=True)
class MarginalSums:
    """What all poses of a grid together say of a set.

    Attributes
    ----------
    sums
        Raw sums per reference up to the last ring and one shell more.
    gain
        What the grey scale of the references has to be multiplied by to fit the images.
    rotation
        The likeliest pose of the grid, `(n, 3, 3)`.
    shift_px
        Mean of the shift over the posterior, yx, `(n, 2)`.
    shift_spread_px
        Standard deviation of the shifts of the set along one axis: what a normal prior should have.
    evidence
        Gain in log-likelihood over no particle, averaged over all poses by the prior; the mean over the particles.
    told
        Share of the information about the pose that the images give: 0 when all poses of the grid remain likely, 1
        when one does; the median over the particles.
    """

    sums: list[FourierSums]
    gain: float
    rotation: np.ndarray
    shift_px: np.ndarray
    shift_spread_px: float
    evidence: float
    told: float


def marginal_sums(
    source: ImageSource,
    references: Sequence[PaddedSpectrum],
    meets: np.ndarray,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    n_rings: int,
    rotations: Tensor,
    shifts_px: np.ndarray,
    shift_sd_px: float,
) -> MarginalSums:
    """Share each image among all poses of a grid and add it up, apart for each reference.

    Parameters
    ----------
    source
        Images.
    references
        References, to at least `n_rings`: one per half, or one per fold.
    meets
        Which of them each particle meets, and which sums it goes into, from 1, by row of the set.
    rows
        Rows to use, ascending; what is given per particle is in their order.
    noise
        Noise spectra.
    n_rings
        Rings that count.
    rotations
        Directions, from `search_directions`.
    shifts_px, shift_sd_px
        Trial shifts, `(t, 2)` yx pixels, and the standard deviation of their normal prior along one axis.
    """
    devices, on_cpu = source.place.devices, source.place.device == "cpu"
    shifts = torch.from_numpy(shifts_px).to(devices[0], torch.float32)
    trial = source.place.copies(shifts)
    searchers = [
        RingSearcher(source, noise, n_rings, own, rotations, 1, device)
        for own, device in zip(trial, devices, strict=True)
    ]
    plan = searchers[0].plan
    prior = torch.log_softmax(-0.5 * (shifts**2).sum(1) / shift_sd_px**2, 0) + np.log(len(shifts))
    x, y = plan.points.to("cpu", torch.float32).unbind(1)
    n = len(rows)
    effective, evidence, squares = np.zeros(n), 0.0, 0.0
    rotation, shift = np.zeros((n, 3, 3)), np.zeros((n, 2))
    sums, cross, norm = [], 0.0, 0.0
    views: list[_Views] = []

    def find(chunk: ImageChunk) -> tuple[ImageChunk, RingSums]:
        lane = source.lane(chunk.rows)
        searcher, device, view = searchers[lane], devices[lane], views[lane]
        samples = searcher.samples(chunk)
        ctf = torch.from_numpy(source.ctf_at(chunk.rows, x, y)).reshape(samples.shape).to(device)
        inverse_noise = searcher.inverse_noise[torch.from_numpy(chunk.group).to(device)]
        weighted = samples * (ctf * inverse_noise[..., None])
        inverse_variance = (ctf**2).mean(-1) * inverse_noise
        centre = torch.zeros(len(chunk), 2, device=device)
        return chunk, posterior_sums(
            searcher.plan,
            ring_images(searcher.plan, weighted, inverse_variance, centre, trial[lane]),
            view.bank,
            torch.arange(len(chunk), device=device),
            executor,
            shift_log_prior=prior,
            chunk=IMAGES_PER_BLOCK if on_cpu else None,
        )

    for h, reference in enumerate(references):
        mine = rows[meets[rows] == h + 1]
        if not len(mine):
            raise ValueError("rows: expected particles for each reference")
        if not views or reference is not references[h - 1]:
            views.clear()  # the slices of one reference at a time: they are what takes memory
            for searcher, own in zip(searchers, source.place.copies(reference), strict=True):
                views.append(_Views.of(searcher.plan, own, rotations))
        numerators: list[Tensor | None] = [None] * len(devices)
        weights: list[Tensor | None] = [None] * len(devices)
        chunks = executor.map(source.chunk, source.chunk_rows(mine))
        # on the CPU the blocks of one chunk run side by side, on GPUs the chunks
        for chunk, found in map(find, chunks) if on_cpu else executor.map(find, chunks):
            at = np.searchsorted(rows, chunk.rows)
            effective[at] = found.n_effective.cpu().numpy()
            evidence += float(found.log_evidence.sum())
            shift[at] = found.shift_px.cpu().numpy()
            squares += float((found.shift_weight.to(devices[0]) @ (shifts**2).sum(1)).sum())
            best = found.best.cpu()
            psi = plan.angles.cpu()[best[:, 1]].to(torch.float64)
            rotation[at] = (rotations[best[:, 0]].to(torch.float64) @ rotation_about_z(psi)).numpy()
            lane = source.lane(chunk.rows)
            numerators[lane] = _plus(numerators[lane], found.numerator)
            weights[lane] = _plus(weights[lane], found.weight)
        numerator, weight = _total(numerators, devices[0]), _total(weights, devices[0])
        values = samples_of_sums(plan, numerator).reshape(len(rotations), plan.n_rings, -1)
        cross += _cross(plan, values, views[0].samples)
        norm += _norm(plan, weight, views[0].bank)
        sums.append(_inserted(plan, rotations, values.cpu(), weight.cpu(), n_rings + 1))
    n_poses = len(rotations) * plan.n_angles * len(shifts)
    told = 1.0 - np.log(np.maximum(effective, 1.0)) / np.log(n_poses)
    return MarginalSums(
        sums=sums,
        gain=cross / max(norm, 1e-20),
        rotation=rotation,
        shift_px=shift,
        shift_spread_px=float(np.sqrt(0.5 * squares / n)),
        evidence=evidence / n,
        told=float(np.median(told)),
    )


@dataclass(frozen=True)
class _Views:
    """A reference seen along all directions: samples on the rings, and the same ready for the posterior."""

    samples: Tensor
    bank: RingReferences

    @classmethod
    def of(cls, plan: RingPlan, reference: PaddedSpectrum, rotations: Tensor) -> "_Views":
        samples = extract_points(reference, rotations, plan.points).to(torch.complex64)
        return cls(samples, ring_references(plan, samples))


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _total(parts: list[Tensor | None], device: str) -> Tensor:
    """Sum of what the devices have, in their order."""
    first, *rest = [part.to(device) for part in parts if part is not None]
    return sum(rest, first)


def _cross(plan: RingPlan, values: Tensor, samples: Tensor) -> float:
    """Sum over the full plane of images, weighted and averaged per direction, times the references."""
    product = (values * samples.reshape(values.shape).conj()).real.sum((0, 2))
    return float(2.0 * (product * plan.ring_weight).sum())


def _norm(plan: RingPlan, weight: Tensor, bank: RingReferences) -> float:
    """What `_cross` is expected to be when the grey scale of the references is right."""
    return float((weight * bank.power * (plan.ring_weight * plan.n_samples)).sum())


def _inserted(plan: RingPlan, rotations: Tensor, values: Tensor, weight: Tensor, radius: int) -> FourierSums:
    """Averages per direction, put into a volume of sums."""
    n = len(rotations)
    ring_weight = plan.ring_weight.cpu()
    weights = (weight * ring_weight)[..., None].expand_as(values.real)
    raw = empty_sums(radius)
    insert_points(
        raw,
        rotations.to(torch.float32),
        plan.points.cpu(),
        (values * ring_weight[:, None]).reshape(n, -1),
        weights.reshape(n, -1),
    )
    return FourierSums(raw, radius)
