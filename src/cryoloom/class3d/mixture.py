"""Classes of maps by expectation maximisation at known poses, every particle judged by maps that have not seen it.

Particles lie in four folds, the quarters of `em/groups.py`, two in each half. A particle is held against the class
maps of the other folds, so its own noise does not speak for the class that it is in, and what the memberships claim is
what they are worth. Maps are a common map plus differences (`differences.py`); populations are the classes' priors;
grey scales are integrated out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cryoloom.class3d.common import CommonMap
from cryoloom.class3d.differences import DifferencePrior, minus
from cryoloom.class3d.fold_maps import ClassBasis, add_folds, class_sums, products_with
from cryoloom.class3d.latent import (
    class_products,
    climb,
    coordinates,
    in_order_of,
    scale_spread,
    sort_by_coordinates,
)
from cryoloom.contract import Executor
from cryoloom.em.groups import N_QUARTERS, quarter_of
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import PoseTable


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
    means, gain
        Classes in the span of the differences of the last step, `(K, K)`, and the factor of the common map.
    population_spread
        Standard error of the populations by the jackknife over quarters, `(K,)`; None unless they were sorted apart.
    """

    share: np.ndarray
    population: np.ndarray
    scale_sd: float
    log_likelihood: np.ndarray
    evidence: float
    prior: DifferencePrior | None = None
    means: np.ndarray | None = None
    gain: float = 1.0
    population_spread: np.ndarray | None = None


def begin_mixture(share: np.ndarray, scale_sd: float = 0.1) -> Mixture:
    """A mixture from memberships alone."""
    return Mixture(share, share.mean(0), scale_sd, np.zeros_like(share), -np.inf)


def mixture_step(
    source: ImageSource,
    mixture: Mixture,
    poses: PoseTable,
    rows: np.ndarray,
    common: CommonMap,
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
    common
        Noise, where classes may differ, and where there is anything at all.
    radius
        Last shell that counts.
    rng, n_starts
        Random starts in the span of the differences; see `judge`.
    """
    fold, n_classes = quarter_of(poses.half)[rows], mixture.share.shape[1]
    sums = class_sums(
        source, mixture.share, poses, rows, fold, common.noise, executor, radius=radius, symmetry=symmetry
    )
    halves = (add_folds(sums[0], sums[1]), add_folds(sums[2], sums[3]))
    basis = ClassBasis(source.box, source.field, radius, common, executor, source.place)
    prior = basis.prior(halves, mixture.population)
    of_class = add_folds(*halves)
    del halves
    cross = np.empty((len(rows), n_classes + 1))
    gram = np.empty((len(rows), n_classes + 1, n_classes + 1))
    for f in np.unique(fold):
        spectra = basis.spectra([minus(all_, mine) for all_, mine in zip(of_class, sums[f], strict=True)], prior)
        here = fold == f
        cross[here], gram[here] = products_with(
            source, spectra, poses, rows[here], common.noise, executor, radius=radius
        )  # fmt: skip
    return judge(mixture, cross, gram, prior, rng, n_starts)


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
    own = np.eye(n_classes)
    found = climb(cross, gram, own, mixture.scale_sd, (1.0,) * 15, mixture.population, expected=own)
    if rng is not None and n_classes > 1:
        z, _ = coordinates(cross, gram, np.ones(len(cross)))
        other = sort_by_coordinates(cross, gram, z, n_classes, rng, n_starts=n_starts, scale_sd=mixture.scale_sd)
        if other.evidence > found.evidence:
            found = in_order_of(other, mixture.share)
    return Mixture(
        share=found.share,
        population=found.population,
        scale_sd=scale_spread(*class_products(cross, gram, found.means, found.gain), found.share),
        log_likelihood=found.likelihood.log_likelihood,
        evidence=found.evidence,
        prior=prior,
        means=found.means,
        gain=found.gain,
    )


def refine_mixture(
    source: ImageSource,
    share: np.ndarray,
    poses: PoseTable,
    rows: np.ndarray,
    common: CommonMap,
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
                source, mixture, poses, rows, common, executor,
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


def judge_apart(
    source: ImageSource,
    mixture: Mixture,
    poses: PoseTable,
    rows: np.ndarray,
    common: CommonMap,
    executor: Executor,
    *,
    radius: int,
    symmetry: str = "C1",
) -> Mixture:
    """Memberships of each quarter under classes that the other three have sorted once more without it.

    In the steps before, a particle was judged by maps of others, but it had had its say in how those others were
    sorted: what it was drawn to comes back to it, and memberships claim too much. Here the others are sorted afresh
    among themselves, one step. What is left of the particle's own voice is in the sorting that this one began with,
    and in what all particles share: the means in the span of the differences and the populations.
    """
    fold, n_classes = quarter_of(poses.half)[rows], mixture.share.shape[1]
    cross = np.empty((len(rows), n_classes + 1))
    gram = np.empty((len(rows), n_classes + 1, n_classes + 1))
    basis = ClassBasis(source.box, source.field, radius, common, executor, source.place)
    without = []
    for f in range(N_QUARTERS):
        others = rows[fold != f]
        apart = mixture_step(
            source, replace(mixture, share=mixture.share[fold != f]), poses, others, common, executor,
            radius=radius, symmetry=symmetry,
        )  # fmt: skip
        without.append(apart.population)
        sums = class_sums(
            source, apart.share, poses, others, fold[fold != f], common.noise, executor,
            radius=radius, symmetry=symmetry,
        )  # fmt: skip
        assert apart.prior is not None
        of_class = add_folds(add_folds(sums[0], sums[1]), add_folds(sums[2], sums[3]))
        del sums
        spectra, here = basis.spectra(of_class, apart.prior), fold == f
        cross[here], gram[here] = products_with(
            source, spectra, poses, rows[here], common.noise, executor, radius=radius
        )  # fmt: skip
    spread = np.sqrt((N_QUARTERS - 1) * np.var(without, axis=0))
    return replace(judge(mixture, cross, gram, mixture.prior), population_spread=spread)


def _shown_to(prior: DifferencePrior) -> int:
    """Last shell at which the classes' differences stand out of half their noise."""
    shells = np.flatnonzero(prior.ssnr.mean(0) > 0.5)
    return int(shells[-1]) if len(shells) else 0
