"""`compare sharpening`: one B-factor for the whole map (Guinier) against one for each place, and both together.

The methods are those of the stages `postprocess` (`maps.sharpen`) and `restore` (`maps.local_filter`), the local one
without any prior, so that it does not know of the other. Items are places on a grid as fine as the window tells apart.
How much the B-factor truly differs from place to place is what the local ones scatter by beyond their own errors
(DerSimonian and Laird 1986, doi:10.1016/0197-2456(86)90046-2); that spread is the error of the Guinier B-factor as that
of a place. The consensus then goes from one B-factor, if the map shows no more than one, to local ones where they are
told well.
"""

import math
from typing import Any

import numpy as np
import torch

from cryoloom.compare.agreement import Answers, compare_answers
from cryoloom.compare.local_resolution import outline
from cryoloom.compare.places import grid_places, name_places
from cryoloom.compare.settings import COMPARE_SHARPENING, CompareSharpeningSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.maps.global_resolution import resolution_behind
from cryoloom.maps.local_filter import measure_bands, rebuild
from cryoloom.maps.sharpen import estimate_bfactor
from cryoloom.maps.view import map_for_view
from cryoloom.maps.windowed import WindowedHalves

LEAST_SPREAD = 1.0
"""Å2; a B-factor is never taken to be alike everywhere to better than this."""


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
    try:
        guinier = estimate_bfactor(
            a,
            b,
            pixel_size,
            found.mask,
            resolution=max(known.resolution, 2 * pixel_size),
            low_resolution=settings.fit_low,
            effective_counts=known.curves.effective_counts,
        )
    except ValueError as failure:
        raise InputError(
            f"half1: at {known.resolution:.1f} Å there is no room for a fit from {settings.fit_low:.0f} Å on; give a "
            "larger --fit-low"
        ) from failure
    window = settings.window or max(2.5 * known.resolution, 4 * pixel_size)
    pair = WindowedHalves(a, b, pixel_size, found.mask, window)
    with run.progress(2, "bands") as line:
        bands = measure_bands(pair, resolution=known.resolution, fit_low=settings.fit_low)
        line.advance()
        local, error = bands.fit.alone()
        inside = found.mask.numpy() > 0.5
        places = grid_places(inside, 0.5 * window / pixel_size)
        at = tuple(places.T)
        spread = true_spread(local.numpy()[at], error.numpy()[at], guinier.bfactor)
        together = bands.fit.drawn_to(guinier.bfactor, math.hypot(spread, guinier.standard_error))
        restored = rebuild(pair, bands, together)
        line.advance()
    n = len(places)
    comparison = compare_answers(
        "B-factor",
        "Å²",
        name_places(places, half1),
        Answers("Guinier fit", np.full(n, guinier.bfactor), np.full(n, math.hypot(spread, guinier.standard_error))),
        Answers("local fit", local.numpy()[at].astype(np.float64), error.numpy()[at]),
        tolerance=settings.tolerance,
    )
    show_comparison(
        comparison,
        run,
        resolution=round(known.resolution, 3),
        pixel_size=pixel_size,
        window=round(window, 2),
        bfactor=round(guinier.bfactor, 2),
        bfactor_interval=[round(guinier.bfactor + s * 1.96 * guinier.standard_error, 2) for s in (-1, 1)],
        bfactor_spread=round(spread, 2),
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
    maps = {"map_consensus": restored.volume, "bfactor_consensus": together, "bfactor_local": local * found.mask}
    return {name: VolumeMap(values.numpy(), pixel_size, half1.origin) for name, values in maps.items()}


def true_spread(values: np.ndarray, error: np.ndarray, centre: float) -> float:
    """Standard deviation of true values about a centre, from values with errors.

    The mean square of `values - centre`, weighted by `1 / error²`, less what the errors bring to it.
    """
    if not len(values):
        return LEAST_SPREAD
    weight = 1.0 / np.maximum(error, 1e-6) ** 2
    excess = float((weight * (values - centre) ** 2).sum() - len(values)) / float(weight.sum())
    return math.sqrt(max(excess, LEAST_SPREAD**2))
