"""Cubes on another grid: another pixel, another box. The centre voxel `n // 2` stays the centre.

Where both grids fit into one field the transform is cropped or padded, which is exact; else it is sampled at the
frequencies of the new grid (`maps.rotate`, 0.2 % error inside the middle half of the box).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image, fourier_crop
from cryoloom.maps.rotate import half_sphere, sample_spectrum, spline_spectrum


def resample_map(volume: Tensor, pixel_size: float, new_pixel_size: float, new_box: int | None = None) -> Tensor:
    """Resample a cube to another pixel size.

    Parameters
    ----------
    volume
        `(n, n, n)`.
    pixel_size, new_pixel_size
        Å.
    new_box
        Voxels on a side; as many as fill the old field (even) by default.

    Returns
    -------
    resampled
        `(m, m, m)` float32, grey values kept; frequencies that the new grid cannot hold are left out.
    """
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"volume: expected a cube (n, n, n), got {tuple(volume.shape)}")
    box = volume.shape[0]
    fitting = box * pixel_size / new_pixel_size
    if abs(fitting - round(fitting)) < 1e-4:
        exact = fourier_crop(volume.float(), (round(fitting),) * 3)
        return exact if new_box is None else resize_box(exact, (new_box,) * 3)
    new_box = new_box or 2 * round(fitting / 2)
    spectrum = spline_spectrum(volume)
    points, where = half_sphere(new_box, new_box // 2 - 1)
    scale = box * pixel_size / (new_box * new_pixel_size)
    held = np.linalg.norm(points, axis=1) * scale <= (box - 1) // 2
    dft = np.zeros(new_box * new_box * (new_box // 2 + 1), np.complex64)
    dft[where[held]] = sample_spectrum(spectrum, points[held] * scale)
    image = dft_to_image(torch.from_numpy(dft.reshape(new_box, new_box, -1)), (new_box,) * 3)
    return image * (new_pixel_size / pixel_size) ** -3


def resize_box(
    volume: Tensor, shape: Sequence[int], *, fill: float = 0.0, centre: Sequence[int] | None = None
) -> Tensor:
    """Crop or pad a map so that voxel `centre` becomes the centre voxel of the new box.

    Parameters
    ----------
    volume
        `(d, h, w)`.
    shape
        New size.
    fill
        Value of voxels that the map does not reach.
    centre
        Voxel zyx; the centre voxel by default.
    """
    centre = [n // 2 for n in volume.shape] if centre is None else list(centre)
    out = volume.new_full(tuple(shape), fill)
    source, target = [], []
    for n, m, c in zip(volume.shape, shape, centre, strict=True):
        start = c - m // 2  # index in the map of the first voxel of the new box
        low, high = max(0, start), min(n, start + m)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - start, max(low, high) - start))
    out[tuple(target)] = volume[tuple(source)]
    return out
