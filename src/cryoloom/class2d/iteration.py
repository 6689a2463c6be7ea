"""The first averages, and one iteration: images meet the references, sums and noise follow, averages are centred."""

import math

import numpy as np
import torch

from cryoloom.class2d.assign import assign_poses, sum_posteriors
from cryoloom.class2d.references import build_references
from cryoloom.class2d.rings_source import RingChunk, RingSource
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import Contribution, contribute, empty_class_sums
from cryoloom.class2d.update import centre_averages, grow_resolution
from cryoloom.contract import Executor


def begin(
    source: RingSource, plan: Plan, executor: Executor, generator: torch.Generator, *, rows: np.ndarray | None = None
) -> State:
    """Noise from the mean power of the images; first averages from a few particles each, drawn and turned by lot.

    With `rows` only those particles are drawn.
    """
    n, rings = len(source), source.plan
    half = torch.randperm(n, generator=generator).numpy() % 2
    order = torch.randperm(n, generator=generator).numpy()
    if rows is not None:
        order = order[np.isin(order, rows)]
    n_groups = int(source.images.noise_group.max()) + 1
    sample = order[:2000]
    power = torch.zeros(n_groups, rings.n_rings, dtype=torch.float64)
    count = torch.zeros(n_groups, dtype=torch.float64)
    first = plan.n_classes
    each = max(2, min(8, len(order) // (2 * first)))
    seeds = order[: each * first]
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
        half=half,
        order=order,
        cursor=0,
        random=np.zeros(0, np.uint8),
        class_index=np.full(n, -1, np.int64),
        psi=np.zeros(n),
        shift_px=np.zeros((n, 2)),
        gain=np.zeros(n),
        scale=np.ones(n),
        norm=np.zeros(n),
        member=np.ones(n),
        posterior=np.zeros(n),
        sharers=np.zeros(n),
    )


def iterate(
    source: RingSource, plan: Plan, state: State, executor: Executor, rows: np.ndarray, step: float, *, last: bool
) -> None:
    """One iteration: every image with its whole posterior, or in the last pass with its best poses off the grid."""
    references = build_references(source, plan, state)
    meet = assign_poses if last else sum_posteriors
    found, fresh = meet(source, plan, state, references, rows, executor)
    spent = torch.zeros_like(state.noise)
    seen = torch.zeros(len(state.noise), dtype=torch.float64)
    for some in found:
        for name in ("class_index", "psi", "shift_px", "gain", "posterior", "sharers", "scale", "norm"):
            getattr(state, name)[some.rows] = getattr(some, name)
        weight = torch.from_numpy(state.member[some.rows])
        spent.index_add_(0, some.group, some.residual.double() * weight[:, None])
        seen.index_add_(0, some.group, weight)
    kept = 0.0 if state.iteration == 0 else 1.0 - step
    state.sums.scale(kept)
    fresh.scale((1.0 - kept) * len(source) / len(rows))
    state.sums.numerator += fresh.numerator
    state.sums.weight += fresh.weight
    state.sums.count += fresh.count
    pooled = spent.sum(0) / seen.sum().clamp_min(1e-12)
    updated = (spent + 20 * pooled) / (seen[:, None] + 20)
    state.noise = torch.where(updated > 0.2 * state.noise, updated, state.noise)
    centre_averages(source, plan, state)
    grow_resolution(source, plan, state)
    state.iteration += 1
