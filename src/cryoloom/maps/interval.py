"""Confidence interval of the resolution: where the FSC crosses a threshold, and how well that is known.

Around the crossing the logit of the FSC, which is the logarithm of the signal-to-noise ratio of a half map, is a
smooth function of frequency (a straight line over `k²` for a B-factor). A quadratic is fitted to it by generalised
least squares with the covariance of the FSC behind the mask (`maps.freedom`), in Fisher's picture: a correlation ρ of
`n` coefficients has the variance `(1 - ρ²)² / n`. The error of the crossing follows from that of the fitted curve.
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.maps.fsc import crossing_shell

ENOUGH = 0.004
"""Standard error of the crossing, relative, below which the window of the fit is not widened."""

EVIDENT = 3.0
"""Standard errors by which the mean of the FSC up to the crossing must exceed 0; else nothing is shared."""

DISAGREE = 1.5
"""Standard errors of the difference beyond which a wider window is held to disagree with a narrower one."""


@dataclass(frozen=True)
class Crossing:
    """Where a curve crosses a threshold.

    Attributes
    ----------
    shell
        Of the fitted curve, interpolated.
    standard_error
        Of `shell`.
    first
        First crossing of the curve itself, linearly interpolated.
    bounded
        False if the curve never falls below the threshold before its last shell.
    """

    shell: float
    standard_error: float
    first: float
    bounded: bool

    def interval(self, n_shells: int, z: float = 1.96) -> tuple[float, float]:
        """Shells between which the crossing lies (95 % by default)."""
        low = max(self.shell - z * self.standard_error, 0.5)
        high = self.shell + z * self.standard_error if self.bounded else float(n_shells - 1)
        return low, min(high, float(n_shells - 1))


def locate_crossing(fsc: np.ndarray, covariance: np.ndarray, threshold: float = 0.143) -> Crossing:
    """Crossing of a noisy FSC with its standard error.

    A curve whose mean up to the crossing is no more than chance crosses in shell 1 at the latest: few coefficients of
    low shells correlate easily.

    Parameters
    ----------
    fsc
        One value per shell from shell 0, `(n,)`.
    covariance
        Of the FSC of noise between shells, `(n, n)`.
    threshold
        Between 0 and 1.
    """
    n = len(fsc)
    first = crossing_shell(fsc, threshold)
    if first >= n - 1:
        return Crossing(first, 0.0, first, bounded=False)
    start = robust_crossing(fsc, np.diag(covariance), threshold)
    # The slope is taken from a wide window throughout: one that is steep by chance must not look certain.
    _, _, slope = _settle(fsc, covariance, start, threshold, 0.3, 3)
    shell, error = start, math.inf
    for reach, n_terms in ((0.04, 2), (0.08, 2), (0.15, 3), (0.3, 3)):
        trial, value_error, own_slope = _settle(fsc, covariance, shell, threshold, reach, n_terms)
        trial_error = value_error / (slope if math.isfinite(slope) else own_slope)
        if not trial_error < error:
            continue
        # A wider window is more certain but less true to the curve (Lepski's rule): stop where it disagrees.
        if math.isfinite(error) and abs(trial - shell) > DISAGREE * math.sqrt(error**2 - trial_error**2):
            break
        shell, error = trial, trial_error
        if error < ENOUGH * shell:
            break
    if not math.isfinite(error):
        # Too few shells for a fit: the spread of one shell over the slope between its neighbours.
        s = min(max(round(first), 1), n - 2)
        slope = abs(fsc[s + 1] - fsc[s - 1]) / 2
        error = math.sqrt(covariance[s, s]) * (1 - threshold**2) / max(slope, 0.02)
        shell = first
    if _evidence(fsc, covariance, shell) < EVIDENT:
        shell = min(first, 1.0)
    return Crossing(shell=float(shell), standard_error=float(error), first=first, bounded=True)


def least_error(fsc: np.ndarray, covariance: np.ndarray, threshold: float = 0.143) -> float:
    """Standard error in shells below which no unbiased estimate of the crossing gets from this FSC (Cramér and Rao).

    For curves whose logit is quadratic from 30 % below the crossing to 30 % above it: `locate_crossing` comes near it
    where the curve is as smooth as that, and does not believe it where it is not.

    Parameters
    ----------
    fsc, covariance, threshold
        As in `locate_crossing`.

    Returns
    -------
    error
        Infinite if too few shells lie around the crossing.
    """
    start = robust_crossing(fsc, np.diag(covariance), threshold)
    _, error, slope = _settle(fsc, covariance, start, threshold, 0.3, 3)
    return error / slope if slope > 0 else math.inf


def _evidence(fsc: np.ndarray, covariance: np.ndarray, shell: float) -> float:
    """Weighted mean of the FSC from shell 1 to the crossing, in its standard errors for noise."""
    used = slice(1, max(round(shell), 1) + 1)
    weight = 1.0 / np.diag(covariance)[used]
    return float(weight @ fsc[used] / math.sqrt(weight @ covariance[used, used] @ weight))


def _settle(
    fsc: np.ndarray, covariance: np.ndarray, shell: float, threshold: float, reach: float, n_terms: int
) -> tuple[float, float, float]:
    """Fitted crossing, standard error of the logit there, and its slope per shell, in a window centred on it."""
    error, slope = math.inf, math.nan
    for _ in range(4):
        window = _window(fsc, shell, threshold, reach)
        fitted = _fit(fsc, covariance, window, shell, threshold, min(n_terms, len(window) // 2))
        if fitted is None:
            break
        previous, (moved, error, slope) = shell, fitted
        shell = min(max(moved, window[0] - 1.0), window[-1] + 1.0)
        if abs(shell - previous) < 0.02:
            break
    return shell, error, slope


def robust_crossing(fsc: np.ndarray, variance: np.ndarray, threshold: float = 0.143) -> float:
    """First crossing from which the curve stays down within its noise: a lone dip does not end it.

    Parameters
    ----------
    fsc, variance
        One value per shell from shell 0, and the variance of each for noise, `(n,)`.
    """
    weight = 1.0 / np.asarray(variance)
    n = len(fsc)
    below = np.flatnonzero(fsc < threshold)
    for s in below[below >= 1]:
        ahead = slice(s, min(s + max(3, math.ceil(0.1 * s)) + 1, n))
        mean = np.average(fsc[ahead], weights=weight[ahead])
        if mean < threshold + 1.0 / math.sqrt(weight[ahead].sum()):
            return float(s - 1 + np.clip((fsc[s - 1] - threshold) / max(fsc[s - 1] - fsc[s], 1e-9), 0, 1))
    return crossing_shell(fsc, threshold)


def _window(fsc: np.ndarray, shell: float, threshold: float, reach: float) -> np.ndarray:
    """Shells around the crossing, to `reach` of its frequency on either side, while the FSC is not high or gone."""
    n = len(fsc)
    smooth = np.convolve(np.pad(fsc, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    centre = min(max(round(shell), 1), n - 1)
    high, low = threshold + 0.7 * (1 - threshold), 0.15 * threshold
    half_width = max(3, math.ceil(reach * centre))
    left = right = centre
    while left > 1 and centre - left < half_width and (smooth[left - 1] < high or centre - left < 3):
        left -= 1
    while right < n - 1 and right - centre < half_width and (smooth[right + 1] > low or right - centre < 3):
        right += 1
    return np.arange(left, right + 1)


def _fit(
    fsc: np.ndarray, covariance: np.ndarray, window: np.ndarray, shell: float, threshold: float, n_terms: int
) -> tuple[float, float, float] | None:
    """Crossing of a polynomial in the logit, its standard error there and slope; None if the fit does not settle."""
    u = (window - shell) / max(len(window), 1)
    design = u[:, None] ** np.arange(n_terms)
    y = fsc[window]
    beta = np.zeros(n_terms)
    beta[0] = math.log(threshold / (1 - threshold))
    span = max(len(window) - 1, 1) / max(len(window), 1)
    top, bottom = np.clip(y[:2].mean(), 0.05, 0.95), np.clip(y[-2:].mean(), 0.02, 0.9)
    beta[1] = min((math.log(bottom / (1 - bottom)) - math.log(top / (1 - top))) / span, -0.5)
    noise = covariance[np.ix_(window, window)]
    normal = None
    for _ in range(25):
        value = 1 / (1 + np.exp(-np.clip(design @ beta, -12, 12)))
        scale = 1 - value**2
        weight = np.linalg.pinv(noise * scale[:, None] * scale[None, :], hermitian=True, rcond=1e-6)
        jacobian = design * (value * (1 - value))[:, None]
        # A weak prior keeps the curvature from running away where the window says little about it.
        prior = np.diag([0.0, 1e-4, 0.02][:n_terms])
        normal = jacobian.T @ weight @ jacobian + prior
        step = np.linalg.solve(normal, jacobian.T @ weight @ (y - value) - prior @ beta)
        step *= min(1.0, 1.5 / max(np.abs(step).max(), 1e-12))
        beta = beta + step
        if np.abs(step).max() < 1e-5:
            break
    # Where the fitted curve crosses: nearest root of the polynomial minus the logit of the threshold.
    shifted = beta.copy()
    shifted[0] -= math.log(threshold / (1 - threshold))
    roots = np.roots(shifted[::-1])
    real = roots[np.abs(roots.imag) < 1e-9].real
    slopes = np.array([(shifted[1:] * np.arange(1, n_terms) * r ** np.arange(n_terms - 1)).sum() for r in real])
    falling = real[slopes < 0]
    if len(falling) == 0 or normal is None:
        return None
    root = falling[np.argmin(np.abs(falling))]
    if abs(root) > 1.5:
        return None
    gradient = root ** np.arange(n_terms)
    slope = (beta[1:] * np.arange(1, n_terms) * root ** np.arange(n_terms - 1)).sum()
    variance = gradient @ np.linalg.inv(normal) @ gradient
    width = max(len(window), 1)
    return shell + root * width, math.sqrt(max(variance, 0.0)), abs(slope) / width
