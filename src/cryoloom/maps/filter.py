"""Filters of maps that act on amplitudes only: low-pass, high-pass, B-factor, a curve per shell."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoloom.fourier import irfftn, rfftn, spread_shells


def radial_frequency(
    image_shape: Sequence[int], pixel_size: float = 1.0, *, device: torch.device | str | None = None
) -> Tensor:
    """Length of the frequency of each coefficient of the half spectrum in 1/Å, `([d,] h, w // 2 + 1)` float32."""
    *rest, w = (int(n) for n in image_shape)
    axes = [torch.fft.fftfreq(n, d=pixel_size, device=device) for n in rest]
    axes.append(torch.fft.rfftfreq(w, d=pixel_size, device=device))
    squared = torch.zeros((), device=device)
    for i, axis in enumerate(axes):
        squared = squared + (axis**2).reshape([-1 if j == i else 1 for j in range(len(axes))])
    return squared.sqrt()


def filter_map(volume: Tensor, gain: Tensor, ndim: int = 3) -> Tensor:
    """Multiply the half spectrum of real maps `(*batch, [d,] h, w)` by a real `gain` `([d,] h, w // 2 + 1)`."""
    shape = volume.shape[-ndim:]
    return irfftn(rfftn(volume, ndim) * gain, shape)


def lowpass(volume: Tensor, pixel_size: float, resolution: float, *, edge_shells: float = 4.0, ndim: int = 3) -> Tensor:
    """Low-pass to `resolution` Å by a raised cosine `edge_shells` shells wide that is 1/2 at the resolution.

    A resolution beyond the Nyquist frequency leaves the map as it is, corners of the spectrum included.
    """
    return filter_map(
        volume, lowpass_gain(volume.shape[-ndim:], pixel_size, resolution, edge_shells, device=volume.device), ndim
    )


def lowpass_gain(
    image_shape: Sequence[int],
    pixel_size: float,
    resolution: float,
    edge_shells: float = 4.0,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Gain of `lowpass` on the half spectrum, `([d,] h, w // 2 + 1)`."""
    if not resolution > 0:
        raise ValueError(f"resolution: expected a positive number of Å, got {resolution}")
    cutoff = 1.0 / resolution
    frequency = radial_frequency(image_shape, pixel_size, device=device)
    if cutoff >= 0.5 / pixel_size:
        return torch.ones_like(frequency)
    width = edge_shells / (max(image_shape) * pixel_size)
    width = min(width, 2 * cutoff)
    ramp = ((frequency - cutoff) / width + 0.5).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * ramp)


def highpass(
    volume: Tensor, pixel_size: float, resolution: float, *, edge_shells: float = 4.0, ndim: int = 3
) -> Tensor:
    """What `lowpass` to `resolution` Å takes away."""
    return volume - lowpass(volume, pixel_size, resolution, edge_shells=edge_shells, ndim=ndim)


def bfactor_gain(
    image_shape: Sequence[int], pixel_size: float, bfactor: float, *, device: torch.device | str | None = None
) -> Tensor:
    """`exp(-B k² / 4)` on the half spectrum, B in Å2; a negative B sharpens."""
    return torch.exp(-0.25 * bfactor * radial_frequency(image_shape, pixel_size, device=device) ** 2)


def apply_bfactor(volume: Tensor, pixel_size: float, bfactor: float, ndim: int = 3) -> Tensor:
    """Blur (B > 0) or sharpen (B < 0) maps by `exp(-B k² / 4)`, B in Å2."""
    return filter_map(volume, bfactor_gain(volume.shape[-ndim:], pixel_size, bfactor, device=volume.device), ndim)


def weight_shells(volume: Tensor, curve: Tensor, *, beyond: float = 0.0, ndim: int = 3) -> Tensor:
    """Multiply each shell of maps by its entry of `curve` `(box // 2 + 1,)`; corners by `beyond`."""
    shape = volume.shape[-ndim:]
    return filter_map(volume, spread_shells(curve.to(volume.dtype).to(volume.device), shape, beyond=beyond), ndim)


def shell_gain(curve: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """A curve per shell as a smooth gain on the half spectrum (linear between shells, 0 in the corners)."""
    box = max(image_shape)
    position = radial_frequency(image_shape) * box
    lower = position.floor().clamp_max(len(curve) - 1).to(torch.int64)
    upper = (lower + 1).clamp_max(len(curve) - 1)
    fraction = (position - lower).clamp(0, 1)
    values = torch.as_tensor(curve, dtype=torch.float32)
    gain = values[lower] * (1 - fraction) + values[upper] * fraction
    return torch.where(position > box // 2 + 0.5, torch.zeros(()), gain)
