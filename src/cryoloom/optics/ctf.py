"""Contrast transfer function of a weak phase object.

`ctf = -sin(χ)` with `χ = -π λ Δf k² + ½ π Cs λ³ k⁴ - phase_shift - asin(amplitude_contrast)`, so that the
value at the origin is `+amplitude_contrast` without a phase plate; positive Δf is underfocus. Astigmatism:
`Δf(θ) = ½(U + V) + ½(U - V) cos 2(θ - θ_U)`, θ from +x towards +y. (Rohou, Grigorieff 2015,
doi:10.1016/j.jsb.2015.08.008; Zhang 2016 for the signs. cisTEM, cryoDRGN and ASPIRE use the opposite overall sign.)
"""

import math

import torch
from torch import Tensor


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic wavelength of the electron in Å."""
    volt = 1e3 * voltage_kv
    return 12.2642596588 / math.sqrt(volt * (1 + 0.978475598e-6 * volt))


def ctf_phase(
    ky: Tensor,
    kx: Tensor,
    *,
    defocus_u: Tensor | float,
    defocus_v: Tensor | float,
    defocus_angle: Tensor | float,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift: Tensor | float = 0.0,
) -> Tensor:
    """The phase χ in radians at frequencies `(ky, kx)` in 1/Å.

    Parameters
    ----------
    ky, kx
        Frequencies in 1/Å, any shapes that broadcast with each other.
    defocus_u, defocus_v, defocus_angle, phase_shift
        Å and radians: numbers, or tensors `(*batch,)`; the result is `(*batch, *frequencies)`.
    """
    wavelength = electron_wavelength(voltage_kv)
    k2 = kx**2 + ky**2
    n_axes = k2.ndim

    def spread(value: Tensor | float) -> Tensor:
        tensor = torch.as_tensor(value, dtype=k2.dtype, device=k2.device)
        return tensor.reshape(*tensor.shape, *[1] * n_axes)

    u, v, angle = spread(defocus_u), spread(defocus_v), spread(defocus_angle)
    # k² cos 2(θ - θ_U) without an arctangent
    k2_astigmatic = (kx**2 - ky**2) * torch.cos(2 * angle) + 2 * kx * ky * torch.sin(2 * angle)
    defocus_k2 = 0.5 * (u + v) * k2 + 0.5 * (u - v) * k2_astigmatic
    spherical = 0.5 * math.pi * cs_mm * 1e7 * wavelength**3 * k2**2
    return -math.pi * wavelength * defocus_k2 + spherical - spread(phase_shift) - math.asin(amplitude_contrast)


def ctf(
    ky: Tensor,
    kx: Tensor,
    *,
    defocus_u: Tensor | float,
    defocus_v: Tensor | float,
    defocus_angle: Tensor | float,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift: Tensor | float = 0.0,
    bfactor: Tensor | float = 0.0,
) -> Tensor:
    """The CTF at frequencies `(ky, kx)` in 1/Å, times the envelope `exp(-bfactor k² / 4)`; shapes as in `ctf_phase`."""
    phase = ctf_phase(
        ky,
        kx,
        defocus_u=defocus_u,
        defocus_v=defocus_v,
        defocus_angle=defocus_angle,
        voltage_kv=voltage_kv,
        cs_mm=cs_mm,
        amplitude_contrast=amplitude_contrast,
        phase_shift=phase_shift,
    )
    value = -torch.sin(phase)
    envelope = torch.as_tensor(bfactor, dtype=value.dtype, device=value.device)
    if bool((envelope != 0).any()):
        k2 = kx**2 + ky**2
        value = value * torch.exp(-0.25 * envelope.reshape(*envelope.shape, *[1] * k2.ndim) * k2)
    return value
