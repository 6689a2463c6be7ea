"""How far the rings are seen, how well they fit, and what may be wrong with a micrograph.

The limit of the fit is the frequency up to which, window by window of about one ring, the fitted rings stand out of
the noise. It falls with the envelope, so it says to what resolution the images are usable (compare Sheth,
Piot, Scheres 2015, doi:10.1016/j.jsb.2015.05.008, who read it from the correlation of rings and fit).
"""

import math
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.fit import RingFit
from cryoloom.ctf_fit.model import Beam, Defocus, double_phase
from cryoloom.ctf_fit.rings import RingData
from cryoloom.ctf_fit.spectrum import TileSpectra

ICE_RING = 1 / 3.67
ICE_BAND = (0.2575, 0.2855)
VISIBLE = 0.01  # of the background: four standard errors about 10 Å in a micrograph of 2.4e7 Å²


@dataclass(frozen=True)
class RingCurves:
    """Spectrum and fit averaged along lines of equal CTF phase.

    Attributes
    ----------
    k
        Frequency in 1/Å in a direction where the defocus is the mean, `(n,)`.
    measured
        Power over background, minus 1, `(n,)`.
    fitted
        The same of the fit, `(n,)`.
    error
        Standard error of `measured`, `(n,)`.
    """

    k: np.ndarray
    measured: np.ndarray
    fitted: np.ndarray
    error: np.ndarray


def ring_curves(data: RingData, fit: RingFit, beam: Beam, spectra: TileSpectra) -> RingCurves:
    """Average along lines of equal phase, one point per frequency step of a tile."""
    q = equiphase_k2(data.k2, data.k2_cos, data.k2_sin, fit.defocus, beam)
    step = 1.0 / (spectra.tile * spectra.pixel_size)
    index = np.rint(np.sqrt(np.maximum(q, 0)) / step).astype(np.int64)
    phase = double_phase(beam, fit.defocus, data.k2, data.k2_cos, data.k2_sin)
    count = spectra.bins.count[data.column]
    total = np.bincount(index, count)
    present = total > 0

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, count * values)[present] / total[present]

    k = mean(np.sqrt(data.k2))
    measured = mean(data.ratio / fit.background - 1)
    fitted = mean(-fit.depth * np.cos(phase) / fit.background)
    lag = 2 * beam.wavelength * abs(fit.defocus.mean) * k
    error = np.sqrt(spectra.variance_factors(lag) / total[present])
    return RingCurves(k, measured, fitted, error)


def equiphase_k2(k2: np.ndarray, k2_cos: np.ndarray, k2_sin: np.ndarray, defocus: Defocus, beam: Beam) -> np.ndarray:
    """Squared frequency at which the mean defocus alone gives the phase of a bin, 1/Å²."""
    bend = defocus.cos * k2_cos + defocus.sin * k2_sin
    slope = defocus.mean - beam.cs_mm * 1e7 * beam.wavelength**2 * k2  # d(phase)/d(k²) but for a factor
    slope = np.where(np.abs(slope) < 0.2 * abs(defocus.mean) + 1.0, np.inf, slope)
    return k2 + np.clip(bend / slope, -0.3 * k2, 0.3 * k2)


def fit_limit(
    curves: RingCurves, beam: Beam, defocus: Defocus, *, n_rings: float = 2.0, significance: float = 3.0
) -> float:
    """Highest frequency (1/Å) to which rings stand out in every window of `n_rings` rings; 0 if there are none.

    The windows overlap; two in a row may fail (an ice ring, a gap between the lobes of the particles' own transform).
    The limit is the middle of the last window that succeeds.
    """
    k2 = curves.k**2
    unit = -np.cos(double_phase(beam, Defocus(defocus.mean, 0, 0, defocus.phase_shift), k2, 0 * k2, 0 * k2))
    rings = np.abs(beam.wavelength * defocus.mean * k2)
    inverse = 1 / curves.error**2
    n = len(curves.k)
    reached, failures, first = 0.0, 0, 0
    while first < n - 4 and failures <= 2:
        last = min(max(first + 8, int(np.searchsorted(rings, rings[first] + n_rings))), n)
        window = slice(first, last)
        u, w = unit[window], inverse[window]
        u = u - np.average(u, weights=w)
        strength = float((w * u * curves.measured[window]).sum()) / math.sqrt(float((w * u * u).sum()) + 1e-30)
        if strength > significance:
            reached, failures = float(curves.k[window].mean()), 0
        else:
            failures += 1
        first += max(1, (last - first) // 4)
    return reached


def ring_depth(curves: RingCurves, beam: Beam, defocus: Defocus, k_low: float, k_high: float) -> tuple[float, float]:
    """Depth of the rings over the background between two frequencies (1/Å), and its standard error.

    One amplitude for the whole band, so it is negative by chance where there are no rings; infinite error where the
    band holds too few points.
    """
    use = (curves.k >= k_low) & (curves.k <= k_high)
    if use.sum() < 4:
        return 0.0, math.inf
    k2, w = curves.k[use] ** 2, 1 / curves.error[use] ** 2
    u = -np.cos(double_phase(beam, Defocus(defocus.mean, 0, 0, defocus.phase_shift), k2, 0 * k2, 0 * k2))
    u = u - np.average(u, weights=w)
    information = float((w * u * u).sum()) + 1e-30
    return float((w * u * curves.measured[use]).sum()) / information, 1 / math.sqrt(information)


def rings_end_before(curves: RingCurves, beam: Beam, defocus: Defocus, k: float) -> bool:
    """Whether the rings have surely faded at `k` (1/Å), not only out of sight for want of area or dose.

    They have where none are seen about `k` (less than three standard errors) although rings of depth `VISIBLE` would
    be. In a small micrograph the errors are larger than that, and its rings may go on unseen.
    """
    depth, error = ring_depth(curves, beam, defocus, 0.8 * k, 1.25 * k)
    return depth < 3 * error and depth + 3 * error < VISIBLE


def fit_score(curves: RingCurves, k_limit: float) -> float:
    """Correlation of measured and fitted rings up to `k_limit` (1/Å), at least to 10 Å."""
    use = curves.k <= max(k_limit, 1 / 10)
    # Equal say for all rings, although their depth falls: compare in units of the smooth depth.
    scale = np.maximum(np.abs(curves.fitted), 3 * curves.error) + 1e-12
    width = 15
    kernel = np.ones(width)
    scale = np.convolve(scale, kernel, "same") / np.convolve(np.ones(len(scale)), kernel, "same")
    a, b = curves.measured[use] / scale[use], curves.fitted[use] / scale[use]
    if len(a) < 4 or np.ptp(b) == 0 or np.ptp(a) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def spectrum_anisotropy(spectra: TileSpectra, k_low: float = 1 / 40, k_high: float = 1 / 8) -> tuple[float, float]:
    """Directional excess of the power between two frequencies: drift, charging or streaks.

    Returns
    -------
    amplitude
        Relative amplitude of the part of the logarithm of the power that goes with `cos 2θ`, after the mean of
        each shell is taken out.
    angle
        Direction of the largest power, radians from +x towards +y.
    """
    bins = spectra.bins
    shape = (bins.n_shells, bins.n_sectors)
    rows = (bins.shell_k >= k_low) & (bins.shell_k <= k_high)
    count = bins.count.reshape(shape)[rows]
    power = spectra.mean.reshape(shape)[rows]
    shell = (power * count).sum(1, keepdims=True) / np.maximum(count.sum(1, keepdims=True), 1)
    ratio = np.where(count > 0, power / np.maximum(shell, 1e-30), 1.0)
    seen = count.sum(0) > 0
    if seen.sum() < 3:
        return 0.0, 0.0
    sector = (ratio * count).sum(0)[seen] / count.sum(0)[seen]
    theta = (-0.5 * math.pi + (np.arange(bins.n_sectors) + 0.5) * math.pi / bins.n_sectors)[seen]
    moment = 2 * np.mean(np.log(np.maximum(sector, 1e-12)) * np.exp(2j * theta))
    return float(abs(moment)), float(0.5 * np.angle(moment))


def ice_ring(k: np.ndarray, power: np.ndarray) -> float:
    """Excess of the radial power at the ice ring (3.67 Å) over its surroundings, as a fraction; NaN out of range."""
    at = (k >= ICE_RING - 0.006) & (k <= ICE_RING + 0.006)
    beside = ((k >= 0.225) & (k <= ICE_BAND[0])) | ((k >= ICE_BAND[1]) & (k <= 0.305))
    if at.sum() < 2 or (beside & (k > ICE_RING)).sum() < 3 or np.any(power[at | beside] <= 0):
        return math.nan
    line = np.polyfit(k[beside], np.log(power[beside]), 1)
    local = np.convolve(np.log(power[at]), np.ones(3) / 3, "valid" if at.sum() > 3 else "same")
    return float(np.exp(local.max() - np.polyval(line, ICE_RING)) - 1)
