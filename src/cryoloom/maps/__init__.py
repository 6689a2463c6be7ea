"""Masks, correlation, spectra, filters and superposition of maps: pure functions on tensors."""

from cryoloom.maps.filter import apply_bfactor, filter_map, highpass, lowpass, radial_frequency, weight_shells
from cryoloom.maps.fsc import (
    crossing_shell,
    differential_phase_residual,
    fourier_shell_correlation,
    fsc_from_dft,
    fsc_of_full_map,
    half_bit_threshold,
    resolution_at,
    shell_counts,
    ssnr_from_fsc,
)
from cryoloom.maps.mask import MaskFromMap, cosine_edge, find_mask, soft_mask_from_map, spherical_mask
from cryoloom.maps.randomise import randomise_phases

__all__ = [
    "MaskFromMap",
    "apply_bfactor",
    "cosine_edge",
    "crossing_shell",
    "differential_phase_residual",
    "filter_map",
    "find_mask",
    "fourier_shell_correlation",
    "fsc_from_dft",
    "fsc_of_full_map",
    "half_bit_threshold",
    "highpass",
    "lowpass",
    "radial_frequency",
    "randomise_phases",
    "resolution_at",
    "shell_counts",
    "soft_mask_from_map",
    "spherical_mask",
    "ssnr_from_fsc",
    "weight_shells",
]
