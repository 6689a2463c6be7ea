"""A map made small for looking at: cropped to its particle, resampled, with a level for its surface."""

from typing import Any

import numpy as np
import torch

from cryoloom.fourier import fourier_crop
from cryoloom.maps.filter import lowpass


def map_for_view(
    volume: np.ndarray,
    pixel_size: float,
    mask: np.ndarray | None = None,
    *,
    largest: int = 128,
    enclosed: float | None = None,
    surface_resolution: float | None = None,
) -> dict[str, Any]:
    """Data of a `volume` figure: the cube around the mask, at most `largest` voxels wide.

    Parameters
    ----------
    volume, mask
        `(d, h, w)`; without a mask the whole box is shown.
    pixel_size
        Å.
    enclosed
        Å3 that the surface should enclose; by default the level lies 2.5 standard deviations of the box above its mean.

    surface_resolution
        Å to which a second copy is low-passed, from which the surface is drawn; noise makes surfaces ragged long before
        it hides anything in a slice.

    Returns
    -------
    data
        `volume` float16, `pixel_size`, `level`, and `surface` float16 if `surface_resolution` was given. The level
        is that of `surface` then.
    """
    shown = np.asarray(volume, dtype=np.float32)
    size = min(shown.shape)
    start = [(n - size) // 2 for n in shown.shape]
    if mask is not None and (mask > 0.05).any():
        where = np.argwhere(mask > 0.05)
        low, high = where.min(0), where.max(0) + 1
        size = min(int((high - low).max()) + 4, *shown.shape)
        start = [int(np.clip((a + b - size) // 2, 0, n - size)) for a, b, n in zip(low, high, shown.shape, strict=True)]
    part = tuple(slice(s, s + size) for s in start)
    inside = shown * mask if mask is not None else shown
    cube = torch.from_numpy(np.ascontiguousarray(inside[part]))
    if size > largest:
        cube = fourier_crop(cube, (largest,) * 3)
        pixel_size = pixel_size * size / largest
    values = cube.numpy()
    scale = float(np.abs(values).max()) or 1.0
    data: dict[str, Any] = {"volume": (values / scale).astype(np.float16), "pixel_size": float(pixel_size)}
    if surface_resolution is not None:
        values = lowpass(cube, pixel_size, surface_resolution).numpy()
        data["surface"] = (values / scale).astype(np.float16)
    if enclosed is not None:
        n_above = min(max(enclosed / pixel_size**3, 1.0), values.size - 1.0)
        level = float(np.partition(values.ravel(), -int(n_above))[-int(n_above)])
    else:
        level = float(values.mean() + 2.5 * values.std())
    data["level"] = level / scale
    return data
