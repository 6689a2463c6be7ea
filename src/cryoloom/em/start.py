"""The reference on its way into a refinement: placed on the field of the images, low-passed, measured."""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.em.solve import box_for_radius
from cryoloom.maps.filter import lowpass
from cryoloom.maps.mask import find_mask


def place_reference(reference: VolumeMap, field: float, full_box: int, resolution: float) -> Tensor:
    """The reference low-passed to `resolution`, in a small box over the field of the images, centre on centre.

    Parameters
    ----------
    reference
        Any box and pixel size.
    field, full_box
        Side of the images in Å and pixels.
    """
    data = torch.from_numpy(np.ascontiguousarray(reference.data, dtype=np.float32))
    if not bool(torch.isfinite(data).all()) or float(data.std()) == 0.0:
        raise InputError("The reference map is empty or holds values that are not numbers; give another map.")
    smooth = lowpass(data, reference.pixel_size, resolution).numpy()
    radius = int(np.ceil(1.5 * field / resolution)) + 2
    box = box_for_radius(radius, full_box)
    step = field / box / reference.pixel_size  # voxels of the reference per voxel of the result
    coordinates = []
    for n in smooth.shape:
        coordinates.append((np.arange(box) - box // 2) * step + n // 2)
    grid = np.meshgrid(*coordinates, indexing="ij")
    edge = float(np.median(smooth[0]))
    placed = scipy.ndimage.map_coordinates(smooth - edge, grid, order=3, mode="constant", cval=0.0, prefilter=True)
    return torch.from_numpy(placed.astype(np.float32))


def particle_diameter(volume: Tensor, pixel_size: float) -> float:
    """Diameter in Å of the ball about the centre of the box that holds the density of a low-passed map."""
    mask = find_mask(volume, pixel_size, lowpass_resolution=max(20.0, 3 * pixel_size), extend=0.0, edge=0.0).mask
    inside = torch.nonzero(mask > 0.5).to(torch.float32)
    if len(inside) == 0:
        return 0.8 * volume.shape[0] * pixel_size
    centre = torch.tensor([n // 2 for n in volume.shape], dtype=torch.float32)
    radius = (inside - centre).norm(dim=1)
    return float(2 * torch.quantile(radius[:: max(1, len(radius) // 100_000)], 0.995) * pixel_size)
