"""Places in a map as items of a comparison."""

import numpy as np
import torch
from torch import Tensor

from cryoloom.data import VolumeMap
from cryoloom.maps.mask import MaskFromMap, find_mask


def grid_places(inside: np.ndarray, spacing_px: float, largest_number: int = 20_000) -> np.ndarray:
    """Voxels of a regular grid that lie inside, at most so many.

    Parameters
    ----------
    inside
        `(d, h, w)` bool.
    spacing_px
        Distance of neighbours in voxels; made larger where there would be too many places.

    Returns
    -------
    places
        Indices zyx, `(n, 3)` int64.
    """
    step = max(1, round(spacing_px))
    while True:
        grids = [np.arange((n // 2) % step, n, step) for n in inside.shape]
        places = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, 3)
        places = places[inside[tuple(places.T)]]
        if len(places) <= largest_number:
            return places
        step += 1


def name_places(places: np.ndarray, box: int, pixel_size: float) -> np.ndarray:
    """Names of voxels of a cube: their position `x, y, z` in Å from its centre, `(n,)`."""
    return np.array(["{2:.0f}, {1:.0f}, {0:.0f} Å".format(*p) for p in (places - box // 2) * pixel_size])


def outline(half1: Tensor, half2: Tensor, mask: VolumeMap | None, pixel_size: float) -> MaskFromMap:
    """The given mask, or one found from the mean of the halves `(n, n, n)`."""
    if mask is None:
        return find_mask(0.5 * (half1 + half2), pixel_size)
    return MaskFromMap(torch.from_numpy(np.array(mask.data, np.float32)), 0.0, 0.0, 0.0, 0.0, 0.0, 0)
