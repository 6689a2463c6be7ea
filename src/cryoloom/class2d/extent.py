"""Diameter of the circle that holds the particle, from the images alone.

Particles vary, the background does not: the low-passed power, pixel by pixel, falls with the distance from the
centre to the level of the background. The circle is drawn around
nearly all of what is above that level. Once there are class averages, the particle's own extent is that of
the connected density about their centres.
"""

import numpy as np
import scipy.ndimage
import torch

from cryoloom.em.images import ImageReader
from cryoloom.fourier import dft_to_image, image_to_dft, shell_index


def estimate_diameter(reader: ImageReader, n: int, pixel_size: float, *, largest_number: int = 1000) -> float:
    """Mask diameter in Å: the extent of the particles with a margin of a fifth, within 40 to 95 % of the box."""
    rows = np.unique(np.linspace(0, n - 1, min(n, largest_number)).astype(np.int64))
    images = torch.from_numpy(np.ascontiguousarray(reader.read(rows), np.float32))
    box = images.shape[-1]
    images = images - images.mean((1, 2), keepdim=True)
    images = images / images.std((1, 2), keepdim=True).clamp_min(1e-6)
    cutoff = max(3.0, box * pixel_size / 25.0)
    keep = (shell_index((box, box)) <= cutoff) & (shell_index((box, box)) >= 1)
    smooth = dft_to_image(image_to_dft(images) * keep, (box, box))
    power = (smooth.double() ** 2).median(0).values  # the middle of all images: no heed to neighbours and dirt
    axis = torch.arange(box) - box // 2
    distance = torch.hypot(axis[:, None].float(), axis.float()).round().long().reshape(-1)
    n_rings = box // 2
    inside = distance < n_rings
    total = torch.bincount(distance[inside], power.reshape(-1)[inside], minlength=n_rings)
    count = torch.bincount(distance[inside], minlength=n_rings).double()
    profile = (total / count).numpy()
    background = float(np.median(profile[int(0.85 * n_rings) :]))
    excess = np.clip(profile - background, 0, None) * count.numpy()
    if excess.sum() <= 0.05 * profile.sum():
        return 0.7 * box * pixel_size
    radius = int(np.searchsorted(np.cumsum(excess) / excess.sum(), 0.95))
    return float(np.clip(1.2 * 2 * radius, 0.4 * box, 0.95 * box) * pixel_size)


def particle_extent(averages: np.ndarray, counts: np.ndarray, pixel_size: float) -> float | None:
    """Largest diameter of the particle in Å, from class averages; None where no average shows one.

    In each average the connected part about the centre that is brighter than a quarter of the brightest is measured:
    twice the distance from its own centre that holds 99 % of it, so neighbours do not count. The median over the
    particles, with a margin of a tenth for the longest view, is robust against classes in which neighbours touch.

    Parameters
    ----------
    averages
        Bright particles, `(n, box, box)`.
    counts
        Particles in each, `(n,)`.
    """
    box = averages.shape[-1]
    y, x = np.mgrid[:box, :box] - box // 2
    distance = np.hypot(y, x)
    found, weight = [], []
    for average, count in zip(averages, counts, strict=True):
        smooth = scipy.ndimage.gaussian_filter(average.astype(np.float64), max(0.5, 5.0 / pixel_size))
        smooth = smooth - np.median(smooth[distance > 0.45 * box])
        bright = np.quantile(smooth[distance < 0.25 * box], 0.95)
        label, n = scipy.ndimage.label(smooth > 0.25 * bright)
        if bright <= 0 or n == 0:
            continue
        sizes = np.bincount(label[distance < 0.15 * box], minlength=n + 1)
        sizes[0] = 0
        if sizes.max() == 0:
            continue
        part = scipy.ndimage.binary_fill_holes(label == sizes.argmax())
        reach = np.hypot(y[part] - y[part].mean(), x[part] - x[part].mean())
        found.append(2.0 * float(np.quantile(reach, 0.99)) * pixel_size)
        weight.append(float(count))
    if not found:
        return None
    order = np.argsort(found)
    share = np.cumsum(np.asarray(weight)[order]) / max(sum(weight), 1e-12)
    return float(np.asarray(found)[order][min(int(np.searchsorted(share, 0.9)), len(found) - 1)])
