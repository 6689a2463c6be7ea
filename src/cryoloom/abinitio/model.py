"""The model of a start: a round part, kept as a profile over rings, and a volume for everything else.

The round part of a particle is the same in every view. Kept apart as numbers on rings it is exact; in a gridded
volume its interpolation errors have the symmetry of the grid, which for cubic point groups is the symmetry of the
particle: starts then grow from that pattern, always the same way, and rarely into the structure.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.accumulate import FourierSums
from cryoloom.em.full_posterior import RingReferences, RingSums, ring_references, samples_of_sums
from cryoloom.em.rings import RingPlan
from cryoloom.em.solve import prepare_sums, solve
from cryoloom.fourier import dft_to_image, image_to_dft, shell_index, shell_mean, spread_shells
from cryoloom.fourier.slices import empty_sums, extract_points, insert_points, prepare_volume
from cryoloom.maps.mask import spherical_mask


@dataclass(frozen=True)
class StartModel:
    """One start, or its classes.

    Attributes
    ----------
    profiles
        Transform of the round part per Fourier pixel of radius from 0, `(classes, n)`.
    volumes
        The rest, `(classes, m, m, m)` in the small box.
    """

    profiles: Tensor
    volumes: Tensor

    @property
    def n_classes(self) -> int:
        """Number of structures."""
        return len(self.volumes)


def references_of(model: StartModel, plan: RingPlan, rotations: Tensor) -> RingReferences:
    """Slices of all classes on the rings of a plan, one class after the other."""
    radius = int(math.ceil(float(plan.radii[-1])))
    samples = []
    for profile, volume in zip(model.profiles, model.volumes, strict=True):
        slices = extract_points(prepare_volume(volume, radius + 1), rotations, plan.points)
        samples.append(slices.reshape(len(rotations), plan.n_rings, -1) + ring_profile(profile, plan)[:, None])
    return ring_references(plan, torch.cat(samples))


def ring_profile(profile: Tensor, plan: RingPlan) -> Tensor:
    """Values of a profile on the rings of a plan; 0 where it has none."""
    index = plan.radii.round().to(torch.int64)
    padded = torch.nn.functional.pad(profile, (0, max(0, int(index.max()) + 1 - len(profile))))
    return padded[index]


def maximise(
    sums: RingSums,
    plan: RingPlan,
    rotations: Tensor,
    symmetry: str,
    n_classes: int,
    ball: Tensor,
    executor: Executor,
) -> StartModel:
    """The model that the sums of a posterior give.

    Regularised only where few views fall (a twentieth of the shell's mean weight): a stronger prior pulls starts back
    to the round model before they have found anything. Over-fitting is judged on held-out particles instead.

    Parameters
    ----------
    rotations
        Of the references of one class.
    ball
        Mask of the volumes, `(m, m, m)`.
    """
    box, radius = plan.box, int(math.ceil(float(plan.radii[-1])))
    n = len(rotations)
    profiles, volumes = [], []
    for k in range(n_classes):
        numerator, weight = sums.numerator[k * n : (k + 1) * n].clone(), sums.weight[k * n : (k + 1) * n]
        round_part = numerator[..., 0].real.sum(0) / weight.sum(0).clamp_min(1e-20)
        numerator[..., 0] -= round_part * weight
        values = samples_of_sums(plan, numerator).reshape(n, plan.n_rings, -1) * plan.ring_weight[:, None]
        weights = (weight * plan.ring_weight)[..., None].expand_as(values.real)
        raw = empty_sums(radius + 1)
        insert_points(raw, rotations, plan.points, values.reshape(n, -1), weights.reshape(n, -1))
        prepared = prepare_sums(FourierSums(raw, radius + 1), symmetry, executor)
        volumes.append(solve(prepared, box, None, floor=0.05, radius=radius) * ball)
        profile = torch.zeros(radius + 1)
        profile[plan.radii.round().to(torch.int64)] = round_part
        profiles.append(profile)
    return StartModel(torch.stack(profiles), torch.stack(volumes))


def random_model(
    round_model: StartModel, plan: RingPlan, ball: Tensor, information: float, mean_weight: Tensor,
    generator: torch.Generator,
) -> StartModel:  # fmt: skip
    """A round model with random detail.

    Parameters
    ----------
    round_model
        Model whose profiles are kept.
    information
        Half the norm term of an average view, in units of log-likelihood, that the random detail has: how
        sharply it lets particles choose their views.
    mean_weight
        Mean of `<C²>/σ²` over the images on each ring of the plan, `(rings,)`.
    """
    box = plan.box
    shape = (box,) * 3
    radius = float(plan.radii[-1])
    envelope = torch.exp(-((torch.arange(box // 2 + 1) / (0.9 * radius)) ** 2))
    envelope[torch.arange(box // 2 + 1) > radius] = 0
    volumes = []
    for _ in range(round_model.n_classes):
        noise = torch.randn(shape, generator=generator) * ball
        dft = image_to_dft(noise, 3) * spread_shells(envelope, shape)
        dft = dft - spread_shells(shell_mean(dft.real, shape).to(torch.float32), shape)
        power = shell_mean(dft.abs() ** 2, shape)[plan.radii.round().to(torch.int64)].to(torch.float32)
        norm = 0.5 * (plan.ring_weight * plan.n_samples * mean_weight * power).sum()
        volumes.append(dft_to_image(dft, shape) * (information / norm).sqrt())
    return StartModel(round_model.profiles, torch.stack(volumes))


def complete_volumes(model: StartModel) -> Tensor:
    """Volumes with their round parts, `(classes, m, m, m)`."""
    box = model.volumes.shape[-1]
    shape = (box,) * 3
    n = box // 2 + 1
    out = []
    for profile, volume in zip(model.profiles, model.volumes, strict=True):
        curve = torch.nn.functional.pad(profile, (0, max(0, n - len(profile))))[:n]
        if len(profile) > 2 and float(curve[0]) == 0 and float(curve[1]) == 0:
            curve = curve.clone()
            first = int(curve.nonzero()[0, 0]) if bool((curve != 0).any()) else 0
            curve[:first] = curve[first]  # what the innermost rings do not say
        index = shell_index(shape).clamp_max(n - 1)
        out.append(volume + dft_to_image(curve[index].to(torch.complex64), shape))
    return torch.stack(out)


def ball_of(box: int, pixel_size: float, diameter: float) -> Tensor:
    """Soft ball of a diameter in Å, `(box, box, box)`."""
    radius = 0.5 * diameter / pixel_size
    edge = max(2.0, 0.08 * box)
    return spherical_mask(box, min(radius, 0.5 * box - edge - 1), edge)
