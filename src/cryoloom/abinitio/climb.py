"""Climbing from a random model with small random batches: stochastic expectation-maximisation.

A batch of a few hundred particles says as much about a bad model as all of them do, so a start takes a step after
each batch, on sums that forget (the online EM of Cappé and Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x): a
dozen times as many steps for the same work, and the noise of the batches carries it out of shallow optima. Centres
follow along: after each batch its particles are moved to where their most likely view says.

Neglected: the shift is taken from the most likely view alone, not averaged over the posterior.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoloom.abinitio.level import Level
from cryoloom.abinitio.model import StartModel, maximise, references_of, ring_profile
from cryoloom.contract import Executor
from cryoloom.em.full_posterior import RingSums, posterior_sums
from cryoloom.em.rings import shift_grid, shift_phases
from cryoloom.fourier.slices import extract_points, prepare_volume
from cryoloom.geometry import rotation_about_z


@dataclass(frozen=True)
class Centres:
    """Where particles are thought to sit.

    Attributes
    ----------
    first_px
        What was known before, pixels yx, `(n, 2)`.
    spread_px
        Standard deviation of the truth about it, pixels.
    """

    first_px: Tensor
    spread_px: float


def climb(
    model: StartModel,
    centre_px: Tensor,
    level: Level,
    rows: Tensor,
    centres: Centres,
    n_batches: int,
    batch: int,
    memory: float,
    generator: torch.Generator,
    executor: Executor,
) -> tuple[StartModel, Tensor]:
    """Take `n_batches` steps.

    Parameters
    ----------
    model
        Where the start is.
    centre_px
        Its centres of all images, pixels yx, `(n, 2)`; left as they are.
    rows
        Images to draw from.
    batch
        Images in a batch.
    memory
        What is left of the sums after each batch: with 0.7 the model rests on the last three or four, whose noise
        may carry it out of shallow optima (what was tried stands in `docs/apoferritin.md`).

    Returns
    -------
    model, centre_px
        After the last step.
    """
    centre_px = centre_px.clone()
    batch = min(batch, len(rows))
    running: tuple[Tensor, Tensor] | None = None
    order, position = rows[torch.randperm(len(rows), generator=generator)], 0
    for _ in range(n_batches):
        if position + batch > len(order):
            order, position = rows[torch.randperm(len(rows), generator=generator)], 0
        some = order[position : position + batch]
        position += batch
        references = references_of(model, level.plan, level.rotations)
        images = level.images(some, centre_px[some])
        sums = posterior_sums(
            level.plan, images, references, torch.arange(len(some)), executor, n_groups=model.n_classes,
            devices=level.devices,
        )  # fmt: skip
        centre_px[some] = recentre(model, level, some, centre_px[some], centres, sums)
        if running is None:
            running = sums.numerator, sums.weight
        else:
            running = memory * running[0] + sums.numerator, memory * running[1] + sums.weight
        total = replace(sums, numerator=running[0], weight=running[1])
        model = maximise(total, level.plan, level.rotations, level.symmetry, model.n_classes, level.ball, executor)
    return model, centre_px


def recentre(
    model: StartModel, level: Level, rows: Tensor, centre_px: Tensor, centres: Centres, sums: RingSums
) -> Tensor:
    """Posterior mean of where particles sit, given the most likely view of each, pixels yx, `(len(rows), 2)`.

    Parameters
    ----------
    centre_px
        Where they were when `sums` were made, `(len(rows), 2)`.
    """
    plan = level.plan
    references, angle, _ = sums.best.unbind(1)
    n_views = len(level.rotations)
    seen = torch.zeros(len(rows), len(plan.points), dtype=torch.complex64)
    radius = int(torch.ceil(plan.radii[-1]))
    for k in range(model.n_classes):
        mine = torch.nonzero(references // n_views == k)[:, 0]
        if len(mine):
            turn = rotation_about_z(plan.angles[angle[mine]].double()).to(torch.float32)
            views = level.rotations[references[mine] % n_views] @ turn
            seen[mine] = extract_points(prepare_volume(model.volumes[k], radius + 1), views, plan.points)
            seen[mine] += ring_profile(model.profiles[k], plan).repeat_interleave(plan.n_samples // 2)
    data = (level.weighted[rows] * shift_phases(plan, centre_px)).flatten(1)
    step = 0.1 * level.resolution / level.pixel_size
    trial = shift_grid(3 * step, step)
    weight = (2.0 * plan.ring_weight).repeat_interleave(plan.n_samples // 2)  # half rings stand for whole ones
    phases = shift_phases(plan, trial).flatten(1)
    score = ((data * seen.conj() * weight) @ phases.T).real  # (n, t)
    offset = centre_px[:, None] + trial - centres.first_px[rows][:, None]
    score = score - (offset**2).sum(-1) / (2 * centres.spread_px**2)
    return centre_px + torch.softmax(score, 1) @ trial
