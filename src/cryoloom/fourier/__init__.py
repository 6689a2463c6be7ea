"""Fourier transforms, shells, slices and polar resampling: pure functions on tensors."""

from cryoloom.fourier.resize import crop_dft, fourier_crop, good_size
from cryoloom.fourier.shells import half_spectrum_weights, shell_index, shell_mean, shell_sum, spread_shells
from cryoloom.fourier.shift import phase_ramp, shift_dft, shift_image
from cryoloom.fourier.transform import (
    dft_to_image,
    frequency_grid,
    image_to_dft,
    irfftn,
    rfftn,
)

__all__ = [
    "crop_dft",
    "dft_to_image",
    "fourier_crop",
    "frequency_grid",
    "good_size",
    "half_spectrum_weights",
    "image_to_dft",
    "irfftn",
    "phase_ramp",
    "rfftn",
    "shell_index",
    "shell_mean",
    "shell_sum",
    "shift_dft",
    "shift_image",
    "spread_shells",
]
