"""Particles made of noise that look like proteins to a spectrum, for tests without files."""

import numpy as np
import torch

from cryoloom.fourier import rfftn
from cryoloom.maps import filter_map, lowpass, radial_frequency, spherical_mask
from cryoloom.maps.protein import protein_log_amplitude


def body(box: int, pixel_size: float, radius: float, seed: int = 0) -> torch.Tensor:
    """A lumpy connected body of about `radius` Å, 0 or 1, (box, box, box)."""
    noise = torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed))
    lumps = lowpass(noise, pixel_size, 0.9 * radius)
    lumps = lumps / lumps.std()
    c = torch.arange(box) - box // 2
    r = (c[:, None, None] ** 2 + c[:, None] ** 2 + c**2).sqrt() * pixel_size / radius
    return ((1.0 - r + 0.15 * lumps) > 0).float() * spherical_mask(box, 0.47 * box, 0.0)


def protein_like(box: int, pixel_size: float, radius: float, seed: int = 0) -> torch.Tensor:
    """An unblurred particle whose radial spectrum is that of an average protein beyond about 20 Å."""
    shape = body(box, pixel_size, radius, seed)
    texture = torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed + 1000))
    k = radial_frequency((box, box, box), pixel_size)
    gain = torch.from_numpy(np.exp(protein_log_amplitude(k.numpy()))).float()
    texture = filter_map(texture, gain)
    soft = lowpass(shape, pixel_size, 6.0)
    return soft * (0.6 * texture / texture.std() + 1.0)


def half_maps(signal: torch.Tensor, noise_sigma: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two half maps with independent white noise."""
    generator = torch.Generator().manual_seed(seed + 7)
    return tuple(signal + noise_sigma * torch.randn(signal.shape, generator=generator) for _ in range(2))


def noise_for(signal: torch.Tensor, mask: torch.Tensor, pixel_size: float, resolution: float) -> float:
    """White noise of half maps whose FSC behind the mask is 1/7 at `resolution` Å."""
    box = signal.shape[0]
    dft = rfftn(signal * mask, 3)
    k = radial_frequency(signal.shape, pixel_size)
    near = (k - 1 / resolution).abs() < 1.5 / (box * pixel_size)
    power = float((dft.abs()[near] ** 2).mean())
    return float((power * 6 / (mask**2).sum()) ** 0.5)
