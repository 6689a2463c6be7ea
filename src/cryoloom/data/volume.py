"""A map: voxels with their size and place."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VolumeMap:
    """A three-dimensional map.

    Attributes
    ----------
    data
        Voxels, `(d, h, w)` = (z, y, x), float32. The centre is index `n // 2` on each axis.
    pixel_size
        Å per voxel, the same on all axes.
    origin
        Position of the first voxel in Å, xyz (MRC ORIGIN).
    """

    data: np.ndarray
    pixel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"data: expected three axes (z, y, x), got shape {self.data.shape}")
        if not self.pixel_size > 0:
            raise ValueError(f"pixel_size: expected a positive number of Å, got {self.pixel_size}")
