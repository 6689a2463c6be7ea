"""Shells of equal spatial frequency, and the weights of half-spectrum sums.

Shell `s` is the frequency `s / (box * pixel_size)`, `s = 0 ... box // 2`, by rounding. Voxels in the corners
beyond the last shell get the index `box // 2 + 1` from `shell_index` and belong to no shell.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def half_spectrum_weights(w: int, *, device: torch.device | str | None = None) -> Tensor:
    """How often each column of a half spectrum counts in a sum over the full plane, `(w // 2 + 1,)` float32.

    Column 0, and the last one if `w` is even, count once; all others twice.
    """
    weights = torch.full((w // 2 + 1,), 2.0, device=device)
    weights[0] = 1.0
    if w % 2 == 0:
        weights[-1] = 1.0
    return weights


def shell_index(image_shape: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """Shell of each coefficient of a half spectrum, `([d,] h, w // 2 + 1)` int64.

    Sizes may differ between axes; shells are counted on the longest axis.
    """
    index = _shell_index_cpu(tuple(int(n) for n in image_shape))
    return index.to(device) if device is not None else index


@lru_cache(maxsize=16)
def _shell_index_cpu(image_shape: tuple[int, ...]) -> Tensor:
    *rest, w = image_shape
    box = max(image_shape)
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in rest]
    axes.append(torch.fft.rfftfreq(w, dtype=torch.float64))
    squared = torch.zeros((), dtype=torch.float64)
    for i, axis in enumerate(axes):
        squared = squared + axis.reshape([-1 if j == i else 1 for j in range(len(axes))]) ** 2
    index = (squared.sqrt() * box).round().to(torch.int64)
    return index.clamp_max(box // 2 + 1)


def shell_sum(values: Tensor, image_shape: Sequence[int], *, full: bool = True) -> Tensor:
    """Sum of real values over shells of the full spectrum, accumulated in float64.

    Parameters
    ----------
    values
        Real values on half spectra, `(*batch, [d,] h, w // 2 + 1)`.
    image_shape
        Real sizes of the transformed axes.
    full
        True: count columns as `half_spectrum_weights` says. False: a bare sum over the half spectrum.

    Returns
    -------
    sums
        `(*batch, box // 2 + 1)` float64.
    """
    image_shape = tuple(int(n) for n in image_shape)
    ndim, n_shells = len(image_shape), max(image_shape) // 2 + 1
    index = shell_index(image_shape, device=values.device).reshape(-1)
    values = values.to(torch.float64)
    if full:
        values = values * half_spectrum_weights(image_shape[-1], device=values.device)
    batch = values.shape[:-ndim]
    flat = values.reshape(-1, index.numel())
    sums = torch.zeros(flat.shape[0], n_shells + 1, dtype=torch.float64, device=values.device)
    sums.index_add_(1, index, flat)
    return sums[:, :n_shells].reshape(*batch, n_shells)


def shell_mean(values: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Mean of real values over shells of the full spectrum, `(*batch, box // 2 + 1)` float64."""
    counts = shell_sum(torch.ones(values.shape[-len(tuple(image_shape)) :], device=values.device), image_shape)
    return shell_sum(values, image_shape) / counts


def spread_shells(curve: Tensor, image_shape: Sequence[int], *, beyond: float = 0.0) -> Tensor:
    """Put a value per shell on each coefficient of a half spectrum.

    Parameters
    ----------
    curve
        `(*batch, box // 2 + 1)`.
    beyond
        Value in the corners, beyond the last shell.

    Returns
    -------
    values
        `(*batch, [d,] h, w // 2 + 1)`.
    """
    padded = torch.nn.functional.pad(curve, (0, 1), value=beyond)
    return padded[..., shell_index(image_shape, device=curve.device)]
