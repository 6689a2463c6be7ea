"""Standard errors of the CTF parameters, and their posterior where the rings are faint.

Two estimates of the noise are joined: what theory says of a tapered periodogram, and the scatter between tiles
(sandwich estimate), which holds whatever the noise is. With that noise, the posterior of the phase parameters is
sampled (importance sampling around the maximum, background and depth maximised for each sample). Where rings are
strong this gives the same as the curvature at the maximum; where they are faint the likelihood is far from
quadratic, and only the posterior has honest widths; its mean also errs less than the maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.stats import norm as normal_distribution
from scipy.stats import qmc
from scipy.stats import t as student

from cryoloom.ctf_fit.fit import RingFit, fit_at
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.spectrum import TileSpectra

# Weight of the theoretical variance against the scatter of the tiles, in degrees of freedom.
PRIOR_FREEDOM = 20.0


@dataclass(frozen=True)
class Posterior:
    """What is known of the phase parameters.

    Attributes
    ----------
    mean
        `(mean, cos, sin, phase_shift)`; the last is the given one where it is not fitted.
    covariance
        Of the first `n_free` of them, widened so that 1.96 standard errors make a 95 % interval.
    """

    mean: np.ndarray
    covariance: np.ndarray


def covariance(fit: RingFit, spectra: TileSpectra) -> tuple[np.ndarray, float]:
    """Covariance of the phase parameters from curvature and noise, and its degrees of freedom.

    Returns
    -------
    covariance
        Of `(mean, cos, sin[, phase_shift])`, `(n_free, n_free)`.
    degrees_of_freedom
        For Student's t.
    """
    data = fit.profile.data
    jacobian = fit.profile.design(fit.defocus.as_array(), fit.solution, fit.n_free)
    weighted = jacobian * data.weight[:, None]
    inverse = np.linalg.pinv(weighted.T @ jacobian, rcond=1e-13, hermitian=True)
    lever = (weighted @ inverse)[:, : fit.n_free]  # (n, n_free): influence of one bin
    # From the model: each coefficient is exponentially distributed, neighbours are correlated by the taper.
    # Particles of a finite number add to that what `excess` says.
    factor = spectra.variance_factors(2 * fit.profile.beam.wavelength * abs(fit.defocus.mean) * np.sqrt(data.k2))
    expected = (lever * (data.excess * factor * fit.model**2 / spectra.bins.count[data.column])[:, None]).T @ lever
    # From the scatter of the tiles.
    n_tiles = len(spectra.power)
    if n_tiles < 4:
        return expected, PRIOR_FREEDOM
    whole, single = spectra.variance_factor(), spectra.tile_variance_factor()
    freedom = max(single / whole - 1, 0.0)
    scaled = lever / data.scale[:, None]
    pull = spectra.power[:, data.column].astype(np.float64) @ scaled - (fit.model * data.scale) @ scaled
    pull *= (spectra.weight * n_tiles)[:, None]
    pull -= pull.mean(axis=0)
    shared = (n_tiles * whole / single - 1) / (n_tiles - 1)  # mean correlation of two tiles
    scatter = pull.T @ pull / (n_tiles - 1) / (1 - shared) * whole / single
    found = float(np.trace(np.linalg.solve(expected, scatter))) / fit.n_free
    weight = fit.n_free * freedom / (fit.n_free * freedom + PRIOR_FREEDOM)
    return expected * (1 + weight * (found - 1)), PRIOR_FREEDOM + fit.n_free * freedom


def posterior(
    fit: RingFit, spectra: TileSpectra, where: SearchRange | None = None, *, n_samples: int = 128
) -> Posterior:
    """Mean and covariance of the phase parameters given the spectrum.

    Parameters
    ----------
    where
        Range outside of which the prior is 0; None for none.
    n_samples
        Samples of a quasi-random sequence (Sobol), so that equal input gives equal output.
    """
    at_maximum, freedom = covariance(fit, spectra)
    n_free = fit.n_free
    normal, _ = fit.profile.step(fit.solution, n_free)
    # The cost counts neighbouring coefficients as independent: temper it to the variance that was found.
    temper = n_free / float(np.trace(at_maximum @ normal))
    widen = (float(student.ppf(0.975, freedom)) / 1.959964) ** 2

    def log_likelihood(theta: np.ndarray) -> float:
        if where is not None and not where.holds(theta):
            return -np.inf
        return -0.5 * temper * (fit.profile.solve(theta).cost - fit.cost)

    centre, found = sample_posterior(fit.defocus.as_array(), at_maximum, log_likelihood, n_samples)
    return Posterior(centre, found * widen)


def sample_posterior(
    centre: np.ndarray, covariance: np.ndarray, log_likelihood: Callable[[np.ndarray], float], n_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of parameters under a flat prior, by importance sampling around a maximum.

    Parameters
    ----------
    centre
        The maximum, `(n,)`.
    covariance
        From the curvature there, of the first `n_free` parameters; the others stay as they are.
    log_likelihood
        Of parameters `(n,)`, up to a constant.
    n_samples
        Samples of a quasi-random sequence, a power of 2.

    Returns
    -------
    mean
        `(n,)`.
    covariance
        `(n_free, n_free)`.
    """
    n_free = len(covariance)
    spread = 1.5 * scipy.linalg.cholesky(covariance, lower=True)
    for _ in range(2):
        unit = normal_distribution.ppf(qmc.Sobol(n_free + 1, seed=0).random(n_samples))
        # Student's t with 5 degrees of freedom has tails enough for a likelihood that is not quadratic.
        chi2 = _chi2_quantile(normal_distribution.cdf(unit[:, n_free]), 5.0)
        unit = unit[:, :n_free] * np.sqrt(5.0 / chi2)[:, None]
        samples = np.tile(centre, (n_samples, 1))
        samples[:, :n_free] += unit @ spread.T
        log_proposal = -0.5 * (5.0 + n_free) * np.log1p((unit**2).sum(1) / 5.0)
        log_weight = np.asarray([log_likelihood(s) for s in samples]) - log_proposal
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        centre = weight @ samples
        offset = (samples - centre)[:, :n_free]
        found = (weight[:, None] * offset).T @ offset
        if 1 / (weight**2).sum() > 0.25 * n_samples:
            break
        spread = 1.3 * scipy.linalg.cholesky(found + 0.1 * covariance, lower=True)
    return centre, found


def fit_at_mean(fit: RingFit, known: Posterior) -> RingFit:
    """The fit at the mean of the posterior."""
    return fit_at(fit.profile, known.mean, fit.n_free)


def _chi2_quantile(probability: np.ndarray, freedom: float) -> np.ndarray:
    """Quantile of the chi-square distribution."""
    from scipy.special import chdtri

    return np.maximum(chdtri(freedom, 1 - probability), 1e-3)
