"""Images meet the references: whole posteriors in every iteration, best poses off the grid in the last pass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.class2d.references import References
from cryoloom.class2d.rings_source import RingChunk, RingSource
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import ClassSums, Contribution, contribute, empty_class_sums
from cryoloom.contract import Executor
from cryoloom.em.ring_posterior import (
    PosteriorImages,
    PosteriorSums,
    add_posteriors,
    collect,
    empty_posterior_sums,
    posterior_bank,
)
from cryoloom.em.rings import image_batch, reference_bank, search_rings


@dataclass(frozen=True)
class Found:
    """What is found for the images of one chunk; fields as in `State`, and the power that the averages leave."""

    rows: np.ndarray
    class_index: np.ndarray
    psi: np.ndarray
    shift_px: np.ndarray
    gain: np.ndarray
    posterior: np.ndarray
    sharers: np.ndarray
    scale: np.ndarray
    norm: np.ndarray
    residual: Tensor
    group: Tensor


@dataclass(frozen=True)
class Group:
    """Images that meet the same bank: those of one half, with or without a former visit."""

    side: int
    visited: bool
    rows: np.ndarray


def groups(state: State, rows: np.ndarray) -> Iterator[Group]:
    """Split rows by half and by whether they were visited before."""
    for side in range(2):
        for visited in (False, True):
            mine = rows[(state.half[rows] == side) & ((state.class_index[rows] >= 0) == visited)]
            if len(mine):
                yield Group(side, visited, mine)


def sum_posteriors(
    source: RingSource, plan: Plan, state: State, references: References, rows: np.ndarray, executor: Executor
) -> tuple[list[Found], ClassSums]:
    """Every image enters every class with its posterior."""
    fresh = empty_class_sums(source.plan, plan.n_classes)
    found: list[Found] = []
    place = source.images.place
    spread = max(0.5 * plan.shift_range_px, 0.5)
    for group in groups(state, rows):
        shifts = references.shifts(group.visited)
        bank = posterior_bank(references.plan, references.samples[group.side], shifts)
        own = place.copies((references.plan, bank))

        def work(task: tuple[int, list[np.ndarray]], own=own, shifts=shifts) -> tuple[list[Found], PosteriorSums]:  # type: ignore[no-untyped-def]
            number, part = task
            posterior_plan, bank = own[number % len(own)]
            sums = empty_posterior_sums(posterior_plan, len(bank), len(shifts))
            out = []
            for rows in part:
                chunk = source.chunk(rows)
                images = _weighted(source, state, references, chunk)
                prior = -0.5 * ((images.centre_px[:, None] + shifts) ** 2).sum(-1) / spread**2
                weight = torch.from_numpy(state.member[rows].astype(np.float32))
                posterior = add_posteriors(sums, images, bank, posterior_plan, shift_log_prior=prior, weight=weight)
                best = posterior.share.argmax(1)
                n = references.plan.search.n_rings
                residual = chunk.power.clone()
                residual[:, :n] -= chunk.ctf_power[:, :n] * (posterior.share @ bank.power.cpu())
                out.append(
                    Found(
                        rows=rows,
                        class_index=references.index[best].numpy(),
                        psi=posterior.psi.numpy(),
                        shift_px=posterior.shift_px.numpy(),
                        gain=posterior.evidence.logsumexp(1).numpy() - math.log(len(bank)),
                        posterior=posterior.share.amax(1).numpy(),
                        sharers=(1.0 / (posterior.share**2).sum(1)).numpy(),
                        scale=(posterior.cross / posterior.norm.clamp_min(1e-20)).numpy(),
                        norm=posterior.norm.numpy(),
                        residual=residual,
                        group=chunk.group,
                    )
                )
            return out, sums.on("cpu")

        total: PosteriorSums | None = None
        for some, sums in executor.map(work, enumerate(_parts(source, group.rows))):
            found += some
            if total is None:
                total = sums
            else:
                total.add(sums)
        assert total is not None
        numerator, weight = collect(total, references.plan, shifts)
        n = references.plan.insertion.n_rings
        target = fresh.numerator[group.side]
        whole = torch.zeros(len(numerator), n, target.shape[2], 2)
        whole[:, :, references.places] = numerator
        target[references.index, :n] += whole
        fresh.weight[group.side][references.index, :n] += weight
        fresh.count[group.side][references.index] += total.share
    return found, fresh


def assign_poses(
    source: RingSource, plan: Plan, state: State, references: References, rows: np.ndarray, executor: Executor
) -> tuple[list[Found], ClassSums]:
    """Every image enters its best classes at its best pose, off the grid and on all rings."""
    fresh = empty_class_sums(source.plan, plan.n_classes)
    found: list[Found] = []
    devices = source.images.place.devices
    plans = [references.plan.search.on(device) for device in devices]
    for group in groups(state, rows):
        shifts, samples = references.shifts(group.visited), references.samples[group.side]
        banks = [
            reference_bank(search, samples.to(device), shifts_px=shifts.to(device), dtype=plan.dtype)
            for search, device in zip(plans, devices, strict=True)
        ]
        power = banks[0].power.cpu()

        def work(  # type: ignore[no-untyped-def]
            task: tuple[int, np.ndarray], banks=banks, power=power, side=group.side
        ) -> tuple[Found, Contribution]:
            number, rows = task
            lane = number % len(devices)
            search, bank, device = plans[lane], banks[lane], devices[lane]
            chunk, n = source.chunk(rows), search.n_rings
            inverse_noise = (1.0 / state.noise[chunk.group]).to(torch.float32)
            centre = torch.from_numpy(state.shift_px[rows].astype(np.float32))
            images = (chunk.samples[:, :n], chunk.ctf[:, :n], inverse_noise[:, :n], centre)
            batch = image_batch(search, *(column.to(device) for column in images))
            matches = search_rings(batch, bank, search, top=plan.top, fit_scale=False).on("cpu")
            posterior = torch.softmax(matches.score_of_reference.double(), dim=1)
            share = posterior.gather(1, matches.reference)  # (b, top)
            image, place = (share > 0.02).nonzero(as_tuple=True)
            contribution = contribute(
                source.plan,
                chunk.samples[image],
                chunk.ctf[image],
                chunk.ctf_power[image],
                inverse_noise[image],
                half=torch.full_like(image, side),
                reference=references.index[matches.reference[image, place]],
                psi=matches.psi[image, place],
                shift_px=matches.shift_px[image, place],
                share=share[image, place].float() * torch.from_numpy(state.member[rows].astype(np.float32))[image],
            )
            scale = matches.cross[:, 0] / matches.norm[:, 0].clamp_min(1e-20)
            residual = chunk.power.clone()
            residual[:, :n] -= chunk.ctf_power[:, :n] * power[matches.reference[:, 0]]
            some = Found(
                rows=rows,
                class_index=references.index[matches.reference[:, 0]].numpy(),
                psi=matches.psi[:, 0].numpy(),
                shift_px=matches.shift_px[:, 0].numpy(),
                gain=matches.score[:, 0].numpy(),
                posterior=share[:, 0].numpy(),
                sharers=(1.0 / (posterior**2).sum(1)).numpy(),
                scale=scale.numpy(),
                norm=matches.norm[:, 0].numpy(),
                residual=residual,
                group=chunk.group,
            )
            return some, contribution

        for some, contribution in executor.map(work, enumerate(source.batches(group.rows))):
            found.append(some)
            fresh.add(contribution)
    return found, fresh


def _weighted(source: RingSource, state: State, references: References, chunk: RingChunk) -> PosteriorImages:
    n = references.plan.insertion.n_rings
    inverse_noise = (1.0 / state.noise[chunk.group])[:, :n].to(torch.float32)
    centre = torch.from_numpy(state.shift_px[chunk.rows].astype(np.float32))
    coefficients = source.coefficients(chunk, centre, n)[:, references.places]
    return PosteriorImages(coefficients * inverse_noise[:, None, None], chunk.ctf_power[:, :n] * inverse_noise, centre)


def _parts(source: RingSource, rows: np.ndarray) -> list[list[np.ndarray]]:
    """Chunks of rows in four parts, or one for each GPU, whatever the number of workers: each has sums of its own."""
    chunks = list(source.batches(rows))
    n = min(max(4, len(source.images.place.devices)), len(chunks))
    return [chunks[i * len(chunks) // n : (i + 1) * len(chunks) // n] for i in range(n)]
