"""Coloured Gaussian noise like that of ice under a microscope: white, with a rise towards low frequency."""

import torch
from torch import Tensor

from cryoloom.fourier.shells import half_spectrum_weights
from cryoloom.fourier.transform import frequency_grid, irfftn, rfftn


def ice_spectrum(image_shape: tuple[int, int], pixel_size: float, *, rise: float = 3.0, knee: float = 40.0) -> Tensor:
    """Power of the noise on the half spectrum, `(h, w // 2 + 1)`, for a variance of 1 per pixel.

    Parameters
    ----------
    image_shape
        Real sizes.
    pixel_size
        Å per pixel.
    rise
        Power at zero frequency over that of the white part, minus 1; 0 gives white noise.
    knee
        Length in Å at whose frequency the rise has fallen to a half.
    """
    k = frequency_grid(image_shape, pixel_size).norm(dim=-1)
    power = 1 + rise / (1 + (k * knee) ** 2)
    weights = half_spectrum_weights(image_shape[1])
    mean = (power.double() * weights).sum() / (image_shape[0] * image_shape[1])
    return (power / mean).to(torch.float32)


def coloured_noise(n: int, image_shape: tuple[int, int], spectrum: Tensor, generator: torch.Generator) -> Tensor:
    """`(n, h, w)` images of Gaussian noise with the power of `ice_spectrum`."""
    white = torch.randn(n, *image_shape, generator=generator)
    return irfftn(rfftn(white, 2) * spectrum.sqrt(), image_shape)
