"""`compare sharpening`: one B-factor for the whole map (Guinier) against one for each place, and both together.

The methods are those of the stages `postprocess` (`maps.sharpen`) and `restore` (`maps.local_filter`), the local one
without any prior, so that it does not know of the other. Items are places on a grid as fine as the window tells apart.
How much the B-factor truly differs from place to place is what the local ones scatter by beyond their own errors
(Paule and Mandel 1982, doi:10.6028/jres.087.022). If they do not, the map shows one B-factor, and the fit that uses all
of it is the consensus: a local one adds nothing to it but its own chance. If they do, local ones are the consensus,
drawn to that of the whole map where they are told poorly. The measured spread is then too small, since windows mix
parts, so a wide one is assumed. What a method says of a place rests on its whole window: the methods are in dispute
about a place if they differ by more than the tolerance anywhere within one window of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.places import grid_places, name_places, outline
from cryoloom.compare.settings import COMPARE_SHARPENING, CompareSharpeningSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.maps.global_resolution import GlobalResolution, resolution_behind
from cryoloom.maps.local_bfactor import LocalBfactors, fit_local_bfactors
from cryoloom.maps.local_filter import measure_bands, rebuild
from cryoloom.maps.sharpen import estimate_bfactor
from cryoloom.maps.spectrum import GuinierFit
from cryoloom.maps.view import map_for_view
from cryoloom.maps.windowed import WindowedHalves

LEAST_SPREAD = 1.0
"""Å2; a B-factor is never taken to be alike everywhere to better than this."""

WIDE_SPREAD = 100.0
"""Å2; spread of local B-factors about that of the whole map once they differ at all, as in the stage `restore`."""


@stage(COMPARE_SHARPENING)
def compare_sharpening(
    half1: VolumeMap, half2: VolumeMap, mask: VolumeMap | None, settings: CompareSharpeningSettings, run: Run
) -> dict[str, Any]:
    """Find the B-factor of a map by both methods, and sharpen by what they say together."""
    check_half_maps(half1, half2, mask)
    pixel_size = half1.pixel_size
    a, b = (torch.from_numpy(np.array(half.data, dtype=np.float32)) for half in (half1, half2))
    found = outline(a, b, mask, pixel_size)
    known = resolution_behind(a, b, pixel_size, found)
    window = settings.window or sharpening_window(known.resolution, pixel_size)
    pair = WindowedHalves(a, b, pixel_size, found.mask, window)
    with run.progress(2, "bands") as line:
        both = compare_bfactors(pair, known, fit_low=settings.fit_low, tolerance=settings.tolerance)
        line.advance()
        restored = rebuild(pair, measure_bands(pair, resolution=known.resolution), both.together)
        line.advance()
    comparison, guinier = both.comparison, both.guinier
    show_comparison(
        comparison,
        run,
        resolution=round(known.resolution, 3),
        pixel_size=pixel_size,
        window=round(window, 2),
        bfactor=round(guinier.bfactor, 2),
        bfactor_interval=[round(guinier.bfactor + s * 1.96 * guinier.standard_error, 2) for s in (-1, 1)],
        bfactor_spread=round(both.spread, 2),
    )
    run.warn("Grey values of a locally sharpened map cannot be compared between places: not for quantitative use.")
    run.show(
        Figure(
            name="map",
            kind="volume",
            title="Map sharpened by both methods together",
            caption="Central slices and surface.",
            data=map_for_view(
                restored.volume.numpy(), pixel_size, found.mask.numpy(), surface_resolution=1.3 * known.resolution
            ),
        )
    )
    maps = {
        "map_consensus": restored.volume,
        "bfactor_consensus": both.together,
        "bfactor_local": both.local.bfactor.nan_to_num() * found.mask,
    }
    return {name: VolumeMap(values.numpy(), pixel_size, half1.origin) for name, values in maps.items()}


def sharpening_window(resolution: float, pixel_size: float) -> float:
    """Standard deviation in Å of the window of the local method, as in the stage `restore`."""
    return max(2.5 * resolution, 4 * pixel_size)


@dataclass(frozen=True)
class ComparedBfactors:
    """Both methods.

    Attributes
    ----------
    guinier
        The fit of the whole map.
    local
        The local method.
    spread
        True spread of local B-factors about that of the whole map, Å2.
    together
        Consensus in every voxel, Å2, `(n, n, n)`.
    comparison, places
        On a grid of places, and their voxels, zyx `(n, 3)`.
    """

    guinier: GuinierFit
    local: LocalBfactors
    spread: float
    together: Tensor
    comparison: Comparison
    places: np.ndarray


def compare_bfactors(
    pair: WindowedHalves, known: GlobalResolution, *, fit_low: float = 10.0, tolerance: float = 40.0
) -> ComparedBfactors:
    """B-factors of a map by both methods, held together on a grid of places.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    known
        Resolution of the whole map.
    fit_low
        Fits run from this resolution on, Å.
    tolerance
        Å2.

    Raises
    ------
    InputError
        If there is no room for a fit between `fit_low` and the resolution.
    """
    try:
        guinier = estimate_bfactor(
            pair.half1,
            pair.half2,
            pair.pixel_size,
            pair.mask,
            resolution=max(known.resolution, 2 * pair.pixel_size),
            low_resolution=fit_low,
            effective_counts=known.curves.effective_counts,
        )
    except ValueError as failure:
        raise InputError(
            f"half1: at {known.resolution:.1f} Å there is no room for a fit from {fit_low:.0f} Å on; give a larger "
            "--fit-low"
        ) from failure
    fitted = fit_local_bfactors(pair, resolution=known.resolution, bfactor=guinier.bfactor, fit_low=fit_low)
    local, error = (x.numpy().astype(np.float64) for x in (fitted.bfactor, fitted.error))
    places = grid_places(pair.mask.numpy() > 0.5, 0.5 * pair.window / pair.pixel_size)
    at, n = tuple(places.T), len(places)
    told = np.isfinite(local[at])
    spread = true_spread(local[at][told], error[at][told], guinier.bfactor)
    differs = spread > LEAST_SPREAD
    # The fit of the whole map uses all that a local one does: their errors are alike by the ratio of the two.
    of_a_place = math.hypot(WIDE_SPREAD, guinier.standard_error) if differs else guinier.standard_error
    alike = 0.0 if differs else np.minimum(guinier.standard_error / np.where(told, error[at], np.inf), 1.0)
    comparison = compare_answers(
        "B-factor",
        "Å²",
        name_places(places, pair.box, pair.pixel_size),
        Answers("Guinier fit", np.full(n, guinier.bfactor), np.full(n, of_a_place)),
        Answers("local fit", local[at], error[at]),
        tolerance=tolerance,
        correlation=alike,
        distance=largest_nearby(np.abs(local[at] - guinier.bfactor), places * pair.pixel_size, pair.window),
    )
    together = (
        fitted.drawn_to(guinier.bfactor, of_a_place) if differs else torch.full_like(pair.mask, max(guinier.bfactor, 0))
    )
    return ComparedBfactors(guinier, fitted, spread, together, comparison, places)


def largest_nearby(values: np.ndarray, positions: np.ndarray, reach: float) -> np.ndarray:
    """Largest value among the places within `reach` of each place, `(n,)`; places without a value count as 0."""
    tree = cKDTree(positions)
    known = np.nan_to_num(values, nan=0.0)
    found = np.array([known[near].max() for near in tree.query_ball_point(positions, reach)])
    return np.where(np.isfinite(values), found, np.nan)


def true_spread(values: np.ndarray, error: np.ndarray, centre: float) -> float:
    """Standard deviation of true values about a centre, from values with errors.

    The spread `t` at which the mean of `(value - centre)² / (error² + t²)` is 1 (Paule and Mandel 1982,
    doi:10.6028/jres.087.022): places that are told poorly but differ much count too.
    """
    if not len(values):
        return LEAST_SPREAD
    squared, variance = (values - centre) ** 2, error**2
    low, high = 0.0, float(squared.max())
    if (squared / (variance + LEAST_SPREAD**2)).mean() <= 1:
        return LEAST_SPREAD
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if (squared / (variance + middle)).mean() > 1 else (low, middle)
    return max(math.sqrt(high), LEAST_SPREAD)
