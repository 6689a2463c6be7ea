"""A volume's transform anywhere, exact to 1e-4 of its root mean square: for simulation and for scoring.

`dft_image(kx, ky) = dft_volume(R @ (kx, ky, kz))`, kz = 0 for a plain projection and on the Ewald sphere otherwise.
The volume is divided by the transform of a narrow kernel, padded twice and transformed once; a sample is then the
kernel-weighted sum over 6 x 6 x 6 neighbours (Barnett, Magland, af Klinteberg 2019, doi:10.1137/18M120885X,
"exponential of semicircle" kernel). Unlike trilinear slices (`slices.py`) its error is far below any noise, so an
engine tested on such images is not tested on its own interpolation.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
import torch
from torch import Tensor

PADDING = 2
WIDTH = 6
BETA = 2.30 * WIDTH
_TABLE = 1024  # entries of the kernel table per padded Fourier pixel


@dataclass(frozen=True)
class ExactSpectrum:
    """Transform of a volume on a grid twice as fine as its box asks, kernel-corrected.

    Attributes
    ----------
    values
        Complex64, `(2m+1, 2m+1, m+1+WIDTH)`: kz and ky from -m to m, kx from -WIDTH to m, in padded Fourier pixels,
        phase origin at the centre voxel.
    box
        Side of the volume in voxels.
    radius
        Samples lie below this radius, in Fourier pixels of the box.
    """

    values: Tensor
    box: int
    radius: float


def exact_spectrum(volume: Tensor, radius: float | None = None, *, device: str | torch.device = "cpu") -> ExactSpectrum:
    """Prepare a volume for `sample_spectrum`.

    Parameters
    ----------
    volume
        Real cube `(n, n, n)` zyx.
    radius
        Largest radius that will be sampled, in Fourier pixels; by default Nyquist, `n / 2`.
    """
    n = volume.shape[-1]
    if tuple(volume.shape) != (n, n, n):
        raise ValueError(f"volume: expected a cube (n, n, n), got {tuple(volume.shape)}")
    radius = n / 2 if radius is None else min(float(radius), n / 2)
    padded = PADDING * n
    profile = torch.from_numpy(1 / _kernel_transform((np.arange(n) - n // 2) / padded)).to(torch.float32)
    data = volume.detach().cpu().to(torch.float32)
    data = data * profile * profile[:, None] * profile[:, None, None]
    m = int(math.ceil(PADDING * radius)) + WIDTH // 2 + 1
    signed = np.arange(-m, m + 1)
    columns = np.arange(-WIDTH, m + 1)
    workers = max(1, torch.get_num_threads())
    last = min(m, n)  # the half spectrum ends at its Nyquist column, index n
    x = scipy.fft.rfft(data.numpy(), padded, workers=workers)[..., : last + 1]  # (z, y, kx >= 0)
    y = scipy.fft.fft(np.ascontiguousarray(x.transpose(0, 2, 1)), padded, workers=workers)[..., signed]  # (z, kx, ky)
    z = scipy.fft.fft(np.ascontiguousarray(y.transpose(1, 2, 0)), padded, workers=workers)[..., signed]  # (kx, ky, kz)
    ramp = _centre_ramp(signed, n)
    z *= ramp[:, None] * ramp
    z *= _centre_ramp(np.arange(last + 1), n)[:, None, None]
    values = np.empty((len(signed), len(signed), len(columns)), np.complex64)
    values[..., WIDTH : WIDTH + last + 1] = z.transpose(2, 1, 0)
    # Columns left of zero are Friedel mates; those right of Nyquist too, since the padded spectrum is periodic.
    mates = np.concatenate([np.arange(-WIDTH, 0), np.arange(last + 1, m + 1)])
    source = np.where(mates < 0, -mates, 2 * last - mates)
    values[..., WIDTH + mates] = values[::-1, ::-1][..., WIDTH + source].conj()
    return ExactSpectrum(torch.from_numpy(values).to(device), n, radius)


def sample_spectrum(spectrum: ExactSpectrum, points: Tensor) -> Tensor:
    """The volume's transform at points xyz in Fourier pixels, `(*batch, 3)` to complex `(*batch,)`.

    Points beyond `spectrum.radius` give zero.
    """
    flat = points.reshape(-1, 3)
    if spectrum.values.device.type == "cpu":
        out = np.empty((len(flat), 2), np.float32)
        _sample(
            torch.view_as_real(spectrum.values).numpy(),
            flat.to(torch.float64).contiguous().numpy(),
            float(spectrum.radius),
            _kernel_table(),
            out,
        )
        return torch.view_as_complex(torch.from_numpy(out)).reshape(points.shape[:-1])
    return _sample_torch(spectrum, flat).reshape(points.shape[:-1])


def project_dft(
    spectrum: ExactSpectrum, rotations: Tensor, box: int | None = None, *, curvature: float = 0.0
) -> Tensor:
    """Projections as half spectra, `(p, 3, 3)` to `(p, box, box // 2 + 1)`, zero from Nyquist on.

    Parameters
    ----------
    spectrum
        From `exact_spectrum`.
    rotations
        Image frame to volume frame.
    box
        Side of the images; by default that of the volume. Another box samples the same transform more or less
        finely: the pixel size stays.
    curvature
        `kz = curvature * (kx^2 + ky^2)` with frequencies in Fourier pixels of the volume's box; 0 is a projection.
    """
    box = spectrum.box if box is None else int(box)
    device = spectrum.values.device
    ky = torch.fft.fftfreq(box, dtype=torch.float64, device=device) * spectrum.box
    kx = torch.fft.rfftfreq(box, dtype=torch.float64, device=device) * spectrum.box
    y, x = torch.meshgrid(ky, kx, indexing="ij")
    k2 = x**2 + y**2
    inside = (k2 < (spectrum.radius - 1e-6) ** 2).reshape(-1).nonzero()[:, 0]
    if box % 2 == 0:  # the Nyquist lines stand for two frequencies at once
        edge = (y.abs() > 0.5 * spectrum.box - 1e-6) | (x > 0.5 * spectrum.box - 1e-6)
        inside = inside[~edge.reshape(-1)[inside]]
    plane = torch.stack([x, y, curvature * k2], -1).reshape(-1, 3)[inside]  # (k, 3)
    points = plane @ rotations.to(device=device, dtype=torch.float64).transpose(-1, -2)  # (p, k, 3)
    out = torch.zeros(len(rotations), box * (box // 2 + 1), dtype=torch.complex64, device=device)
    out[:, inside] = sample_spectrum(spectrum, points)
    return out.reshape(-1, box, box // 2 + 1)


def _kernel(x: np.ndarray) -> np.ndarray:
    """`exp(β (sqrt(1 - (2x / WIDTH)^2) - 1))` inside of the window, 0 outside."""
    t = 1 - (2 * np.asarray(x, np.float64) / WIDTH) ** 2
    return np.where(t > 0, np.exp(BETA * (np.sqrt(np.clip(t, 0, None)) - 1)), 0.0)


def _kernel_transform(x: np.ndarray) -> np.ndarray:
    """Transform of the kernel at `x` cycles per padded Fourier pixel, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    half = WIDTH / 2
    return half * (np.cos(2 * np.pi * np.outer(x, nodes * half)) * (weights * _kernel(nodes * half))).sum(1)


_TABLE_CACHE: list[np.ndarray] = []


def _kernel_table() -> np.ndarray:
    if not _TABLE_CACHE:
        grid = np.arange(WIDTH // 2 * _TABLE + 2) / _TABLE
        _TABLE_CACHE.append(_kernel(grid).astype(np.float32))
    return _TABLE_CACHE[0]


def _centre_ramp(k: np.ndarray, box: int) -> np.ndarray:
    """Factors that move the phase origin from the first voxel to the centre of the box."""
    return np.exp(2j * np.pi * (box // 2) / (PADDING * box) * k).astype(np.complex64)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _sample(values: np.ndarray, points: np.ndarray, radius: float, table: np.ndarray, out: np.ndarray) -> None:
    m = values.shape[0] // 2
    weight = np.empty((3, WIDTH), np.float32)
    base = np.empty(3, np.int64)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if x * x + y * y + z * z > radius * radius:
            out[i, 0] = 0.0
            out[i, 1] = 0.0
            continue
        flip = x < 0
        if flip:
            x, y, z = -x, -y, -z
        for axis in range(3):
            p = PADDING * (x if axis == 0 else (y if axis == 1 else z))
            first = math.floor(p) - WIDTH // 2 + 1
            base[axis] = first + (WIDTH if axis == 0 else m)
            for j in range(WIDTH):
                place = np.float32(abs(p - (first + j)) * _TABLE)
                t = int(place)
                f = place - np.float32(t)
                weight[axis, j] = table[t] + f * (table[t + 1] - table[t])
        real = np.float32(0.0)
        imaginary = np.float32(0.0)
        for jz in range(WIDTH):
            for jy in range(WIDTH):
                row = values[base[2] + jz, base[1] + jy]
                line_real = np.float32(0.0)
                line_imaginary = np.float32(0.0)
                for jx in range(WIDTH):
                    line_real += weight[0, jx] * row[base[0] + jx, 0]
                    line_imaginary += weight[0, jx] * row[base[0] + jx, 1]
                w = weight[2, jz] * weight[1, jy]
                real += w * line_real
                imaginary += w * line_imaginary
        out[i, 0] = real
        out[i, 1] = -imaginary if flip else imaginary


def _sample_torch(spectrum: ExactSpectrum, points: Tensor) -> Tensor:
    """The same in plain torch, for CUDA: one pass over the neighbours, no index table in memory."""
    values = spectrum.values
    m, device = values.shape[0] // 2, values.device
    points = points.to(device=device, dtype=torch.float64)
    outside = (points**2).sum(-1) > spectrum.radius**2
    flip = points[:, :1] < 0
    p = PADDING * torch.where(flip, -points, points)
    p = torch.where(outside[:, None], torch.zeros_like(p), p)
    first = p.floor().to(torch.int64) - WIDTH // 2 + 1
    steps = torch.arange(WIDTH, device=device)
    distance = p[..., None] - (first[..., None] + steps)  # (k, 3, WIDTH)
    t = (1 - (2 * distance / WIDTH) ** 2).clamp_min(0)
    weight = torch.where(t > 0, torch.exp(BETA * (t.sqrt() - 1)), torch.zeros_like(t)).to(torch.float32)
    base = first + torch.tensor([WIDTH, m, m], device=device)
    flat = values.reshape(-1)
    out = torch.zeros(len(p), dtype=values.dtype, device=device)
    for jz in range(WIDTH):
        for jy in range(WIDTH):
            line = ((base[:, 2] + jz) * values.shape[1] + base[:, 1] + jy) * values.shape[2] + base[:, 0]
            w = weight[:, 2, jz] * weight[:, 1, jy]
            for jx in range(WIDTH):
                out += w * weight[:, 0, jx] * flat[line + jx]
    out = torch.where(flip[:, 0], out.conj(), out)
    return torch.where(outside, torch.zeros_like(out), out)
