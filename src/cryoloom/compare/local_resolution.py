"""`compare resolution`: the FSC in a window against the significance of the signal, place by place.

The methods are those of the stage `resolution` (`maps.local_resolution`). Items are places on a grid as fine as the
window tells apart. The consensus is not a mean of the two, which read the mixtures in their windows, but the resolution
that explains both (`maps.unmixing`). The distance of an item is that of the two methods from each other, root mean
square in the window. Near a border both err alike: a place where what explains both contradicts them is in dispute too.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.places import grid_places, name_places, outline
from cryoloom.compare.settings import COMPARE_RESOLUTION, CompareResolutionSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Figure, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.maps.global_resolution import resolution_behind
from cryoloom.maps.local_resolution import LocalResolution, default_window, measure_local_resolution
from cryoloom.maps.windowed import WindowedHalves


@stage(COMPARE_RESOLUTION)
def compare_local_resolution(
    half1: VolumeMap, half2: VolumeMap, mask: VolumeMap | None, settings: CompareResolutionSettings, run: Run
) -> dict[str, Any]:
    """Measure local resolution by two methods and hold them together."""
    check_half_maps(half1, half2, mask)
    pixel_size = half1.pixel_size
    a, b = (torch.from_numpy(np.array(half.data, dtype=np.float32)) for half in (half1, half2))
    found = outline(a, b, mask, pixel_size)
    resolution = resolution_behind(a, b, pixel_size, found).resolution
    window = settings.window or default_window(resolution, pixel_size)
    with run.progress(1, "local resolution") as line:
        local, comparison, _ = compare_places(
            WindowedHalves(a, b, pixel_size, found.mask, window),
            tolerance=settings.tolerance,
            significance=settings.significance,
        )
        line.advance()
    inside = found.mask.numpy() > 0.5
    disagreement, consensus = local.disagreement(), local.consensus
    show_comparison(
        comparison,
        run,
        resolution=round(resolution, 3),
        pixel_size=pixel_size,
        window=round(window, 2),
        local_resolution_median=round(float(np.median(consensus[inside])), 3) if inside.any() else None,
    )
    shown = np.where(inside, 100 * disagreement, np.nan)
    c = shown.shape[0] // 2
    run.show(
        Figure(
            name="where",
            kind="gallery",
            title="Where the methods disagree",
            caption="Central slices: how far the methods lie from each other. Bright places are where one of "
            "them blurs over a border, or the noise is unlike that of the rest.",
            data={
                "images": np.stack([shown[c], shown[:, c], shown[:, :, c]]),
                "labels": ["xy", "xz", "yz"],
                "columns": 3,
                "scale": "difference (%)",
            },
        )
    )
    maps = {
        "local_consensus": consensus,
        "local_resolution": local.fsc,
        "local_significance": local.significance,
        "disagreement": disagreement,
    }
    return {name: VolumeMap(values, pixel_size, half1.origin) for name, values in maps.items()}


def compare_places(
    pair: WindowedHalves, *, tolerance: float = 0.055, significance: float = 0.95
) -> tuple[LocalResolution, Comparison, np.ndarray]:
    """Both methods, held together on a grid of places.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window.
    tolerance
        Relative difference around a place, between the methods or from what explains both, that counts as agreement.
    significance
        Level of the second method.

    Returns
    -------
    local, comparison, places
        Both methods in every voxel, the comparison, and the voxels of its items, zyx `(n, 3)`.
    """
    local = measure_local_resolution(pair, significance=significance)
    inside = pair.mask.numpy() > 0.5
    places = grid_places(inside, 0.5 * pair.window / pair.pixel_size)
    at = tuple(places.T)
    comparison = compare_answers(
        "local resolution",
        "Å",
        name_places(places, pair.box, pair.pixel_size),
        Answers("FSC in a window", local.fsc[at], local.fsc_error[at]),
        Answers("significance", local.significance[at], local.significance_error[at]),
        tolerance=tolerance,
        correlation=local.correlation[at],
        relative=True,
        distance=local.disagreement()[at],
        unsure=local.contradiction()[at] > tolerance,
    )
    comparison = replace(comparison, consensus=local.consensus[at], error=local.consensus_error[at])
    return local, comparison, places
