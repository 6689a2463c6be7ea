"""Sums of the classes per fold, the maps they give, and the products of particles with those maps."""

from dataclasses import dataclass, replace

import numpy as np

from cryoloom.class3d.common import CommonMap, mask_in_box
from cryoloom.class3d.differences import DifferencePrior, difference_sums, learn_prior, total_of
from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.groups import N_QUARTERS
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.place import Place
from cryoloom.em.poses import Candidates, PoseTable, single_candidates
from cryoloom.em.products import slice_products
from cryoloom.em.solve import SolvableSums, box_for_radius, prepare_sums, solve
from cryoloom.fourier.slices import PaddedSpectrum

SMALL = 1e-3
"""Memberships below this are not inserted."""


def class_sums(
    source: ImageSource,
    share: np.ndarray,
    poses: PoseTable,
    rows: np.ndarray,
    fold: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    symmetry: str = "C1",
) -> list[list[SolvableSums]]:
    """Complete sums `[fold][class]` of particles at their poses, weighted by their memberships."""
    n_folds, n_classes = N_QUARTERS, share.shape[1]
    candidates, member = class_candidates(share, poses, rows)
    target = fold[np.searchsorted(rows, candidates.row)] * n_classes + member
    raw = accumulate(source, candidates, target, n_folds * n_classes, noise, executor, radius=radius)
    return [
        [prepare_sums(raw[f * n_classes + c], symmetry, executor) for c in range(n_classes)] for f in range(n_folds)
    ]


def class_candidates(share: np.ndarray, poses: PoseTable, rows: np.ndarray) -> tuple[Candidates, np.ndarray]:
    """Every particle in every class that it may belong to, and the class of each candidate."""
    which, member = np.nonzero(share >= SMALL)
    row = rows[which]
    # The grey scale stays out of the sums: fitted to an image's own noise, it would make the map grow.
    candidates = single_candidates(row, poses.rotation[row], poses.shift_px[row], reference=member)
    return replace(candidates, posterior=share[which, member]), member


def add_folds(first: list[SolvableSums], second: list[SolvableSums]) -> list[SolvableSums]:
    """Sums of every class in two sets of particles together."""
    return [a.plus(b) for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class ClassBasis:
    """Turns sums of the classes into the common map and the differences at one resolution.

    Attributes
    ----------
    box, field
        Of the images, pixels and Å.
    radius
        Last shell that counts.
    common
        Noise, where classes may differ, and where there is anything at all.
    place
        Where images meet the maps.
    """

    box: int
    field: float
    radius: int
    common: CommonMap
    executor: Executor
    place: Place

    def prior(self, halves: tuple[list[SolvableSums], list[SolvableSums]], population: np.ndarray) -> DifferencePrior:
        """What two sets of particles agree on."""
        box = box_for_radius(self.radius, self.box)
        blur = max(10.0, 1.5 * self.field / self.radius)
        return learn_prior(
            halves, population, box, self.field, mask_in_box(self.common.mask, box), blur, self.executor
        )  # fmt: skip

    def spectra(self, sums: list[SolvableSums], prior: DifferencePrior) -> list[PaddedSpectrum]:
        """Common map and the difference of each class, `K + 1`, ready to be sliced."""
        box, total = box_for_radius(self.radius, self.box), total_of(sums)
        volumes = [solve(total, box, prior.mean_ssnr) * mask_in_box(self.common.support, box)]
        volumes += [
            solve(difference_sums(own, total), box, ssnr) * prior.place
            for own, ssnr in zip(sums, prior.ssnr, strict=True)
        ]
        return prepare_references(volumes, self.executor, self.radius, self.place)


def products_with(
    source: ImageSource,
    spectra: list[PaddedSpectrum],
    poses: PoseTable,
    rows: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Products of particles at their poses with every map, `(n, K + 1)`, and of the maps, `(n, K + 1, K + 1)`."""
    return slice_products(
        source, [spectra], np.zeros(len(rows), np.int64), rows, poses.rotation[rows], poses.shift_px[rows], noise,
        executor, radius=radius,
    )  # fmt: skip
