"""Change of sampling by cropping or padding spectra, and box sizes that transform fast."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoloom.fourier.transform import dft_to_image, image_to_dft


def good_size(n: int, *, even: bool = True) -> int:
    """Smallest size of at least `n` whose prime factors are 2, 3, 5 and 7 (and which is even)."""
    m = max(int(n), 1)
    while (even and m % 2) or not _is_smooth(m):
        m += 1
    return m


def _is_smooth(n: int) -> bool:
    for p in (2, 3, 5, 7):
        while n % p == 0:
            n //= p
    return n == 1


def crop_dft(dft: Tensor, image_shape: Sequence[int], target_shape: Sequence[int]) -> Tensor:
    """Crop or zero-pad half spectra (zero frequency first, phase origin at the centre).

    Values are not rescaled (`fourier_crop` does that). The unpaired Nyquist plane of an even axis is split evenly
    between both ends when that axis grows, and its two ends are added when it shrinks, so that padding and
    cropping back is the identity.

    Parameters
    ----------
    dft
        `(*batch, [d,] h, w // 2 + 1)`.
    image_shape, target_shape
        Real sizes before and after, equally many axes.
    """
    image_shape = tuple(int(n) for n in image_shape)
    target_shape = tuple(int(n) for n in target_shape)
    ndim = len(image_shape)
    if len(target_shape) != ndim:
        raise ValueError(f"target_shape: expected {ndim} sizes, got {len(target_shape)}")
    out = dft
    for axis in range(ndim - 1):
        out = _crop_full_axis(out, axis - ndim, image_shape[axis], target_shape[axis])
    return _crop_half_axis(out, image_shape[-1], target_shape[-1], ndim - 1)


def fourier_crop(image: Tensor, target_shape: Sequence[int]) -> Tensor:
    """Resample images or volumes to another size over the same field; pixel values keep their scale.

    Parameters
    ----------
    image
        Real, `(*batch, [d,] h, w)`; as many axes are resampled as `target_shape` has.
    """
    target_shape = tuple(int(n) for n in target_shape)
    ndim = len(target_shape)
    image_shape = tuple(image.shape[-ndim:])
    dft = crop_dft(image_to_dft(image, ndim), image_shape, target_shape)
    scale = 1.0
    for m, n in zip(target_shape, image_shape, strict=True):
        scale *= m / n
    return dft_to_image(dft, target_shape) * scale


def _crop_full_axis(dft: Tensor, axis: int, n: int, m: int) -> Tensor:
    if n == m:
        return dft
    shape = list(dft.shape)
    shape[axis] = m
    out = torch.zeros(shape, dtype=dft.dtype, device=dft.device)
    small = min(n, m)
    n_positive, n_negative = (small + 1) // 2, (small - 1) // 2  # without the Nyquist term of an even size
    out.narrow(axis, 0, n_positive).copy_(dft.narrow(axis, 0, n_positive))
    if n_negative:
        out.narrow(axis, m - n_negative, n_negative).copy_(dft.narrow(axis, n - n_negative, n_negative))
    if small % 2 == 0:
        half = small // 2
        if m < n:
            out.narrow(axis, half, 1).copy_(dft.narrow(axis, half, 1) + dft.narrow(axis, n - half, 1))
        else:
            nyquist = 0.5 * dft.narrow(axis, half, 1)
            out.narrow(axis, half, 1).copy_(nyquist)
            out.narrow(axis, m - half, 1).copy_(nyquist)
    return out


def _crop_half_axis(dft: Tensor, n: int, m: int, n_other: int) -> Tensor:
    if n == m:
        return dft
    small = min(n, m)
    out = torch.zeros((*dft.shape[:-1], m // 2 + 1), dtype=dft.dtype, device=dft.device)
    columns = small // 2 + 1
    out[..., :columns] = dft[..., :columns]
    if small % 2 == 0:
        # The Nyquist column stands for both ends: alone in the smaller box, one of a pair in the larger.
        nyquist = dft[..., columns - 1]
        axes = tuple(range(dft.ndim - n_other - 1, dft.ndim - 1))
        mirrored = nyquist if not axes else torch.roll(nyquist.flip(axes), [1] * len(axes), axes)
        out[..., columns - 1] = 0.5 * nyquist if m > n else nyquist + mirrored.conj()
    return out
