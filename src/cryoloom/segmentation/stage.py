"""Stage `segment`: a map in, regions, mask and level out."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.maps.filter import lowpass
from cryoloom.maps.mask import density_levels
from cryoloom.segmentation.settings import SEGMENT, SegmentSettings
from cryoloom.segmentation.watershed import join_small, watershed

SIGNIFICANT = 4.0
"""Standard deviations of the solvent by which a saddle must lie below a peak."""

QUIET = 12.0
"""Density over the standard deviation of the solvent from which a map is smooth enough for a watershed."""

FINEST, COARSEST = 8.0, 25.0
"""Å between which the low-pass is chosen."""


@stage(SEGMENT)
def segment_map(map: VolumeMap, settings: SegmentSettings, run: Run) -> dict[str, Any]:
    """Take a map apart into regions."""
    volume = torch.from_numpy(np.array(map.data, dtype=np.float32))
    resolution = settings.lowpass or quiet_resolution(volume, map.pixel_size)
    smooth = lowpass(volume, map.pixel_size, resolution).numpy()
    suggested, background, sigma, interior = density_levels(smooth)
    level = settings.level if settings.level is not None else suggested
    # a saddle that noise alone may have made keeps nothing apart
    labels = watershed(smooth, level, max(settings.depth * (interior - background), SIGNIFICANT * sigma))
    if not labels.any():
        raise InputError(f"No voxel lies above the level {level:.4g}; lower --level.")
    largest = int(np.bincount(labels.ravel())[1:].max())
    labels = join_small(labels, max(1, int(settings.smallest * largest)))
    sizes = np.bincount(labels.ravel())[1:]
    voxel = map.pixel_size**3
    clear = (interior - background) / max(sigma, 1e-30)
    run.summarise(
        verdict="found" if clear > 5 else "doubtful",
        reasons=[
            f"{len(sizes)} regions above {level:.4g}; the density stands {clear:.0f} times its spread over solvent."
        ],
        n_in=1,
        n_out=len(sizes),
        level=float(level),
        level_suggested=float(suggested),
        n_segments=len(sizes),
        volumes_A3=[round(float(n) * voxel, 1) for n in sizes[:200]],
        lowpass=resolution,
    )
    z, y, x = (n // 2 for n in labels.shape)
    slices = [labels[z]] + ([labels[:, y], labels[:, :, x]] if len(set(labels.shape)) == 1 else [])
    run.show(
        Figure(
            name="segments",
            kind="gallery",
            title="Regions in central slices",
            caption="Grey tells regions apart. Too many: raise the depth; too few: lower it.",
            data={"images": np.stack(slices).astype(np.float32), "labels": ["xy", "xz", "yz"][: len(slices)]},
        )
    )
    return {
        "segments": VolumeMap(labels.astype(np.float32), map.pixel_size, map.origin),
        "mask": VolumeMap((labels > 0).astype(np.float32), map.pixel_size, map.origin),
    }


def quiet_resolution(volume: torch.Tensor, pixel_size: float) -> float:
    """The finest low-pass in Å, in steps of a quarter, that leaves the density well above the noise."""
    resolution = max(FINEST, 4 * pixel_size)
    while resolution < COARSEST:
        _, background, sigma, interior = density_levels(lowpass(volume, pixel_size, resolution).numpy())
        if interior - background > QUIET * sigma:
            break
        resolution *= 1.25
    return resolution
