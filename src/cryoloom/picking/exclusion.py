"""Regions that are not thin ice with particles: carbon, ice crystals, aggregates, contamination.

Three signs are used, each against the thin ice of the same micrograph. *Dense*: after the slope of the ice is taken
off, carbon and crystals are darker in the image than the ice by far more than its own fluctuations; the border runs
where half of the step of each region is reached, so that it does not depend on the smoothing. *Rough*: the local
variance of carbon is higher, where the calmer half of the micrograph sets the scale. *Clumped*: aggregates are
particles on top of each other; see `clumps`. The typical place is taken to be good, so at most half of a micrograph
can be excluded. Borders that hold no image are left out too; see `borders`. Neglected: thicker ice that is as smooth as
thin ice and ends in no edge.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cryoloom.picking.clumps import clumped_regions, far_too_dense, find_objects
from cryoloom.picking.reduce import Reduced, broad_mean

_SMOOTH = 20.0  # Å, standard deviation of the smoothing for the density
_CORE_SIGMA, _RIM_SIGMA = 9.0, 4.0  # robust deviations: somewhere in a dense region, and everywhere in it
_GAP = 30.0  # Å, half the width of gaps in dense regions that belong to them, as in the texture of carbon
_RIM = 40.0  # Å around excluded regions, where the fringes of their edges are strongest
_LOCAL = 30.0  # Å, of the window for the local mean
_BLOCK = 45.0  # Å, edge of the blocks whose median variance is taken
_VARIANCE_SIGMA, _LEAST_RATIO = 5.0, 1.5  # robust deviations of the log variance, and the least ratio that counts
_RIM_RATIO = 0.3  # log variance in excess at the border of a rough region
_WIDE, _CARBON_RATIO = 0.05, 1.6  # share of the micrograph and ratio of variances from which on an edge is carbon
_BLOCKS = 32


def excluded_regions(reduced: Reduced, *, least_diameter: float = 0.0) -> Tensor:
    """Where not to look for particles on a reduced micrograph, borders without an image too, `(h, w)` bool."""
    mask = exclusion_mask(reduced.image, reduced.mean_pixel_size, least_diameter=least_diameter)
    top, bottom, left, right = reduced.border
    h, w = mask.shape
    mask[:top], mask[h - bottom :], mask[:, :left], mask[:, w - right :] = True, True, True, True
    return mask


def exclusion_mask(image: Tensor, pixel_size: float, *, least_diameter: float = 0.0) -> Tensor:
    """Where not to look for particles, `(h, w)` bool.

    Parameters
    ----------
    image
        Reduced micrograph, dense matter bright, `(h, w)`.
    pixel_size
        Å per pixel.
    least_diameter
        Å, of the dense part of a particle; regions of less than four times the area of this circle are not excluded,
        since they may be particles, unless they are several times as dense. If it is 0, aggregates are not looked for.
    """
    plain = image.cpu().numpy().astype(np.float32)
    dense = _joined(dense_regions(plain, pixel_size), _GAP / pixel_size, np.pi * (least_diameter / pixel_size) ** 2)
    rough = rough_regions(plain, dense, pixel_size)
    mask = dense | rough
    if least_diameter > 0:
        diameter_px, rim_px = least_diameter / pixel_size, 1.5 * _SMOOTH / pixel_size
        label, n = ndimage.label(mask)
        small = np.bincount(label.reshape(-1), minlength=n + 1) < np.pi * diameter_px**2
        small[0] = True
        thin = ~_grow(~small[label], rim_px)  # carbon would bend the surface of the ice
        excess = plain - ice_level(_smooth(plain, pixel_size), thin)[0]
        objects = find_objects(excess, dense, rough, diameter_px, rim_px)
        if objects is not None:
            small &= ~far_too_dense(objects, label, n)
        small[0] = True
        mask = ~small[label]
        if objects is not None:
            clumped = clumped_regions(objects, dense, rough, diameter_px, rim_px)
            mask |= clumped | (dense & _grow(clumped, 2 * _SMOOTH / pixel_size))
    if mask.mean() > 0.5:
        mask = np.zeros_like(mask)
    return torch.from_numpy(mask).to(image.device)


def fill_excluded(image: Tensor, mask: Tensor, pixel_size: float) -> Tensor:
    """The image with excluded regions and their rims replaced by the local mean of what is around them, `(h, w)`.

    Crystals and carbon would otherwise leave dark halos when the background is flattened.
    """
    rim = _grow(mask.cpu().numpy(), _RIM / pixel_size)
    if not rim.any() or rim.all():
        return image
    plain = image.cpu().numpy().astype(np.float32)
    seen = (~rim).astype(np.float32)
    filled = np.full_like(plain, np.median(plain[~rim]))
    for sigma in (400.0, 150.0, 60.0):  # Å; the nearest that is seen decides
        share = broad_mean(torch.from_numpy(seen), sigma / pixel_size).numpy()
        mean = broad_mean(torch.from_numpy(plain * seen), sigma / pixel_size).numpy() / np.maximum(share, 1e-6)
        filled = np.where(share > 0.05, mean, filled)
    return torch.from_numpy(np.where(rim, filled, plain)).to(image.device)


def grow_mask(mask: Tensor, radius_px: float) -> Tensor:
    """Pixels within `radius_px` of a mask, `(h, w)` bool."""
    return torch.from_numpy(_grow(mask.cpu().numpy(), radius_px)).to(mask.device)


def dense_regions(image: np.ndarray, pixel_size: float) -> np.ndarray:
    """Where matter is much denser than the ice, `(h, w)` bool."""
    smooth = _smooth(image, pixel_size)
    ice, deviation = ice_level(smooth)
    z = (smooth - ice) / deviation
    candidates, n = ndimage.label(z > _RIM_SIGMA)
    if not n:
        return np.zeros(image.shape, dtype=bool)
    peak = ndimage.maximum(z, candidates, np.arange(n + 1))
    peak[0] = 0
    # half of the typical height of what is surely inside
    height = np.zeros(n + 1)
    for i in np.flatnonzero(peak > _CORE_SIGMA):
        inside = z[candidates == i]
        height[i] = np.median(inside[inside > 0.5 * peak[i]])
    level = height[candidates]
    return (level > 0) & (z > np.maximum(0.5 * level, _RIM_SIGMA))


def ice_level(smooth: np.ndarray, seen: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Density of the ice as a quadratic surface `(h, w)`, and the standard deviation about it.

    The surface is fitted to block means; blocks that lie above it, as dense matter does, are dropped in turn, and so
    are blocks of which less than a third is `seen` `(h, w)` bool, by default all.
    """
    h, w = smooth.shape
    by, bx = min(_BLOCKS, h), min(_BLOCKS, w)
    seen = np.ones(smooth.shape, dtype=bool) if seen is None or seen.mean() < 0.1 else seen
    share, sums = (
        torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(plane)[None, None], (by, bx))[0, 0].numpy()
        for plane in (seen.astype(np.float32), np.where(seen, smooth, 0).astype(np.float32))
    )
    known = (share > 1 / 3).reshape(-1)
    means = sums / np.maximum(share, 1e-6)

    def terms(ny: int, nx: int) -> np.ndarray:
        y, x = np.meshgrid((np.arange(ny) + 0.5) / ny - 0.5, (np.arange(nx) + 0.5) / nx - 0.5, indexing="ij")
        return np.stack([np.ones_like(y), y, x, y * y, x * y, x * x]).reshape(6, -1)

    basis, values = terms(by, bx), means.reshape(-1).astype(np.float64)
    good = known & (values <= np.quantile(values[known], 0.75))
    for _ in range(12):
        used = basis[:, good]
        ridge = 1e-3 * good.sum() * np.diag([0.0, 0, 0, 1, 1, 1])  # bends only where many blocks ask for it
        surface = np.linalg.solve(used @ used.T + ridge, used @ values[good]) @ basis
        residual = values - surface
        below = residual[known & (residual < np.median(residual[good]))] - np.median(residual[good])
        limit = 2.5 * 1.4826 * float(np.median(np.abs(below))) if len(below) else 0.0
        chosen = known & (residual - np.median(residual[good]) <= limit)
        if chosen.sum() < 0.4 * known.sum() or (chosen == good).all():
            break
        good = chosen
    used = basis[:, good]
    coefficients = np.linalg.solve(used @ used.T + ridge, used @ values[good])
    ice = (coefficients @ terms(h, w)).reshape(h, w)
    residual = (smooth - ice)[seen]
    inside = residual[residual < np.quantile(residual, 0.6)]
    middle = np.median(residual[np.abs(residual) < 3 * 1.4826 * np.median(np.abs(inside))])
    below = middle - residual[residual < middle]
    return ice + middle, max(1.4826 * float(np.median(below)), 1e-9)


def rough_regions(image: np.ndarray, dense: np.ndarray, pixel_size: float) -> np.ndarray:
    """Where the local variance is much larger than in calm ice, dense regions left out of account, `(h, w)` bool.

    The variance comes from the median of the squares in blocks, and from the median of neighbouring blocks, so that
    fringes and lone objects do not count and borders stay where they are.
    """
    seen = ~_grow(dense, _RIM / pixel_size)
    broad = _LOCAL / pixel_size
    share = np.maximum(ndimage.gaussian_filter(seen.astype(np.float32), broad), 1e-3)
    flat = image - ndimage.gaussian_filter(np.where(seen, image, 0).astype(np.float32), broad) / share
    block = min(max(7, round(_BLOCK / pixel_size)), *image.shape)
    cells = _block_medians(np.where(seen, flat**2, np.nan), block)
    cells = _local_median(cells)
    unseen = ~np.isfinite(cells)
    if unseen.all():
        return np.zeros(image.shape, dtype=bool)
    middle = float(np.log(max(np.nanmedian(cells), 1e-12)))
    nearest = ndimage.distance_transform_edt(unseen, return_distances=False, return_indices=True)
    excess = np.log(np.maximum(cells[tuple(nearest)], 1e-12)) - middle
    # a few large particles make some cells rougher than others; carbon on a quarter of the cells does not count here
    quartiles = np.quantile(excess, [0.25, 0.75])
    spread = float(np.abs(quartiles).max()) / 0.6745
    rough = _rough_cells(excess, spread)
    place = [(np.arange(n) + 0.5) / block - 0.5 for n in image.shape]
    grid = np.stack(np.meshgrid(*place, indexing="ij"))
    return ndimage.map_coordinates(rough.astype(np.float32), grid, order=1, mode="nearest") > 0.5


def _block_medians(values: np.ndarray, block: int) -> np.ndarray:
    """Median of each block of `block` squared pixels; NaN where less than a third of it is seen, `(n, m)`."""
    n, m = (size // block for size in values.shape)
    cells = values[: n * block, : m * block].reshape(n, block, m, block).swapaxes(1, 2).reshape(n, m, -1)
    return _median(cells)


def _local_median(cells: np.ndarray) -> np.ndarray:
    """Median of the 5 x 5 cells around each; NaN where less than a third of them are seen."""
    padded = np.pad(cells, 2, constant_values=np.nan)
    return _median(np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).reshape(*cells.shape, -1))


def _median(values: np.ndarray) -> np.ndarray:
    """Median over the last axis of what is not NaN; NaN where that is less than a third."""
    count = np.isfinite(values).sum(-1)
    ranked = np.sort(values, axis=-1)  # NaN last
    middle = np.take_along_axis(ranked, np.maximum(count[..., None] - 1, 0) // 2, axis=-1)[..., 0]
    return np.where(count >= values.shape[-1] / 3, middle, np.nan)


def _rough_cells(excess: np.ndarray, spread: float) -> np.ndarray:
    """Cells of regions that are surely rough, down to half of what the region has, `(h, w)` bool.

    A region is surely rough where its log variance stands out from that of other cells, or when it is a wide one that
    runs to the edge, as carbon does.
    """
    label, n = ndimage.label(excess > _RIM_RATIO)
    border = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    rough = np.zeros(excess.shape, dtype=bool)
    for i in range(1, n + 1):
        inside = label == i
        typical = float(np.median(excess[inside]))
        stands_out = excess[inside].max() > max(_VARIANCE_SIGMA * spread, np.log(_LEAST_RATIO))
        carbon = i in border and inside.mean() > _WIDE and typical > np.log(_CARBON_RATIO)
        if stands_out or carbon:
            rough |= inside & (excess > max(0.5 * typical, _RIM_RATIO))
    return rough


def _smooth(image: np.ndarray, pixel_size: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, _SMOOTH / pixel_size)


def _grow(mask: np.ndarray, radius_px: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask) <= radius_px if mask.any() else mask


def _joined(dense: np.ndarray, radius_px: float, least_area: float) -> np.ndarray:
    """Dense regions with their gaps filled where one of `least_area` takes part: crowded particles stay apart."""
    label, n = ndimage.label(_close(dense, radius_px))
    pieces, n_pieces = ndimage.label(dense)
    area = np.bincount(pieces.reshape(-1), minlength=n_pieces + 1)
    area[0] = 0
    largest = np.asarray(ndimage.maximum(area[pieces], label, np.arange(n + 1)))
    largest[0] = -1
    return np.asarray(dense | (largest >= least_area)[label])


def _close(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """The mask with its gaps of less than twice the radius filled."""
    if not mask.any():
        return mask
    wide = np.pad(mask, int(radius_px) + 2, mode="edge")
    closed = ~_grow(~_grow(wide, radius_px), radius_px)
    m = int(radius_px) + 2
    return np.asarray(closed[m:-m, m:-m] | mask)
