"""Sums over the images of each class on rings, and the averages solved from them.

An image enters the frame of its class by an in-plane turn, which multiplies its angular coefficients by
`exp(-iqψ)`, and a shift, which multiplies its samples by `exp(+2πi k·t)`. With weights `p`,

    num_c(r, q) = Σ p C X exp(+2πi k·t) exp(-iqψ) / σ²,    den_c(r) = Σ p <C²> / σ²,    V_c = w num_c / den_c

The two halves of a class (particles drawn by lot) are summed apart; the correlation of their ring transforms gives the
Wiener factor `w = 2 FRC / (1 + FRC)`, in which the common `den` cancels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.em.rings import RingPlan, angular_coefficients, ring_samples, shift_phases, turn_coefficients
from cryoloom.fourier.polar import PointSampler


@dataclass
class ClassSums:
    """Sums of all classes, halves apart.

    Attributes
    ----------
    numerator
        `(2, classes, rings, n_q, 2)` float32.
    weight
        `(2, classes, rings)` float64.
    count
        Sum of posterior weights, `(2, classes)` float64.
    """

    numerator: Tensor
    weight: Tensor
    count: Tensor

    @property
    def total(self) -> Tensor:
        """Particles in each class, `(classes,)` float64."""
        return self.count.sum(0)

    def scale(self, factor: float) -> None:
        """Multiply all sums in place."""
        self.numerator *= factor
        self.weight *= factor
        self.count *= factor

    def add(self, contribution: "Contribution") -> None:
        """Add images to their classes, in place."""
        n_classes = self.count.shape[1]
        target = contribution.half * n_classes + contribution.reference
        self.numerator.flatten(0, 1).index_add_(0, target, contribution.numerator)
        self.weight.flatten(0, 1).index_add_(0, target, contribution.weight.double())
        self.count.flatten(0, 1).index_add_(0, target, contribution.share.double())


@dataclass(frozen=True)
class Contribution:
    """What some images bring to their classes; one entry per image and class.

    Attributes
    ----------
    half, reference
        Where it goes, `(m,)` int64.
    numerator, weight, share
        `(m, rings, n_q, 2)`, `(m, rings)`, `(m,)`.
    """

    half: Tensor
    reference: Tensor
    numerator: Tensor
    weight: Tensor
    share: Tensor


def empty_class_sums(plan: RingPlan, n_classes: int) -> ClassSums:
    """Sums with nothing in them."""
    device = plan.points.device
    return ClassSums(
        numerator=torch.zeros(2, n_classes, plan.n_rings, len(plan.q), 2, device=device),
        weight=torch.zeros(2, n_classes, plan.n_rings, dtype=torch.float64, device=device),
        count=torch.zeros(2, n_classes, dtype=torch.float64, device=device),
    )


def contribute(
    plan: RingPlan,
    samples: Tensor,
    ctf: Tensor,
    ctf_power: Tensor,
    inverse_noise: Tensor,
    *,
    half: Tensor,
    reference: Tensor,
    psi: Tensor,
    shift_px: Tensor,
    share: Tensor,
) -> Contribution:
    """Turn images into the frames of their classes and weight them; one entry per row of every argument."""
    factor = (inverse_noise * share[:, None]).to(torch.float32)
    upright = samples * (ctf * factor[..., None]) * shift_phases(plan, shift_px)
    turned = turn_coefficients(plan, angular_coefficients(plan, upright), psi)
    return Contribution(half, reference, turned, ctf_power * factor, share)


def ring_correlation(plan: RingPlan, sums: ClassSums) -> Tensor:
    """Correlation of the two halves on each ring, `(classes, rings)` float64; 0 where a half is empty."""
    twice = torch.where(plan.q == 0, 1.0, 2.0).to(torch.float32)[:, None]
    a, b = sums.numerator[0], sums.numerator[1]
    cross = (a * b * twice).sum((-1, -2)).double()
    power = (a * a * twice).sum((-1, -2)).double() * (b * b * twice).sum((-1, -2)).double()
    return cross / power.clamp_min(1e-300).sqrt()


def smooth_correlation(plan: RingPlan, correlation: Tensor, count: Tensor) -> Tensor:
    """Correlations smoothed over neighbouring rings and shrunk where the sampling error is large.

    A ring of radius r has about `n_q` independent complex numbers; what does not exceed its standard error is cut.
    """
    padded = torch.cat([correlation[:, :1], correlation, correlation[:, -1:]], dim=1)
    smooth = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    kept = torch.zeros(plan.n_rings, device=correlation.device, dtype=correlation.dtype)
    for first, last, ring in plan.spans:
        kept[ring:] += 2.0 * (last - first)
    error = (1.6 * kept).rsqrt()
    return ((smooth - error) / (1 - error)).clamp(0.0, 0.999)


def solved(sums: ClassSums, filter_: Tensor | None = None, *, half: int | None = None) -> Tensor:
    """Averages `num / den` of all images or of one half, times a filter `(classes, rings)`.

    Returns
    -------
    coefficients
        Over the angle, `(classes, rings, n_q, 2)` float32.
    """
    numerator = sums.numerator.sum(0) if half is None else sums.numerator[half]
    weight = sums.weight.sum(0) if half is None else sums.weight[half]
    mean = weight.mean(1, keepdim=True)
    inverse = 1.0 / (weight + 1e-3 * mean).clamp_min(1e-30)
    if filter_ is not None:
        inverse = inverse * filter_
    return numerator * inverse.to(torch.float32)[..., None, None]


def class_samples(plan: RingPlan, sums: ClassSums, filter_: Tensor | None = None, *, half: int | None = None) -> Tensor:
    """Averages as by `solved` at the points, complex `(classes, rings, half ring)`."""
    return ring_samples(plan, solved(sums, filter_, half=half))


class RingImages:
    """Images from ring samples and back, in a box that may be smaller than the particles' own.

    Parameters
    ----------
    plan
        Rings; frequencies count in `1 / plan.box` of the particles' pixels.
    box
        Side of the images made here; at least twice the largest radius.
    """

    def __init__(self, plan: RingPlan, box: int) -> None:
        self.plan, self.box = plan, int(box)
        self._sampler = PointSampler(self.box, plan.points)
        area = plan.ring_weight[:, None].expand(plan.n_rings, plan.n_samples // 2)
        self._area = 2.0 * area.reshape(-1)  # each sample stands for its Friedel mate too
        axis = torch.arange(self.box) - self.box // 2
        self._radius = torch.hypot(axis[:, None].float(), axis.float()) * (plan.box / self.box)

    def images(self, samples: Tensor, outside_px: float) -> Tensor:
        """Images `(n, box, box)` whose mean outside of a radius (pixels of the particles) is 0."""
        flat = samples.reshape(len(samples), -1) * self._area
        image = self._sampler.adjoint(flat) / self.plan.box**2
        outside = self._radius > outside_px
        if bool(outside.any()):
            image = image - image[:, outside].mean(1)[:, None, None]
        return image

    def samples(self, images: Tensor) -> Tensor:
        """Samples `(n, rings, half)` of images `(n, box, box)`."""
        scale = (self.plan.box / self.box) ** 2
        return (self._sampler(images) * scale).reshape(len(images), self.plan.n_rings, -1)
