"""Whether a sorting holds for particles that had no part in it.

Each half finds directions and classes for itself; the particles of the other half are then held against them. Along
directions that noise has drawn the others show no classes; along real ones they do. What a half makes of its own
particles is too far apart, the more so the fewer they are, so the places of the classes along the given directions,
few numbers for all particles, are found afresh among the others, and what that many free numbers gain by chance is
subtracted (Akaike 1974, doi:10.1109/TAC.1974.1100705).
"""

import numpy as np
import torch

from cryoloom.class3d.common import CommonMap
from cryoloom.class3d.latent import climb, coordinates, evidence_of, sort_by_coordinates
from cryoloom.class3d.subspace import find_subspace
from cryoloom.contract import Executor
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products

SCALE_SD = 0.1
STEPS = (1.0,) * 40


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
    """Mean gain of log-evidence per particle of `n_classes` over one class, and its standard error.

    Particles of either half along the directions of the other; both have the same freedom there, but for the number of
    classes.
    """
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
        apart = climb(cross, gram, found.means, SCALE_SD, STEPS, found.population, found.gain)
        as_one = climb(cross, gram, np.zeros((1, n_directions)), SCALE_SD, STEPS)
        gain = evidence_of(cross, gram, apart, SCALE_SD) - evidence_of(cross, gram, as_one, SCALE_SD)
        free = (n_classes - 1) * (n_directions + 1)
        gains.append(gain - free / len(other))
    gain = np.concatenate(gains)
    return float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))
