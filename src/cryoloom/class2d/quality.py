"""How good each class is, from measured things alone, and a verdict with reasons.

Measured: the resolution at which the two halves of a class stop to agree, set against the best classes of the same
run; how much of the detail they agree on that as many images of the typical class would show (pieces of dirt are
strong, but each is another: their halves agree on a blob and on nothing finer); the energy of the average inside the
particle's circle over that outside of it; how much of it touches the rim of the circle; whether it is brighter than its
surroundings; and how far its mass lies from the centre. Each becomes a factor between 0 and 1; their product is the
probability that the class shows a particle.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LEAST_CORRELATION = 1e-3


@dataclass(frozen=True)
class ClassQuality:
    """Figures of all classes, each `(classes,)`.

    Attributes
    ----------
    count, fraction
        Particles, and their share.
    resolution
        Å at which the correlation of the halves falls below 0.3.
    agreement
        Mean correlation of the halves over the rings used for alignment.
    contrast
        Energy per pixel inside the circle over that outside, of the average without a mask.
    rim
        Energy per pixel close to the rim of the circle over that inside.
    offset
        Distance of the mass from the centre over the radius of the circle.
    brightness
        How much brighter the inside is than the rim, over the root mean square inside: particles are bright.
    good
        Probability that the class shows a particle.
    reasons
        What speaks against it, a list of sentences per class.
    """

    count: np.ndarray
    fraction: np.ndarray
    resolution: np.ndarray
    agreement: np.ndarray
    contrast: np.ndarray
    rim: np.ndarray
    offset: np.ndarray
    brightness: np.ndarray
    good: np.ndarray
    reasons: list[list[str]]


def judge_classes(
    images: Tensor, correlation: Tensor, radii: Tensor, radius: int, count: Tensor, diameter_px: float, field: float
) -> ClassQuality:
    """Measure and judge classes.

    Parameters
    ----------
    images
        Averages without mask, pixels of the particles, `(n, box, box)`.
    correlation
        Of the halves, smoothed, per ring `(n, rings)`.
    radii
        Radius of each ring in Fourier pixels.
    radius
        Rings used for alignment.
    count
        Particles in each class.
    diameter_px
        Diameter of the circle.
    field
        Side of the images in Å.
    """
    n, box = images.shape[0], images.shape[-1]
    count_np = count.double().numpy()
    share = count_np / max(count_np.sum(), 1e-12)
    crossing = _crossing(correlation.double().numpy(), radii.double().numpy(), 0.3)
    resolution = field / np.maximum(crossing, 0.5)
    agreement = correlation[:, : max(radius, 1)].mean(1).double().numpy()

    axis = torch.arange(box) - box // 2
    distance = torch.hypot(axis[:, None].float(), axis.float()) / (0.5 * diameter_px)
    inside, rim, outside = distance <= 0.75, (distance > 0.85) & (distance <= 1.0), distance > 1.05
    square = images.double() ** 2
    energy_in = square[:, inside].mean(1)
    energy_rim = square[:, rim].mean(1) if bool(rim.any()) else torch.zeros(n)
    energy_out = square[:, outside].mean(1) if bool(outside.any()) else torch.zeros(n)
    tiny = 1e-12 + 1e-6 * float(energy_in.mean())
    contrast = ((energy_in + tiny) / (energy_out + tiny)).numpy()
    rim_ratio = ((energy_rim + tiny) / (energy_in + tiny)).numpy()
    high = images.flatten(1).amax(1)[:, None, None].clamp_min(1e-20)
    mass = torch.where((distance <= 1.0) & (images > 0.2 * high), images, torch.zeros_like(images)).double()
    total = mass.sum((1, 2)).clamp_min(1e-20)
    radius_px = 0.5 * diameter_px
    y = (mass.sum(2) * axis).sum(1) / total / radius_px
    x = (mass.sum(1) * axis).sum(1) / total / radius_px
    offset = torch.hypot(y, x).numpy()
    level = images[:, rim].double().mean(1) if bool(rim.any()) else torch.zeros(n)
    brightness = ((images[:, inside].double().mean(1) - level) / (energy_in + tiny).sqrt()).numpy()

    used = count_np > 0
    best = _weighted_quantile(crossing[used], share[used], 0.8) if used.any() else 1.0
    detail = detail_of(correlation.double().numpy(), radii.double().numpy(), count_np)
    good = np.ones(n)
    reasons: list[list[str]] = [[] for _ in range(n)]
    factors = (
        (_gate(crossing / max(best, 1e-9), 0.3, 0.05), "the halves agree to {:.0f} Å only", resolution),
        (
            _gate(detail, 0.4, 0.04),
            "the halves agree on {:.0%} of the detail that so many images should show",
            detail,
        ),
        (_gate(agreement, 0.3, 0.05), "the halves hardly agree (mean correlation {:.2f})", agreement),
        (_gate(np.log(contrast), np.log(3.0), 0.2), "as much outside of the circle as inside ({:.1f})", contrast),
        (_gate(-rim_ratio, -2.5, 0.25), "the average reaches over the rim ({:.2f})", rim_ratio),
        (_gate(brightness, 0.15, 0.05), "it is not brighter than its surroundings ({:.2f})", brightness),
        (_gate(-offset, -0.35, 0.05), "the mass lies off the centre ({:.2f} of the radius)", offset),
    )
    for probability, text, value in factors:
        good *= probability
        for i in np.flatnonzero(probability < 0.5):
            reasons[i].append(text.format(value[i]))
    good[~used] = 0.0
    for i in np.flatnonzero(~used):
        reasons[i] = ["no particles"]
    return ClassQuality(count_np, share, resolution, agreement, contrast, rim_ratio, offset, brightness, good, reasons)


def expected_correlation(correlation: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Correlation of the halves of each class if its images were like those of the typical class, `(n, rings)`.

    The ratio of signal to noise of one image is the median over all images, ring by ring, of what their classes say:
    `c / (1 - c)` over the number of images.

    Parameters
    ----------
    correlation
        Of the halves, per ring `(n, rings)`.
    count
        Images in each class, `(n,)`.
    """
    c = np.clip(correlation, _LEAST_CORRELATION, 1 - _LEAST_CORRELATION)
    ratio = c / (1 - c) / np.maximum(count, 1.0)[:, None]
    order = np.argsort(ratio, axis=0)
    total = np.cumsum(count[order], axis=0)
    middle = (total >= 0.5 * total[-1]).argmax(0)
    typical = np.take_along_axis(ratio, np.take_along_axis(order, middle[None], 0), 0)
    together = count[:, None] * typical
    return np.asarray(together / (1 + together))


def detail_of(correlation: np.ndarray, radii: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Agreement of the halves of each class over what is expected of its number of images, `(n,)`.

    It is the ratio of the means over the outer half of the rings that the class is expected to resolve; 1 where it is
    expected to resolve nothing. A dip, as where the transform of a view passes through zero, hardly counts.
    """
    expected = expected_correlation(correlation, count)
    last = _crossing(expected, radii, 0.3)
    out = np.ones(len(correlation))
    for i in range(len(out)):
        rings = (radii > 0.5 * last[i]) & (radii <= last[i])
        if count[i] > 0 and rings.sum() > 1:
            out[i] = np.clip(correlation[i, rings], 0, None).mean() / expected[i, rings].mean()
    return out


def particle_junk(good: np.ndarray, class_index: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Probability that a particle is junk, `(n,)`: its class is, or it does not show what its class shows.

    Parameters
    ----------
    good
        Of each class.
    class_index
        Class of each particle, -1 unknown.
    member
        Probability that the particle shows what its class shows (`class2d/membership.py`).
    """
    junk = 1.0 - good[np.clip(class_index, 0, None)] * member
    junk[class_index < 0] = 1.0
    return junk


def _gate(value: np.ndarray, middle: float, width: float) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip((np.nan_to_num(value) - middle) / width, -40, 40)))


def _crossing(correlation: np.ndarray, radii: np.ndarray, level: float) -> np.ndarray:
    """Radius at which each curve first falls below a level for two rings, interpolated."""
    below = correlation < level
    twice = below & np.concatenate([below[:, 1:], below[:, -1:]], axis=1)
    out = np.full(len(correlation), radii[-1])
    for i in range(len(correlation)):
        at = np.flatnonzero(twice[i])
        if not len(at):
            continue
        j = at[0]
        if j == 0:
            out[i] = 0.5 * radii[0]
            continue
        a, b = correlation[i, j - 1], correlation[i, j]
        out[i] = radii[j - 1] + (radii[j] - radii[j - 1]) * (a - level) / max(a - b, 1e-9)
    return out


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, quantile: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(total, quantile * total[-1]), len(values) - 1)])
