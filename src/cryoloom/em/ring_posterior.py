"""Whole posteriors on rings: every class, angle and shift enters the averages with its probability.

The sums of a marginalised mixture (Sigworth 1998, doi:10.1006/jsbi.1998.4014; Scheres 2005,
doi:10.1016/j.jmb.2005.02.031) are the adjoint of the search of `em/rings.py`: with `p(d, ψ, t)` the posterior of an
image and `P(q)` its transform over ψ,

    num_{d,t}(r, q) = Σ_images P_{d,t}(q) Ŷ(r, q),    den_d(r) = Σ_images p(d) <C²> / σ²

Of a large bank two steps find them. Matrix products over all references, shifts and angles, in bfloat16 where that is
fast, find the highest score of every pair of a reference and a shift. Only pairs that can hold more than `exp(-MARGIN)`
of the best one, rounding allowed for, go on: their scores over the angle are computed again in single precision, and
they alone are summed. Mostly that is a handful of hundreds. Of a small bank most pairs would go on: there matrix
products in single precision do all of it, for all pairs.

Shifts are those of the reference in its own frame, so the sums over images come first and each reference is moved back
once per iteration, not once per image.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.em.place import on_device
from cryoloom.em.ring_kernels import centre_samples_kernel, insert_pairs_kernel, pair_curves_kernel
from cryoloom.em.rings import (
    RingPlan,
    analysis,
    angular_coefficients,
    product_rows,
    ring_samples,
    shift_phases,
    synthesis,
)

MARGIN = 9.0

DENSE = 256
"""Pairs of a reference and a shift up to which all of them are summed."""


@dataclass(frozen=True)
class PosteriorPlan:
    """Rings that decide and rings that are summed, with the matrices between angular frequencies and angles.

    Attributes
    ----------
    search, insertion
        Plans of equal samples and angles, the second with at least the rings of the first.
    place
        Where the angular frequencies of `search` lie among those of `insertion`, `(n_q,)` int64.
    ring_weight
        Fourier pixels of each ring, `(rings of insertion,)` float32.
    to_angles, coarse
        From (q, real and imaginary) to half a turn, for even and for odd `q`: `(2 n_q, angles / 2)`; in float32, and
        for the first step in its number format.
    to_q
        The way back for `insertion`, `(angles / 2, 2 n_q)`.
    search_ring, insertion_ring
        First ring at which each `q` counts, int64.
    """

    search: RingPlan
    insertion: RingPlan
    place: Tensor
    ring_weight: Tensor
    to_angles: tuple[Tensor, Tensor]
    coarse: tuple[Tensor, Tensor]
    to_q: tuple[Tensor, Tensor]
    search_ring: np.ndarray
    insertion_ring: np.ndarray

    @property
    def device(self) -> torch.device:
        """Where images meet references."""
        return self.place.device

    def on(self, device: str) -> "PosteriorPlan":
        """The same for another device."""
        names = ("place", "ring_weight", "to_angles", "coarse", "to_q")
        return replace(self, **{name: on_device(getattr(self, name), device) for name in names})


def posterior_plan(
    search: RingPlan, insertion: RingPlan, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PosteriorPlan:
    """Prepare an iteration.

    Parameters
    ----------
    search, insertion
        Rings that decide and rings that are summed, on the CPU.
    dtype
        Of the operands of the first step of large banks.
    device
        Where images meet references; on a GPU all pairs are summed, however many there are.
    """
    if search.n_samples != insertion.n_samples or search.n_angles != insertion.n_angles:
        raise ValueError("search, insertion: expected the same samples and angles")
    order = {int(q): i for i, q in enumerate(insertion.q)}
    even, odd = synthesis(search, search.n_angles, torch.float32)
    to_even, to_odd = analysis(insertion)
    return PosteriorPlan(
        search=search,
        insertion=insertion,
        place=torch.tensor([order[int(q)] for q in search.q]).to(device),
        ring_weight=(insertion.ring_weight * insertion.n_samples).to(device),
        to_angles=(even.T.contiguous().to(device), odd.T.contiguous().to(device)),
        coarse=(even.to(device, dtype), odd.to(device, dtype)),
        to_q=(to_even.T.contiguous().to(device), to_odd.T.contiguous().to(device)),
        search_ring=first_rings(search),
        insertion_ring=first_rings(insertion),
    )


@dataclass(frozen=True)
class PosteriorBank:
    """References with their shifts, ready for both steps.

    Attributes
    ----------
    exact
        Coefficients times the weight of the rings, `(n * t, n_q, 2, rings)` float32; all shifts of the first
        reference, then of the second, ...
    products
        Per span of the search plan `(n_q, 2 * rings, n * t)`, in the number format of the first step; in float32 where
        there is none because the bank is small.
    power
        Mean `|V|²` on each ring, `(n, rings)` float32.
    shifts_px
        Shifts of the references in their own frame, pixels yx, `(t, 2)`.
    """

    exact: Tensor
    products: tuple[Tensor, ...]
    power: Tensor
    shifts_px: Tensor

    def __len__(self) -> int:
        return len(self.power)

    @property
    def dense(self) -> bool:
        """Whether all pairs are summed."""
        return len(self.exact) <= DENSE or self.exact.device.type != "cpu"

    def on(self, device: str) -> "PosteriorBank":
        """The same on another device."""
        return PosteriorBank(*(on_device(getattr(self, f.name), device) for f in fields(self)))


def posterior_bank(plan: PosteriorPlan, samples: Tensor, shifts_px: Tensor) -> PosteriorBank:
    """Prepare references from their samples at the points of the search plan, complex `(n, rings, half)`."""
    search = plan.search
    samples = samples.reshape(len(samples), search.n_rings, -1)
    power = (samples.real**2 + samples.imag**2).mean(-1)
    moved = (samples[:, None] * shift_phases(search, -shifts_px)).flatten(0, 1)
    coefficients = angular_coefficients(search, moved).to(plan.device)
    coefficients = coefficients * plan.ring_weight[: search.n_rings, None, None]
    exact = coefficients.permute(0, 2, 3, 1).contiguous()  # (n t, q, 2, r)
    bank = PosteriorBank(exact, (), power.to(plan.device), shifts_px.to(plan.device))
    dtype = torch.float32 if bank.dense else plan.coarse[0].dtype
    products = tuple(
        exact[:, first:last, :, ring:].permute(1, 2, 3, 0).reshape(last - first, -1, len(exact)).to(dtype)
        for first, last, ring in search.spans
    )
    return replace(bank, products=products)


@dataclass(frozen=True)
class PosteriorImages:
    """Images on the rings that are summed.

    Attributes
    ----------
    weighted
        Coefficients of `C X / σ²`, centred, `(b, n_q, 2, rings)` float32.
    precision
        `<C²> / σ²` on each ring, `(b, rings)` float32.
    centre_px
        Shift about which the search goes, pixels yx, `(b, 2)` float32.
    """

    weighted: Tensor
    precision: Tensor
    centre_px: Tensor

    def __len__(self) -> int:
        return len(self.weighted)

    def on(self, device: torch.device) -> "PosteriorImages":
        """The same on another device."""
        return PosteriorImages(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass
class PosteriorSums:
    """Sums over images for every reference and shift of a bank.

    Attributes
    ----------
    moved
        `(n * t, n_q, 2, rings)` float32.
    weight
        `Σ p <C²> / σ²`, `(n, rings)` float64.
    share
        Sum of posterior probabilities, `(n,)` float64.
    """

    moved: Tensor
    weight: Tensor
    share: Tensor

    def add(self, other: "PosteriorSums") -> None:
        """Add other sums in place."""
        self.moved += other.moved
        self.weight += other.weight
        self.share += other.share

    def on(self, device: str) -> "PosteriorSums":
        """The same on another device."""
        return PosteriorSums(self.moved.to(device), self.weight.to(device), self.share.to(device))


@dataclass(frozen=True)
class ImagePosteriors:
    """What is kept of the posterior of each image.

    Attributes
    ----------
    evidence
        Log of the mean over angles and shifts of the likelihood, against no particle, `(b, n)` float32; a reference
        none of whose pairs reached the second step has its highest score less `log(angles * shifts)`, a lower bound.
    share
        Posterior of each reference, `(b, n)` float32.
    psi, shift_px
        At the highest likelihood: angle `(b,)`, and shift about the origin of the image, pixels yx, `(b, 2)`.
    cross, norm
        Cross term and norm term there, `(b,)`: the grey scale that fits best is `cross / norm`.
    """

    evidence: Tensor
    share: Tensor
    psi: Tensor
    shift_px: Tensor
    cross: Tensor
    norm: Tensor


def centred_coefficients(plan: RingPlan, samples: Tensor, ctf: Tensor, centre_px: Tensor) -> Tensor:
    """Coefficients over the angle of `C X exp(+2πi k·t)`, `(b, n_q, 2, rings)` float32.

    Parameters
    ----------
    samples, ctf
        At the points of the plan, or of its first rings, complex and float32, `(b, rings, half)`.
    centre_px
        Shift of each image, pixels yx, `(b, 2)`.
    """
    half = plan.n_samples // 2
    angle = torch.arange(half, dtype=torch.float64) * (2 * math.pi / plan.n_samples)
    moved = np.empty((2, *ctf.shape), np.float32)
    centre_samples_kernel(
        torch.view_as_real(samples).numpy(), ctf.numpy(), centre_px.double().numpy(), plan.radii.numpy(),
        torch.stack([angle.cos(), angle.sin()]).numpy(), plan.box, moved,
    )  # fmt: skip
    turn = plan.q.double()[:, None] * angle
    matrix = torch.stack([turn.cos(), -turn.sin()], dim=1).flatten(0, 1).float() * (2.0 / plan.n_samples)
    real, imaginary = torch.from_numpy(moved).transpose(-1, -2)  # (b, half, rings) each
    n_even = 2 * plan.n_even
    out = torch.cat([matrix[:n_even] @ real, matrix[n_even:] @ imaginary], dim=1)
    return out.unflatten(1, (len(plan.q), 2))


def empty_posterior_sums(plan: PosteriorPlan, n_references: int, n_shifts: int) -> PosteriorSums:
    """Sums with nothing in them."""
    insertion = plan.insertion
    return PosteriorSums(
        torch.zeros(n_references * n_shifts, len(insertion.q), 2, insertion.n_rings, device=plan.device),
        torch.zeros(n_references, insertion.n_rings, dtype=torch.float64, device=plan.device),
        torch.zeros(n_references, dtype=torch.float64, device=plan.device),
    )


def add_posteriors(
    sums: PosteriorSums,
    images: PosteriorImages,
    bank: PosteriorBank,
    plan: PosteriorPlan,
    *,
    log_prior: Tensor | None = None,
    shift_log_prior: Tensor | None = None,
    weight: Tensor | None = None,
    temperature: float = 1.0,
    block_bytes: int | None = None,
) -> ImagePosteriors:
    """Add the images of a batch to the sums, each with its whole posterior, and return its class shares.

    Parameters
    ----------
    log_prior
        Of the references, `(n,)`.
    shift_log_prior
        Of the shifts, `(b, t)`.
    weight
        How much each image counts in the sums, `(b,)`; 1 if left out.
    temperature
        Above 1 flattens the posterior.
    block_bytes
        Working memory of one block of images; by default what a cache holds, more on a GPU.

    Returns
    -------
    posteriors
        On the CPU, wherever the images met the references.
    """
    images, block_bytes = images.on(plan.device), block_bytes or _block_bytes(plan.device)
    n, n_shifts, n_angles = len(bank), len(bank.shifts_px), plan.search.n_angles
    n_rings = plan.search.n_rings
    norm = (images.precision[:, :n_rings] * plan.ring_weight[:n_rings]) @ bank.power.T  # (b, n)
    bias = (-0.5 * norm)[..., None].expand(-1, n, n_shifts)
    if shift_log_prior is not None:
        bias = bias + shift_log_prior[:, None].to(plan.device)
    if log_prior is not None:
        bias = bias + log_prior[:, None].to(plan.device)
    block = max(1, block_bytes // (4 * n * n_shifts * (n_angles + len(plan.search.q))))
    parts = []
    for start in range(0, len(images), block):
        rows = slice(start, start + block)
        some = PosteriorImages(images.weighted[rows], images.precision[rows], images.centre_px[rows])
        count = torch.ones(len(some), device=plan.device) if weight is None else weight[rows].to(plan.device)
        add = _add_all if bank.dense else _add_likely
        parts.append(add(sums, some, bank, plan, norm[rows], bias[rows], count, temperature))
    return ImagePosteriors(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _block_bytes(device: torch.device) -> int:
    return 1 << 22 if device.type == "cpu" else 1 << 28


def _add_all(
    sums: PosteriorSums,
    images: PosteriorImages,
    bank: PosteriorBank,
    plan: PosteriorPlan,
    norm: Tensor,
    bias: Tensor,
    weight: Tensor,
    temperature: float,
) -> tuple[Tensor, ...]:
    """Every pair of a reference and a shift: products from the images to scores, and back from posteriors to sums."""
    (b, n, n_shifts), search, insertion = bias.shape, plan.search, plan.insertion
    rows = product_rows(images.weighted)  # (q, 2 b, 2, r)
    even, odd = _scores(
        rows[plan.place][..., : search.n_rings], bank, plan.to_angles[0].T, plan.to_angles[1].T, search.spans
    )
    even += bias.reshape(-1)
    best, pair = (even + odd.abs()).amax(0).reshape(b, -1).max(1)
    column = torch.arange(b, device=pair.device) * (n * n_shifts) + pair
    angle = torch.cat([even[:, column] + odd[:, column], even[:, column] - odd[:, column]]).argmax(0)
    even -= best.repeat_interleave(n * n_shifts)
    ahead, behind = (even + odd).div_(temperature).exp_(), even.sub_(odd).div_(temperature).exp_()
    mass = (ahead.sum(0) + behind.sum(0)).reshape(b, n, n_shifts)
    per_class = mass.sum(2)
    total = per_class.sum(1)
    share = per_class / total[:, None]
    gained = per_class.clamp_min(1e-30).log() * temperature + best[:, None]
    gained = gained - math.log(search.n_angles * n_shifts)
    both, difference = ahead + behind, ahead.sub_(behind)
    spectrum = torch.cat([plan.to_q[0].T @ both, plan.to_q[1].T @ difference])
    spectrum = spectrum.reshape(len(insertion.q), 2 * b, -1).transpose(1, 2)  # (q, n t, 2 b)
    rows = rows * (weight / total).repeat(2)[:, None, None]
    for first, last, ring in insertion.spans:
        fresh = torch.bmm(spectrum[first:last], rows[first:last, :, :, ring:].flatten(2))
        sums.moved[:, first:last, :, ring:] += fresh.unflatten(2, (2, -1)).transpose(0, 1)
    _count(sums, images, share, weight)
    turn = angle * (2 * math.pi / search.n_angles)
    cross = best - bias.reshape(-1)[column]
    return (
        gained,
        share,
        turn,
        images.centre_px + _turned(bank, pair, turn),
        cross,
        norm.reshape(-1)[column // n_shifts],
    )


def _add_likely(
    sums: PosteriorSums,
    images: PosteriorImages,
    bank: PosteriorBank,
    plan: PosteriorPlan,
    norm: Tensor,
    bias: Tensor,
    weight: Tensor,
    temperature: float,
) -> tuple[Tensor, ...]:
    """Pairs of a reference and a shift that hold some of the posterior of their image."""
    b, n, n_shifts = bias.shape
    rough = _highest_scores(images, bank, plan) + bias.reshape(b, -1)  # (b, n t)
    top = rough.amax(1, keepdim=True)
    floor = top - MARGIN * temperature
    if plan.coarse[0].dtype != torch.float32:  # two roundings to eight bits
        floor = floor - 2.0**-7 * (top - bias.reshape(b, -1).amin(1, keepdim=True)).abs()
    image, column = (rough >= floor).nonzero(as_tuple=True)
    at = image.numpy(), column.numpy()
    curve = torch.empty(len(image), len(plan.search.q), 2)
    pair_curves_kernel(
        bank.exact.numpy(), images.weighted.numpy(), plan.place.numpy(), plan.search_ring, *at, curve.numpy()
    )
    n_even = plan.search.n_even
    even = curve[:, :n_even].reshape(len(image), -1) @ plan.to_angles[0]
    odd = curve[:, n_even:].reshape(len(image), -1) @ plan.to_angles[1]
    score = torch.stack([even + odd, even - odd], dim=1)  # (pairs, 2, angles / 2)
    score += bias.reshape(b, -1)[image, column][:, None, None]
    best, angle = score.flatten(1).max(1)
    highest = torch.full((b,), -math.inf).scatter_reduce(0, image, best, "amax")
    winner = _first_of(best >= highest[image], image, b)
    psi = angle[winner] * (2 * math.pi / plan.search.n_angles)
    p = score.sub_(highest[image][:, None, None]).div_(temperature).exp_()
    mass = p.sum((1, 2))
    per_class = torch.zeros(b * n).index_add_(0, image * n + column // n_shifts, mass).reshape(b, n)
    total = per_class.sum(1)
    share = per_class / total[:, None]
    bound = rough.reshape(b, n, n_shifts).amax(2)
    known = per_class > 0
    gained = torch.where(known, per_class.clamp_min(1e-30).log() * temperature + highest[:, None], bound)
    gained = gained - math.log(plan.search.n_angles * n_shifts)
    p *= (weight / total)[image][:, None, None]
    spectrum = torch.cat([(p[:, 0] + p[:, 1]) @ plan.to_q[0], (p[:, 0] - p[:, 1]) @ plan.to_q[1]], dim=1)
    insert_pairs_kernel(
        spectrum.reshape(len(image), -1, 2).numpy(), images.weighted.numpy(), plan.insertion_ring, *at,
        sums.moved.numpy(),
    )  # fmt: skip
    _count(sums, images, share, weight)
    cross = highest - bias.reshape(b, -1)[torch.arange(b), column[winner]]
    moved = images.centre_px + _turned(bank, column[winner], psi)
    return gained, share, psi, moved, cross, norm[torch.arange(b), column[winner] // n_shifts]


def _count(sums: PosteriorSums, images: PosteriorImages, share: Tensor, weight: Tensor) -> None:
    counted = (share * weight[:, None]).double()
    sums.weight += counted.T @ images.precision.double()
    sums.share += counted.sum(0)


def _turned(bank: PosteriorBank, column: Tensor, psi: Tensor) -> Tensor:
    """Shifts of the references of pairs, turned into the frames of their images, `(b, 2)`."""
    shift = bank.shifts_px[column % len(bank.shifts_px)]
    c, s = psi.cos(), psi.sin()
    return torch.stack([c * shift[:, 0] - s * shift[:, 1], s * shift[:, 0] + c * shift[:, 1]], dim=-1)


def collect(sums: PosteriorSums, plan: PosteriorPlan, shifts_px: Tensor) -> tuple[Tensor, Tensor]:
    """Bring all shifts of each reference together, on the CPU.

    Returns
    -------
    numerator, weight
        Coefficients `(n, rings, n_q, 2)` float32 and `(n, rings)` float64: `Σ C X / σ²` and `Σ <C²> / σ²` in the frame
        of the reference.
    """
    n, n_shifts = len(sums.share), len(shifts_px)
    insertion = plan.insertion
    moved = sums.moved.reshape(n, n_shifts, *sums.moved.shape[1:])
    phases = shift_phases(insertion, shifts_px)  # (t, rings, half)
    numerator = torch.empty(n, insertion.n_rings, len(insertion.q), 2)
    for start in range(0, n, 8):
        part = moved[start : start + 8].permute(0, 1, 4, 2, 3).flatten(0, 1)  # (n t, rings, n_q, 2)
        upright = (ring_samples(insertion, part).unflatten(0, (-1, n_shifts)) * phases).sum(1)
        numerator[start : start + 8] = angular_coefficients(insertion, upright)
    return numerator, sums.weight


def _highest_scores(images: PosteriorImages, bank: PosteriorBank, plan: PosteriorPlan) -> Tensor:
    """Highest cross term over the angles of every image and shifted reference, `(b, n t)` float32."""
    search, dtype, b = plan.search, plan.coarse[0].dtype, len(images)
    rows = product_rows(images.weighted[:, :, :, : search.n_rings].to(dtype)[:, plan.place])  # (q, 2 b, 2, r)
    even, odd = _scores(rows, bank, *plan.coarse, search.spans)
    return even.add_(odd.abs_()).reshape(search.n_angles // 2, b, -1).amax(0).float()


def _scores(
    rows: Tensor, bank: PosteriorBank, to_even: Tensor, to_odd: Tensor, spans: tuple[tuple[int, int, int], ...]
) -> tuple[Tensor, Tensor]:
    """Even and odd part of the cross term at half the angles, `(angles / 2, b * n t)` each."""
    n_q, n_rows, _, _ = rows.shape
    spectrum = torch.empty(n_q, n_rows, bank.products[0].shape[-1], dtype=rows.dtype, device=rows.device)
    for (first, last, ring), part in zip(spans, bank.products, strict=True):
        torch.bmm(rows[first:last, :, :, ring:].flatten(2), part, out=spectrum[first:last])
    n_even = to_even.shape[1] // 2
    return to_even @ spectrum[:n_even].reshape(2 * n_even, -1), to_odd @ spectrum[n_even:].reshape(to_odd.shape[1], -1)


def _first_of(wanted: Tensor, image: Tensor, b: int) -> Tensor:
    """Index of the first wanted pair of each image, `(b,)` int64; every image has one."""
    at = wanted.nonzero()[:, 0]
    return torch.full((b,), len(image)).scatter_reduce(0, image[at], at, "amin")


def first_rings(plan: RingPlan) -> np.ndarray:
    """First ring at which each angular frequency counts, `(n_q,)` int64, in storage order."""
    out = np.zeros(len(plan.q), np.int64)
    for first, last, ring in plan.spans:
        out[first:last] = ring
    return out
