"""Degrees of freedom of shells behind a mask.

A mask multiplies the map, so neighbouring Fourier coefficients become alike and a shell holds fewer independent ones.
For noise that is white before masking, the shell sums `Σ Re(A conj(B))` of two independent maps have the covariance
`Σ_{k in s, k' in s'} |c(k - k')|²` with `c` the normalised transform of the squared mask. In real space that is the
mean of `i_s(r) i_s'(r)` over the autocorrelation of the squared mask, where `i_s` is the transform of the shell. It
is taken radially here: `i_s(r) / n_s = sinc(2 s r / N) sinc(r / N)`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import irfftn, rfftn
from cryoloom.maps.fsc import shell_counts


def fsc_noise_covariance(image_shape: Sequence[int], mask: Tensor | None = None) -> np.ndarray:
    """Covariance of the FSC of independent noise between shells, `(n_shells, n_shells)` float64.

    Its diagonal is the variance, `1 / n` for the `n` voxels of a full shell without a mask.

    Parameters
    ----------
    image_shape
        Real sizes `([d,] h, w)`.
    mask
        By which both maps are multiplied, `([d,] h, w)`; None for none.
    """
    counts = shell_counts(image_shape).numpy()
    if mask is None:
        return np.diag(1.0 / counts)
    box = max(int(n) for n in image_shape)
    radius, weight = _autocorrelation(mask)
    shells = np.arange(len(counts))
    transform = np.sinc(2.0 * np.outer(shells, radius) / box) * np.sinc(radius / box)  # (shells, radii)
    covariance = (transform * weight) @ transform.T
    # The radial picture fails for the few voxels of the lowest shells; no mask makes a shell more certain.
    floor = np.diag(1.0 / counts)
    scale = np.sqrt(np.maximum(np.diag(floor) / np.maximum(np.diag(covariance), 1e-30), 1.0))
    return covariance * scale[:, None] * scale[None, :]


def effective_counts(image_shape: Sequence[int], mask: Tensor | None = None) -> np.ndarray:
    """Effective number of voxels of each full shell behind a mask, `(n_shells,)`; half are complex coefficients."""
    return 1.0 / np.diag(fsc_noise_covariance(image_shape, mask))


def _autocorrelation(mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Radii in voxels and the share of the autocorrelation of the squared mask at each, `(m,)` and `(m,)`."""
    shape = tuple(mask.shape)
    squared = mask.to(torch.float32) ** 2
    spectrum = rfftn(squared, mask.ndim)
    correlation = irfftn((spectrum.real**2 + spectrum.imag**2).to(spectrum.dtype), shape).cpu()
    distance2 = torch.zeros(())
    for axis, n in enumerate(shape):
        line = (torch.fft.fftfreq(n) * n) ** 2
        distance2 = distance2 + line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    bins = distance2.sqrt().round().to(torch.int64).reshape(-1)
    sums = torch.zeros(int(bins.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, bins, correlation.reshape(-1).to(torch.float64))
    weight = sums.clamp_min(0).numpy()
    return np.arange(len(weight), dtype=np.float64), weight / weight.sum()
