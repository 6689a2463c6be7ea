"""Phase error of a tilted beam (axial coma): `dft_image = dft_ideal * exp(-i phase)`.

`phase = 2π Cs λ² |k|² (β · k)` with the tilt β in radians (Glaeser et al. 2011, doi:10.1016/j.jsb.2011.02.005). The
sign is RELION's: its `rlnBeamTiltX/Y` put this phase into the images, and correction multiplies by `exp(+i phase)`.
"""

import math

import torch
from torch import Tensor

from cryoloom.optics.ctf import electron_wavelength


def beam_tilt_phase(
    ky: Tensor, kx: Tensor, *, beam_tilt_mrad: tuple[float, float], voltage_kv: float, cs_mm: float
) -> Tensor:
    """Phase in radians at frequencies in 1/Å; `beam_tilt_mrad` is (x, y)."""
    factor = 2 * math.pi * cs_mm * 1e7 * electron_wavelength(voltage_kv) ** 2 * 1e-3
    return factor * (kx**2 + ky**2) * (beam_tilt_mrad[0] * kx + beam_tilt_mrad[1] * ky)


def beam_tilt_factor(
    ky: Tensor, kx: Tensor, *, beam_tilt_mrad: tuple[float, float], voltage_kv: float, cs_mm: float
) -> Tensor:
    """Complex factors that put the phase error of a beam tilt into an ideal image."""
    phase = beam_tilt_phase(ky, kx, beam_tilt_mrad=beam_tilt_mrad, voltage_kv=voltage_kv, cs_mm=cs_mm)
    return torch.polar(torch.ones_like(phase), -phase)
