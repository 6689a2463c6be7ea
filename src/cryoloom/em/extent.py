"""How large the particle is, from the images alone.

Particles vary from image to image and the background does not, so the low-passed power falls with the distance from the
centre to the level of the background. A view shows the longest axis only now and then: the power at its rim is a
few hundredths of that at the centre, and the rim is where the last hundredth is gone. Class averages show the extent
itself: that of the connected density about their centres.
"""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from cryoloom.em.images import ImageReader
from cryoloom.fourier import dft_to_image, image_to_dft, shell_index

SEEN = 0.01
MARGIN = 1.25


def estimate_mask_diameter(reader: ImageReader, n: int, pixel_size: float, *, largest_number: int = 1000) -> float:
    """Diameter in Å of a ball around the particle: its extent with a margin of a quarter, at most 95 % of the box.

    Where the power does not fall to a level within the box (crowded particles, a box that is too small) or no
    particle shows, 70 % of the box is taken.

    Parameters
    ----------
    n
        Number of images.
    pixel_size
        Å.
    largest_number
        Images looked at, spread evenly over the set.
    """
    rows = np.unique(np.linspace(0, n - 1, min(n, largest_number)).astype(np.int64))
    images = torch.from_numpy(np.ascontiguousarray(reader.read(rows), np.float32))
    box = images.shape[-1]
    profile, error = radial_power(images, cutoff=max(3.0, box * pixel_size / 25.0))
    n_rings = len(profile)
    rim = profile[int(0.88 * n_rings) :]
    excess = profile - rim.median()
    highest = float(excess.max())
    seen = excess > torch.clamp(3 * error, min=SEEN * highest)
    outermost = int(torch.nonzero(seen).max()) if bool(seen.any()) else 0
    flat = float(rim.max() - rim.min()) < 0.1 * highest
    if not flat or not 0.1 * n_rings < outermost < 0.88 * n_rings:
        return 0.7 * box * pixel_size
    return min(MARGIN * 2 * outermost, 0.95 * box) * pixel_size


def radial_power(images: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Mean power of low-passed images by distance from the centre, and its standard error, `(box // 2,)` float64.

    Each image is brought to mean 0 and deviation 1. At each distance the lowest and highest twentieth of the images are
    left out: neighbours and dirt.

    Parameters
    ----------
    images
        `(n, box, box)` float32.
    cutoff
        Last Fourier pixel kept.
    """
    box = images.shape[-1]
    images = images - images.mean((1, 2), keepdim=True)
    images = images / images.std((1, 2), keepdim=True).clamp_min(1e-6)
    shell = shell_index((box, box))
    smooth = dft_to_image(image_to_dft(images) * ((shell <= cutoff) & (shell >= 1)), (box, box)).double()
    axis = torch.arange(box) - box // 2
    distance = torch.hypot(axis[:, None].float(), axis.float()).round().long().reshape(-1)
    n_rings = box // 2
    inside = distance < n_rings
    ring = distance[inside]
    sums = torch.zeros(len(images), n_rings, dtype=torch.float64)
    sums.index_add_(1, ring, (smooth**2).reshape(len(images), -1)[:, inside])
    power = sums / torch.bincount(ring, minlength=n_rings)
    low, high = power.quantile(0.05, 0), power.quantile(0.95, 0)
    kept = torch.where((power >= low) & (power <= high), power, torch.nan)
    return kept.nanmean(0), power.clamp(low, high).std(0) / len(images) ** 0.5


def particle_extent(averages: np.ndarray, counts: np.ndarray, pixel_size: float) -> float | None:
    """Largest diameter of the particle in Å, from class averages; None where no average shows one.

    In each average the connected part about the centre that is brighter than a quarter of the brightest is measured:
    twice the distance from its own centre that holds 99 % of it, so neighbours do not count. Nine tenths of the
    particles are in averages that are no larger: long views count, a few classes in which neighbours touch do not.

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
