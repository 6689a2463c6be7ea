"""Classes as points in a subspace of volumes: many cheap starts, the best by its evidence.

With the products of `em/products.py` at hand the likelihood of any class mean `V = U_0 + Σ_j m_j U_j` is a quadratic
form per particle, so a whole EM run over thousands of particles takes seconds. The grey scale of each particle is
integrated out under a Gaussian prior.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class ScaledLikelihood:
    """Likelihood of classes with the grey scale integrated out.

    Attributes
    ----------
    log_likelihood
        Gain over no particle, `(n, K)`.
    scale, scale_square
        Posterior mean of the scale and of its square under each class, `(n, K)`.
    """

    log_likelihood: np.ndarray
    scale: np.ndarray
    scale_square: np.ndarray


def scaled_likelihood(cross: np.ndarray, norm: np.ndarray, scale_sd: float) -> ScaledLikelihood:
    """`∫ exp(s b - ½ s² ν) N(s; 1, sd²) ds` for cross terms `b` and norms `ν`, `(n, K)`; a spread of 0 fixes s = 1."""
    if scale_sd <= 0:
        one = np.ones_like(cross)
        return ScaledLikelihood(cross - 0.5 * norm, one, one)
    prior = 1.0 / scale_sd**2
    precision = norm + prior
    mean = (cross + prior) / precision
    gain = 0.5 * precision * mean**2 - 0.5 * prior - 0.5 * np.log(precision / prior)
    return ScaledLikelihood(gain, mean, mean**2 + 1.0 / precision)


def memberships(log_likelihood: np.ndarray, population: np.ndarray) -> tuple[np.ndarray, float]:
    """Posterior of the classes `(n, K)` and the mean log-evidence per particle."""
    joint = log_likelihood + np.log(np.maximum(population, 1e-12))
    top = joint.max(1, keepdims=True)
    share = np.exp(joint - top)
    total = share.sum(1, keepdims=True)
    return share / total, float((top + np.log(total)).mean())


def coordinates(cross: np.ndarray, gram: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean `(n, q)` and covariance `(n, q, q)` of the coordinates, prior N(0, 1)."""
    s = scale[:, None]
    precision = s[..., None] ** 2 * gram[:, 1:, 1:] + np.eye(gram.shape[1] - 1)
    covariance = np.linalg.inv(precision)
    return np.einsum("nij,nj->ni", covariance, s * cross[:, 1:] - s**2 * gram[:, 1:, 0]), covariance


@dataclass(frozen=True)
class LatentClasses:
    """A mixture of points in the subspace.

    Attributes
    ----------
    means
        Coordinates, `(K, q)`.
    gain
        Factor of the common map `U_0` that fits these particles best; one for all classes.
    population
        `(K,)`.
    share
        Memberships, `(n, K)`.
    evidence
        Mean log-evidence per particle.
    likelihood
        Likelihoods that the memberships come from.
    """

    means: np.ndarray
    gain: float
    population: np.ndarray
    share: np.ndarray
    evidence: float
    likelihood: ScaledLikelihood


def sort_by_coordinates(
    cross: np.ndarray,
    gram: np.ndarray,
    coordinates: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
    *,
    n_starts: int = 20,
    scale_sd: float = 0.1,
    largest_number: int = 5000,
) -> LatentClasses:
    """Best of many EM runs from means drawn among the particles' own coordinates.

    Parameters
    ----------
    cross, gram
        Products with mean and directions, `(n, q + 1)` and `(n, q + 1, q + 1)`.
    coordinates
        Posterior means of the coordinates, `(n, q)`.
    largest_number
        Particles used to choose among the starts; the best then goes on with all.
    """
    n = len(cross)
    some = np.sort(rng.choice(n, largest_number, replace=False)) if n > largest_number else np.arange(n)
    best: LatentClasses | None = None
    for _ in range(n_starts):
        means = _spread_out(coordinates[some], n_classes, rng)
        found = climb(cross[some], gram[some], means, scale_sd, (3.0, 2.0, 1.5, *[1.0] * 40))
        if best is None or found.evidence > best.evidence:
            best = found
    assert best is not None
    return climb(cross, gram, best.means, scale_sd, (1.0,) * 20, best.population, best.gain)


def _spread_out(coordinates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Start means as k-means++ draws them (Arthur & Vassilvitskii 2007): each far from those before."""
    chosen = [coordinates[rng.integers(len(coordinates))]]
    while len(chosen) < n:
        distance = np.min([((coordinates - c) ** 2).sum(1) for c in chosen], axis=0)
        total = distance.sum()
        p = distance / total if total > 0 else None
        chosen.append(coordinates[rng.choice(len(coordinates), p=p)])
    return np.array(chosen)


def climb(
    cross: np.ndarray,
    gram: np.ndarray,
    means: np.ndarray,
    scale_sd: float,
    temperatures: tuple[float, ...],
    population: np.ndarray | None = None,
    gain: float = 1.0,
    expected: np.ndarray | None = None,
) -> LatentClasses:
    """EM from given means, one step per temperature; ends early when the evidence stands still.

    Means have a Gaussian prior of variance 1 about `expected`, `(K, q)`; None: about the common map.
    The common map is fitted too, by one factor: a common map that is too strong or too weak as a whole would be mended
    with what tells the classes apart, and the class with most mass would gain or lose members.
    """
    n_classes, q = means.shape
    population = np.full(n_classes, 1.0 / n_classes) if population is None else population
    centre = np.zeros_like(means) if expected is None else expected
    evidence, share, found = -np.inf, np.zeros((len(cross), n_classes)), None
    for temperature in temperatures:
        found = scaled_likelihood(*class_products(cross, gram, means, gain), scale_sd)
        share, now = memberships(found.log_likelihood / temperature, population)
        population = np.maximum(share.mean(0), 0.5 / len(cross))
        population /= population.sum()
        first, second = share * found.scale, share * found.scale_square
        weighted = np.einsum("nk,nij->kij", second, gram)
        right = np.einsum("nk,ni->ki", first, cross)
        left = right[:, 0].sum() - np.einsum("ki,ki->", weighted[:, 0, 1:], means)
        gain = float(np.clip(left / weighted[:, 0, 0].sum(), 0.5, 2.0))
        own = right[:, 1:] - gain * weighted[:, 1:, 0]
        means = np.linalg.solve(weighted[:, 1:, 1:] + np.eye(q), (own + centre)[..., None])[..., 0]
        if temperature == 1.0 and now - evidence < 1e-5:
            evidence = now
            break
        evidence = now if temperature == 1.0 else -np.inf
    assert found is not None
    return LatentClasses(means, gain, population, share, evidence, found)


def class_products(
    cross: np.ndarray, gram: np.ndarray, means: np.ndarray, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cross terms with the class maps and their norms, `(n, K)`, from products with the common map and directions."""
    point = np.concatenate([np.full((len(means), 1), gain), means], axis=1)
    return cross @ point.T, np.einsum("nij,ki,kj->nk", gram, point, point)


def scale_spread(cross: np.ndarray, norm: np.ndarray, share: np.ndarray) -> float:
    """Standard deviation of the grey scale about 1 that cross terms and norms `(n, K)` show beyond their noise.

    At scale s a cross term has mean s ν and variance ν, so `Σ ((b - ν)² - ν) / Σ ν²` is the variance of s: unlike the
    step of an expectation maximisation, it does not remember where it began. Between 0 and 0.5.
    """
    beyond = (share * ((cross - norm) ** 2 - norm)).sum() / (share * norm**2).sum()
    return float(np.sqrt(np.clip(beyond, 0.0, 0.25)))


def in_order_of(found: LatentClasses, share: np.ndarray) -> LatentClasses:
    """The same classes in the order in which they match the memberships `share` best (Hungarian method)."""
    order = linear_sum_assignment(-(share.T @ found.share))[1]
    f = found.likelihood
    return LatentClasses(
        found.means[order],
        found.gain,
        found.population[order],
        found.share[:, order],
        found.evidence,
        ScaledLikelihood(f.log_likelihood[:, order], f.scale[:, order], f.scale_square[:, order]),
    )


def evidence_of(cross: np.ndarray, gram: np.ndarray, found: LatentClasses, scale_sd: float) -> np.ndarray:
    """Log-evidence `(n,)` of other particles under a mixture that was fitted elsewhere."""
    likelihood = scaled_likelihood(*class_products(cross, gram, found.means, found.gain), scale_sd)
    joint = likelihood.log_likelihood + np.log(found.population)
    top = joint.max(1)
    return top + np.log(np.exp(joint - top[:, None]).sum(1))
