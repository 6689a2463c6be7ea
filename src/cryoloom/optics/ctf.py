"""Contrast transfer function of a weak phase object.

`ctf = -sin(χ)` with `χ = -π λ Δf k² + ½ π Cs λ³ k⁴ - phase_shift - asin(amplitude_contrast)`, so that the
value at the origin is `+amplitude_contrast` without a phase plate; positive Δf is underfocus. Astigmatism:
`Δf(θ) = ½(U + V) + ½(U - V) cos 2(θ - θ_U)`, θ from +x towards +y. (Rohou, Grigorieff 2015,
doi:10.1016/j.jsb.2015.08.008; Zhang 2016 for the signs. cisTEM, cryoDRGN and ASPIRE use the opposite overall sign.)
"""

import math
from typing import NotRequired, TypedDict, Unpack

import torch
from torch import Tensor


class CtfValues(TypedDict):
    """What the phase of a CTF depends on, as keyword arguments; numbers, or tensors `(*batch,)` where they may be.

    Attributes
    ----------
    defocus_u, defocus_v
        Å, underfocus positive.
    defocus_angle
        Radians, of the axis of `defocus_u` from +x towards +y.
    voltage_kv, cs_mm, amplitude_contrast
        Of the microscope.
    phase_shift
        Of a phase plate, radians; 0 by default.
    """

    defocus_u: Tensor | float
    defocus_v: Tensor | float
    defocus_angle: Tensor | float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    phase_shift: NotRequired[Tensor | float]


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic wavelength of the electron in Å."""
    volt = 1e3 * voltage_kv
    return 12.2642596588 / math.sqrt(volt * (1 + 0.978475598e-6 * volt))


def ctf_phase(
    ky: Tensor,
    kx: Tensor,
    **values: Unpack[CtfValues],
) -> Tensor:
    """The phase χ in radians at frequencies `(ky, kx)` in 1/Å.

    Parameters
    ----------
    ky, kx
        Frequencies in 1/Å, any shapes that broadcast with each other.
    **values
        See `CtfValues`; with tensors `(*batch,)` in it the result is `(*batch, *frequencies)`.
    """
    wavelength = electron_wavelength(values["voltage_kv"])
    k2 = kx**2 + ky**2
    n_axes = k2.ndim

    def spread(value: Tensor | float) -> Tensor:
        tensor = torch.as_tensor(value, dtype=k2.dtype, device=k2.device)
        return tensor.reshape(*tensor.shape, *[1] * n_axes)

    u, v, angle = (spread(values[name]) for name in ("defocus_u", "defocus_v", "defocus_angle"))
    # k² cos 2(θ - θ_U) without an arctangent
    k2_astigmatic = (kx**2 - ky**2) * torch.cos(2 * angle) + 2 * kx * ky * torch.sin(2 * angle)
    defocus_k2 = 0.5 * (u + v) * k2 + 0.5 * (u - v) * k2_astigmatic
    spherical = 0.5 * math.pi * values["cs_mm"] * 1e7 * wavelength**3 * k2**2
    shifted = spread(values.get("phase_shift", 0.0)) + math.asin(values["amplitude_contrast"])
    return -math.pi * wavelength * defocus_k2 + spherical - shifted


def ctf(ky: Tensor, kx: Tensor, *, bfactor: Tensor | float = 0.0, **values: Unpack[CtfValues]) -> Tensor:
    """The CTF at frequencies `(ky, kx)` in 1/Å, times the envelope `exp(-bfactor k² / 4)`; shapes as in `ctf_phase`."""
    return damp(-torch.sin(ctf_phase(ky, kx, **values)), kx**2 + ky**2, bfactor)


def damp(value: Tensor, k2: Tensor, bfactor: Tensor | float) -> Tensor:
    """Multiply values `(*batch, *frequencies)` by `exp(-bfactor k² / 4)`, the B-factor a number or `(*batch,)`, Å2."""
    envelope = torch.as_tensor(bfactor, dtype=value.dtype, device=value.device)
    if not bool((envelope != 0).any()):
        return value
    return value * torch.exp(-0.25 * envelope.reshape(*envelope.shape, *[1] * k2.ndim) * k2)
