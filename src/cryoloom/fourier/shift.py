"""Sub-pixel translation of images by phase ramps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoloom.fourier.transform import irfftn, rfftn


def shift_image(image: Tensor, shift_px: Tensor) -> Tensor:
    """Translate images; content moves towards larger indices and wraps around.

    Parameters
    ----------
    image
        Real images, `(*batch, h, w)`.
    shift_px
        Displacement in pixels, order yx, `(*batch, 2)`.

    Returns
    -------
    shifted
        Images like `image`, `(*batch, h, w)`.

    Raises
    ------
    ValueError
        If the last axis of `shift_px` does not have length 2.

    Notes
    -----
    Follows the shift theorem. On an even axis the unpaired Nyquist term keeps only the real part of
    its phase, so that `shift_image(., -s)` stays the adjoint of `shift_image(., s)`.
    """
    image_shape = image.shape[-2:]
    return irfftn(shift_dft(rfftn(image, 2), shift_px, image_shape), image_shape)


def shift_dft(dft: Tensor, shift_px: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Translate half spectra `(*batch, h, w // 2 + 1)` by `shift_px` `(*batch, 2)`, order yx."""
    return dft * phase_ramp(shift_px, image_shape).to(dft.dtype)


def phase_ramp(shift_px: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Factors `exp(-2πi k·s)` on the half spectrum, `(*batch, 2)` yx to `(*batch, h, w // 2 + 1)`."""
    if shift_px.shape[-1] != 2:
        raise ValueError(f"shift_px: expected (*batch, 2) in yx, got {tuple(shift_px.shape)}")
    h, w = (int(n) for n in image_shape)
    ky = torch.fft.fftfreq(h, dtype=shift_px.dtype, device=shift_px.device)  # (h,)
    kx = torch.fft.rfftfreq(w, dtype=shift_px.dtype, device=shift_px.device)  # (w // 2 + 1,)
    return _phase(ky, shift_px[..., 0])[..., :, None] * _phase(kx, shift_px[..., 1])[..., None, :]


def _phase(freq_per_px: Tensor, shift_px: Tensor) -> Tensor:
    """Phase factors `exp(-2πi k s)`, `(n,)` and `(*batch,)` to `(*batch, n)`."""
    phase = torch.exp(-2j * torch.pi * freq_per_px * shift_px[..., None])
    return torch.where(freq_per_px.abs() == 0.5, phase.real.to(phase.dtype), phase)
