"""First memberships from a map of each state, at poses that are known."""

import numpy as np
import torch

from cryoloom.class3d.latent import memberships, scaled_likelihood
from cryoloom.contract import Executor
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import estimate_image_power
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products


def share_of_references(
    source: ImageSource, references: list[torch.Tensor], poses: PoseTable, resolution: float, executor: Executor
) -> np.ndarray:
    """Memberships `(n, K)` by the likelihood of each reference within its resolution, grey scales fitted."""
    rows = np.arange(len(source))
    radius = int(np.clip(round(source.field / resolution), 4, source.points.radius))
    noise = estimate_image_power(source, executor, rows)
    spectra = prepare_references(references, executor, radius, source.place)
    cross, gram = slice_products(
        source, [spectra], np.zeros(len(rows), np.int64), rows, poses.rotation, poses.shift_px, noise, executor,
        radius=radius,
    )  # fmt: skip
    norm = np.einsum("nkk->nk", gram)
    gain = np.maximum(cross.sum(0), 0.0) / np.maximum(norm.sum(0), 1e-30)
    found = scaled_likelihood(cross * gain, norm * gain**2, 0.15)
    population = np.full(len(references), 1.0 / len(references))
    share = memberships(found.log_likelihood, population)[0]
    for _ in range(20):
        population = share.mean(0)
        share = memberships(found.log_likelihood, population)[0]
    return share
