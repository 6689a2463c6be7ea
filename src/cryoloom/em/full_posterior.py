"""Posterior over all views of small sets held in memory: for starts from nothing.

The posterior of `em/ring_posterior.py` streams images against a bank of shifted references; here a few thousand
images at low resolution are transformed once, for all trial shifts, and many starts are run against them. With the
posterior `p(d, ψ, t)` of an image the sums that the maximisation needs are, per reference and ring,

    num(d, r, q) = Σ_i Σ_t P_q(i, d, t) Y_it(r, q),      P_q = Σ_ψ p exp(-iqψ),      den(d, r) = Σ_i p(i, d) <C²>/σ²

so they are the same matrix products as the scores, transposed, and no image is inserted one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.rings import RingPlan, angular_coefficients, ring_samples, shift_phases


@dataclass(frozen=True)
class RingImages:
    """Images ready for soft assignment.

    Attributes
    ----------
    coefficients
        Angular coefficients of `C X exp(+2πi k·t) / σ²` per trial shift, complex `(n, t, rings, n_q)`, `q` ascending.
    inverse_variance
        `<C²> / σ²` on each ring, `(n, rings)`.
    shifts_px
        The trial shifts, pixels yx, `(t, 2)`.
    """

    coefficients: Tensor
    inverse_variance: Tensor
    shifts_px: Tensor

    def __len__(self) -> int:
        return len(self.coefficients)


@dataclass(frozen=True)
class RingReferences:
    """References for soft assignment.

    Attributes
    ----------
    coefficients
        Angular coefficients, complex `(d, rings, n_q)`, `q` ascending.
    power
        Mean `|V|²` on each ring, `(d, rings)`.
    """

    coefficients: Tensor
    power: Tensor


@dataclass(frozen=True)
class RingSums:
    """What the maximisation needs, and what the posterior says of each image.

    Attributes
    ----------
    numerator
        Complex `(d, rings, n_q)`.
    weight
        `(d, rings)`.
    log_evidence
        Log of the likelihood averaged over all candidates, less that of no particle, `(n,)`.
    n_effective
        Effective number of candidates, `(n,)`.
    shift_px
        Posterior mean of the shift, `(n, 2)`.
    best
        Most likely reference, angle index and shift index, `(n, 3)`.
    reference_weight
        Posterior weight of each group of references (each class), `(n, groups)`.
    """

    numerator: Tensor
    weight: Tensor
    log_evidence: Tensor
    n_effective: Tensor
    shift_px: Tensor
    best: Tensor
    reference_weight: Tensor


def ring_images(
    plan: RingPlan, weighted: Tensor, inverse_variance: Tensor, centre_px: Tensor, shifts_px: Tensor | None = None
) -> RingImages:
    """Centre and transform weighted samples of images.

    Parameters
    ----------
    weighted
        `C X / σ²` at the points of the plan, complex `(n, rings, half)`.
    inverse_variance
        `<C²> / σ²` on each ring, `(n, rings)`.
    centre_px
        Where each particle is thought to sit, pixels yx, `(n, 2)`.
    shifts_px
        Trial shifts about each centre, pixels yx, `(t, 2)`; the centre alone by default.
    """
    n = len(weighted)
    shifts_px = torch.zeros(1, 2) if shifts_px is None else shifts_px.to(torch.float32)
    moved = (weighted * shift_phases(plan, centre_px))[:, None]
    if len(shifts_px) > 1:
        moved = moved * shift_phases(plan, shifts_px)  # (n, t, rings, half)
    coefficients = _ascending(plan, angular_coefficients(plan, moved.flatten(0, 1)))
    return RingImages(coefficients.reshape(n, len(shifts_px), plan.n_rings, -1), inverse_variance, shifts_px)


def ring_references(plan: RingPlan, samples: Tensor) -> RingReferences:
    """References from their samples at the points of the plan, complex `(d, points)`."""
    samples = samples.reshape(len(samples), plan.n_rings, -1)
    power = (samples.real**2 + samples.imag**2).mean(-1)
    return RingReferences(_ascending(plan, angular_coefficients(plan, samples)), power)


def samples_of_sums(plan: RingPlan, numerator: Tensor) -> Tensor:
    """Samples at the points of the plan, complex `(d, points)`, from coefficients `(d, rings, n_q)`."""
    order = torch.argsort(plan.q)
    stored = torch.empty_like(numerator)
    stored[..., order] = numerator
    return ring_samples(plan, torch.view_as_real(stored.contiguous())).flatten(1)


def posterior_sums(
    plan: RingPlan,
    images: RingImages,
    references: RingReferences,
    rows: Tensor,
    executor: Executor,
    *,
    n_groups: int = 1,
    log_prior: Tensor | None = None,
    accumulate: bool = True,
    chunk: int | None = None,
) -> RingSums:
    """Posterior of images over references, angles and shifts, and its sums.

    Parameters
    ----------
    rows
        Images to use, `(m,)` int64; results are in their order.
    n_groups
        The references are this many groups (classes) of equal size, one after the other.
    log_prior
        Log-prior of each group, `(n_groups,)`.
    accumulate
        False leaves out the sums (`numerator` and `weight` are zero).
    chunk
        Images in one block; by default chosen for at most 16 MB of scores, whatever the number of cores.
    """
    n_references = len(references.power)
    scores_per_image = n_references * len(images.shifts_px) * plan.n_angles
    chunk = chunk or max(1, min(64, int(4e6 / scores_per_image)))
    ring_total = plan.ring_weight * plan.n_samples  # Fourier pixels per ring
    operand = (references.coefficients * ring_total[:, None]).permute(2, 1, 0).conj().resolve_conj().contiguous()
    norm_operand = 0.5 * ring_total[:, None] * references.power.T
    prior = torch.zeros(n_groups) if log_prior is None else log_prior
    prior = prior.repeat_interleave(n_references // n_groups)

    def work(some: Tensor) -> tuple[Tensor, ...]:
        return _posterior_of_block(plan, images, some, operand, norm_operand, prior, n_groups, accumulate)

    blocks = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
    numerator = torch.zeros(images.coefficients.shape[-1], n_references, plan.n_rings, dtype=torch.complex64)
    weight = torch.zeros(n_references, plan.n_rings)
    columns: list[Sequence[Tensor]] = []
    for part_numerator, part_weight, *rest in executor.map(work, blocks):
        if accumulate:
            numerator += part_numerator
            weight += part_weight
        columns.append(rest)
    evidence, effective, shift, best, group = (torch.cat(parts) for parts in zip(*columns, strict=True))
    return RingSums(numerator.permute(1, 2, 0), weight, evidence, effective, shift, best, group)


def _posterior_of_block(
    plan: RingPlan,
    images: RingImages,
    some: Tensor,
    operand: Tensor,
    norm_operand: Tensor,
    prior: Tensor,
    n_groups: int,
    accumulate: bool,
) -> tuple[Tensor, ...]:
    """Sums and per-image results of one block of images; see `posterior_sums`."""
    n, n_shifts, n_angles = len(some), len(images.shifts_px), plan.n_angles
    n_q, n_rings, n_references = operand.shape
    y = images.coefficients[some].permute(3, 0, 1, 2).reshape(n_q, n * n_shifts, n_rings).contiguous()
    products = torch.bmm(y, operand).permute(1, 2, 0)  # (n t, d, q)
    scores = torch.fft.irfft(products.conj(), n=n_angles, dim=-1).mul_(n_angles)  # the cross term, (n t, d, ψ)
    inverse_variance = images.inverse_variance[some]
    scores = scores.reshape(n, n_shifts, n_references, n_angles)
    scores -= (inverse_variance @ norm_operand - prior)[:, None, :, None]
    flat = scores.reshape(n, -1)
    highest, place = flat.max(1, keepdim=True)
    flat -= highest
    p = flat.exp_()
    total = p.sum(1, keepdim=True)
    evidence = (highest + (total / flat.shape[1]).log())[:, 0]
    p /= total
    effective = 1.0 / (p * p).sum(1)
    p = p.reshape(n, n_shifts, n_references, n_angles)
    per_pair = p.sum(3)  # (n, t, d)
    shift = per_pair.sum(2) @ images.shifts_px
    group = per_pair.sum(1).reshape(n, n_groups, -1).sum(-1)
    index = place[:, 0]
    best = torch.stack(
        [(index // n_angles) % n_references, index % n_angles, index // (n_angles * n_references)], dim=1
    )
    if not accumulate:
        nothing = torch.zeros(0)
        return nothing, nothing, evidence, effective, shift, best, group
    turned = torch.fft.rfft(p.reshape(n * n_shifts, n_references, n_angles), dim=-1)[..., :n_q]
    numerator = torch.bmm(turned.permute(2, 1, 0), y)  # (q, d, rings)
    weight = per_pair.sum(1).T @ inverse_variance
    return numerator, weight, evidence, effective, shift, best, group


def _ascending(plan: RingPlan, coefficients: Tensor) -> Tensor:
    """Stored coefficients `(n, rings, n_q, 2)` as complex numbers in ascending order of `q`."""
    return torch.view_as_complex(coefficients[:, :, torch.argsort(plan.q)].contiguous())
