"""Forward and inverse transforms with the phase origin at the centre pixel.

`dft` is the half spectrum of `rfft` with zero frequency at `[..., 0, 0]`, and its phases are those of an
image whose centre is pixel `n // 2` on each axis. Forward plain, inverse `1/N`. On the CPU SciPy's
transform is used (float32 in and out, faster than torch's); on a GPU, and wherever a gradient is needed,
torch's.
"""

from collections.abc import Sequence

import scipy.fft
import torch
from torch import Tensor


def rfftn(image: Tensor, ndim: int) -> Tensor:
    """Plain half-spectrum transform over the last `ndim` axes; the phase origin is the first pixel."""
    axes = tuple(range(-ndim, 0))
    if image.is_cuda or (image.requires_grad and torch.is_grad_enabled()):
        return torch.fft.rfftn(image, dim=axes)
    return torch.from_numpy(scipy.fft.rfftn(image.detach().numpy(), axes=axes, workers=_workers()))


def irfftn(dft: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `rfftn`; `shape` gives the real sizes of the last axes, since half spectra forget parity."""
    shape = tuple(int(n) for n in shape)
    axes = tuple(range(-len(shape), 0))
    if dft.is_cuda or (dft.requires_grad and torch.is_grad_enabled()):
        return torch.fft.irfftn(dft, s=shape, dim=axes)
    numpy_dft = dft.detach().resolve_conj().numpy()
    return torch.from_numpy(scipy.fft.irfftn(numpy_dft, s=shape, axes=axes, workers=_workers()))


def image_to_dft(image: Tensor, ndim: int = 2) -> Tensor:
    """Transform images (`ndim=2`) or volumes (`ndim=3`), phase origin at the centre pixel.

    Parameters
    ----------
    image
        Real, `(*batch, [d,] h, w)`.
    ndim
        Number of axes to transform, counted from the last.

    Returns
    -------
    dft
        Half spectrum, `(*batch, [d,] h, w // 2 + 1)`.
    """
    return rfftn(torch.fft.ifftshift(image, dim=tuple(range(-ndim, 0))), ndim)


def dft_to_image(dft: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Inverse of `image_to_dft`; `image_shape` gives the sizes of the transformed axes."""
    return torch.fft.fftshift(irfftn(dft, image_shape), dim=tuple(range(-len(tuple(image_shape)), 0)))


def frequency_grid(
    image_shape: Sequence[int],
    pixel_size: float = 1.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Frequencies of the half spectrum.

    Parameters
    ----------
    image_shape
        Real sizes `([d,] h, w)`.
    pixel_size
        Å per pixel; 1 gives cycles per pixel.

    Returns
    -------
    frequency
        `([d,] h, w // 2 + 1, ndim)` in array order (zyx or yx), 1/Å.
    """
    *rest, w = (int(n) for n in image_shape)
    axes = [torch.fft.fftfreq(n, d=pixel_size, device=device, dtype=dtype) for n in rest]
    axes.append(torch.fft.rfftfreq(w, d=pixel_size, device=device, dtype=dtype))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _workers() -> int:
    """Threads for one transform: what `compute/` gave torch, so that there is one thread budget."""
    return max(1, torch.get_num_threads())
