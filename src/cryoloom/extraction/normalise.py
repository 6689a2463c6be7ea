"""Background, scale and dust of particle images.

Outside the particle's circle an image holds ice and detector noise: a plane fitted there is subtracted, and
the image is scaled so that the mean is 0 and the standard deviation 1 outside the circle.
"""

import torch
from torch import Tensor

_DUST_ROUNDS = 9


def background_mask(box: int, diameter_px: float, *, device: torch.device | str | None = None) -> Tensor:
    """Pixels outside the circle of `diameter_px` around the centre pixel, `(box, box)` bool."""
    axis = torch.arange(box, device=device) - box // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 > (0.5 * diameter_px) ** 2


def normalise_images(images: Tensor, background: Tensor, *, dust_sigma: float = 0.0) -> tuple[Tensor, Tensor]:
    """Subtract a background plane, remove dust and scale.

    Parameters
    ----------
    images
        `(n, h, w)`.
    background
        `(h, w)` bool.
    dust_sigma
        Pixels that differ by more than this many background deviations from their 5 x 5 surroundings are replaced by
        the mean of those; 0 keeps them.

    Returns
    -------
    normalised
        `(n, h, w)` float32, mean 0 and deviation 1 over `background`.
    spread
        Standard deviation of the background before scaling, `(n,)` float64.
    """
    flat = images.to(torch.float64)
    flat = flat - _plane(flat, background)
    if dust_sigma > 0:
        flat = _remove_dust(flat, background, dust_sigma)
        flat = flat - _plane(flat, background)
    values = flat[:, background]
    mean, spread = values.mean(1), values.std(1, correction=0)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    return ((flat - mean[:, None, None]) / safe[:, None, None]).to(torch.float32), spread


def _plane(images: Tensor, background: Tensor) -> Tensor:
    """Least-squares plane through the background of each image, `(n, h, w)`."""
    h, w = background.shape
    y = torch.linspace(-1, 1, h, dtype=images.dtype, device=images.device)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w, dtype=images.dtype, device=images.device)[None, :].expand(h, w)
    basis = torch.stack([torch.ones_like(y), y, x])  # (3, h, w)
    inside = basis[:, background]  # (3, m)
    moments = images[:, background] @ inside.T  # (n, 3)
    coefficients = torch.linalg.solve(inside @ inside.T, moments.T).T
    return torch.einsum("nk,khw->nhw", coefficients, basis)


def _remove_dust(images: Tensor, background: Tensor, n_sigma: float) -> Tensor:
    """Replace pixels that stand out from their 5 x 5 surroundings, which no resolved part of a particle does."""

    def summed(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values[:, None], 5, stride=1, padding=2, divisor_override=1)[:, 0]

    count = summed(torch.ones_like(images[:1]))
    images = images.clone()
    left = torch.arange(len(images), device=images.device)
    for _ in range(_DUST_ROUNDS):  # in each, the worst pixel of every neighbourhood
        some = images[left]
        distance = (some - summed(some) / count).abs()
        spread = 1.4826 * distance[:, background].median(1).values[:, None, None]
        worst = torch.nn.functional.max_pool2d(distance[:, None], 5, stride=1, padding=2)[:, 0]
        dust = (distance > n_sigma * spread) & (distance == worst)
        dusty = dust.flatten(1).any(1)
        if not bool(dusty.any()):
            break
        left, some, dust = left[dusty], some[dusty], dust[dusty]
        clean = (~dust).to(images.dtype)
        images[left] = torch.where(dust, summed(some * clean) / summed(clean).clamp_min(1.0), some)
    return images
