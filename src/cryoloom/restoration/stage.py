"""Stage `restore`: half maps in, a locally filtered and sharpened map out."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.io.model_file import read_model
from cryoloom.maps.atoms import atom_density
from cryoloom.maps.corrected import corrected_fsc
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.local_filter import band_centres, measure_bands, restore_locally
from cryoloom.maps.mask import find_mask
from cryoloom.maps.model_scaling import scale_to_model, scale_to_protein
from cryoloom.maps.phases import phase_change_deg
from cryoloom.maps.sharpen import estimate_bfactor
from cryoloom.maps.view import map_for_view
from cryoloom.maps.windowed import WindowedHalves
from cryoloom.restoration.settings import RESTORE, RestoreSettings


@stage(RESTORE)
def restore_map(
    half1: VolumeMap,
    half2: VolumeMap,
    mask: VolumeMap | None,
    model: Path | None,
    settings: RestoreSettings,
    run: Run,
) -> dict[str, Any]:
    """Filter and sharpen a map place by place."""
    check_half_maps(half1, half2, mask)
    pixel_size, box = half1.pixel_size, half1.data.shape[0]
    a, b = (torch.from_numpy(np.array(half.data, dtype=np.float32)) for half in (half1, half2))
    body = (
        find_mask(0.5 * (a + b), pixel_size).mask if mask is None else torch.from_numpy(np.array(mask.data, np.float32))
    )
    curves = corrected_fsc(a, b, body)
    crossing = locate_crossing(curves.corrected, curves.covariance)
    resolution = box * pixel_size / crossing.shell
    bfactor = 0.0
    try:
        fit = estimate_bfactor(a, b, pixel_size, body, resolution=resolution, low_resolution=settings.fit_low)
        bfactor = max(fit.bfactor, 0.0)
    except ValueError:
        run.warn(f"At {resolution:.1f} Å there is no room for a Guinier fit: the map is filtered, not sharpened.")
    sharpen = settings.sharpen and bfactor > 0
    window = settings.window or max(2.5 * resolution, 4 * pixel_size)
    n_bands = len(band_centres(box, pixel_size, window, resolution)[0])
    pair = WindowedHalves(a, b, pixel_size, body, window)
    with run.progress(2 * n_bands, "bands") as line:
        by_amplitude = model is None and sharpen and settings.method == "amplitude"
        if by_amplitude:
            bands = measure_bands(pair, resolution=resolution, step=line.advance)
            volume, taken = scale_to_protein(pair, bands, step=line.advance), None
        elif model is None:
            restored = restore_locally(
                pair, resolution=resolution, bfactor=bfactor, sharpen=sharpen, fit_low=settings.fit_low,
                prior=settings.prior, step=line.advance,
            )  # fmt: skip
            volume = restored.volume
            taken = restored.bfactor
        else:
            volume, taken = _scaled(pair, model, half1.origin, resolution, line.advance), None
    if not math.isfinite(float(volume.abs().max())):
        raise ValueError("the restored map is not finite")
    turned = phase_change_deg(0.5 * (a + b) * body, volume, pixel_size, resolution)
    inside = body > 0.5
    spread = None
    if taken is not None:
        spread = np.quantile(taken[inside].numpy(), [0.05, 0.5, 0.95]) if bool(inside.any()) else None
    run.warn("Grey values of a locally sharpened map cannot be compared between places: not for quantitative use.")
    run.summarise(
        verdict="found",
        reasons=[
            f"Filtered in {n_bands} bands within windows of {window:.0f} Å; phases turned by {turned:.0f}° on average."
        ],
        n_in=2,
        n_out=1,
        resolution=round(resolution, 3),
        pixel_size=pixel_size,
        bfactor=round(bfactor, 2),
        bfactor_local=None if spread is None else [round(float(v), 1) for v in spread],
        window=round(window, 2),
        n_bands=n_bands,
        amplitudes_of="model" if model is not None else "protein" if sharpen else "map",
        phase_change_deg=round(turned, 2),
    )
    if model is not None:
        run.warn("Amplitudes are those of the model: such a map must not be used to judge the model.")
    run.show(
        Figure(
            name="map",
            kind="volume",
            title="Locally sharpened map",
            caption="Central slices and surface. Rigid and flexible parts should both be readable at one level.",
            data=map_for_view(volume.numpy(), pixel_size, body.numpy(), surface_resolution=1.3 * resolution),
        )
    )
    results = {"map_local": VolumeMap(volume.numpy(), pixel_size, half1.origin)}
    if taken is not None:
        results["local_bfactor"] = VolumeMap(taken.numpy(), pixel_size, half1.origin)
    return results


def _scaled(
    pair: WindowedHalves,
    model: Path,
    origin: tuple[float, float, float],
    resolution: float,
    step: Callable[[], None],
) -> Tensor:
    """The mean map with the local amplitudes of a model."""
    atoms = read_model(model)
    # The least mobile atoms count as at rest, so that the map comes out sharp; differences between atoms are kept.
    bfactor = np.maximum(atoms.bfactor - np.quantile(atoms.bfactor, 0.05), 0.0)
    density = atom_density(atoms.position, atoms.element, bfactor, (pair.box,) * 3, pair.pixel_size, origin)
    bands = measure_bands(pair, resolution=resolution, step=step)
    try:
        return scale_to_model(pair, bands, density, step=step)
    except ValueError as failure:
        raise InputError(f"model: {model.name} lies outside of the map; expected the same origin") from failure
