"""Regions that are not thin ice with particles: carbon, ice crystals, aggregates, contamination.

Two signs are used, each against the typical value of the same micrograph: the local variance (carbon and thick
aggregates are rough) and the local density after smoothing (crystals are dense). The typical place is taken to be
good, so at most half of a micrograph can be excluded.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cryoloom.picking.reduce import flatten_background

_WINDOW = 120.0  # Å, standard deviation of the window for the local variance
_SMOOTH = 20.0  # Å, of the smoothing for dense spots
_VARIANCE_SIGMA, _LEAST_RATIO = 5.0, 1.5  # robust deviations of the log variance, and the least ratio that counts
_DENSITY_SIGMA = 9.0


def exclusion_mask(image: Tensor, pixel_size: float, *, least_diameter: float = 0.0) -> Tensor:
    """Where not to look for particles, `(h, w)` bool.

    Parameters
    ----------
    image
        Reduced micrograph, `(h, w)`.
    pixel_size
        Å per pixel.
    least_diameter
        Å; regions of less than four times the area of this circle are not excluded, since they may be particles.
    """
    flat = flatten_background(image, 400.0 / pixel_size, limit=30.0).cpu().numpy()
    flat = flat / max(1.4826 * float(np.median(np.abs(flat))), 1e-9)
    smooth = ndimage.gaussian_filter(flat, _SMOOTH / pixel_size)
    smooth = smooth / max(1.4826 * float(np.median(np.abs(smooth))), 1e-9)
    dense = np.abs(smooth) > _DENSITY_SIGMA
    dense = _grow(dense, 3 * _SMOOTH / pixel_size)
    calm = np.clip(np.where(dense, 0.0, flat), -6, 6)
    step = max(1, int(0.25 * _WINDOW / pixel_size))
    coarse = ndimage.uniform_filter(calm**2, step)[step // 2 :: step, step // 2 :: step]
    weight = ndimage.uniform_filter((~dense).astype(np.float32), step)[step // 2 :: step, step // 2 :: step]
    sigma = _WINDOW / pixel_size / step
    power = ndimage.gaussian_filter(coarse, sigma) / np.maximum(ndimage.gaussian_filter(weight, sigma), 0.05)
    log = np.log(np.maximum(power, 1e-9))
    middle = float(np.median(log))
    lower = log[log < middle]
    spread = 1.4826 * float(np.median(middle - lower)) if len(lower) else 1.0  # the calm side is not contaminated
    rough = log - middle > max(_VARIANCE_SIGMA * spread, np.log(_LEAST_RATIO))
    zoom = np.asarray(flat.shape) / np.asarray(rough.shape)
    grid = [
        np.minimum((np.arange(n) / z).astype(int), m - 1) for n, z, m in zip(flat.shape, zoom, rough.shape, strict=True)
    ]
    mask = dense | rough[np.ix_(*grid)]
    if least_diameter > 0 and mask.any():
        label, n = ndimage.label(mask)
        area = np.bincount(label.reshape(-1), minlength=n + 1)
        small = area < np.pi * (least_diameter / pixel_size) ** 2
        small[0] = True
        mask = ~small[label]
    if mask.mean() > 0.5:
        mask = np.zeros_like(mask)
    return torch.from_numpy(mask).to(image.device)


def _grow(mask: np.ndarray, radius_px: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask) <= radius_px if mask.any() else mask
