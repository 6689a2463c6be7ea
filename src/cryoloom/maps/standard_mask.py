"""The mask of usual width around the density of two half maps: what is measured does not depend on a user's mask.

Resolution behind a mask changes with the mask: a wide one lets in noise of the solvent, a narrow one cuts signal. A
given mask therefore chooses *which* density is meant; how far the mask reaches beyond that density is always the same.
"""

import numpy as np
import torch
from torch import Tensor

from cryoloom.maps.distance import distance_outside
from cryoloom.maps.fsc import crossing_shell, fourier_shell_correlation
from cryoloom.maps.mask import MaskFromMap, cosine_edge, find_mask

EXTEND, EDGE = 6.0, 8.0
"""Å by which the body is grown, and width of the soft edge."""

NEAR = 8.0
"""Å; density this near to a given mask belongs to what it means."""


def mask_lowpass(half1: Tensor, half2: Tensor, pixel_size: float) -> float:
    """Resolution in Å to which the mean of the halves is smoothed before a mask is found in it: 15, coarser if need be.

    Beyond the FSC of 0.5 of the halves without a mask noise would shape the body.
    """
    box = max(half1.shape)
    shell = crossing_shell(fourier_shell_correlation(half1, half2), 0.5)
    return min(max(15.0, 1.2 * box * pixel_size / max(shell, 1.0)), box * pixel_size / 4)


def standard_mask(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    given: Tensor | None = None,
    *,
    extend: float = EXTEND,
    edge: float = EDGE,
) -> MaskFromMap:
    """Mask of standard width around the density of the mean of two halves `(n, n, n)`.

    Parameters
    ----------
    half1, half2
        Unfiltered half maps.
    pixel_size
        Å.
    given
        A user's mask in [0, 1]; only density inside it, or within 8 Å of it, is meant. A mask without density in it is
        returned as it is.
    extend, edge
        Å by which the body is grown, and width of its cosine edge.
    """
    mean = 0.5 * (half1 + half2)
    found = find_mask(
        mean, pixel_size, lowpass_resolution=mask_lowpass(half1, half2, pixel_size), extend=extend, edge=edge
    )
    if given is None:
        return found
    body = found.mask.cpu().numpy() > 0.9999  # the grown body; its edge begins where it ends
    core = _shrunk(body, extend / pixel_size)
    near = distance_outside(given.cpu().numpy() > 0.5, NEAR / pixel_size + 2.0) <= NEAR / pixel_size
    meant = core & near
    if not meant.any():
        return MaskFromMap(given, found.threshold, found.background, found.background_sigma, found.interior, 0.0, 0)
    if meant.sum() == core.sum():
        return found
    reach = distance_outside(meant, (extend + edge) / pixel_size + 2.0) * pixel_size
    return MaskFromMap(
        mask=cosine_edge(torch.from_numpy(reach) - extend, edge).to(given.device),
        threshold=found.threshold,
        background=found.background,
        background_sigma=found.background_sigma,
        interior=found.interior,
        volume=float(meant.sum()) * pixel_size**3,
        n_pieces=found.n_pieces,
    )


def _shrunk(body: np.ndarray, by_px: float) -> np.ndarray:
    """Voxels of a body further than `by_px` from its surface: what was grown by as much."""
    return distance_outside(~body, by_px + 2.0) > by_px
