"""One level of detail: the rings, the grid of views and the images on them that its resolution asks for."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.abinitio.images import SmallImages, sample_on_rings
from cryoloom.abinitio.model import StartModel, ball_of, maximise, references_of
from cryoloom.contract import Executor
from cryoloom.em.full_posterior import RingImages, RingSums, posterior_sums, ring_images
from cryoloom.em.images import ImageSource
from cryoloom.em.rings import RingPlan, plan_rings, shift_grid
from cryoloom.em.search import search_directions

# Views lie this far apart, in units of field / (radius * diameter), the angle that moves the particle's rim by one
# Fourier sample: with the posterior's width at these signal strengths finer grids change nothing.
SPACING = 1.45


@dataclass(frozen=True)
class Level:
    """Images and grids of one level of detail.

    Attributes
    ----------
    plan
        The rings.
    weighted
        `C X / σ²` at the points of the plan, complex `(n, rings, half)`; not centred.
    inverse_variance
        `<C²> / σ²` on each ring, `(n, rings)`.
    rotations
        Views with psi 0 over one asymmetric unit, `(d, 3, 3)`.
    ball
        Mask of the volumes.
    symmetry
        Point group.
    resolution
        Å.
    pixel_size
        Å per small pixel.
    devices
        Where images meet models.
    """

    plan: RingPlan
    weighted: Tensor
    inverse_variance: Tensor
    rotations: Tensor
    ball: Tensor
    symmetry: str
    resolution: float
    pixel_size: float
    devices: tuple[str, ...] = ("cpu",)

    def images(self, rows: Tensor, centre_px: Tensor, shifts_px: Tensor | None = None) -> RingImages:
        """Images of `rows` about their centres `(len(rows), 2)`, with trial shifts if given."""
        return ring_images(self.plan, self.weighted[rows], self.inverse_variance[rows], centre_px, shifts_px)


def make_level(
    images: SmallImages,
    source: ImageSource,
    resolution: float,
    diameter: float,
    symmetry: str,
    executor: Executor,
    *,
    first_ring: float = 3.0,
) -> Level:
    """The level at which detail down to `resolution` (Å) is seen, for a ball of `diameter` (Å).

    Rings within `first_ring` Fourier pixels are left out: what they hold is mostly ice.
    """
    field = images.box * images.pixel_size
    radius = max(4, round(field / resolution))
    radius = min(radius, images.box // 2 - 4)
    plan = plan_rings(images.box, radius, diameter / images.pixel_size, radius_min=min(first_ring, radius / 3))
    spacing = SPACING * field / (radius * diameter)
    n_side = max(2, math.ceil(math.radians(58.6) / spacing))
    weighted, inverse_variance = sample_on_rings(images, source, plan, executor)
    return Level(
        plan,
        weighted,
        inverse_variance,
        search_directions(n_side, symmetry).to(torch.float32),
        ball_of(images.box, images.pixel_size, diameter),
        symmetry,
        field / radius,
        images.pixel_size,
        source.place.devices,
    )


def evaluate(model: StartModel, level: Level, images: RingImages, executor: Executor) -> RingSums:
    """Posterior of images under a model, without sums."""
    references = references_of(model, level.plan, level.rotations)
    rows = torch.arange(len(images))
    return posterior_sums(
        level.plan,
        images,
        references,
        rows,
        executor,
        n_groups=model.n_classes,
        accumulate=False,
        devices=level.devices,
    )


def round_evidence(model: StartModel, level: Level, images: RingImages, executor: Executor) -> Tensor:
    """Log-evidence of images under the round part of a model, `(n,)`: all its views are one."""
    flat = StartModel(model.profiles[:1], torch.zeros_like(model.volumes[:1]))
    references = references_of(flat, level.plan, level.rotations[:1])
    rows = torch.arange(len(images))
    found = posterior_sums(level.plan, images, references, rows, executor, accumulate=False, devices=level.devices)
    return found.log_evidence


def round_start(level: Level, n_classes: int, rows: Tensor, centre_px: Tensor, executor: Executor) -> StartModel:
    """The model that is the same from all sides.

    Parameters
    ----------
    rows, centre_px
        Images it is made of, and where each sits.
    """
    box = level.plan.box
    nothing = StartModel(torch.zeros(1, 1), torch.zeros(1, box, box, box))
    references = references_of(nothing, level.plan, level.rotations[:1])
    images = level.images(rows, centre_px)
    sums = posterior_sums(level.plan, images, references, torch.arange(len(rows)), executor, devices=level.devices)
    found = maximise(sums, level.plan, level.rotations[:1], level.symmetry, 1, level.ball, executor)
    return StartModel(found.profiles.repeat(n_classes, 1), torch.zeros(n_classes, box, box, box))


def judging_shifts(level: Level) -> Tensor:
    """Trial shifts over which evidence is averaged: to half the resolution, pixels yx, `(t, 2)`."""
    step = 0.25 * level.resolution / level.pixel_size
    return shift_grid(2 * step, step)


def information_of(sums: RingSums, level: Level, n_shifts: int, n_classes: int) -> float:
    """Mean log of candidates over effective candidates: how well views are told apart."""
    n_candidates = len(level.rotations) * level.plan.n_angles * n_shifts * n_classes
    return float((np.log(n_candidates) - sums.n_effective.double().log()).mean())
