"""Whole posteriors on rings: every class, angle and shift enters the averages with its probability.

The sums of a marginalised mixture (Sigworth 1998, doi:10.1006/jsbi.1998.4014; Scheres 2005,
doi:10.1016/j.jmb.2005.02.031) are the adjoint of the search of `em/rings.py`, at the same cost: with `p(d, ψ, t)` the
posterior of an image and `P(q)` its transform over ψ,

    num_{d,t}(r, q) = Σ_images P_{d,t}(q) Ŷ(r, q),    den_d(r) = Σ_images p(d) <C²> / σ²

one product per `q`, after a product from angles to `q`. Shifts are those of the reference in its own frame, so the
sums over images come first and each reference is moved back once per iteration, not once per image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.em.rings import (
    ImageBatch,
    ReferenceBank,
    RingPlan,
    _image_operand,
    _scores,
    _synthesis,
    angular_coefficients,
    ring_samples,
    shift_phases,
)


@dataclass
class PosteriorSums:
    """Sums over images for every reference and shift of a bank.

    Attributes
    ----------
    moved
        Per span of the insertion plan, `(n_q, n * t, 2 * rings)`; ring weights included.
    weight
        `(n, rings)` float64.
    share
        Sum of posterior probabilities, `(n,)` float64.
    """

    moved: list[Tensor]
    weight: Tensor
    share: Tensor


@dataclass(frozen=True)
class ImagePosteriors:
    """What is kept of the posterior of each image.

    Attributes
    ----------
    evidence
        Log of the mean over angles and shifts of the likelihood, against no particle, `(b, n)` float32.
    share
        Posterior of each reference, `(b, n)` float32.
    psi, shift_px
        At the highest likelihood: angle `(b,)`, and shift about the origin of the image, pixels yx, `(b, 2)`.
    """

    evidence: Tensor
    share: Tensor
    psi: Tensor
    shift_px: Tensor


def empty_posterior_sums(insertion: RingPlan, n_references: int, n_shifts: int) -> PosteriorSums:
    """Sums with nothing in them."""
    device, n = insertion.points.device, n_references * n_shifts
    moved = [
        torch.zeros(last - first, n, 2 * (insertion.n_rings - ring), device=device)
        for first, last, ring in insertion.spans
    ]
    return PosteriorSums(
        moved,
        torch.zeros(n_references, insertion.n_rings, dtype=torch.float64, device=device),
        torch.zeros(n_references, dtype=torch.float64, device=device),
    )


def add_posteriors(
    sums: PosteriorSums,
    search: ImageBatch,
    bank: ReferenceBank,
    plan: RingPlan,
    insert: ImageBatch,
    insertion: RingPlan,
    *,
    log_prior: Tensor | None = None,
    shift_log_prior: Tensor | None = None,
    temperature: float = 1.0,
    block_bytes: int = 1 << 24,
) -> ImagePosteriors:
    """Add the images of a batch to the sums, each with its whole posterior, and return its class shares.

    Parameters
    ----------
    search, plan
        The images on the rings that decide.
    bank
        References with their shifts.
    insert, insertion
        The same images on the rings that are summed; `insertion.n_angles` equals `plan.n_angles`.
    log_prior
        Of the references, `(n,)`.
    shift_log_prior
        Of the shifts, `(b, t)`.
    temperature
        Above 1 flattens the posterior.
    """
    n, n_shifts = len(bank), len(bank.shifts_px)
    per_image = 8 * n * n_shifts * (plan.n_angles + len(plan.q) + len(insertion.q))
    block = max(1, block_bytes // per_image)
    still = torch.ones(1, plan.n_rings, plan.n_samples // 2, dtype=torch.complex64, device=search.weighted.device)
    still_insert = torch.ones(1, insertion.n_rings, 1, dtype=torch.complex64, device=still.device)
    even_back, odd_back = _synthesis(insertion, plan.n_angles, torch.float32)
    # the synthesis counts q > 0 twice; the way back does not
    even_back, odd_back = _once(insertion, even_back, odd_back)
    parts = []
    for start in range(0, len(search), block):
        rows = slice(start, start + block)
        operand = _image_operand(plan, search.weighted[rows], still, bank.coefficients[0].dtype)
        b = len(search.weighted[rows])
        even, odd = _scores(plan, operand, list(bank.coefficients))
        even, odd = even.float(), odd.float()
        plus, minus = even + odd, even.sub_(odd)  # (angles / 2, b n t)
        norm = search.norm_weight[rows] @ bank.power.T  # (b, n)
        bias = -0.5 * norm[..., None].expand(b, n, n_shifts)
        if shift_log_prior is not None:
            bias = bias + shift_log_prior[rows, None]
        if log_prior is not None:
            bias = bias + log_prior[:, None]
        bias = bias.reshape(1, -1)
        highest, at = (torch.maximum(plus.amax(0), minus.amax(0)) + bias).reshape(b, -1).max(1)  # (b,)
        column = at + torch.arange(b, device=at.device) * (n * n_shifts)
        angle = torch.cat([plus[:, column], minus[:, column]]).argmax(0)
        psi = angle * (2 * torch.pi / plan.n_angles)
        shift = bank.shifts_px[at % n_shifts]
        c, s = psi.cos(), psi.sin()
        moved_px = torch.stack([c * shift[:, 0] - s * shift[:, 1], s * shift[:, 0] + c * shift[:, 1]], dim=-1)
        offset = bias - highest.repeat_interleave(n * n_shifts)
        plus.add_(offset).div_(temperature).exp_()
        minus.add_(offset).div_(temperature).exp_()
        mass = (plus.sum(0) + minus.sum(0)).reshape(b, n, n_shifts)
        total = mass.sum((1, 2))  # (b,)
        per_class = mass.sum(2)
        p = per_class / total[:, None]
        log_mean = math.log(plan.n_angles * n_shifts)
        gained = per_class.clamp_min(1e-30).log() * temperature + highest[:, None] - log_mean
        parts.append((gained, p, psi, search.centre_px[rows] + moved_px))
        inverse = (1.0 / total).repeat_interleave(n * n_shifts)
        even_weight = (plus + minus).mul_(inverse)
        odd_weight = plus.sub_(minus).mul_(inverse)
        moved = _image_operand(insertion, insert.weighted[rows], still_insert, torch.float32)
        spectrum = torch.cat([even_back.T @ even_weight, odd_back.T @ odd_weight]).reshape(
            len(insertion.q), 2 * b, n * n_shifts
        )
        for into, (first, last, _), part in zip(sums.moved, insertion.spans, moved, strict=True):
            into.baddbmm_(spectrum[first:last].transpose(1, 2), part)
        sums.weight += (p.T @ insert.norm_weight[rows]).double()
        sums.share += p.sum(0).double()
    return ImagePosteriors(*(torch.cat(column) for column in zip(*parts, strict=True)))


def collect(sums: PosteriorSums, insertion: RingPlan, shifts_px: Tensor) -> tuple[Tensor, Tensor]:
    """Bring all shifts of each reference together.

    Returns
    -------
    numerator, weight
        Coefficients `(n, rings, n_q, 2)` float32 and `(n, rings)` float64: `Σ C X / σ²` and `Σ <C²> / σ²` in the frame
        of the reference.
    """
    n = len(sums.share)
    n_shifts = len(shifts_px)
    numerator = torch.zeros(n, insertion.n_rings, len(insertion.q), 2, device=shifts_px.device)
    phases = shift_phases(insertion, shifts_px)  # (t, rings, half)
    inverse_weight = 1.0 / (insertion.ring_weight * insertion.n_samples)
    for d in range(n):
        part = torch.zeros(n_shifts, insertion.n_rings, len(insertion.q), 2, device=shifts_px.device)
        columns = slice(d * n_shifts, (d + 1) * n_shifts)
        for (first, last, ring), moved in zip(insertion.spans, sums.moved, strict=True):
            r = insertion.n_rings - ring
            part[:, ring:, first:last, 0] = moved[:, columns, :r].permute(1, 2, 0)
            part[:, ring:, first:last, 1] = moved[:, columns, r:].permute(1, 2, 0)
        upright = (ring_samples(insertion, part) * phases).sum(0, keepdim=True)
        numerator[d] = angular_coefficients(insertion, upright)[0]
    numerator *= inverse_weight[:, None, None]
    weight = sums.weight / (insertion.ring_weight * insertion.n_samples).double()
    return numerator, weight


def _once(plan: RingPlan, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    twice = torch.where(plan.q == 0, 1.0, 2.0).repeat_interleave(2)
    return even / twice[: 2 * plan.n_even], odd / twice[2 * plan.n_even :]
