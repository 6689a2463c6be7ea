"""The classification itself: mini-batches, soft assignment, averages, growing resolution, empty classes seeded anew.

Every iteration draws a batch without replacement from a shuffled order of all particles, finds for each image the
best angle and shift in every class on rings (`em/rings.py`), shares it among classes by their likelihoods, and
lets it enter the class sums with a step size that falls towards the share of the batch in the set (online EM;
Cappé, Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x). A last pass over all particles assigns each of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.class2d.rings_source import RingChunk, RingSource
from cryoloom.class2d.sums import (
    ClassSums,
    Contribution,
    RingImages,
    class_samples,
    contribute,
    empty_class_sums,
    ring_correlation,
    smooth_correlation,
)
from cryoloom.contract import Executor
from cryoloom.em.ring_posterior import PosteriorSums, add_posteriors, collect, empty_posterior_sums
from cryoloom.em.rings import (
    ImageBatch,
    ReferenceBank,
    RingPlan,
    angular_coefficients,
    image_batch,
    plan_rings,
    reference_bank,
    ring_samples,
    search_rings,
    shift_grid,
    shift_phases,
)
from cryoloom.fourier import good_size
from cryoloom.maps.mask import spherical_mask


@dataclass(frozen=True)
class Plan:
    """What is fixed over a classification.

    Attributes
    ----------
    n_classes
        Classes.
    diameter_px
        Diameter of the mask in pixels of the images.
    n_iterations, batch_size
        Iterations, and particles in each at the end; the first use fewer.
    shift_range_px
        Largest distance of a particle from the centre of its box.
    first_radius
        Rings of the first iterations.
    top
        Classes that share an image, at most.
    dtype
        Of the operands of the search.
    """

    n_classes: int
    diameter_px: float
    n_iterations: int
    batch_size: int
    shift_range_px: float
    first_radius: int
    top: int = 4
    dtype: torch.dtype = torch.float32


@dataclass
class State:
    """What changes.

    Attributes
    ----------
    iteration
        Iterations done.
    radius
        Rings used for alignment.
    sums
        Class sums.
    noise
        `σ²` per noise group and ring, `(groups, rings)` float64.
    class_index
        Class of each particle from 0, -1 unknown, `(n,)` int64.
    psi, shift_px
        In the convention of `em/rings.py`, `(n,)` and `(n, 2)` yx.
    gain
        Log-likelihood that the best class gains over no particle, scale solved out, `(n,)`.
    scale
        Grey-scale factor against the class average, `(n,)`.
    posterior
        Share of the best class, `(n,)`.
    sharers
        Effective number of classes that share the image, `(n,)`.
    history
        One line of figures per iteration.
    """

    iteration: int
    radius: int
    sums: ClassSums
    noise: Tensor
    class_index: np.ndarray
    psi: np.ndarray
    shift_px: np.ndarray
    gain: np.ndarray
    scale: np.ndarray
    posterior: np.ndarray
    sharers: np.ndarray
    history: list[dict[str, float]] = field(default_factory=list)


def classify(
    source: RingSource,
    plan: Plan,
    executor: Executor,
    generator: torch.Generator,
    *,
    on_iteration: Callable[[State], None] | None = None,
) -> State:
    """Run all iterations and the last pass."""
    n = len(source)
    half = torch.randperm(n, generator=generator).numpy() % 2
    order = torch.randperm(n, generator=generator).numpy()
    state = _begin(source, plan, executor, order, half, generator)
    cursor = 0
    for _ in range(plan.n_iterations):
        size = _batch_size(plan, state.iteration, n)
        taken = order[np.arange(cursor, cursor + size) % n]
        if cursor + size >= n and size < n:
            order = torch.randperm(n, generator=generator).numpy()
            cursor = 0
        else:
            cursor = (cursor + size) % n
        step = max(size / n, (state.iteration + 1.0) ** -0.6)
        _iterate(source, plan, state, executor, np.unique(taken), half, step)
        if on_iteration is not None:
            on_iteration(state)
    _iterate(source, plan, state, executor, np.arange(n), half, 1.0, last=True)
    if on_iteration is not None:
        on_iteration(state)
    return state


def _batch_size(plan: Plan, iteration: int, n: int) -> int:
    """A quarter of the final batch at first, the whole from the middle on."""
    ramp = min(1.0, 0.25 + 0.75 * iteration / max(1.0, 0.5 * plan.n_iterations))
    return int(min(n, max(20 * plan.n_classes, 300, ramp * plan.batch_size)))


def _begin(
    source: RingSource,
    plan: Plan,
    executor: Executor,
    order: np.ndarray,
    half: np.ndarray,
    generator: torch.Generator,
) -> State:
    """Noise from the mean power of the images; first averages from a few particles each, drawn and turned by lot."""
    n, rings = len(source), source.plan
    n_groups = int(source.images.noise_group.max()) + 1
    sample = order[: min(n, 2000)]
    power = torch.zeros(n_groups, rings.n_rings, dtype=torch.float64)
    count = torch.zeros(n_groups, dtype=torch.float64)
    first = plan.n_classes
    each = max(2, min(8, n // (2 * first)))
    seeds = order[: min(n, each * first)]
    member = np.full(n, -1)
    member[seeds] = np.arange(len(seeds)) % first
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    sums = empty_class_sums(rings, plan.n_classes)
    chosen = np.unique(np.concatenate([sample, seeds]))
    flat = torch.ones(rings.n_rings, dtype=torch.float64)

    def work(rows: np.ndarray) -> tuple[RingChunk, Contribution]:
        chunk = source.chunk(rows)
        mine = np.flatnonzero(member[rows] >= 0)
        some = chunk.select(mine)
        r = some.rows
        part = contribute(
            rings, some.samples, some.ctf, some.ctf_power, flat.expand(len(r), -1),
            half=torch.from_numpy(half[r].astype(np.int64)), reference=torch.from_numpy(member[r]),
            psi=angle[torch.from_numpy(r)], shift_px=torch.zeros(len(r), 2), share=torch.ones(len(r)),
        )  # fmt: skip
        return chunk, part

    for chunk, part in executor.map(work, source.batches(chosen)):
        power.index_add_(0, chunk.group, chunk.power.double())
        count.index_add_(0, chunk.group, torch.ones(len(chunk), dtype=torch.float64))
        sums.add(part)
    pooled = power.sum(0) / count.sum()
    noise = (power + 20 * pooled) / (count[:, None] + 20)
    return State(
        iteration=0,
        radius=plan.first_radius,
        sums=sums,
        noise=noise,
        class_index=np.full(n, -1, np.int64),
        psi=np.zeros(n),
        shift_px=np.zeros((n, 2)),
        gain=np.zeros(n),
        scale=np.ones(n),
        posterior=np.zeros(n),
        sharers=np.zeros(n),
    )


@dataclass(frozen=True)
class References:
    """Averages of one iteration, ready to be searched.

    Attributes
    ----------
    wide, near
        Banks with the shifts of a first and of a later visit, for the images of each half: averages of the other half.
    plan, insertion
        Rings that decide, and rings that are summed, so that the resolution can grow.
    index
        Class of each entry of the banks, `(n,)` int64.
    places
        Where the angular frequencies of `insertion` lie among those of the source's plan.
    """

    wide: tuple[ReferenceBank, ...]
    near: tuple[ReferenceBank, ...]
    plan: RingPlan
    insertion: RingPlan
    index: Tensor
    places: Tensor


def _references(source: RingSource, plan: Plan, state: State) -> References:
    rings, sums = source.plan, state.sums
    n_used = min(state.radius, rings.n_rings)
    if state.iteration == 0:
        filter_ = torch.full((plan.n_classes, rings.n_rings), 0.3)
        samples = torch.cat([class_samples(rings, sums, filter_)] * 2)
    else:
        filter_ = smooth_correlation(rings, ring_correlation(rings, sums), sums.total)
        low = torch.arange(rings.n_rings) < 3
        filter_ = torch.where(low, filter_.clamp_min(0.5), filter_)
        samples = torch.cat([class_samples(rings, sums, filter_, half=h) for h in (1, 0)])  # for half 0, for half 1
    box = min(source.images.box, good_size(2 * (n_used + 2)))
    pictures = RingImages(_cut(rings, n_used), box)
    images = pictures.images(samples[:, :n_used], 0.5 * plan.diameter_px)
    ratio = box / source.images.box
    edge = max(2.0, 0.08 * plan.diameter_px * ratio)
    radius_px = max(0.5 * plan.diameter_px * ratio - 0.5 * edge, 2.0)
    masked = pictures.samples(images * spherical_mask(box, radius_px, edge, ndim=2))
    insertion = plan_rings(
        rings.box, min(rings.n_rings, int(1.3 * n_used) + 2), plan.diameter_px, n_samples=rings.n_samples
    )
    search = plan_rings(rings.box, n_used, plan.diameter_px, n_samples=rings.n_samples, n_angles=insertion.n_angles)
    step = 0.35 * rings.box / n_used
    grids = (shift_grid(plan.shift_range_px, step), shift_grid(min(plan.shift_range_px, 2.0 * step), step))
    alive = state.sums.total > 0
    index = alive.nonzero()[:, 0]
    sides = masked.reshape(2, plan.n_classes, *masked.shape[1:])[:, index]
    wide, near = (
        tuple(reference_bank(search, side, shifts_px=grid, dtype=plan.dtype) for side in sides) for grid in grids
    )
    order = {int(q): i for i, q in enumerate(rings.q)}
    places = torch.tensor([order[int(q)] for q in insertion.q])
    return References(wide, near, search, insertion, index, places)


def _cut(rings: RingPlan, radius: int) -> RingPlan:
    """The first rings of a plan, same samples."""
    n = int((rings.radii <= radius).sum())
    half = rings.n_samples // 2
    return replace(
        rings,
        radii=rings.radii[:n],
        points=rings.points[: n * half],
        ring_weight=rings.ring_weight[:n],
        spans=tuple((a, b, min(ring, n - 1)) for a, b, ring in rings.spans),
    )


def _iterate(
    source: RingSource,
    plan: Plan,
    state: State,
    executor: Executor,
    rows: np.ndarray,
    half: np.ndarray,
    step: float,
    *,
    last: bool = False,
) -> None:
    """One iteration: every image with its whole posterior, or in the last pass with its best poses off the grid."""
    references = _references(source, plan, state)
    noise = state.noise
    fresh = empty_class_sums(source.plan, plan.n_classes)
    spent = torch.zeros_like(noise)
    seen = torch.zeros(len(noise), dtype=torch.float64)
    work = _assign_part if last else _posterior_part
    parts = [
        (side, visited, part)
        for side in range(2)
        for visited in (False, True)
        for part in _parts(source, rows[(half[rows] == side) & ((state.class_index[rows] >= 0) == visited)], last)
    ]
    for found in executor.map(lambda part: work(source, plan, state, references, *part), parts):
        for some in found.chunks:
            state.class_index[some.rows] = some.class_index
            state.psi[some.rows] = some.psi
            state.shift_px[some.rows] = some.shift_px
            state.gain[some.rows] = some.gain
            state.posterior[some.rows] = some.posterior
            state.sharers[some.rows] = some.sharers
            state.scale[some.rows] = some.scale
            spent.index_add_(0, some.group, some.residual.double())
            seen.index_add_(0, some.group, torch.ones(len(some.group), dtype=torch.float64))
        found.add_to(fresh)
    kept = 0.0 if state.iteration == 0 else 1.0 - step
    factor = len(source) / len(rows)
    state.sums.scale(kept)
    fresh.scale((1.0 - kept) * factor)
    state.sums.numerator += fresh.numerator
    state.sums.weight += fresh.weight
    state.sums.count += fresh.count
    pooled = spent.sum(0) / seen.sum()
    updated = (spent + 20 * pooled) / (seen[:, None] + 20)
    state.noise = torch.where(updated > 0.2 * noise, updated, noise)
    _centre(source, plan, state)
    _grow(source, plan, state)
    state.iteration += 1


def _parts(source: RingSource, rows: np.ndarray, last: bool) -> list[list[np.ndarray]]:
    """Chunks of rows in at most four parts, however many workers there are: each part has sums of its own."""
    chunks = list(source.batches(rows))
    n = len(chunks) if last else min(4, len(chunks))
    return [chunks[i * len(chunks) // n : (i + 1) * len(chunks) // n] for i in range(n)]


@dataclass(frozen=True)
class _Found:
    """What is found for the images of one chunk."""

    rows: np.ndarray
    class_index: np.ndarray
    psi: np.ndarray
    shift_px: np.ndarray
    gain: np.ndarray
    posterior: np.ndarray
    sharers: np.ndarray
    scale: np.ndarray
    residual: Tensor
    group: Tensor


@dataclass(frozen=True)
class _PosteriorPart:
    """One part of the images, summed with whole posteriors."""

    chunks: list[_Found]
    side: int
    sums: PosteriorSums
    shifts_px: Tensor
    insertion: RingPlan
    index: Tensor
    places: Tensor

    def add_to(self, sums: ClassSums) -> None:
        """Add the part to the sums of the classes."""
        numerator, weight = collect(self.sums, self.insertion, self.shifts_px)
        n = self.insertion.n_rings
        target = sums.numerator[self.side]
        whole = torch.zeros(len(numerator), n, target.shape[2], 2)
        whole[:, :, self.places] = numerator
        target[self.index, :n] += whole
        sums.weight[self.side][self.index, :n] += weight
        sums.count[self.side][self.index] += self.sums.share


@dataclass(frozen=True)
class _AssignedPart:
    """One part of the images, each at its best poses."""

    chunks: list[_Found]
    contributions: list[Contribution]

    def add_to(self, sums: ClassSums) -> None:
        """Add the part to the sums of the classes."""
        for contribution in self.contributions:
            sums.add(contribution)


def _weighted(source: RingSource, state: State, references: References, chunk: RingChunk, plan: RingPlan) -> ImageBatch:
    n = plan.n_rings
    inverse_noise = (1.0 / state.noise[chunk.group]).to(torch.float32)
    centre = torch.from_numpy(state.shift_px[chunk.rows].astype(np.float32))
    return image_batch(plan, chunk.samples[:, :n], chunk.ctf[:, :n], inverse_noise[:, :n], centre)


def _posterior_part(
    source: RingSource,
    plan: Plan,
    state: State,
    references: References,
    side: int,
    visited: bool,
    chunks: list[np.ndarray],
) -> _PosteriorPart:
    bank = (references.near if visited else references.wide)[side]
    search, insertion = references.plan, references.insertion
    sums = empty_posterior_sums(insertion, len(bank), len(bank.shifts_px))
    spread = 0.5 * plan.shift_range_px
    found = []
    for rows in chunks:
        chunk = source.chunk(rows)
        batch = _weighted(source, state, references, chunk, search)
        prior = -0.5 * ((batch.centre_px[:, None] + bank.shifts_px) ** 2).sum(-1) / max(spread, 0.5) ** 2
        posterior = add_posteriors(
            sums, batch, bank, search, _weighted(source, state, references, chunk, insertion), insertion,
            shift_log_prior=prior,
        )  # fmt: skip
        best = posterior.share.argmax(1)
        residual = chunk.power.clone()
        residual[:, : search.n_rings] -= chunk.ctf_power[:, : search.n_rings] * (posterior.share @ bank.power)
        found.append(
            _Found(
                rows=rows,
                class_index=references.index[best].numpy(),
                psi=posterior.psi.numpy(),
                shift_px=posterior.shift_px.numpy(),
                gain=posterior.evidence.logsumexp(1).numpy() - math.log(len(bank)),
                posterior=posterior.share.amax(1).numpy(),
                sharers=(1.0 / (posterior.share**2).sum(1)).numpy(),
                scale=np.ones(len(rows)),
                residual=residual,
                group=chunk.group,
            )
        )
    return _PosteriorPart(found, side, sums, bank.shifts_px, insertion, references.index, references.places)


def _assign_part(
    source: RingSource,
    plan: Plan,
    state: State,
    references: References,
    side: int,
    visited: bool,
    chunks: list[np.ndarray],
) -> _AssignedPart:
    bank = (references.near if visited else references.wide)[side]
    search, rings = references.plan, source.plan
    found, contributions = [], []
    for rows in chunks:
        chunk = source.chunk(rows)
        batch = _weighted(source, state, references, chunk, search)
        matches = search_rings(batch, bank, search, top=plan.top, fit_scale=False)
        posterior = torch.softmax(matches.score_of_reference.double(), dim=1)
        share = posterior.gather(1, matches.reference)  # (b, top)
        image, place = (share > 0.02).nonzero(as_tuple=True)
        inverse_noise = (1.0 / state.noise[chunk.group]).to(torch.float32)
        contributions.append(
            contribute(
                rings,
                chunk.samples[image],
                chunk.ctf[image],
                chunk.ctf_power[image],
                inverse_noise[image],
                half=torch.full_like(image, side),
                reference=references.index[matches.reference[image, place]],
                psi=matches.psi[image, place],
                shift_px=matches.shift_px[image, place],
                share=share[image, place].float(),
            )  # fmt: skip
        )
        scale = matches.cross[:, 0] / matches.norm[:, 0].clamp_min(1e-20)
        residual = chunk.power.clone()
        n = search.n_rings
        residual[:, :n] -= chunk.ctf_power[:, :n] * bank.power[matches.reference[:, 0]]
        found.append(
            _Found(
                rows=rows,
                class_index=references.index[matches.reference[:, 0]].numpy(),
                psi=matches.psi[:, 0].numpy(),
                shift_px=matches.shift_px[:, 0].numpy(),
                gain=matches.score[:, 0].numpy(),
                posterior=share[:, 0].numpy(),
                sharers=(1.0 / (posterior**2).sum(1)).numpy(),
                scale=scale.numpy(),
                residual=residual,
                group=chunk.group,
            )
        )
    return _AssignedPart(found, contributions)


def _centre(source: RingSource, plan: Plan, state: State) -> None:
    """Move averages so that their mass is centred, and the shifts of their particles with them."""
    rings, sums = source.plan, state.sums
    radius = min(state.radius, max(plan.first_radius, 4))
    cut = _cut(rings, radius)
    box = good_size(2 * (radius + 2))
    pictures = RingImages(cut, box)
    samples = class_samples(rings, sums)[:, :radius]
    images = pictures.images(samples, 0.5 * plan.diameter_px)
    ratio = source.images.box / box
    axis = (torch.arange(box) - box // 2) * ratio
    inside = torch.hypot(axis[:, None], axis) <= 0.55 * plan.diameter_px
    high = images.flatten(1).amax(1)[:, None, None]
    mass = torch.where(inside & (images > 0.25 * high), images, torch.zeros_like(images)).clamp_min(0)
    total = mass.sum((1, 2)).clamp_min(1e-20)
    centre = torch.stack([(mass.sum(2) * axis).sum(1) / total, (mass.sum(1) * axis).sum(1) / total], -1)  # yx
    move = torch.where(centre.norm(dim=-1, keepdim=True) > 0.75, centre, torch.zeros_like(centre))
    moved = (move != 0).any(1).nonzero()[:, 0]
    if not len(moved):
        return
    shift = move[moved]
    phases = shift_phases(rings, shift)
    for h in range(2):
        sums.numerator[h, moved] = _shifted(rings, sums.numerator[h, moved], phases)
    offset = np.zeros((plan.n_classes, 2))
    offset[moved.numpy()] = shift.numpy()
    known = state.class_index >= 0
    delta = offset[state.class_index[known]]  # yx in the frame of the class; turn by -psi into the image
    c, s = np.cos(state.psi[known]), np.sin(state.psi[known])
    state.shift_px[known] += np.stack([c * delta[:, 0] - s * delta[:, 1], s * delta[:, 0] + c * delta[:, 1]], 1)
    length = np.linalg.norm(state.shift_px, axis=1)
    far = length > plan.shift_range_px
    state.shift_px[far] *= (plan.shift_range_px / length[far])[:, None]


def _shifted(rings: RingPlan, coefficients: Tensor, phases: Tensor) -> Tensor:
    return angular_coefficients(rings, ring_samples(rings, coefficients) * phases)


def _grow(source: RingSource, plan: Plan, state: State) -> None:
    """Let the resolution follow the correlation of the halves, two rings per iteration at most."""
    rings = source.plan
    correlation = ring_correlation(rings, state.sums)
    weight = state.sums.total / state.sums.total.sum().clamp_min(1e-20)
    mean = (correlation * weight[:, None]).sum(0)
    start = state.radius // 2
    above = (mean[start:] < 0.3).nonzero()
    reached = start + int(above[0, 0]) if len(above) else rings.n_rings
    radius = max(plan.first_radius, min(reached, state.radius + 2, rings.n_rings))
    state.history.append({"radius": float(state.radius), "mean_frc": float(mean[: state.radius].mean())})
    state.radius = int(radius)
