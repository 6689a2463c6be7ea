"""Images that show no particle: broken ones, and ice or dirt with strong contrast. Empty ones need no code."""

import math

import torch
from torch import Tensor

from cryoloom.data import ParticleSet
from cryoloom.fourier.shells import half_spectrum_weights
from cryoloom.fourier.transform import frequency_grid
from cryoloom.optics.ctf import ctf


def junk_dfts(
    kind: str,
    particle: ParticleSet,
    box: int,
    *,
    diameter: float,
    snr: float,
    bfactor: float,
    generator: torch.Generator,
) -> Tensor:
    """Noise-free half spectra of junk, `(n, box, box // 2 + 1)`, one for each row of `particle`.

    Parameters
    ----------
    kind
        `"broken"`: a handful of loose domains, another at each place, as strong as a particle. `"contaminant"`: a few
        compact lumps anywhere in the box, with several times the contrast.
    particle
        Gives CTF and pixel size.
    diameter
        Å, extent of the broken pieces.
    snr
        Variance inside of the circle, as for particles, noise variance 1.
    """
    pixel_size = particle.optics[0].pixel_size
    grid = frequency_grid((box, box), pixel_size)
    ky, kx = grid.unbind(-1)
    k2 = ky**2 + kx**2
    optics = particle.optics[0]
    u, v, angle = particle.defocus_u, particle.defocus_v, particle.defocus_angle
    assert u is not None and v is not None and angle is not None
    out = []
    for i in range(len(particle)):
        if kind == "broken":
            n, spread, strength = 120, 0.2 * diameter, 1.0
            width = 1.5 + 3.0 * torch.rand(n, generator=generator)
        else:
            n, spread, strength = 4, 0.3 * box * pixel_size, 2.5
            width = diameter * (0.08 + 0.15 * torch.rand(n, generator=generator))
        place = spread * torch.randn(n, 2, generator=generator)  # yx, Å
        weight = (0.3 + torch.rand(n, generator=generator)) * width**2
        dft = torch.zeros(box, box // 2 + 1, dtype=torch.complex64)
        for j in range(n):
            phase = -2 * math.pi * (ky * place[j, 0] + kx * place[j, 1])
            fall = weight[j] * torch.exp(-2 * math.pi**2 * width[j] ** 2 * k2)
            dft += torch.polar(fall, phase)
        dft *= ctf(
            ky,
            kx,
            defocus_u=float(u[i]),
            defocus_v=float(v[i]),
            defocus_angle=float(angle[i]),
            voltage_kv=optics.voltage_kv,
            cs_mm=optics.cs_mm,
            amplitude_contrast=optics.amplitude_contrast,
            bfactor=bfactor,
        )
        dft[0, 0] = 0
        # Parseval: the sum of squares over the box, all of it taken to lie inside of the circle
        power = float((dft.abs() ** 2 * half_spectrum_weights(box)).sum()) / box**2
        area = math.pi * (0.5 * diameter / pixel_size) ** 2
        out.append(dft * (strength * math.sqrt(snr * area / max(power, 1e-30))))
    return torch.stack(out)
