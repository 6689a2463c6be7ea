"""Posterior over all views at low resolution: for starts from nothing, and for images too noisy to tell their pose.

The posterior of `em/ring_posterior.py` streams images against a bank of shifted references and drops what cannot
matter; here images at low resolution meet models so vague that thousands of views share each image, and every one of
them counts. With the posterior `p(d, ψ, t)` of an image the sums that the maximisation needs are, per
reference and ring,

    num(d, r, q) = Σ_i Σ_t P_q(i, d, t) Y_it(r, q),      P_q = Σ_ψ p exp(-iqψ),      den(d, r) = Σ_i p(i, d) <C²>/σ²

Both ways are real matrix products: over rings for each `q`, and between `q` and angles over half a turn (even and odd
`q` apart, as in `em/rings.py`); the way back is the transpose of the way there, so no image is inserted one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.rings import (
    RingPlan,
    analysis,
    angular_coefficients,
    product_rows,
    ring_samples,
    shift_phases,
    synthesis,
)

SCORES_IN_CACHE, SCORES_ON_GPU = 1 << 19, 1 << 25
# What is this far below the best counts as this far below: 1e-17 of it. Smaller numbers, and their squares, would soon
# be denormal, with which processors are ten times slower.
FLOOR = -40.0


@dataclass(frozen=True)
class RingImages:
    """Images ready for soft assignment.

    Attributes
    ----------
    coefficients
        Angular coefficients of `C X exp(+2πi k·t) / σ²` per trial shift, `(n, t, n_q, 2, rings)` float32, `q` in the
        order of the plan.
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
        Angular coefficients, `(d, rings, n_q, 2)` float32, `q` in the order of the plan.
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
        Complex `(d, rings, n_q)`, `q` in the order of the plan.
    weight
        `(d, rings)`.
    log_evidence
        Log of the likelihood averaged over all candidates, less that of no particle, `(n,)`.
    n_effective
        Effective number of candidates, `(n,)`.
    shift_px
        Posterior mean of the shift, `(n, 2)`.
    shift_weight
        Posterior weight of each trial shift, `(n, t)`.
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
    shift_weight: Tensor
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
    shifts_px = torch.zeros(1, 2, device=weighted.device) if shifts_px is None else shifts_px.to(torch.float32)
    moved = (weighted * shift_phases(plan, centre_px))[:, None]
    if len(shifts_px) > 1:
        moved = moved * shift_phases(plan, shifts_px)  # (n, t, rings, half)
    coefficients = angular_coefficients(plan, moved.flatten(0, 1)).permute(0, 2, 3, 1)  # (n t, n_q, 2, rings)
    return RingImages(coefficients.unflatten(0, (n, len(shifts_px))).contiguous(), inverse_variance, shifts_px)


def ring_references(plan: RingPlan, samples: Tensor) -> RingReferences:
    """References from their samples at the points of the plan, complex `(d, points)`."""
    samples = samples.reshape(len(samples), plan.n_rings, -1)
    power = (samples.real**2 + samples.imag**2).mean(-1)
    return RingReferences(angular_coefficients(plan, samples), power)


def samples_of_sums(plan: RingPlan, numerator: Tensor) -> Tensor:
    """Samples at the points of the plan, complex `(d, points)`, from coefficients `(d, rings, n_q)`."""
    return ring_samples(plan, torch.view_as_real(numerator.contiguous())).flatten(1)


def posterior_sums(
    plan: RingPlan,
    images: RingImages,
    references: RingReferences,
    rows: Tensor,
    executor: Executor,
    *,
    n_groups: int = 1,
    log_prior: Tensor | None = None,
    shift_log_prior: Tensor | None = None,
    accumulate: bool = True,
    chunk: int | None = None,
    devices: Sequence[str] | None = None,
) -> RingSums:
    """Posterior of images over references, angles and shifts, and its sums.

    Results lie where the images do.

    Parameters
    ----------
    rows
        Images to use, `(m,)` int64; results are in their order.
    n_groups
        The references are this many groups (classes) of equal size, one after the other.
    log_prior
        Log-prior of each group, `(n_groups,)`.
    shift_log_prior
        Log-prior of each trial shift, `(t,)`; all the same by default.
    accumulate
        False leaves out the sums (`numerator` and `weight` are zero).
    chunk
        Images in one block; by default so that its scores stay in the cache, whatever the number of cores.
    devices
        Where images meet references, blocks of images in turn; by default where they lie.
    """
    home = images.coefficients.device
    places = [torch.device(d) for d in devices] if devices else [home]
    n_references, n_rings, n_q, _ = references.coefficients.shape
    scores_per_image = n_references * len(images.shifts_px) * plan.n_angles
    each = -(-len(rows) // len(places))
    room, most = (SCORES_IN_CACHE, 64) if places[0].type == "cpu" else (SCORES_ON_GPU, each)
    chunk = chunk or max(1, min(most, room // scores_per_image))
    meet = [
        _Block.on(device, plan, images, references, log_prior, shift_log_prior, n_groups, accumulate)
        for device in places
    ]
    blocks = [(i % len(meet), rows[first : first + chunk]) for i, first in enumerate(range(0, len(rows), chunk))]
    numerator = [torch.zeros(n_q, n_references, 2 * n_rings, device=device) for device in places]
    weight = [torch.zeros(n_references, n_rings, device=device) for device in places]
    columns: list[Sequence[Tensor]] = []
    found = executor.map(lambda block: meet[block[0]](block[1]), blocks)
    for (lane, _), (sums, *rest) in zip(blocks, found, strict=True):
        if accumulate:
            numerator[lane] += sums[0]
            weight[lane] += sums[1]
        columns.append([column.to(home) for column in rest])
    per_image = (torch.cat(parts) for parts in zip(*columns, strict=True))
    total = sum((part.to(home) for part in numerator[1:]), numerator[0].to(home))
    parts = total.unflatten(2, (2, n_rings)).permute(2, 1, 3, 0)  # real and imaginary: (2, d, rings, n_q)
    weights = sum((part.to(home) for part in weight[1:]), weight[0].to(home))
    return RingSums(torch.complex(parts[0], parts[1]), weights, *per_image)


class _Block:
    """Sums and per-image results of a block of images; see `posterior_sums`."""

    def __init__(
        self,
        plan: RingPlan,
        images: RingImages,
        bank: Tensor,
        norm: Tensor,
        prior: Tensor,
        shift_prior: Tensor | None,
        n_groups: int,
        accumulate: bool,
    ) -> None:
        self.plan, self.images, self.bank, self.norm = plan, images, bank, norm
        self.prior, self.shift_prior, self.n_groups, self.accumulate = prior, shift_prior, n_groups, accumulate
        self.to_angles = synthesis(plan, plan.n_angles, torch.float32)
        self.to_q = analysis(plan)

    @classmethod
    def on(
        cls,
        device: torch.device,
        plan: RingPlan,
        images: RingImages,
        references: RingReferences,
        log_prior: Tensor | None,
        shift_log_prior: Tensor | None,
        n_groups: int,
        accumulate: bool,
    ) -> "_Block":
        """What the blocks of one device share."""
        plan = plan.on(str(device))
        coefficients, power = references.coefficients.to(device), references.power.to(device)
        n_references, n_rings, n_q, _ = coefficients.shape
        ring_total = plan.ring_weight * plan.n_samples  # Fourier pixels per ring
        bank = (coefficients * ring_total[:, None, None]).permute(2, 3, 1, 0).reshape(n_q, 2 * n_rings, -1)
        prior = torch.zeros(n_groups, device=device) if log_prior is None else log_prior.to(device)
        return cls(
            plan,
            images,
            bank.contiguous(),
            0.5 * ring_total[:, None] * power.T,
            prior.repeat_interleave(n_references // n_groups),
            None if shift_log_prior is None else shift_log_prior.to(device),
            n_groups,
            accumulate,
        )

    def __call__(self, some: Tensor) -> tuple[Any, ...]:
        device = self.bank.device
        inverse_variance = self.images.inverse_variance[some].to(device)
        products = product_rows(self.images.coefficients[some].to(device).flatten(0, 1)).flatten(2)  # (q, 2 m, 2 rings)
        p = self._scores(products, self.prior - inverse_variance @ self.norm)  # (angles, n, t, d)
        per_line = p.amax(-1)  # (angles, n, t)
        highest = per_line.amax((0, 2))
        best = _place_of_best(p, per_line)
        p.sub_(highest[:, None, None]).clamp_min_(FLOOR).exp_()
        total = p.sum(-1).sum((0, 2))
        evidence = highest + (total / (p.numel() // len(some))).log()
        effective = total**2 / torch.linalg.vector_norm(p, dim=-1).square().sum((0, 2))
        spectrum = self._spectrum(p)  # (q, 2 m, d)
        # the cosine part of q = 0 is the sum over angles
        per_pair = spectrum[0, : len(spectrum[0]) // 2].reshape(p.shape[1:]) / total[:, None, None]  # (n, t, d)
        of_shift = per_pair.sum(2)
        shift = of_shift @ self.images.shifts_px.to(device)
        of_reference = per_pair.sum(1)  # (n, d)
        group = of_reference.unflatten(1, (self.n_groups, -1)).sum(-1)
        sums = None
        if self.accumulate:
            scaled = products / total.repeat_interleave(p.shape[2]).repeat(2)[:, None]
            sums = torch.bmm(spectrum.transpose(1, 2), scaled), of_reference.T @ inverse_variance
        return sums, evidence, effective, shift, of_shift, best, group

    def _scores(self, products: Tensor, bias: Tensor) -> Tensor:
        """Log-likelihood of all candidates, `(angles, n, t, d)`."""
        n, d = bias.shape
        n_even, half = self.plan.n_even, self.plan.n_angles // 2
        spectrum = torch.bmm(products, self.bank)  # (q, 2 m, d)
        even = (self.to_angles[0] @ spectrum[:n_even].reshape(2 * n_even, -1)).reshape(half, n, -1, d)
        odd = (self.to_angles[1] @ spectrum[n_even:].reshape(2 * (len(spectrum) - n_even), -1)).reshape(even.shape)
        even += bias[:, None]
        if self.shift_prior is not None:
            even += self.shift_prior[:, None]
        scores = torch.empty(2, *even.shape, device=even.device)
        torch.add(even, odd, out=scores[0])
        torch.sub(even, odd, out=scores[1])
        return scores.flatten(0, 1)

    def _spectrum(self, p: Tensor) -> Tensor:
        """`Σ_ψ p cos qψ` above `Σ_ψ p sin qψ`, `(q, 2 m, d)`."""
        n_references = p.shape[-1]
        first, second = p.reshape(2, self.plan.n_angles // 2, -1)
        n_even = self.plan.n_even
        out = torch.empty(len(self.plan.q), 2 * first.shape[1], device=p.device)
        torch.mm(self.to_q[0], first + second, out=out[:n_even].view(2 * n_even, -1))
        torch.mm(self.to_q[1], first - second, out=out[n_even:].view(2 * (len(out) - n_even), -1))
        return out.reshape(len(out), -1, n_references)


def _place_of_best(scores: Tensor, per_line: Tensor) -> Tensor:
    """Reference, angle and shift of the highest score of each image, `(n, 3)`; scores `(angles, n, t, d)`."""
    image = torch.arange(scores.shape[1], device=scores.device)
    line = per_line.permute(1, 0, 2).flatten(1).argmax(1)  # over angles and shifts
    angle, shift = line // per_line.shape[2], line % per_line.shape[2]
    return torch.stack([scores[angle, image, shift].argmax(1), angle, shift], dim=1)
