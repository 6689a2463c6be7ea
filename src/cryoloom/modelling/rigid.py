"""Global rigid fit: the density of a model superposed on a map.

The model becomes a map of Gaussians (`maps.atoms`), which is laid on the map over all rotations and places
(`maps.superpose`: whitened shells, translations by transform, then Gauss-Newton steps). The mirror image is not tried:
a model has one hand. A map far larger than the model is searched as a whole; what else it holds acts as noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.data import VolumeMap
from cryoloom.data.model import AtomicModel
from cryoloom.maps.atoms import atom_density
from cryoloom.maps.filter import lowpass
from cryoloom.maps.resample import resample_map, resize_box
from cryoloom.maps.superpose import superpose

PIXELS_PER_RESOLUTION = 3.0


@dataclass(frozen=True)
class RigidFit:
    """Where a model lies in a map.

    Attributes
    ----------
    rotation, translation
        Atoms go to `rotation @ position + translation`, `(3, 3)` and `(3,)` xyz Å, float64.
    correlation
        Of the whitened density of the model with that of the map up to `resolution`.
    local_correlation
        Of the two around the atoms, low-passed to `resolution`.
    resolution
        Å.
    """

    rotation: np.ndarray
    translation: np.ndarray
    correlation: float
    local_correlation: float
    resolution: float

    def moved(self, position: np.ndarray) -> np.ndarray:
        """Positions `(n, 3)` after the fit."""
        return position @ self.rotation.T + self.translation


def fit_rigid(volume: VolumeMap, model: AtomicModel, resolution: float, n_survivors: int = 24) -> RigidFit:
    """Fit a model to a map from anywhere.

    Parameters
    ----------
    volume
        The map.
    model
        Atoms; where they lie does not matter.
    resolution
        Finest detail that is compared, Å.
    n_survivors
        Orientations of the global search that are refined.

    Raises
    ------
    ValueError
        If the model is larger than the map.
    """
    size = max(volume.data.shape)
    data = resize_box(torch.from_numpy(np.array(volume.data, dtype=np.float32)), (size,) * 3)
    place = np.asarray(volume.origin) + volume.pixel_size * np.array([n // 2 for n in volume.data.shape[::-1]])
    centre = model.position.mean(0)
    extent = 2 * float(np.linalg.norm(model.position - centre, axis=1).max())
    if extent > size * volume.pixel_size * np.sqrt(3):
        raise ValueError(
            f"model: expected at most {size * volume.pixel_size:.0f} Å, the width of the map; it is {extent:.0f}"
        )
    pixel_size = max(volume.pixel_size, resolution / PIXELS_PER_RESOLUTION)
    fixed = data if pixel_size == volume.pixel_size else resample_map(data, volume.pixel_size, pixel_size)
    box = fixed.shape[0]
    moving = _density(model, model.position - centre, box, pixel_size)
    found = superpose(
        fixed,
        moving,
        pixel_size,
        resolution=resolution,
        either_hand=False,
        diameter=min(extent, 0.95 * box * pixel_size),
        n_survivors=n_survivors,
    )
    rotation = found.rotation.numpy()
    translation = place + found.shift.numpy()[::-1] - rotation @ centre
    laid = _density(model, (model.position - centre) @ rotation.T + found.shift.numpy()[::-1], box, pixel_size)
    return RigidFit(
        rotation=rotation,
        translation=translation,
        correlation=found.correlation,
        local_correlation=_local_correlation(fixed, laid, pixel_size, resolution),
        resolution=found.resolution,
    )


def _density(model: AtomicModel, position: np.ndarray, box: int, pixel_size: float) -> Tensor:
    """Density of atoms at positions from the centre voxel of a cube."""
    corner = -(box // 2) * pixel_size
    spread = np.full(len(model), 8 * np.pi**2 * (0.5 * pixel_size) ** 2)
    return atom_density(position, model.element, spread, (box,) * 3, pixel_size, (corner,) * 3)


def _local_correlation(volume: Tensor, density: Tensor, pixel_size: float, resolution: float) -> float:
    """Correlation of two maps where the density of the model is."""
    a, b = (lowpass(v, pixel_size, resolution).double() for v in (volume, density))
    inside = b > 0.1 * b.max()
    if int(inside.sum()) < 10:
        return 0.0
    return float(torch.corrcoef(torch.stack([a[inside], b[inside]]))[0, 1])
