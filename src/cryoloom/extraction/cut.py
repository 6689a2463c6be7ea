"""Cutting boxes out of a micrograph, at whole pixels or exactly at a sub-pixel centre.

A box of `n` pixels around the whole pixel `c` holds pixels `c - n // 2 ... c - n // 2 + n - 1`, so that `c` becomes
the centre pixel `n // 2`. At whole pixels without scaling the values are those of the micrograph, to the bit.
"""

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, image_to_dft, shift_dft

_FRINGE = 16  # pixels cut around a box that is shifted, so that what wraps around is thrown away


def inside_micrograph(centre: np.ndarray, cut: int, shape: tuple[int, int]) -> np.ndarray:
    """Whether boxes around whole pixels `(n, 2)` lie on the micrograph, `(n,)` bool."""
    first = centre - cut // 2
    return np.asarray(((first >= 0) & (first + cut <= np.asarray(shape))).all(axis=1))


def cut_boxes(image: Tensor, centre: np.ndarray, cut: int) -> Tensor:
    """Boxes around whole pixels, `(h, w)` and `(n, 2)` int to `(n, cut, cut)`; mirrored at the edges."""
    h, w = image.shape
    offset = np.arange(cut) - cut // 2
    y = torch.from_numpy(_mirror(centre[:, :1] + offset, h)).to(image.device)  # (n, cut)
    x = torch.from_numpy(_mirror(centre[:, 1:] + offset, w)).to(image.device)
    return image[y[:, :, None], x[:, None, :]]


def cut_particles(
    image: Tensor, position: np.ndarray, cut: int, box: int, *, subpixel: bool
) -> tuple[Tensor, np.ndarray]:
    """Particle images at positions, scaled to `box` pixels.

    Parameters
    ----------
    image
        Micrograph `(h, w)`.
    position
        Centres in pixels yx, `(n, 2)` float.
    cut, box
        Edge in pixels of the micrograph and of the result.
    subpixel
        True: the position lands on the centre pixel exactly. False: the nearest whole pixel does.

    Returns
    -------
    images
        `(n, box, box)`.
    centre
        What lies at the centre pixel, in pixels of the micrograph, `(n, 2)`.
    """
    whole = np.rint(position).astype(np.int64)
    rest = position - whole
    if not subpixel or not np.abs(rest).max(initial=0.0) > 1e-3:
        boxes = cut_boxes(image, whole, cut)
        if box != cut:
            boxes = _rescale(image_to_dft(boxes), cut, box)
        return boxes, whole.astype(np.float64)
    wide = cut + 2 * _FRINGE
    shift = torch.from_numpy(-rest).to(image.dtype).to(image.device)
    dft = shift_dft(image_to_dft(cut_boxes(image, whole, wide)), shift, (wide, wide))
    boxes = dft_to_image(dft, (wide, wide))[:, _FRINGE : _FRINGE + cut, _FRINGE : _FRINGE + cut]
    if box != cut:
        boxes = _rescale(image_to_dft(boxes), cut, box)
    return boxes, position.astype(np.float64)


def _rescale(dft: Tensor, cut: int, box: int) -> Tensor:
    return dft_to_image(crop_dft(dft, (cut, cut), (box, box)), (box, box)) * (box / cut) ** 2


def _mirror(index: np.ndarray, n: int) -> np.ndarray:
    """Indices reflected into `0 ... n - 1`."""
    period = 2 * n - 2 if n > 1 else 1
    index = np.abs(index) % period
    return np.where(index >= n, period - index, index)
