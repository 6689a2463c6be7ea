"""One level of detail: the rings, the grid of views and the shifts that its resolution asks for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.abinitio.images import SmallImages, sample_on_rings
from cryoloom.abinitio.model import StartModel, ball_of, maximise, references_of
from cryoloom.contract import Executor
from cryoloom.em.full_posterior import RingImages, RingSums, posterior_sums
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
    images
        The images on them.
    rotations
        Views with psi 0 over one asymmetric unit, `(d, 3, 3)`.
    ball
        Mask of the volumes.
    symmetry
        Point group.
    resolution
        Å.
    """

    plan: RingPlan
    images: RingImages
    rotations: Tensor
    ball: Tensor
    symmetry: str
    resolution: float

    @property
    def n_candidates(self) -> int:
        """Candidates per image and class."""
        return len(self.rotations) * self.plan.n_angles * len(self.images.shifts_px)


def make_level(
    images: SmallImages,
    source: ImageSource,
    resolution: float,
    diameter: float,
    symmetry: str,
    centre_px: Tensor,
    executor: Executor,
    *,
    n_shift_rings: int = 1,
) -> Level:
    """The level at which detail down to `resolution` (Å) is seen.

    Parameters
    ----------
    n_shift_rings
        Trial shifts reach this many steps of a fifth of the resolution.
    """
    field = images.box * images.pixel_size
    radius = max(4, round(field / resolution))
    radius = min(radius, images.box // 2 - 4)
    plan = plan_rings(images.box, radius, diameter / images.pixel_size, radius_min=min(3.0, radius / 3))
    spacing = SPACING * field / (radius * diameter)
    n_side = max(2, math.ceil(math.radians(58.6) / spacing))
    step = 0.2 * field / radius / images.pixel_size
    shifts = shift_grid(n_shift_rings * step, step)
    return Level(
        plan,
        sample_on_rings(images, source, plan, centre_px, shifts, executor),
        search_directions(n_side, symmetry).to(torch.float32),
        ball_of(images.box, images.pixel_size, diameter),
        symmetry,
        field / radius,
    )


def climb(
    model: StartModel, level: Level, rows: Tensor, n_iterations: int, executor: Executor, *, step: float = 1.7
) -> tuple[StartModel, RingSums]:
    """Expectation-maximisation for some iterations.

    Parameters
    ----------
    rows
        Images used.
    step
        Over-relaxation: the model moves this many times as far as the maximisation says (Salakhutdinov, Roweis 2003),
        which about halves the iterations.

    Returns
    -------
    model, sums
        The model, and the sums of the last expectation (those of the model before the last step).
    """
    sums = None
    for i in range(n_iterations):
        references = references_of(model, level.plan, level.rotations)
        sums = posterior_sums(level.plan, level.images, references, rows, executor, n_groups=model.n_classes)
        found = maximise(sums, level.plan, level.rotations, level.symmetry, model.n_classes, level.ball, executor)
        factor = step if i < n_iterations - 1 else 1.0
        volumes = model.volumes + factor * (found.volumes - model.volumes)
        model = StartModel(found.profiles, volumes)
    assert sums is not None
    return model, sums


def evaluate(model: StartModel, level: Level, rows: Tensor, executor: Executor) -> RingSums:
    """Posterior of images under a model, without sums."""
    references = references_of(model, level.plan, level.rotations)
    return posterior_sums(
        level.plan, level.images, references, rows, executor, n_groups=model.n_classes, accumulate=False
    )


def round_start(level: Level, n_classes: int, rows: Tensor, executor: Executor) -> StartModel:
    """The model that is the same from all sides."""
    box = level.plan.box
    nothing = StartModel(torch.zeros(1, 1), torch.zeros(1, box, box, box))
    references = references_of(nothing, level.plan, level.rotations)
    sums = posterior_sums(level.plan, level.images, references, rows, executor)
    found = maximise(sums, level.plan, level.rotations, level.symmetry, 1, level.ball, executor)
    return StartModel(found.profiles.repeat(n_classes, 1), torch.zeros(n_classes, box, box, box))
