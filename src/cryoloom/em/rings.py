"""Search over references, in-plane angles and shifts on rings of the Fourier plane.

Model, with `k = (r, θ)`: `X(k) = s C(k) exp(-2πi k·t) V_d(Rz(ψ) k) + noise`. Both sides are sampled on rings, so that
turning is a cyclic shift in θ, and with `q` the angular frequency the cross term for every angle at once is

    cross(d, ψ, t) = Re Σ_q exp(-iqψ) Σ_r w_r conj(V̂_d(r, q)) Ŷ_t(r, q),    Y_t = C X exp(+2πi k·t) / σ²

The inner sum is one matrix product per `q`, the outer one a second product over even and odd `q` apart on half a turn,
whose sum and difference are the values at `ψ` and `ψ + π`. `w_r` is the number of Fourier pixels per polar sample, so
that sums run over the full plane. The norm term needs only `Σ_θ C²` and `Σ_θ |V|²` of each ring:
`norm(i, d) = Σ_r w_r n_θ <C²>/σ² <|V_d|²>`. Friedel symmetry is used twice: rings are sampled over half a turn, and
the transform over θ of even `q` needs the real parts alone, that of odd `q` the imaginary parts.

Use::

    plan = plan_rings(box, radius, diameter_px)                 # geometry
    sampler = PointSampler(box, plan.points)                    # images -> samples (fourier.polar)
    bank = reference_bank(plan, samples_of_references)          # 2D class averages, or slices of a volume taken at
                                                                # plan.points: extract_points(spectrum, Rd, plan.points)
    batch = image_batch(plan, sampler(images), ctf, 1 / sigma2) # ctf evaluated as numbers at plan.points
    found = search_rings(batch, bank, plan, shifts_px, top=4)   # best (reference, ψ, shift) lists
    R = Rd[found.reference] @ rotation_about_z(found.psi)       # for 2D classes ParticleSet.psi = -ψ

Everything is plain torch, on CPU and GPU alike; operands may be bfloat16 for ranking.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cryoloom.fourier.polar import half_ring_points

Q_MARGIN = 3


@dataclass(frozen=True)
class RingPlan:
    """Geometry of a search on rings.

    Attributes
    ----------
    box
        Side of the images in pixels; frequencies are counted in Fourier pixels `1 / box`.
    radii
        Radius of each ring in Fourier pixels, `(rings,)` float64.
    n_samples
        Samples over a full ring; half of them are stored.
    n_angles
        In-plane angles searched over a full turn, a multiple of 4.
    q
        Angular frequencies in storage order, even ones first, `(n_q,)` int64.
    n_even
        Number of even ones.
    spans
        `(first, last, ring)`: storage positions `first .. last - 1` use only the rings from `ring` on, since a
        particle of diameter D has no power at `q > π r D / box`.
    points
        Points xy of the half rings, `(rings * n_samples // 2, 2)` float64.
    ring_weight
        Fourier pixels per polar sample, `(rings,)` float32.
    """

    box: int
    radii: Tensor
    n_samples: int
    n_angles: int
    q: Tensor
    n_even: int
    spans: tuple[tuple[int, int, int], ...]
    points: Tensor
    ring_weight: Tensor

    def on(self, device: str) -> "RingPlan":
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("radii", "q", "points", "ring_weight")}
        return replace(self, **moved)

    @property
    def n_rings(self) -> int:
        """Number of rings."""
        return len(self.radii)

    @property
    def angles(self) -> Tensor:
        """In-plane angles searched, `(n_angles,)` radians."""
        return torch.arange(self.n_angles, device=self.points.device) * (2 * math.pi / self.n_angles)

    @property
    def n_fourier_pixels(self) -> float:
        """Fourier pixels of the full plane that the rings stand for."""
        return float(self.ring_weight.sum()) * self.n_samples


def plan_rings(
    box: int,
    radius: float,
    diameter_px: float,
    *,
    radius_min: float = 1.0,
    spacing: float = 1.0,
    n_angles: int | None = None,
    n_samples: int | None = None,
    content_px: float | None = None,
    device: torch.device | str = "cpu",
) -> RingPlan:
    """Rings, samples and angles that a particle of a given diameter needs.

    Parameters
    ----------
    box
        Side of the images in pixels.
    radius, radius_min
        Last and first ring in Fourier pixels.
    diameter_px
        Diameter of the particle in pixels: angular frequencies up to `π r D / box` and three more are kept.
    spacing
        Distance of the rings in Fourier pixels.
    n_angles
        Angles searched, rounded up to a multiple of 4; by default just more than twice the largest `q`.
    n_samples
        Samples over a ring, a multiple of 4, if more than needed: the rings of one plan can then serve several.
    content_px
        Diameter beyond which the images hold nothing; the box by default.
    """
    if not 0 < radius_min <= radius <= box / 2:
        raise ValueError(f"radius: expected {radius_min} .. {box / 2} Fourier pixels, got {radius}")
    n_rings = int(math.floor((radius - radius_min) / spacing + 1e-9)) + 1
    radii = radius_min + spacing * torch.arange(n_rings, dtype=torch.float64)
    last = float(radii[-1])
    turns = math.pi * min(diameter_px, box) / box
    q_max = max(int(math.floor(turns * last)) + Q_MARGIN, 4)
    smallest = 2 * q_max + 2
    n_angles = 4 * math.ceil(max(n_angles or 0, smallest) / 4)
    # What content reaches, q = π r for content anywhere in the box, must not fold onto the q that are kept.
    reach = math.pi * last * min(content_px or box, box) / box + (0 if content_px is None else Q_MARGIN)
    n_samples = 4 * math.ceil(max(smallest, reach + q_max + 2, n_samples or 0) / 4)
    even, odd = torch.arange(0, q_max + 1, 2), torch.arange(1, q_max + 1, 2)
    spans: list[tuple[int, int, int]] = []
    for offset, some in ((0, even), (len(even), odd)):
        n_groups = max(1, min(4, len(some) // 4))
        borders = [round(i * len(some) / n_groups) for i in range(n_groups + 1)]
        for a, b in zip(borders[:-1], borders[1:], strict=True):
            needed = (int(some[a]) - Q_MARGIN) / turns
            ring = int((radii < needed).sum())
            spans.append((offset + a, offset + b, min(ring, n_rings - 1)))
    ring_weight = (2 * math.pi * spacing / n_samples) * radii
    return RingPlan(
        box=int(box),
        radii=radii.to(device),
        n_samples=n_samples,
        n_angles=n_angles,
        q=torch.cat([even, odd]).to(device),
        n_even=len(even),
        spans=tuple(spans),
        points=half_ring_points(radii, n_samples).reshape(-1, 2).to(device),
        ring_weight=ring_weight.to(torch.float32).to(device),
    )


@dataclass(frozen=True)
class ReferenceBank:
    """References ready for products.

    Attributes
    ----------
    coefficients
        Per span of the plan: `(n_q, 2 * rings, n)`, real parts of the rings above the imaginary ones.
    power
        Mean `|V|²` on each ring, `(n, rings)` float32.
    shifts_px
        Shifts of the references in their own frame, pixels yx, `(t, 2)`; columns of the coefficients hold all shifts of
        the first reference, then of the second, ...
    """

    coefficients: tuple[Tensor, ...]
    power: Tensor
    shifts_px: Tensor

    def __len__(self) -> int:
        return len(self.power)


@dataclass(frozen=True)
class ImageBatch:
    """Images ready for a search.

    Attributes
    ----------
    weighted
        `C X / σ²` at the points, centred by `centre_px`, complex `(b, rings, n_samples // 2)`.
    norm_weight
        `w_r n_θ <C²>/σ²` per ring, `(b, rings)` float32: `norm = norm_weight @ power.T`.
    centre_px
        Shift about which the search goes, pixels yx, `(b, 2)`.
    """

    weighted: Tensor
    norm_weight: Tensor
    centre_px: Tensor

    def __len__(self) -> int:
        return len(self.weighted)


@dataclass(frozen=True)
class RingMatches:
    """Best candidates of each image, best first.

    Attributes
    ----------
    reference
        Index into the bank, `(b, top)` int64.
    psi
        In-plane angle, radians in [0, 2π): `image(k) = reference(Rz(psi) k)`, `(b, top)`.
    shift_px
        Where the centre sits, pixels yx, `(b, top, 2)`.
    cross, norm
        Cross term and norm term at scale 1, `(b, top)`. The log-likelihood is `s cross - ½ s² norm`, its maximum over
        the scale is at `cross / norm`.
    score
        What the list is sorted by, `(b, top)`.
    score_of_reference
        The score of every reference, `(b, n)`.
    """

    reference: Tensor
    psi: Tensor
    shift_px: Tensor
    cross: Tensor
    norm: Tensor
    score: Tensor
    score_of_reference: Tensor

    def on(self, device: str) -> "RingMatches":
        """The same on another device."""
        return RingMatches(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def angular_coefficients(plan: RingPlan, samples: Tensor) -> Tensor:
    """Coefficients of rings over the full turn, `(n, points)` complex to `(n, rings, n_q, 2)` float32.

    The Fourier coefficient over a turn is `g` for even `q` and `i g` for odd `q`; `g` is what is stored.
    """
    samples = samples.reshape(len(samples), plan.n_rings, plan.n_samples // 2)
    return _angular_transform(plan, samples) * (2.0 / plan.n_samples)


def ring_samples(plan: RingPlan, coefficients: Tensor) -> Tensor:
    """Samples at the points of the plan from coefficients `(n, rings, n_q, 2)`, complex `(n, rings, half)`."""
    even, odd = synthesis(plan, plan.n_samples, coefficients.dtype)  # over half a turn
    # synthesis gives a cos qθ + b sin qθ, the value of Re(conj(g) exp(iqθ)): here g exp(iqθ) is wanted
    flipped = coefficients * torch.tensor([1.0, -1.0], device=coefficients.device)
    real = flipped[:, :, : plan.n_even].flatten(-2) @ even.T
    imaginary = flipped[:, :, plan.n_even :].flatten(-2) @ odd.T
    return torch.complex(real, imaginary)


def turn_coefficients(plan: RingPlan, coefficients: Tensor, psi: Tensor) -> Tensor:
    """Coefficients of `V(Rz(-psi) k)` from those of `V(k)`: takes an image into the frame of its reference."""
    turn = psi.to(coefficients.dtype)[:, None] * plan.q.to(coefficients.dtype)
    c, s = turn.cos()[:, None], turn.sin()[:, None]
    a, b = coefficients.unbind(-1)
    return torch.stack([a * c + b * s, b * c - a * s], dim=-1)


def reference_bank(
    plan: RingPlan, samples: Tensor, *, shifts_px: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> ReferenceBank:
    """Prepare references.

    Parameters
    ----------
    samples
        Transforms (phase origin at the centre) at `plan.points`, complex `(n, points)` or `(n, rings, half)`.
    shifts_px
        Trial shifts about each image's centre, pixels yx, `(t, 2)`, applied to the references in place of the images:
        cheaper wherever references are fewer than images. The grid turns with the reference, so give a disc.
    dtype
        Of the operands: float32, or bfloat16 for ranking.
    """
    samples = samples.reshape(len(samples), plan.n_rings, plan.n_samples // 2)
    power = (samples.real**2 + samples.imag**2).mean(-1)
    if shifts_px is None:
        shifts_px = torch.zeros(1, 2, device=samples.device)
    else:
        samples = (samples[:, None] * shift_phases(plan, -shifts_px)).flatten(0, 1)  # (n t, rings, half)
    coefficients = angular_coefficients(plan, samples)  # (n t, rings, n_q, 2)
    operands = []
    for first, last, ring in plan.spans:
        part = coefficients[:, ring:, first:last]  # (n, r, q, 2)
        operands.append(part.permute(2, 3, 1, 0).reshape(last - first, -1, len(samples)).to(dtype).contiguous())
    return ReferenceBank(tuple(operands), power, shifts_px)


def image_batch(
    plan: RingPlan,
    samples: Tensor,
    ctf: Tensor | None = None,
    inverse_noise: Tensor | None = None,
    centre_px: Tensor | None = None,
) -> ImageBatch:
    """Weight image samples by CTF and noise, and centre them.

    Parameters
    ----------
    samples
        Transforms at `plan.points`, complex `(b, points)` or `(b, rings, half)`.
    ctf
        CTF at the points, as `samples`; 1 if left out.
    inverse_noise
        `1 / σ²` on each ring, `(rings,)` or `(b, rings)`; 1 if left out.
    centre_px
        Shift of each image about which will be searched, pixels yx, `(b, 2)`; 0 if left out.
    """
    b, n_rings = len(samples), plan.n_rings
    weighted = samples.reshape(b, n_rings, -1)
    device = samples.device
    inverse_noise = torch.ones(n_rings, device=device) if inverse_noise is None else inverse_noise.to(torch.float32)
    inverse_noise = inverse_noise.expand(b, n_rings)
    ring_total = plan.ring_weight * plan.n_samples
    if ctf is None:
        weighted = weighted * inverse_noise[..., None]
        mean_square = torch.ones(b, n_rings, device=device)
    else:
        ctf = ctf.reshape(b, n_rings, -1)
        weighted = weighted * (ctf * inverse_noise[..., None])
        mean_square = (ctf**2).mean(-1)
    if centre_px is None:
        centre_px = torch.zeros(b, 2, device=device)
    else:
        centre_px = centre_px.to(torch.float32)
        weighted = weighted * shift_phases(plan, centre_px)
    return ImageBatch(weighted, ring_total * inverse_noise * mean_square, centre_px)


def shift_phases(plan: RingPlan, shift_px: Tensor) -> Tensor:
    """Factors `exp(+2πi k·t)` that undo shifts `(n, 2)` yx, complex `(n, rings, half)`."""
    turns = shift_px.to(torch.float64).flip(-1) @ plan.points.T / plan.box
    angle = ((turns - turns.round()) * (2 * math.pi)).to(torch.float32)  # reduced in double, evaluated in single
    return torch.complex(angle.cos(), angle.sin()).reshape(len(shift_px), plan.n_rings, plan.n_samples // 2)


def shift_grid(reach_px: float, step_px: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Square grid of shifts within a disc, pixels yx, `(n, 2)` float32, the origin first."""
    n = math.ceil(reach_px / step_px) if reach_px > 0 else 0
    axis = torch.arange(-n, n + 1, dtype=torch.float32) * step_px
    grid = torch.cartesian_prod(axis, axis)
    length = grid.norm(dim=-1)
    grid, length = grid[length <= reach_px + 1e-4], length[length <= reach_px + 1e-4]
    return grid[torch.argsort(length, stable=True)].to(device)


def search_rings(
    batch: ImageBatch,
    bank: ReferenceBank,
    plan: RingPlan,
    shifts_px: Tensor | None = None,
    *,
    top: int = 1,
    scale: Tensor | None = None,
    fit_scale: bool = True,
    scale_spread: float = 0.0,
    prior: Tensor | None = None,
    block_bytes: int = 1 << 23,
) -> RingMatches:
    """Best references, angles and shifts of each image.

    Parameters
    ----------
    shifts_px
        Trial shifts about `batch.centre_px`, pixels yx, `(t, 2)`, unless the bank holds shifts.
    top
        Length of the list; each reference occurs once, at its best angle and shift.
    scale
        Grey-scale factor of each image, `(b,)`, for `fit_scale=False`; 1 if left out.
    fit_scale
        True: score by `cross / √norm`, the root of twice the likelihood with the scale solved out (never negative
        scale). False: score by the log-likelihood at the given scale.
    scale_spread
        With `fit_scale=False`: standard deviation of a Gaussian prior about the given scale, over which the likelihood
        is then maximised; 0 keeps the scale.
    prior
        Log-prior of each reference, `(n,)` or `(b, n)`, added to a log-likelihood score.
    block_bytes
        Working memory of one block of scores.

    Returns
    -------
    matches
        Angles are refined to the maximum of the band-limited score, shifts by a parabola through their neighbours
        on the grid.
    """
    device = batch.weighted.device
    on_images = torch.zeros(1, 2, device=device) if shifts_px is None else shifts_px
    on_bank = bank.shifts_px
    if len(on_images) > 1 and len(on_bank) > 1:
        raise ValueError("shifts_px: the bank holds shifts already")
    grid = on_bank if len(on_bank) > 1 else on_images
    neighbours = _grid_neighbours(grid)
    n_shifts, top = len(grid), min(top, len(bank))
    parts = []
    n_image_block, n_reference_block = _block_sizes(plan, len(batch), len(bank), n_shifts, block_bytes)
    phases = shift_phases(plan, on_images)
    for start in range(0, len(batch), n_image_block):
        rows = slice(start, start + n_image_block)
        operand = _image_operand(plan, batch.weighted[rows], phases, bank.coefficients[0].dtype)
        b = len(batch.weighted[rows])
        table = torch.empty(b, len(bank), n_shifts, device=device)  # best over the angles
        for first in range(0, len(bank), n_reference_block):
            columns = slice(first * len(on_bank), (first + n_reference_block) * len(on_bank))
            even, odd = _scores(plan, operand, [part[..., columns] for part in bank.coefficients])
            highest = even.add_(odd.abs_()).amax(0)  # over the angles
            if len(on_bank) > 1:
                table[:, first : first + n_reference_block] = highest.reshape(b, -1, n_shifts)
            else:
                table[:, first : first + n_reference_block] = highest.reshape(b, n_shifts, -1).transpose(1, 2)
        best, best_shift = table.max(2)
        norm = batch.norm_weight[rows] @ bank.power.T
        score = _score(best, norm, None if scale is None else scale[rows], fit_scale, scale_spread, prior, rows)
        value, reference = score.topk(top, dim=1)
        shift = best_shift.gather(1, reference)
        image = torch.arange(b, device=device)[:, None]
        row = (image * len(on_images) + (shift if len(on_images) > 1 else 0)).expand_as(reference)
        column = reference * len(on_bank) + (shift if len(on_bank) > 1 else 0)
        psi, cross = _refine_angle(plan, operand, bank, row, column)
        moved = grid[shift] + _parabola(table[image, reference], shift, neighbours, grid)
        if len(on_bank) > 1:  # from the frame of the reference to that of the image: turn by -psi
            c, s = psi.cos(), psi.sin()
            moved = torch.stack([c * moved[..., 0] - s * moved[..., 1], s * moved[..., 0] + c * moved[..., 1]], -1)
        shift_px = batch.centre_px[rows, None] + moved
        parts.append((reference, psi, shift_px, cross, norm.gather(1, reference), value, score))
    return RingMatches(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def ring_scores(batch: ImageBatch, bank: ReferenceBank, plan: RingPlan, shifts_px: Tensor) -> tuple[Tensor, Tensor]:
    """Cross term of every image, shift, reference and angle `(b, t, n, n_angles)`, and norm term `(b, n)`.

    The full table, for posteriors of few images at a time and as the plain twin of faster reductions.
    """
    operand = _image_operand(plan, batch.weighted, shift_phases(plan, shifts_px), bank.coefficients[0].dtype)
    even, odd = _scores(plan, operand, list(bank.coefficients))
    cross = torch.cat([even + odd, even - odd]).reshape(plan.n_angles, len(batch), len(shifts_px), len(bank))
    return cross.permute(1, 2, 3, 0).float(), batch.norm_weight @ bank.power.T


def turned_samples(plan: RingPlan, samples: Tensor, psi: Tensor) -> Tensor:
    """Samples of `reference(Rz(psi) k)` at the points of the plan, for references `(n, points)` and angles `(n,)`."""
    samples = samples.reshape(len(samples), plan.n_rings, plan.n_samples // 2)
    full = torch.cat([samples, samples.conj()], dim=-1)
    q = torch.fft.fftfreq(plan.n_samples, 1 / plan.n_samples, device=samples.device)
    ramp = torch.polar(torch.ones_like(q), q * psi.to(q.dtype)[:, None])[:, None]
    return torch.fft.ifft(torch.fft.fft(full) * ramp)[..., : plan.n_samples // 2]


def _angular_transform(plan: RingPlan, samples: Tensor) -> Tensor:
    """Coefficients over a full ring from half rings, divided by 2 for even and by 2i for odd `q`, `(..., n_q, 2)`."""
    half = plan.n_samples // 2
    angle = torch.arange(half, device=samples.device, dtype=torch.float64) * (2 * math.pi / plan.n_samples)
    turn = angle[:, None] * plan.q.to(torch.float64)  # (half, n_q)
    matrix = torch.stack([turn.cos(), -turn.sin()], dim=-1).to(torch.float32)  # (half, n_q, 2)
    even = samples.real.contiguous() @ matrix[:, : plan.n_even].reshape(half, -1)
    odd = samples.imag.contiguous() @ matrix[:, plan.n_even :].reshape(half, -1)
    return torch.cat([even, odd], dim=-1).unflatten(-1, (len(plan.q), 2))


def _image_operand(plan: RingPlan, weighted: Tensor, phases: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Per span `(n_q, 2 * b * t, 2 * rings)`: rows give real and imaginary part of the product with the bank."""
    moved = (weighted[:, None] * phases).reshape(-1, plan.n_rings, weighted.shape[-1])  # (b t, rings, half)
    coefficients = _angular_transform(plan, moved) * (2.0 * plan.ring_weight[:, None, None])
    operand = []
    for first, last, ring in plan.spans:
        real, imaginary = coefficients[:, ring:, first:last].permute(3, 2, 0, 1)  # (q, b t, r) each
        upper = torch.cat([real, imaginary], dim=-1)
        lower = torch.cat([imaginary, -real], dim=-1)
        operand.append(torch.cat([upper, lower], dim=1).to(dtype))
    return operand


def synthesis(plan: RingPlan, n_angles: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices from (q, real and imaginary) to the angles of half a turn, even and odd, `(n_angles / 2, 2 n_q)`."""
    angle = torch.arange(n_angles // 2, device=plan.q.device, dtype=torch.float64) * (2 * math.pi / n_angles)
    turn = angle[:, None] * plan.q.to(torch.float64)
    twice = torch.where(plan.q == 0, 1.0, 2.0).to(torch.float64)
    matrix = torch.stack([turn.cos() * twice, turn.sin() * twice], dim=-1).to(dtype)
    return matrix[:, : plan.n_even].reshape(n_angles // 2, -1), matrix[:, plan.n_even :].reshape(n_angles // 2, -1)


def analysis(plan: RingPlan) -> tuple[Tensor, Tensor]:
    """The way back from half a turn of angles to (q, real and imaginary), even and odd, `(2 n_q, n_angles / 2)`.

    Applied to the sum (even `q`) and the difference (odd `q`) of what lies at `ψ` and at `ψ + π` it gives
    `Σ_ψ p cos qψ` and `Σ_ψ p sin qψ`.
    """
    even, odd = synthesis(plan, plan.n_angles, torch.float32)
    twice = torch.where(plan.q == 0, 1.0, 2.0).repeat_interleave(2)[:, None]  # the synthesis counts q > 0 twice
    n_even = 2 * plan.n_even
    return (even.T / twice[:n_even]).contiguous(), (odd.T / twice[n_even:]).contiguous()


def product_rows(coefficients: Tensor) -> Tensor:
    """Rows whose product with `(q, 2 rings, n)` gives real parts above imaginary ones of `Σ_r conj(V) Y`.

    `(m, n_q, 2, rings)` to `(n_q, 2 m, 2, rings)`.
    """
    by_q = coefficients.transpose(0, 1)
    swapped = torch.stack([by_q[:, :, 1], -by_q[:, :, 0]], dim=2)
    return torch.cat([by_q, swapped], dim=1)


def _scores(plan: RingPlan, operand: list[Tensor], references: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Even and odd part of the cross term at half the angles, `(n_angles / 2, b t n)` each."""
    m, n = operand[0].shape[1] // 2, references[0].shape[-1]
    spectrum = torch.empty(len(plan.q), 2 * m, n, dtype=operand[0].dtype, device=operand[0].device)
    for (first, last, _), a, b in zip(plan.spans, operand, references, strict=True):
        torch.bmm(a, b, out=spectrum[first:last])
    even, odd = synthesis(plan, plan.n_angles, operand[0].dtype)
    return even @ spectrum[: plan.n_even].reshape(-1, m * n), odd @ spectrum[plan.n_even :].reshape(-1, m * n)


def _score(
    cross: Tensor,
    norm: Tensor,
    scale: Tensor | None,
    fit_scale: bool,
    scale_spread: float,
    prior: Tensor | None,
    rows: slice,
) -> Tensor:
    if fit_scale:
        return cross / norm.clamp_min(1e-30).sqrt()
    s = torch.ones(len(cross), 1, device=cross.device) if scale is None else scale.to(cross)[:, None]
    if scale_spread > 0:  # maximum over s' of s' cross - ½ s'² norm - ½ (s' - s)² / spread²
        precision = scale_spread**-2
        score = 0.5 * (cross + s * precision) ** 2 / (norm + precision) - 0.5 * s**2 * precision
    else:
        score = s * cross - 0.5 * s**2 * norm
    if prior is not None:
        score = score + (prior[rows] if prior.ndim == 2 else prior)
    return score


def _grid_neighbours(grid: Tensor) -> Tensor:
    """Indices of the neighbours at -y, +y, -x, +x of each shift, `(t, 4)`; -1 where there is none."""
    if len(grid) == 1:
        return torch.full((1, 4), -1, dtype=torch.int64, device=grid.device)
    distance = torch.cdist(grid, grid)
    step = distance[distance > 1e-6].min()
    offsets = step * torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], device=grid.device)
    gap, index = torch.cdist((grid[:, None] + offsets).reshape(-1, 2), grid).min(1)
    return torch.where(gap < 0.01 * step, index, -1).reshape(-1, 4)


def _parabola(table: Tensor, shift: Tensor, neighbours: Tensor, grid: Tensor) -> Tensor:
    """Offset from the best grid point to the top of a parabola along y and x, `(b, top, 2)`; 0 at the rim."""
    around = neighbours[shift]  # (b, top, 4)
    value = table.gather(2, around.clamp_min(0))
    centre = table.gather(2, shift[..., None])
    low, high = value[..., 0::2], value[..., 1::2]
    bend = low + high - 2 * centre
    step = (grid[around.clamp_min(0)[..., 1::2]] - grid[shift][..., None, :]).abs().amax(-1)
    known = (around[..., 0::2] >= 0) & (around[..., 1::2] >= 0) & (bend < 0)
    offset = 0.5 * (low - high) / torch.where(known, bend, -torch.ones_like(bend))
    return torch.where(known, offset.clamp(-0.5, 0.5) * step, torch.zeros_like(offset))


def _refine_angle(
    plan: RingPlan, operand: list[Tensor], bank: ReferenceBank, row: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """Best angle and cross term of chosen rows of the operand and columns of the bank, `(b, top)` each.

    The curve over the angle is a trigonometric polynomial, whose highest grid point three Newton steps take to the
    maximum.
    """
    b, top = row.shape
    m = operand[0].shape[1] // 2
    row, column = row.reshape(-1), column.reshape(-1)
    curve = []
    for a, part in zip(operand, bank.coefficients, strict=True):
        picked = part[:, :, column].float()  # (q, 2 r, pairs)
        rows = torch.stack([a[:, row], a[:, m + row]], dim=1).float()  # (q, 2, pairs, 2 r)
        curve.append(torch.einsum("qupr,qrp->pqu", rows, picked))
    spectrum = torch.cat(curve, dim=1).to(torch.float64)  # (pairs, n_q, 2)
    even_matrix, odd_matrix = synthesis(plan, plan.n_angles, torch.float64)
    even = spectrum[:, : plan.n_even].reshape(b * top, -1) @ even_matrix.T
    odd = spectrum[:, plan.n_even :].reshape(b * top, -1) @ odd_matrix.T
    highest, at = torch.cat([even + odd, even - odd], dim=1).max(1)
    step = 2 * math.pi / plan.n_angles
    start = at.to(torch.float64) * step
    q = plan.q.to(torch.float64)
    amplitude = spectrum * torch.where(q == 0, 1.0, 2.0)[:, None]
    psi = start
    for _ in range(3):
        turn = psi[:, None] * q
        c, s = turn.cos(), turn.sin()
        slope = (q * (amplitude[..., 1] * c - amplitude[..., 0] * s)).sum(-1)
        bend = -(q**2 * (amplitude[..., 0] * c + amplitude[..., 1] * s)).sum(-1)
        move = torch.where(bend < 0, -slope / bend.clamp_max(-1e-30), torch.sign(slope) * 0.25 * step)
        psi = torch.minimum(torch.maximum(psi + move, start - 0.5 * step), start + 0.5 * step)
    turn = psi[:, None] * q
    cross = (amplitude[..., 0] * turn.cos() + amplitude[..., 1] * turn.sin()).sum(-1)
    better = cross >= highest
    psi, cross = torch.where(better, psi, start), torch.where(better, cross, highest)
    return (psi % (2 * math.pi)).reshape(b, top).float(), cross.reshape(b, top).float()


def _block_sizes(plan: RingPlan, n_images: int, n_references: int, n_shifts: int, block_bytes: int) -> tuple[int, int]:
    """Images and references of one block, such that its scores and spectra take about `block_bytes`."""
    per_score = 4 * (plan.n_angles + 2 * len(plan.q))
    scores = max(1, block_bytes // per_score)
    references = min(n_references, max(1, 64 // n_shifts, scores // (16 * n_shifts)))
    images = max(1, scores // (n_shifts * references))
    return min(images, max(1, n_images)), references
