"""The directions in which particles of known pose differ: a probabilistic principal component analysis of volumes.

Each particle shows `V_i = U_0 + Σ_j z_ij U_j` with `z ~ N(0, 1)` (Tagare et al. 2015, doi:10.1016/j.jsb.2015.05.007;
Punjani & Fleet 2021, doi:10.1016/j.jsb.2021.107702). The likelihood of this model has no local maxima but the
global one (Tipping & Bishop 1999, doi:10.1111/1467-9868.00196), so it is a start for classes that does not hang on
chance: K states span at most K - 1 directions about their mean. Each volume and shell is regularised by the FSC between
the two halves' solutions for equal coordinates, and held inside the mask; once the directions have taken shape, also
to the places where the halves agree.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.class3d.common import mask_in_box
from cryoloom.class3d.differences import local_agreement
from cryoloom.class3d.latent import coordinates
from cryoloom.contract import Executor
from cryoloom.em.channels import accumulate_channels, solve_channels
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products
from cryoloom.em.solve import box_for_radius
from cryoloom.maps.filter import lowpass, weight_shells
from cryoloom.maps.fsc import fourier_shell_correlation


@dataclass(frozen=True)
class Subspace:
    """Mean, directions, and what each particle says of its coordinates.

    Attributes
    ----------
    volumes
        Mean and q directions, over the field of the images.
    cross, gram
        Products of every particle with them, `(n, q + 1)` and `(n, q + 1, q + 1)` (`em/products.py`).
    spread
        Energy of each direction in an average particle, in units of the noise, `(q,)`.
    """

    volumes: list[Tensor]
    cross: np.ndarray
    gram: np.ndarray
    spread: np.ndarray


def find_subspace(
    source: ImageSource,
    mean: Tensor,
    mask: Tensor,
    poses: PoseTable,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    generator: torch.Generator,
    *,
    n_directions: int,
    radii: list[int],
    symmetry: str = "C1",
    n_steps: int = 12,
    split: np.ndarray | None = None,
    log: Callable[[str], None] | None = None,
) -> Subspace:
    """Fit mean and directions by EM at growing radii.

    Parameters
    ----------
    mean
        Consensus map over the field of the images, any box.
    mask
        Where states may differ, over the same field, any box.
    poses
        Known poses, scales and halves.
    radii
        Last shell of each stage of the fit.
    split
        Which of two parts (0 or 1) of the agreement a row belongs to, `(m,)`; its half by default.
    n_steps
        Most EM steps per radius; it ends when the energies of the directions stand still.
    """
    volumes = [mean, *_random_directions(mean, mask, n_directions, source.field, generator)]
    rotation, shift, scale = poses.rotation[rows], poses.shift_px[rows], poses.scale[rows]
    part = poses.half[rows] - 1 if split is None else split
    zeros, q = np.zeros(len(rows), np.int64), n_directions
    for number, radius in enumerate(radii):
        box = box_for_radius(radius + 1, source.box)
        inside = mask_in_box(mask, box)
        energy, local = np.zeros(q), number > 0
        for step in range(n_steps):
            spectra = prepare_references(volumes, executor, radius, source.place)
            cross, gram = slice_products(
                source, [spectra], zeros, rows, rotation, shift, noise, executor, radius=radius
            )
            first, covariance = coordinates(cross, gram, scale)
            before, energy = energy, np.sort(np.einsum("njj->j", gram[:, 1:, 1:]) / len(rows))
            if np.abs(energy - before).max() < 0.02 * energy.max():
                if local:
                    break
                local = True
            local = local or step >= n_steps // 2
            second = covariance + first[:, :, None] * first[:, None, :]
            whiten = np.linalg.inv(np.linalg.cholesky(second.mean(0) + 1e-6 * np.eye(q)))
            first, second = first @ whiten.T, whiten @ second @ whiten.T
            one = np.concatenate([np.ones((len(rows), 1)), first], axis=1)
            both = np.empty((len(rows), q + 1, q + 1))
            both[:, 0], both[:, :, 0] = one, one
            both[:, 1:, 1:] = second
            sums = accumulate_channels(
                source, rows, rotation, shift, scale, one, both, part, 2, noise, executor,
                radius=radius,
            )  # fmt: skip
            weak = np.full((q + 1, radius + 1), 0.05)
            halves = [solve_channels(sums[h], q + 1, radius, box, weak, symmetry, executor) for h in (0, 1)]
            where = common_places(halves, inside, radius, source.field) if local else inside
            prior = np.empty((q + 1, radius + 1))
            for j in range(q + 1):
                seen = inside if j == 0 else where
                fsc = fourier_shell_correlation(halves[0][j] * seen, halves[1][j] * seen).numpy()
                prior[j] = inverse_ssnr(fsc, radius)
            volumes = solve_channels(sums[0] + sums[1], q + 1, radius, box, prior, symmetry, executor)
            volumes = [volumes[0]] + [v * where for v in volumes[1:]]
        if log is not None:
            log(f"directions at {source.field / radius:.1f} Å: energy {np.round(energy[::-1], 2)}")
    spectra = prepare_references(volumes, executor, radii[-1], source.place)
    cross, gram = slice_products(source, [spectra], zeros, rows, rotation, shift, noise, executor, radius=radii[-1])
    return Subspace(volumes, cross, gram, np.einsum("njj->j", gram[:, 1:, 1:]) / len(rows))


def common_places(halves: list[list[Tensor]], inside: Tensor, radius: int, field: float) -> Tensor:
    """Where the halves' directions agree, from 0 to 1 inside the mask: what differs is mostly a small part."""
    smooth: list[list[Tensor]] = [[], []]
    for pair in zip(halves[0][1:], halves[1][1:], strict=True):
        inverse = inverse_ssnr(fourier_shell_correlation(pair[0] * inside, pair[1] * inside).numpy(), radius)
        wiener = torch.zeros(len(inside) // 2 + 1, dtype=torch.float64)
        wiener[: radius + 1] = torch.from_numpy(1.0 / (1.0 + inverse))
        for kept, volume in zip(smooth, pair, strict=True):
            kept.append(weight_shells(volume * inside, wiener))
    blur = max(10.0, 1.5 * field / radius)
    n = len(smooth[0])
    return local_agreement(smooth[0], smooth[1], np.ones(n) / n, field / len(inside), blur) * inside


def inverse_ssnr(fsc: np.ndarray, radius: int) -> np.ndarray:
    """Inverse signal-to-noise ratio of the sum of two halves per shell, `(radius + 1,)`, from their FSC, smoothed."""
    given = np.asarray(fsc, np.float64)[: radius + 1]
    given = np.concatenate([given, np.zeros(radius + 1 - len(given))])
    count = np.maximum(np.arange(radius + 1.0), 0.5) ** 2
    smooth = np.convolve(given * count, np.ones(3), "same") / np.convolve(count, np.ones(3), "same")
    clipped = np.clip(smooth, 1e-3, 0.98)
    return (1.0 - clipped) / (2.0 * clipped)


def _random_directions(mean: Tensor, mask: Tensor, n: int, field: float, generator: torch.Generator) -> list[Tensor]:
    """Density times smooth random fields inside the mask: parts that come and go change the map where it is dense."""
    box = mean.shape[0]
    inside = mask_in_box(mask, box)
    out = []
    for _ in range(n):
        noise = torch.randn(box, box, box, generator=generator)
        smooth = lowpass(noise, field / box, max(60.0, 4 * field / box))
        out.append(0.3 * mean * inside * smooth / smooth.std())
    return out
