"""What follows each iteration: averages are centred, and the resolution grows as their halves agree."""

import numpy as np
import torch
from torch import Tensor

from cryoloom.class2d.references import cut_rings
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import RingImages, class_samples, ring_correlation
from cryoloom.em.rings import RingPlan, angular_coefficients, ring_samples, shift_phases
from cryoloom.fourier import good_size


def centre_averages(source: RingSource, plan: Plan, state: State) -> None:
    """Move averages so that their mass is centred, and the shifts of their particles with them."""
    rings, sums = source.plan, state.sums
    radius = min(state.radius, max(plan.first_radius, 4))
    cut = cut_rings(rings, radius)
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


def grow_resolution(source: RingSource, plan: Plan, state: State) -> None:
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
