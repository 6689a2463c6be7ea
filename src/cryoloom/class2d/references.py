"""Class averages of one iteration as references: filtered by the agreement of their halves, and masked."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import RingImages, class_samples, ring_correlation, smooth_correlation
from cryoloom.em.ring_posterior import PosteriorPlan, posterior_plan
from cryoloom.em.rings import RingPlan, plan_rings, shift_grid
from cryoloom.fourier import good_size
from cryoloom.maps.mask import spherical_mask


@dataclass(frozen=True)
class References:
    """Averages of one iteration, ready to be searched.

    Attributes
    ----------
    plan
        Rings that decide, and rings that are summed, so that the resolution can grow.
    samples
        Averages at the points of the rings that decide, for the images of each half (averages of the other half),
        complex `(2, n, rings, half)`.
    wide, near
        Shifts of a first and of a later visit, pixels yx, `(t, 2)`.
    index
        Class of each average, `(n,)` int64.
    places
        Where the angular frequencies of the summed rings lie among those of the source's plan.
    """

    plan: PosteriorPlan
    samples: Tensor
    wide: Tensor
    near: Tensor
    index: Tensor
    places: Tensor

    def shifts(self, visited: bool) -> Tensor:
        """Shifts to search, pixels yx, `(t, 2)`."""
        return self.near if visited else self.wide


def build_references(source: RingSource, plan: Plan, state: State) -> References:
    """Filter, mask and sample the averages; of random starts those of all images, later those of the other half."""
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
    pictures = RingImages(cut_rings(rings, n_used), box)
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
    index = (sums.total > 0).nonzero()[:, 0]
    order = {int(q): i for i, q in enumerate(rings.q)}
    return References(
        plan=posterior_plan(search, insertion, plan.dtype, source.images.place.device),
        samples=masked.reshape(2, plan.n_classes, *masked.shape[1:])[:, index],
        wide=shift_grid(plan.shift_range_px, step),
        near=shift_grid(min(plan.shift_range_px, 2.0 * step), step),
        index=index,
        places=torch.tensor([order[int(q)] for q in insertion.q]),
    )


def cut_rings(rings: RingPlan, radius: int) -> RingPlan:
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
