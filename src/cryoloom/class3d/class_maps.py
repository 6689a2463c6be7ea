"""Maps of the classes at full resolution, and poses fitted within them."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cryoloom.class3d.align import FAR, class_share
from cryoloom.class3d.common import CommonMap
from cryoloom.class3d.fold_maps import SMALL, class_candidates
from cryoloom.class3d.mixture import Mixture
from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.gauss_newton import PosePriors, refine_poses
from cryoloom.em.halves import prepare_references, solve_halves
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import Candidates, PoseTable, posterior_of, single_candidates
from cryoloom.em.rescue import SafetyNet, rescue
from cryoloom.em.solve import prepare_sums, solve, ssnr_of
from cryoloom.em.survivors import normalise_scale, survivors, take_best
from cryoloom.fourier.slices import PaddedSpectrum


@dataclass(frozen=True)
class ClassMap:
    """One class.

    Attributes
    ----------
    volume
        Map of all its particles, weighted by its signal-to-noise ratio, `(box, box, box)`.
    halves
        Maps of its particles in either half, unfiltered. Memberships were found by both halves together.
    resolution
        Å, FSC 0.143 between the halves behind masks of their own.
    """

    volume: Tensor
    halves: tuple[Tensor, Tensor]
    resolution: float


def solve_class(
    source: ImageSource,
    share: np.ndarray,
    poses: PoseTable,
    common: CommonMap,
    executor: Executor,
    *,
    symmetry: str = "C1",
) -> ClassMap:
    """Map of one class from memberships `(n,)`."""
    rows = np.flatnonzero(share >= SMALL)
    candidates = single_candidates(rows, poses.rotation[rows], poses.shift_px[rows])
    candidates = replace(candidates, posterior=share[rows])
    sums = accumulate(source, candidates, poses.half[rows] - 1, 2, common.noise, executor, radius=source.points.radius)
    halves = (prepare_sums(sums[0], symmetry, executor), prepare_sums(sums[1], symmetry, executor))
    del sums
    pair = solve_halves(halves, source.box, source.field, source.mask_diameter, executor)
    volumes = list(executor.map(lambda s: solve(s, source.box), halves))
    trusted = np.where(np.arange(len(pair.fsc)) <= pair.radius + 1, pair.fsc, 0.0)
    whole = solve(halves[0].plus(halves[1]), source.box, ssnr_of(trusted, both_halves=True))
    return ClassMap(whole, (volumes[0], volumes[1]), source.field / max(pair.radius, 1))


def realign_with_classes(
    source: ImageSource,
    mixture: Mixture,
    poses: PoseTable,
    common: CommonMap,
    executor: Executor,
    *,
    radius: int,
    diameter: float,
    shift_range: float,
    symmetry: str = "C1",
) -> tuple[PoseTable, np.ndarray, int]:
    """Poses fitted to the classes' maps of each particle's own half.

    Every particle is fitted near its pose to the map of its most likely class; those that fit badly are searched again
    over all poses, shifts (Å) and classes: the map of all states together may have led them astray.

    Returns
    -------
    poses
        A new table.
    share
        Memberships `(n, K)`: as they were, but for particles that were found elsewhere.
    n_rescued
        How many those are.
    """
    rows = np.arange(len(source))
    n_classes = mixture.share.shape[1]
    spectra = _maps_of_halves(source, mixture, poses, common, executor, radius, diameter, symmetry)
    turn = float(np.clip(source.field / radius / diameter * 1.5, np.deg2rad(1.0), np.deg2rad(8.0)))

    def fit(some: Candidates, last: int, n_steps: int) -> Candidates:
        return refine_poses(
            source, spectra, poses.half, some, common.noise, executor,
            radius=last, n_steps=n_steps, priors=PosePriors(scale_sd=0.15), largest_turn=turn,
        )  # fmt: skip

    own = mixture.share.argmax(1)
    found = fit(single_candidates(rows, poses.rotation, poses.shift_px, reference=own), radius, 5)
    net = SafetyNet(symmetry, diameter, shift_range / source.pixel_size, least=0.2, top=6 + 2 * n_classes)
    found, n_rescued = rescue(source, spectra, poses.half, found, common.noise, executor, fit, net, radius=radius)
    found = survivors(found, 2 + 2 * n_classes, 1e-3, symmetry)
    found = normalise_scale(replace(found, posterior=posterior_of(found)), poses.half)
    moved = replace(poses, **{name: column.copy() for name, column in poses.arrays().items()})
    take_best(moved, found, poses.rotation, symmetry)
    share = mixture.share.copy()
    elsewhere = moved.moved > FAR
    share[elsewhere] = class_share(found, n_classes)[elsewhere]
    return moved, share, n_rescued


def _maps_of_halves(
    source: ImageSource,
    mixture: Mixture,
    poses: PoseTable,
    common: CommonMap,
    executor: Executor,
    radius: int,
    diameter: float,
    symmetry: str,
) -> list[list[PaddedSpectrum]]:
    """Maps of all classes in either half, ready to be sliced."""
    n_classes = mixture.share.shape[1]
    candidates, member = class_candidates(mixture.share, poses, np.arange(len(source)))
    target = (poses.half[candidates.row] - 1) * n_classes + member
    sums = accumulate(source, candidates, target, 2 * n_classes, common.noise, executor, radius=radius)
    solved = [prepare_sums(s, symmetry, executor) for s in sums]
    del sums
    spectra: list[list[PaddedSpectrum]] = [[], []]
    for c in range(n_classes):
        halves = (solved[c], solved[n_classes + c])
        pair = solve_halves(halves, source.box, source.field, diameter, executor)
        ssnr = ssnr_of(pair.fsc, both_halves=False)
        box = pair.volumes[0].shape[0]
        for h in (0, 1):
            spectra[h] += prepare_references(
                [solve(halves[h], box, ssnr) * pair.masks[h]], executor, radius, source.place
            )
    return spectra
