"""Places in a map as items of a comparison."""

import numpy as np

from cryoloom.data import VolumeMap


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


def name_places(places: np.ndarray, volume: VolumeMap) -> np.ndarray:
    """Names of voxels: their position `x, y, z` in Å from the centre of the box, `(n,)`."""
    centre = np.array([n // 2 for n in volume.data.shape])
    return np.array(["{2:.0f}, {1:.0f}, {0:.0f} Å".format(*p) for p in (places - centre) * volume.pixel_size])
