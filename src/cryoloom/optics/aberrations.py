"""Aberrations beyond defocus: Zernike polynomials, beam tilt, anisotropic magnification.

RELION's convention (Zivanov, Nakane, Scheres 2020, doi:10.1107/S2052252520000081). An image is

    dft_image(k) = dft_projection(q) · -sin(χ(q) + even(q)) · exp(i odd(q)),   q = M k,

with `M` the magnification matrix of the optics group; `even` and `odd` are sums of Zernike polynomials whose unit
radius is 1/Å, in radians. Coefficients are ordered by degree `n` (0, 2, 4, ... or 1, 3, ...) and, within it, by `m`
from `-n` to `n` in steps of two; negative `m` stands for `sin |m|θ`, positive for `cos mθ`, θ from +x towards +y. A
beam tilt is the odd phase `-2π Cs λ² |q|² (β · q)`.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from cryoloom.optics.beam_tilt import beam_tilt_phase
from cryoloom.optics.ctf import CtfValues, ctf_phase, damp

Matrix2 = tuple[tuple[float, float], tuple[float, float]]
IDENTITY: Matrix2 = ((1.0, 0.0), (0.0, 1.0))


def zernike_order(index: int, *, odd: bool) -> tuple[int, int]:
    """`(m, n)` of a coefficient: angular and radial degree of the `index`-th odd or even Zernike polynomial."""
    if index < 0:
        raise ValueError(f"index: expected 0 or more, got {index}")
    n = 1 if odd else 0
    while index > n:
        index -= n + 1
        n += 2
    return 2 * index - n, n


def zernike(m: int, n: int, y: Tensor, x: Tensor) -> Tensor:
    """Zernike polynomial of angular degree `m`, radial degree `n` at `(y, x)`; not normalised, not cut at radius 1."""
    order = abs(m)
    if order > n or (n - order) % 2:
        raise ValueError(f"m, n: expected |m| <= n of equal parity, got m = {m}, n = {n}")
    # r^|m| cos or sin of |m|θ is a polynomial: the real or imaginary part of (x + iy)^|m|.
    real, imaginary = torch.ones_like(x * y), torch.zeros_like(x * y)
    for _ in range(order):
        real, imaginary = real * x - imaginary * y, real * y + imaginary * x
    r2 = x**2 + y**2
    radial = torch.zeros_like(r2)
    for s in range((n - order) // 2 + 1):
        factor = (-1) ** s * math.comb(n - s, s) * math.comb(n - 2 * s, (n - order) // 2 - s)
        radial = radial + factor * r2 ** ((n - order) // 2 - s)
    return radial * (real if m >= 0 else imaginary)


def zernike_phase(ky: Tensor, kx: Tensor, coefficients: Sequence[float], *, odd: bool) -> Tensor:
    """Sum of odd or even Zernike polynomials in radians at frequencies in 1/Å."""
    phase = torch.zeros_like(kx * ky)
    for index, coefficient in enumerate(coefficients):
        if coefficient:
            phase = phase + coefficient * zernike(*zernike_order(index, odd=odd), ky, kx)
    return phase


def magnify_frequencies(ky: Tensor, kx: Tensor, magnification: Matrix2) -> tuple[Tensor, Tensor]:
    """Frequencies `M k` of the ideal image that are found at `k` of the recorded one, `(ky, kx)`.

    Parameters
    ----------
    magnification
        `M`, row by row, for xy columns.
    """
    (xx, xy), (yx, yy) = magnification
    return yx * kx + yy * ky, xx * kx + xy * ky


def aberrated_ctf(
    ky: Tensor,
    kx: Tensor,
    *,
    bfactor: Tensor | float = 0.0,
    even_zernike: Sequence[float] = (),
    odd_zernike: Sequence[float] = (),
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0),
    magnification: Matrix2 = IDENTITY,
    **values: Unpack[CtfValues],
) -> Tensor:
    """Complex transfer function with all aberrations of an optics group; arguments and shapes as in `optics.ctf`.

    Returns
    -------
    transfer
        Complex, `(*batch, *frequencies)`; multiply a projection sampled at `magnify_frequencies` by it.
    """
    qy, qx = magnify_frequencies(ky, kx, magnification)
    phase = ctf_phase(qy, qx, **values)
    value = damp(-torch.sin(phase + zernike_phase(qy, qx, even_zernike, odd=False)), qx**2 + qy**2, bfactor)
    odd = antisymmetric_phase(
        qy,
        qx,
        odd_zernike=odd_zernike,
        beam_tilt_mrad=beam_tilt_mrad,
        voltage_kv=values["voltage_kv"],
        cs_mm=values["cs_mm"],
    )
    return value * torch.polar(torch.ones_like(odd), odd)


def antisymmetric_phase(
    qy: Tensor,
    qx: Tensor,
    *,
    odd_zernike: Sequence[float] = (),
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0),
    voltage_kv: float,
    cs_mm: float,
) -> Tensor:
    """Odd phase in radians that images carry; correction multiplies their spectra by `exp(-i phase)`."""
    phase = zernike_phase(qy, qx, odd_zernike, odd=True)
    if beam_tilt_mrad != (0.0, 0.0):
        tilt = beam_tilt_phase(qy, qx, beam_tilt_mrad=beam_tilt_mrad, voltage_kv=voltage_kv, cs_mm=cs_mm)
        phase = phase - tilt
    return phase
