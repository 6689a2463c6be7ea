"""Whether two maps can be the halves of one refinement."""

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data.volume import VolumeMap


def check_half_maps(half1: VolumeMap, half2: VolumeMap, mask: VolumeMap | None = None) -> None:
    """Refuse maps that cannot be two halves of one refinement, or a mask that does not belong to them.

    Raises
    ------
    InputError
        If sizes or pixel sizes differ, a map is no cube, empty, not finite or given twice, or the mask leaves [0, 1].
    """
    if half1.data.shape != half2.data.shape:
        raise InputError(
            f"half2: expected the size of half1, {half1.data.shape}, got {half2.data.shape}; give two maps "
            "of one refinement"
        )
    if len(set(half1.data.shape)) != 1:
        raise InputError(f"half1: expected a cube, got {half1.data.shape}; pad the maps to equal sides")
    if abs(half1.pixel_size - half2.pixel_size) > 1e-3 * half1.pixel_size:
        raise InputError(
            f"half2: expected the pixel size of half1, {half1.pixel_size:.4f} Å, got {half2.pixel_size:.4f} Å; "
            "mend the header"
        )
    for name, volume in (("half1", half1), ("half2", half2), ("mask", mask)):
        if volume is not None and not np.isfinite(volume.data).all():
            raise InputError(f"{name}: the map holds values that are not finite; write it again")
    if np.array_equal(half1.data, half2.data):
        raise InputError("half2: is the same map as half1; give the two independent half maps")
    if float(np.ptp(half1.data)) == 0 or float(np.ptp(half2.data)) == 0:
        raise InputError("half1, half2: a half map is empty (all voxels are equal); was its reconstruction finished?")
    if mask is not None:
        if mask.data.shape != half1.data.shape:
            raise InputError(f"mask: expected the size of the half maps, {half1.data.shape}, got {mask.data.shape}")
        low, high = float(mask.data.min()), float(mask.data.max())
        if low < -1e-3 or high > 1.001 or high <= 0:
            raise InputError(f"mask: expected values in [0, 1], got {low:.3g} to {high:.3g}; rescale the mask")
