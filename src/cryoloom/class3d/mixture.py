"""Classes of maps by expectation maximisation at known poses, every particle judged by maps that have not seen it.

Particles lie in four folds, the quarters of `em/groups.py`, two in each half. A particle is held against the class
maps of the other folds, so its own noise does not speak for the class that it is in, and what the memberships claim is
what they are worth. Maps are a common map plus differences (`differences.py`); populations are the classes' priors;
grey scales are integrated out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from cryoloom.class3d.differences import DifferencePrior, difference_sums, learn_prior, minus, total_of
from cryoloom.class3d.latent import climb, coordinates, in_order_of, learnt_scale_spread, sort_by_coordinates
from cryoloom.contract import Executor
from cryoloom.em.accumulate import accumulate
from cryoloom.em.groups import N_QUARTERS, quarter_of
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.poses import Candidates, PoseTable, single_candidates
from cryoloom.em.products import slice_products
from cryoloom.em.solve import SolvableSums, box_for_radius, prepare_sums, solve
from cryoloom.fourier import fourier_crop

SMALL = 1e-3
"""Memberships below this are not inserted."""


@dataclass(frozen=True)
class Mixture:
    """Where a classification stands.

    Attributes
    ----------
    share
        Memberships, `(n, K)`.
    population
        `(K,)`.
    scale_sd
        Spread of the grey scale.
    log_likelihood
        `(n, K)`.
    evidence
        Mean log-evidence per particle.
    prior
        What the halves agree on, from the last step.
    means
        Classes in the span of the differences of the last step, `(K, K)`.
    """

    share: np.ndarray
    population: np.ndarray
    scale_sd: float
    log_likelihood: np.ndarray
    evidence: float
    prior: DifferencePrior | None = None
    means: np.ndarray | None = None


def begin_mixture(share: np.ndarray, scale_sd: float = 0.1) -> Mixture:
    """A mixture from memberships alone."""
    return Mixture(share, share.mean(0), scale_sd, np.zeros_like(share), -np.inf)


def mixture_step(
    source: ImageSource,
    mixture: Mixture,
    poses: PoseTable,
    rows: np.ndarray,
    mask: Tensor,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
    symmetry: str = "C1",
    rng: np.random.Generator | None = None,
    n_starts: int = 20,
) -> Mixture:
    """One step: class sums per fold, maps without each fold, memberships of that fold.

    Parameters
    ----------
    mask
        Where classes may differ, over the field of the images.
    radius
        Last shell that counts.
    rng, n_starts
        Random starts in the span of the differences; see `judge`.
    """
    fold = quarter_of(poses.half[rows])
    sums = class_sums(source, mixture, poses, rows, fold, noise, executor, radius=radius, symmetry=symmetry)
    n_classes = mixture.share.shape[1]
    box = box_for_radius(radius, source.box)
    window = mask if mask.shape[0] == box else fourier_crop(mask, (box,) * 3).clamp(0.0, 1.0)
    halves = ([a.plus(b) for a, b in zip(sums[0], sums[1], strict=True)],
              [a.plus(b) for a, b in zip(sums[2], sums[3], strict=True)])  # fmt: skip
    blur = max(10.0, 1.5 * source.field / radius)
    prior = learn_prior(halves, mixture.population, box, source.field, window, blur, executor)
    of_class = [a.plus(b) for a, b in zip(*halves, strict=True)]
    del halves
    total = total_of(of_class)
    cross, gram = [], []
    for f in range(N_QUARTERS):
        rest = minus(total, total_of(sums[f]))
        volumes = [solve(rest, box, prior.mean_ssnr)]
        for c in range(n_classes):
            own = difference_sums(minus(of_class[c], sums[f][c]), rest)
            volumes.append(solve(own, box, prior.ssnr[c]) * prior.place)
        mine = fold == f
        spectra = prepare_references(volumes, executor, radius)
        found = slice_products(
            source, [spectra], np.zeros(int(mine.sum()), np.int64), rows[mine], poses.rotation[rows[mine]],
            poses.shift_px[rows[mine]], noise, executor, radius=radius,
        )  # fmt: skip
        cross.append(found[0])
        gram.append(found[1])
    order = np.argsort(np.concatenate([np.flatnonzero(fold == f) for f in range(N_QUARTERS)]))
    return judge(mixture, np.concatenate(cross)[order], np.concatenate(gram)[order], prior, rng, n_starts)


def judge(
    mixture: Mixture,
    cross: np.ndarray,
    gram: np.ndarray,
    prior: DifferencePrior | None,
    rng: np.random.Generator | None = None,
    n_starts: int = 20,
) -> Mixture:
    """Memberships, populations and grey scales from products with the common map and the differences.

    A class is any point in the span of all differences: it may borrow from larger classes what it shares with them,
    and what regularisation took from its contrast is given back. With `rng`, the sorting starts afresh at random places
    of the span too, and goes on with the best evidence: at a finer resolution a wrong sorting gives way to a right one.
    """
    n_classes = cross.shape[1] - 1
    found = climb(cross, gram, np.eye(n_classes), mixture.scale_sd, (1.0,) * 15, mixture.population)
    if rng is not None and n_classes > 1:
        z, _ = coordinates(cross, gram, np.ones(len(cross)))
        other = sort_by_coordinates(
            cross, gram, z, n_classes, rng, n_starts=n_starts, scale_sd=max(mixture.scale_sd, 0.02)
        )
        if other.evidence > found.evidence:
            found = in_order_of(other, mixture.share)
    return Mixture(
        share=found.share,
        population=found.population,
        scale_sd=learnt_scale_spread(found.likelihood, found.share, mixture.scale_sd),
        log_likelihood=found.likelihood.log_likelihood,
        evidence=found.evidence,
        prior=prior,
        means=found.means,
    )


def class_sums(
    source: ImageSource,
    mixture: Mixture,
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
    n_folds, n_classes = int(fold.max()) + 1, mixture.share.shape[1]
    candidates, member = class_candidates(mixture, poses, rows)
    target = fold[np.searchsorted(rows, candidates.row)] * n_classes + member
    raw = accumulate(source, candidates, target, n_folds * n_classes, noise, executor, radius=radius)
    return [
        [prepare_sums(raw[f * n_classes + c], symmetry, executor) for c in range(n_classes)] for f in range(n_folds)
    ]


def class_candidates(mixture: Mixture, poses: PoseTable, rows: np.ndarray) -> tuple[Candidates, np.ndarray]:
    """Every particle in every class that it may belong to, and the class of each candidate."""
    which, member = np.nonzero(mixture.share >= SMALL)
    row = rows[which]
    # The grey scale stays out of the sums: fitted to an image's own noise, it would make the map grow.
    candidates = single_candidates(row, poses.rotation[row], poses.shift_px[row], reference=member)
    return replace(candidates, posterior=mixture.share[which, member]), member


def refine_mixture(
    source: ImageSource,
    share: np.ndarray,
    poses: PoseTable,
    rows: np.ndarray,
    mask: Tensor,
    noise: NoiseModel,
    executor: Executor,
    *,
    radii: list[int],
    n_steps: int = 6,
    symmetry: str = "C1",
    seed: int | None = None,
    n_starts: int = 20,
    log: Callable[[str], None] | None = None,
    keep: Callable[[np.ndarray, list[int]], None] | None = None,
) -> Mixture:
    """Two steps at each radius, at the last until few change their class.

    The last radius is that beyond which the halves' differences share less than half of their noise's power, or the
    last of `radii`; few are one particle in a hundred, or `n_steps` steps.

    Parameters
    ----------
    share
        Memberships to begin with, `(n, K)`.
    seed
        Of fresh starts in the span of the differences, tried at each step but those of the last radius; None: no such.
    keep
        Is handed the memberships and the radii that are left, after each radius; to go on from there gives the same.
    """
    left = list(radii)
    mixture = begin_mixture(share)
    while left:
        radius, last = left[0], len(left) == 1
        mixture = begin_mixture(mixture.share)
        for step in range(n_steps if last else 2):
            before = mixture.share.argmax(1)
            fresh = None if seed is None or (last and step) else np.random.default_rng([seed, radius, step])
            mixture = mixture_step(
                source, mixture, poses, rows, mask, noise, executor,
                radius=radius, symmetry=symmetry, rng=fresh, n_starts=n_starts,
            )  # fmt: skip
            changed = float(np.mean(before != mixture.share.argmax(1)))
            if log is not None:
                log(
                    f"classes at {source.field / radius:.1f} Å: evidence {mixture.evidence:.3f}, populations "
                    f"{np.round(mixture.population, 3)}, {100 * changed:.1f} % changed class"
                )
            if last and changed < 0.01:
                break
        assert mixture.prior is not None
        left = left[1:2] if _shown_to(mixture.prior) < radius else left[1:]
        if keep is not None and left:
            keep(mixture.share, left)
    return mixture


def _shown_to(prior: DifferencePrior) -> int:
    """Last shell at which the classes' differences stand out of half their noise."""
    shells = np.flatnonzero(prior.ssnr.mean(0) > 0.5)
    return int(shells[-1]) if len(shells) else 0
