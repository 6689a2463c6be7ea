"""Rotation and shift of maps through their transforms, without loss at high frequency.

The volume is divided by the transform of a B-spline, zero-padded twice and transformed; samples of that spectrum,
weighted by the B-spline, are then the transform of the volume at any frequency (linear for searching, cubic where it
counts: 0.2 % error inside the middle half of the box).
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryoloom.fourier import dft_to_image

PADDING = 2


@dataclass(frozen=True)
class SplineSpectrum:
    """Coefficients of the transform of a cube, twice oversampled.

    Attributes
    ----------
    values
        `(2m+1, 2m+1, m+3)` complex64: kz and ky from -m to m, kx from -2 to m, in padded Fourier pixels; phase
        origin at the centre voxel.
    box
        Side of the volume.
    radius
        Largest frequency in Fourier pixels of the box at which it may be sampled.
    degree
        1 or 3.
    """

    values: np.ndarray
    box: int
    radius: int
    degree: int


def spline_spectrum(volume: Tensor, radius: int | None = None, degree: int = 3) -> SplineSpectrum:
    """Prepare a cube `(n, n, n)` zyx for sampling up to `radius` Fourier pixels (by default all)."""
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"volume: expected a cube (n, n, n), got {tuple(volume.shape)}")
    box = volume.shape[0]
    radius = box // 2 if radius is None else min(int(radius), box // 2)
    n = PADDING * box
    offset = np.arange(box) - box // 2
    profile = np.sinc(offset / n) ** (degree + 1)
    data: np.ndarray = volume.detach().cpu().numpy().astype(np.float32)
    data = data / (profile[:, None, None] * profile[:, None] * profile).astype(np.float32)
    m = PADDING * radius + 3  # beyond n // 2 the spectrum repeats; a sample takes in two values on either side
    signed, positive = np.arange(-m, m + 1), np.arange(-2, m + 1)
    workers = torch.get_num_threads()
    # One axis at a time, keeping only what is asked for; a line of real data has the conjugate at -kx and at n - kx.
    x: np.ndarray = scipy.fft.rfft(data, n, axis=2, workers=workers)
    there, mirrored = np.minimum(positive % n, -positive % n), positive % n > n // 2
    x = np.where(mirrored, x[..., there].conj(), x[..., there])
    y = scipy.fft.fft(x, n, axis=1, workers=workers)[:, signed % n]
    z = scipy.fft.fft(y, n, axis=0, workers=workers)[signed % n]

    def ramp(k: np.ndarray) -> np.ndarray:
        return np.exp(2j * np.pi * k * (box // 2) / n).astype(np.complex64)

    values = z * ramp(signed)[:, None, None] * ramp(signed)[:, None] * ramp(positive)
    return SplineSpectrum(np.ascontiguousarray(values, dtype=np.complex64), box, radius, degree)


def sample_spectrum(spectrum: SplineSpectrum, points: np.ndarray) -> np.ndarray:
    """Transform of the volume at frequencies `points` `(k, 3)` xyz in Fourier pixels, `(k,)` complex64."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    out = np.empty(len(points), np.complex64)
    kernel = _sample_linear if spectrum.degree == 1 else _sample_cubic
    kernel(spectrum.values, points, np.float32(PADDING), out)
    return out


def transform_map(
    volume: Tensor, rotation: Tensor, shift_px: Tensor | None = None, *, radius: int | None = None
) -> Tensor:
    """Rotate a map about its centre voxel, then shift it.

    Parameters
    ----------
    volume
        Cube `(n, n, n)` zyx.
    rotation
        Active rotation of the content, `(3, 3)`, acting on xyz columns.
    shift_px
        Then moved by this many voxels, zyx.
    radius
        Frequencies beyond this many Fourier pixels become 0; by default the whole sphere up to Nyquist is kept.

    Returns
    -------
    moved
        `(n, n, n)` float32 on the device of the input.
    """
    spectrum = spline_spectrum(volume, radius)
    box = spectrum.box
    points, where = half_sphere(box, min(spectrum.radius, (box - 1) // 2))
    turn = torch.as_tensor(rotation, dtype=torch.float64).cpu().numpy()
    # F_moved(k) = F(R^T k): row vectors times R.
    samples = sample_spectrum(spectrum, points @ turn)
    if shift_px is not None:
        shift = np.asarray(torch.as_tensor(shift_px, dtype=torch.float64).cpu())[::-1]
        samples = samples * np.exp(-2j * np.pi * (points @ shift) / box).astype(np.complex64)
    dft = np.zeros(box * box * (box // 2 + 1), np.complex64)
    dft[where] = samples
    moved = dft_to_image(torch.from_numpy(dft.reshape(box, box, box // 2 + 1)), (box, box, box))
    return moved.to(volume.device)


def half_sphere(box: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of the half spectrum of a cube up to a radius, and their place in it.

    Returns
    -------
    points
        `(k, 3)` xyz in Fourier pixels.
    where
        Flat index into `(box, box, box // 2 + 1)`, `(k,)`.
    """
    reach = int(math.floor(radius))
    signed = np.arange(-reach, reach + 1)
    kz, ky, kx = np.meshgrid(signed, signed, np.arange(0, reach + 1), indexing="ij")
    inside = kx**2 + ky**2 + kz**2 <= radius**2
    kz, ky, kx = kz[inside], ky[inside], kx[inside]
    where = ((kz % box) * box + ky % box) * (box // 2 + 1) + kx
    return np.stack([kx, ky, kz], axis=1).astype(np.float64), where


@numba.njit(nogil=True, cache=True, fastmath=True)
def _sample_linear(values: np.ndarray, points: np.ndarray, padding: np.float32, out: np.ndarray) -> None:
    centre = values.shape[0] // 2
    for p in range(points.shape[0]):
        x, y, z = points[p, 0] * padding, points[p, 1] * padding, points[p, 2] * padding
        mirrored = x < 0
        if mirrored:
            x, y, z = -x, -y, -z
        ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        fx, fy, fz = x - ix, y - iy, z - iz
        total = np.complex64(0)
        for a in range(2):
            wz = fz if a else 1 - fz
            for b in range(2):
                wzy = wz * (fy if b else 1 - fy)
                row = values[iz + centre + a, iy + centre + b]
                total += np.float32(wzy) * (np.float32(1 - fx) * row[ix + 2] + np.float32(fx) * row[ix + 3])
        out[p] = np.conj(total) if mirrored else total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _sample_cubic(values: np.ndarray, points: np.ndarray, padding: np.float32, out: np.ndarray) -> None:
    centre = values.shape[0] // 2
    weights = np.empty((3, 4), np.float32)
    base = np.empty(3, np.int64)
    for p in range(points.shape[0]):
        mirrored = points[p, 0] < 0
        for axis in range(3):
            u = points[p, axis] * padding
            if mirrored:
                u = -u
            i = int(np.floor(u))
            f = np.float32(u - i)
            g = np.float32(1) - f
            base[axis] = i - 1
            weights[axis, 0] = g * g * g / np.float32(6)
            weights[axis, 1] = (np.float32(4) - np.float32(6) * f * f + np.float32(3) * f * f * f) / np.float32(6)
            weights[axis, 2] = (np.float32(4) - np.float32(6) * g * g + np.float32(3) * g * g * g) / np.float32(6)
            weights[axis, 3] = f * f * f / np.float32(6)
        real, imag = np.float32(0), np.float32(0)
        for a in range(4):
            for b in range(4):
                row = values[base[2] + centre + a, base[1] + centre + b]
                wzy = weights[2, a] * weights[1, b]
                for c in range(4):
                    value = row[base[0] + 2 + c]
                    w = wzy * weights[0, c]
                    real += w * value.real
                    imag += w * value.imag
        out[p] = np.complex64(complex(real, -imag if mirrored else imag))
