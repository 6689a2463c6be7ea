"""Whether a sorting holds for particles that had no part in it.

Each half finds directions and classes for itself; the particles of the other half are then held against them. Classes
that explain the others better than one map does are real; those that noise has drawn explain nothing elsewhere.
"""

import numpy as np
import torch

from cryoloom.class3d.common import CommonMap
from cryoloom.class3d.latent import class_products, coordinates, evidence_of, scaled_likelihood, sort_by_coordinates
from cryoloom.class3d.subspace import find_subspace
from cryoloom.contract import Executor
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products

SCALE_SD = 0.1


def evidence_elsewhere(
    source: ImageSource,
    poses: PoseTable,
    common: CommonMap,
    n_classes: int,
    n_directions: int,
    radius: int,
    executor: Executor,
    generator: torch.Generator,
    *,
    symmetry: str = "C1",
    n_starts: int = 10,
) -> tuple[float, float]:
    """Mean gain of log-evidence per particle over one class, judged by the other half, and its standard error."""
    gains = []
    rng = np.random.default_rng(int(generator.initial_seed()) % 2**32)
    for h in (1, 2):
        own, other = np.flatnonzero(poses.half == h), np.flatnonzero(poses.half != h)
        subspace = find_subspace(
            source, common.volume, common.mask, poses, own, common.noise, executor, generator,
            n_directions=n_directions, radii=[radius], symmetry=symmetry, split=np.arange(len(own)) % 2,
        )  # fmt: skip
        z, _ = coordinates(subspace.cross, subspace.gram, poses.scale[own])
        found = sort_by_coordinates(
            subspace.cross, subspace.gram, z, n_classes, rng, n_starts=n_starts, scale_sd=SCALE_SD
        )
        spectra = prepare_references(subspace.volumes, executor, radius, source.place)
        cross, gram = slice_products(
            source, [spectra], np.zeros(len(other), np.int64), other, poses.rotation[other], poses.shift_px[other],
            common.noise, executor, radius=radius,
        )  # fmt: skip
        one = class_products(cross[:, :1], gram[:, :1, :1], np.zeros((1, 0)), found.gain)
        alone = scaled_likelihood(*one, SCALE_SD).log_likelihood[:, 0]
        gains.append(evidence_of(cross, gram, found, SCALE_SD) - alone)
    gain = np.concatenate(gains)
    return float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))
