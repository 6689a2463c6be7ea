"""Soft masks: balls, and masks found in a map.

Masks are float in [0, 1], 1 inside, with a raised-cosine edge. A mask from a map is: low-pass, threshold found in
the data, connected pieces that matter, grown, and softened by the distance to the grown body.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from cryoloom.maps.distance import distance_outside
from cryoloom.maps.filter import lowpass


def spherical_mask(
    box: int | Sequence[int],
    radius_px: float,
    edge_px: float = 5.0,
    *,
    ndim: int = 3,
    centre_px: Sequence[float] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Ball (or disc) that is 1 up to `radius_px` and falls to 0 over `edge_px` more pixels by a cosine.

    Parameters
    ----------
    box
        Size in pixels, one number or `([d,] h, w)`.
    radius_px
        Radius of the part that is 1.
    edge_px
        Width of the cosine edge outside it; 0 gives a hard edge.
    ndim
        Axes, when `box` is one number.
    centre_px
        In array order; by default index `n // 2` of each axis.

    Returns
    -------
    mask
        `([d,] h, w)` float32.
    """
    shape = (int(box),) * ndim if isinstance(box, int | np.integer) else tuple(int(n) for n in box)
    centre = [n // 2 for n in shape] if centre_px is None else list(centre_px)
    squared = torch.zeros((), device=device)
    for axis, (n, c) in enumerate(zip(shape, centre, strict=True)):
        line = (torch.arange(n, dtype=torch.float32, device=device) - c) ** 2
        squared = squared + line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return cosine_edge(squared.sqrt() - radius_px, edge_px)


def cosine_edge(distance: Tensor, edge: float) -> Tensor:
    """1 where the distance outside a body is at most 0, a raised cosine to 0 at `edge`, then 0."""
    if edge <= 0:
        return (distance <= 0).to(torch.float32)
    return 0.5 + 0.5 * torch.cos(math.pi * (distance / edge).clamp(0.0, 1.0))


@dataclass(frozen=True)
class MaskFromMap:
    """A mask and how it came about.

    Attributes
    ----------
    mask
        `(d, h, w)` float32.
    threshold
        Grey level of the low-passed map.
    background, background_sigma, interior
        Solvent level and its standard deviation, and the typical level inside.
    volume
        Å3 of the body before it was grown.
    n_pieces
        Connected pieces that were kept.
    """

    mask: Tensor
    threshold: float
    background: float
    background_sigma: float
    interior: float
    volume: float
    n_pieces: int


def soft_mask_from_map(
    volume: Tensor,
    pixel_size: float,
    *,
    lowpass_resolution: float = 15.0,
    threshold: float | None = None,
    extend: float = 6.0,
    edge: float = 8.0,
    min_piece: float = 0.05,
) -> Tensor:
    """Soft mask around the density of a map, `(d, h, w)` float32; `find_mask` tells how it came about too.

    Parameters
    ----------
    volume
        Map, protein bright, `(d, h, w)`.
    pixel_size
        Å.
    lowpass_resolution
        The map is low-passed to this, Å.
    threshold
        Grey level of the low-passed map; found in the data when None.
    extend, edge
        Å by which the body is grown, and width of its cosine edge outside that.
    min_piece
        Connected pieces smaller than this fraction of the largest are left out.
    """
    return find_mask(
        volume,
        pixel_size,
        lowpass_resolution=lowpass_resolution,
        threshold=threshold,
        extend=extend,
        edge=edge,
        min_piece=min_piece,
    ).mask


def find_mask(
    volume: Tensor,
    pixel_size: float,
    *,
    lowpass_resolution: float = 15.0,
    threshold: float | None = None,
    extend: float = 6.0,
    edge: float = 8.0,
    min_piece: float = 0.05,
) -> MaskFromMap:
    """`soft_mask_from_map` with an account of how the mask came about."""
    volume = torch.as_tensor(volume)
    smooth = lowpass(volume.to(torch.float32), pixel_size, lowpass_resolution).cpu().numpy()
    level, background, sigma, interior = density_levels(smooth)
    if threshold is None:
        threshold = level
    body, n_pieces = _main_pieces(smooth > threshold, min_piece)
    body_volume = float(body.sum()) * pixel_size**3
    distance = distance_outside(body, (extend + edge) / pixel_size + 2.0)
    mask = cosine_edge(torch.from_numpy(distance) * pixel_size - extend, edge)
    return MaskFromMap(
        mask=mask.to(volume.device),
        threshold=float(threshold),
        background=background,
        background_sigma=sigma,
        interior=interior,
        volume=body_volume,
        n_pieces=n_pieces,
    )


def density_levels(smooth: np.ndarray) -> tuple[float, float, float, float]:
    """Threshold between solvent and particle of a low-passed map, with the levels behind it.

    Solvent level and spread come from the mode of the voxels inside the largest ball of the box, the level of the
    particle from what stands out of them. The threshold lies at 30 % of the way between, but at least 3.5 standard
    deviations above the solvent (at most at 60 % of the way).

    Returns
    -------
    threshold, background, sigma, interior
        Grey levels.
    """
    ball = spherical_mask(smooth.shape, min(smooth.shape) / 2 - 1, 0.0).numpy() > 0
    values = smooth[ball].astype(np.float64)
    values = values[:: max(1, len(values) // 2_000_000)]
    background = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - background)))
    for _ in range(20):
        # Clip what stands out above; the lower side alone tells the spread, so the particle does not widen it.
        kept = values[values < background + 3 * sigma]
        if len(kept) < 10:
            break
        updated = float(np.median(kept))
        below = kept[kept < updated]
        spread = float(np.sqrt(np.mean((below - updated) ** 2))) if len(below) else 0.0
        if abs(updated - background) < 1e-3 * sigma and abs(spread - sigma) < 1e-3 * sigma:
            break
        background, sigma = updated, spread
    above = values[values > background + 4 * sigma]
    if len(above) < max(10, 1e-4 * len(values)):
        above = np.sort(values)[-max(10, len(values) // 100) :]
    # The typical level inside: the mean of what lies above the middle of the excess, so that edges do not count.
    interior = float(above.mean())
    for _ in range(10):
        interior = float(values[values > background + 0.5 * (interior - background)].mean())
    step = interior - background
    level = background + min(max(0.3 * step, 3.5 * sigma), 0.6 * step)
    return level, background, sigma, interior


def _main_pieces(body: np.ndarray, min_piece: float) -> tuple[np.ndarray, int]:
    """The largest connected piece and those of at least `min_piece` of its size, and their number."""
    labels, n = scipy.ndimage.label(body)
    if n <= 1:
        return body, n
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= max(1.0, min_piece * sizes.max())
    return keep[labels], int(keep.sum())
