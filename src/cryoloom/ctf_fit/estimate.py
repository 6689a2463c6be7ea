"""CTF of one image: spectrum, search, fit, errors, limit, figures of quality.

The order: tiles of moderate size and an exhaustive search; a continuous fit from each of the best candidates; where
the rings turn out too fine for the tiles (high defocus, far-reaching rings) once more with larger tiles; then
weights by what the smooth model leaves over, the final fit, its covariance, and how far the rings reach.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.ctf_fit.background import radial_mean, smooth_mean
from cryoloom.ctf_fit.errors import Posterior, fit_at_mean, posterior
from cryoloom.ctf_fit.fit import RingFit, fit_rings
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.quality import (
    ICE_BAND,
    RingCurves,
    fit_limit,
    fit_score,
    ice_ring,
    ring_curves,
    spectrum_anisotropy,
)
from cryoloom.ctf_fit.rings import RingData, prepare_rings, reweigh
from cryoloom.ctf_fit.search import Candidate, SearchRange, search_defocus
from cryoloom.ctf_fit.spectrum import TileSpectra, choose_tile, tile_spectra
from cryoloom.ctf_fit.thickness import fit_thickness

SEARCH_SECTORS = 20
N_TRIED = 6  # candidates of the search that are fitted
SEARCH_K_MAX = 0.25
SEARCH_FLOOR = 0.03  # relative structure of the radial mean that is not rings
ICE_EXCESS = 0.05  # an ice ring stronger than this is kept out of the fit


@dataclass(frozen=True)
class CtfEstimate:
    """The CTF of one micrograph and how well it is known.

    Attributes
    ----------
    defocus
        The fit.
    defocus_error
        Standard error of the mean defocus, Å; the 95 % interval is 1.96 times this on either side.
    defocus_u_error, defocus_v_error, angle_error
        The same for U, V (Å) and the angle of U (radians).
    phase_shift_error
        Radians, 0 when the phase shift was given.
    half_difference
        Difference of the mean defocus between two independent halves of the micrograph, Å; NaN where there are too
        few tiles.
    thickness, thickness_error
        Thickness of the specimen and its standard error, Å; NaN where it was not asked for or does not show.
    gain
        By how much the rings lower the weighted sum of squares, in units of its expected noise.
    k_limit
        Frequency up to which the rings are fitted, 1/Å; 0 when there are none.
    score
        Correlation of measured and fitted rings up to the limit.
    anisotropy, anisotropy_angle
        Directional excess of the power and its direction (radians).
    ice_ring
        Excess of the power at 3.67 Å as a fraction; NaN when out of range.
    curves
        Spectrum and fit along lines of equal phase.
    posterior
        Mean and covariance of the phase parameters.
    spectra, rings, fit
        What they were found from.
    """

    defocus: Defocus
    defocus_error: float
    defocus_u_error: float
    defocus_v_error: float
    angle_error: float
    phase_shift_error: float
    half_difference: float
    thickness: float
    thickness_error: float
    gain: float
    k_limit: float
    score: float
    anisotropy: float
    anisotropy_angle: float
    ice_ring: float
    curves: RingCurves
    posterior: Posterior
    spectra: TileSpectra
    rings: RingData
    fit: RingFit


def estimate_image_ctf(
    image: Tensor,
    pixel_size: float,
    beam: Beam,
    where: SearchRange,
    *,
    k_min: float = 1 / 30,
    k_max: float = 1 / 3.2,
    tile_extent: float = 768.0,
    fit_phase_shift: bool = False,
    with_thickness: bool = False,
) -> CtfEstimate:
    """Estimate the CTF of a micrograph `(h, w)` of any real type, protein dark or bright.

    Parameters
    ----------
    pixel_size
        Å per pixel.
    where
        Range of the search; its phase shifts are those tried first when `fit_phase_shift`.
    k_min, k_max
        Frequencies used, 1/Å.
    tile_extent
        Edge of the first tiles, Å.
    with_thickness
        Also fit the thickness of the specimen.
    """
    k_max = min(k_max, 0.47 / pixel_size)
    shape = (int(image.shape[-2]), int(image.shape[-1]))
    if min(shape) < 64:
        raise ValueError(f"image: expected at least 64 x 64 pixels, got {shape[0]} x {shape[1]}")
    spectra = tile_spectra(image, pixel_size, tile=choose_tile(shape, pixel_size, tile_extent), k_max=k_max)
    candidates = search_spectra(spectra, beam, where, k_min, k_max)
    if not candidates:
        raise ValueError("the power spectrum is flat or empty: this is no image of ice")
    rings = _rings(spectra, k_min, k_max)

    def fitted(data: RingData, start: Defocus, n_iterations: int = 20) -> RingFit:
        return fit_rings(data, beam, start, fit_phase_shift=fit_phase_shift, where=where, n_iterations=n_iterations)

    noise = spectra.variance_factor() * spectra.n_independent
    fits = [fitted(rings, c.defocus, 6) for c in candidates[:N_TRIED]]
    fit = max(fits, key=lambda f: f.evidence(noise))
    curves = ring_curves(rings, fit, beam, spectra)
    lag = 2 * beam.wavelength * abs(fit.defocus.mean) * max(fit_limit(curves, beam, fit.defocus), 1 / 8)
    larger = choose_tile(shape, pixel_size, min(3 * lag, 4 * tile_extent))
    if larger > 1.3 * spectra.tile:
        spectra = tile_spectra(image, pixel_size, tile=larger, k_max=k_max)
        rings = _rings(spectra, k_min, k_max)
        fit = fitted(rings, fit.defocus)
    for _ in range(2):
        lag = 2 * beam.wavelength * fit.defocus.mean
        weighted = reweigh(rings, spectra, fit.model, fit.solution.phase, lag)
        fit = fitted(weighted, fit.defocus)
    noise = spectra.variance_factor() * spectra.n_independent
    slab = fit_thickness(fit, noise) if with_thickness else None
    if slab:
        # to the model of a thin specimen inverted rings are noise, and were given little weight
        weighted = reweigh(
            rings, spectra, slab.fit.model, slab.fit.solution.phase, 2 * beam.wavelength * fit.defocus.mean
        )
        slab = fit_thickness(fitted(weighted, slab.fit.defocus), noise) or slab
        fit = slab.fit
    known = posterior(fit, spectra, where)
    fit = fit_at_mean(fit, known)
    curves = ring_curves(weighted, fit, beam, spectra)
    errors = _errors(known, fit)
    k_limit = fit_limit(curves, beam, fit.defocus)
    anisotropy, anisotropy_angle = spectrum_anisotropy(spectra)
    radial = radial_mean(spectra)
    return CtfEstimate(
        defocus=fit.defocus,
        **errors,
        thickness=slab.thickness if slab else math.nan,
        thickness_error=slab.error if slab else math.nan,
        half_difference=_half_difference(spectra, weighted, beam, fit),
        gain=fit.gain / noise,
        k_limit=k_limit,
        score=fit_score(curves, k_limit),
        anisotropy=anisotropy,
        anisotropy_angle=anisotropy_angle,
        ice_ring=ice_ring(spectra.bins.shell_k, radial),
        curves=curves,
        posterior=known,
        spectra=spectra,
        rings=weighted,
        fit=fit,
    )


def search_spectra(spectra: TileSpectra, beam: Beam, where: SearchRange, k_min: float, k_max: float) -> list[Candidate]:
    """Exhaustive search in the spectra of one micrograph, best candidate first."""
    bins = spectra.bins
    radial = radial_mean(spectra)
    used = (bins.shell_k >= k_min) & (bins.shell_k <= min(k_max, SEARCH_K_MAX)) & (radial > 0)
    if used.sum() < 16:
        return []
    smooth = smooth_mean(bins.shell_k[used], radial[used])
    merge = bins.n_sectors // SEARCH_SECTORS
    count = bins.count.reshape(bins.n_shells, SEARCH_SECTORS, merge)
    power = (spectra.mean.reshape(count.shape) * count).sum(2) / np.maximum(count.sum(2), 1)
    power = np.where(count.sum(2) > 0, power, radial[:, None])
    ripple = power[used] / smooth[:, None] - 1
    variance = 1 / (np.maximum(count.sum(2)[used].mean(1), 1) * spectra.n_independent)
    weight = 1 / (variance + SEARCH_SECTORS * SEARCH_FLOOR**2)
    return search_defocus(ripple, weight, bins.shell_k[used], beam, where)


def _rings(spectra: TileSpectra, k_min: float, k_max: float) -> RingData:
    """Whitened bins, without the ice ring where there is one."""
    k, radial = spectra.bins.shell_k, radial_mean(spectra)
    excess = ice_ring(k, radial)
    avoid = (ICE_BAND,) if math.isfinite(excess) and excess > ICE_EXCESS else ()
    used = (k >= k_min) & (k <= k_max) & (radial > 0)
    for low, high in avoid:
        used &= ~((k >= low) & (k <= high))
    smooth = np.ones_like(radial)
    inside = (k >= k[used].min()) & (k <= k[used].max())
    smooth[inside] = smooth_mean(k[inside], np.where(used, radial, 0.0)[inside])
    return prepare_rings(spectra, smooth, float(k[used].min()), float(k[used].max()), avoid)


def _half_difference(spectra: TileSpectra, rings: RingData, beam: Beam, fit: RingFit) -> float:
    """Difference of the mean defocus fitted to two halves of the tiles, with the weights of the whole."""
    if len(spectra.power) < 4:
        return math.nan
    found = []
    for half in spectra.halves():
        data = dataclasses.replace(rings, ratio=half.mean[rings.column] / rings.scale)
        found.append(fit_rings(data, beam, fit.defocus, fit_phase_shift=fit.n_free == 4, n_iterations=8).defocus.mean)
    return found[0] - found[1]


def _errors(known: Posterior, fit: RingFit) -> dict[str, float]:
    """Standard errors of what a user reads; 1.96 of them make a 95 % interval."""
    half = math.hypot(fit.defocus.cos, fit.defocus.sin)
    cos, sin = (fit.defocus.cos / half, fit.defocus.sin / half) if half > 0 else (1.0, 0.0)

    def spread(*direction: float) -> float:
        vector = np.zeros(fit.n_free)
        vector[: len(direction)] = direction
        return math.sqrt(max(float(vector @ known.covariance @ vector), 0.0))

    return {
        "defocus_error": spread(1),
        "defocus_u_error": spread(1, cos, sin),
        "defocus_v_error": spread(1, -cos, -sin),
        "angle_error": min(spread(0, -sin, cos) / (2 * max(half, 1e-9)), 0.5 * math.pi),
        "phase_shift_error": spread(0, 0, 0, 1) if fit.n_free == 4 else 0.0,
    }
