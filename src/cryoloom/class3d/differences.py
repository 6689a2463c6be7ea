"""Class maps as a common map plus differences, each difference no larger than the two halves agree on.

The weighted sums of all classes give a common map `V̄`; what class c has of its own is

    D_c = (num_c - den_c V̄) / (den_c + κ),    κ from the signal that the D_c of the two halves share

per shell, and the same share as a weight per place: where the halves show no common difference there is none in the
class maps. Noise that is not there cannot draw particles towards the class that they are in already.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.solve import SolvableSums, solve
from cryoloom.fourier import image_to_dft
from cryoloom.maps.filter import bfactor_gain, filter_map, weight_shells
from cryoloom.maps.fsc import cross_and_powers, fourier_shell_correlation


@dataclass(frozen=True)
class DifferencePrior:
    """What the halves agree on.

    Attributes
    ----------
    mean_ssnr
        Signal-to-noise ratio of the common map of all particles, `(shells,)`.
    ssnr
        Signal-to-noise ratio of each class's difference from all of its particles, `(K, shells)`.
    place
        Weight of each place in `[0, 1]`, over the field of the images.
    """

    mean_ssnr: np.ndarray
    ssnr: np.ndarray
    place: Tensor


def total_of(sums: list[SolvableSums]) -> SolvableSums:
    """Sum of several sums."""
    total = sums[0]
    for s in sums[1:]:
        total = total.plus(s)
    return total


def minus(total: SolvableSums, part: SolvableSums) -> SolvableSums:
    """What is left of `total` without `part`."""
    return SolvableSums(total.sums - part.sums, total.radius, total.symmetry, total.mean_weight - part.mean_weight)


def difference_sums(of_class: SolvableSums, total: SolvableSums) -> SolvableSums:
    """Sums whose solution is the difference of a class from the common map."""
    weight = total.sums[..., 2:3]
    common = total.sums[..., :2] / weight.clamp_min(1e-6 * float(total.mean_weight.mean()))
    own = of_class.sums.clone()
    own[..., :2] -= of_class.sums[..., 2:3] * common
    return SolvableSums(own, of_class.radius, of_class.symmetry, of_class.mean_weight)


def learn_prior(
    halves: tuple[list[SolvableSums], list[SolvableSums]],
    population: np.ndarray,
    box: int,
    field: float,
    mask: Tensor,
    blur: float,
    executor: Executor,
) -> DifferencePrior:
    """Compare the halves' common maps and differences.

    Parameters
    ----------
    halves
        Sums of every class in either half.
    mask
        Where classes may differ, `(box, box, box)`.
    blur
        Å over which the agreement of a place is averaged.
    """
    totals = [total_of(h) for h in halves]
    common = list(executor.map(lambda t: solve(t, box) * mask, totals))
    mean_fsc = fourier_shell_correlation(common[0], common[1]).numpy()
    tasks = [(h, c) for c in range(len(population)) for h in (0, 1)]
    flat = np.full(totals[0].radius + 1, 10.0)

    def work(task: tuple[int, int]) -> Tensor:
        h, c = task
        return solve(difference_sums(halves[h][c], totals[h]), box, flat) * mask

    solved = list(executor.map(work, tasks))
    first, second = solved[::2], solved[1::2]
    ssnr = _class_ssnr(first, second, mask, population).mean(0)
    wiener = torch.from_numpy(ssnr / (1.0 + ssnr))
    smooth = [list(executor.map(lambda v: weight_shells(v, wiener), half)) for half in (first, second)]
    place = local_agreement(smooth[0], smooth[1], population, field / box, blur) * mask
    return DifferencePrior(_double_ssnr(mean_fsc), _class_ssnr(first, second, place, population), place)


def local_agreement(
    first: list[Tensor], second: list[Tensor], weight: np.ndarray, pixel_size: float, blur: float
) -> Tensor:
    """`2ρ / (1 + ρ)` of the local correlation ρ of two halves' maps, all pairs together with their weights.

    Parameters
    ----------
    first, second
        Maps of either half, `(m, m, m)` each.
    weight
        Of every pair of maps.
    pixel_size, blur
        Å per voxel, and Å over which the correlation of a place is averaged.
    """
    product = torch.zeros_like(first[0])
    power = torch.zeros_like(first[0])
    for a, b, p in zip(first, second, weight, strict=True):
        product += float(p) * a * b
        power += float(p) * 0.5 * (a**2 + b**2)
    box = product.shape[0]
    gain = bfactor_gain((box,) * 3, pixel_size, 8.0 * np.pi**2 * (blur / 2.355) ** 2)
    product, power = filter_map(product, gain), filter_map(power, gain)
    rho = (product / power.clamp_min(1e-6 * float(power.max()) + 1e-30)).clamp(0.0, 1.0)
    return 2 * rho / (1 + rho)


def expected_difference(population: np.ndarray) -> np.ndarray:
    """Power of each class's difference from the common map over that between two like classes, `(K,)`.

    States that differ independently from what they share, each by variance 1/2, differ from their mean, to which
    they contribute with the populations `π`, by `((1 - π_c)² + Σ_{k≠c} π_k²) / 2`: a large class is much of the mean.
    """
    square = population**2
    return 0.5 * ((1.0 - population) ** 2 + square.sum() - square)


def _class_ssnr(first: list[Tensor], second: list[Tensor], place: Tensor, population: np.ndarray) -> np.ndarray:
    """Signal that is shared by all classes but for their populations, over each class's own noise, `(K, shells)`."""
    box = place.shape[0]
    crosses, noises = [], []
    for a, b in zip(first, second, strict=True):
        cross, power_a, power_b = cross_and_powers(image_to_dft(a * place, 3), image_to_dft(b * place, 3), (box,) * 3)
        crosses.append(cross.numpy())
        noises.append((0.5 * (power_a + power_b) - cross).numpy())
    share = expected_difference(population)
    signal = share[:, None] / share.mean() * _smooth(np.maximum(np.mean(crosses, axis=0), 0.0))
    noise = np.array([_smooth(np.maximum(v, 0.0)) for v in noises])
    return 2.0 * signal / np.maximum(noise, 1e-30 + 0.02 * signal)


def _double_ssnr(fsc: np.ndarray) -> np.ndarray:
    clipped = np.clip(fsc, 0.0, 0.999)
    return 2.0 * clipped / (1.0 - clipped)


def _smooth(curve: np.ndarray) -> np.ndarray:
    """Running mean over three shells, weighted by their size."""
    weight = np.maximum(np.arange(len(curve), dtype=np.float64), 0.5) ** 2
    return np.convolve(curve * weight, np.ones(3), "same") / np.convolve(weight, np.ones(3), "same")
