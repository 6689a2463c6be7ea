"""Polar resampling of images' transforms, and its exact adjoint.

Samples of the transform of a real image at any fixed set of frequencies, by a Kaiser-Bessel window of four
points on a spectrum that is sampled about twice as finely as the box asks (Fessler, Sutton 2003,
doi:10.1109/TSP.2002.807005). The relative error is about 6e-4 for content anywhere in
the box, where bilinear weights err by 5 %. The CTF is applied to the samples, never before:
it spreads the image, and interpolation would suffer.

Rings are sampled over half a turn, since `X(-k) = conj(X(k))`.
"""

import math

import numpy as np
import scipy.fft
import torch
from numba import njit
from torch import Tensor

from cryoloom.fourier.resize import good_size

WIDTH = 4


def half_ring_points(radii: Tensor, n_samples: int) -> Tensor:
    """Points xy in Fourier pixels on half rings, `(rings, n_samples // 2, 2)`; angles `2π j / n_samples` from +x."""
    if n_samples < 2 or n_samples % 2:
        raise ValueError(f"n_samples: expected an even number, got {n_samples}")
    angle = torch.arange(n_samples // 2, dtype=torch.float64) * (2 * math.pi / n_samples)
    unit = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return radii.to(torch.float64)[:, None, None] * unit.to(radii.device)


class PointSampler:
    """Transform of square real images at fixed frequencies: a linear map that owns its adjoint.

    Parameters
    ----------
    box
        Side of the images in pixels.
    points
        Frequencies in Fourier pixels, xy, `(k, 2)`, within `box / 2`.
    oversampling
        How much finer than the box the spectrum is sampled.
    """

    def __init__(self, box: int, points: Tensor, *, oversampling: float = 2.0) -> None:
        self.box = int(box)
        self.padded = good_size(math.ceil(oversampling * self.box))
        ratio = self.padded / self.box
        points = points.to(torch.float64)
        if points.ndim != 2 or points.shape[-1] != 2:
            raise ValueError(f"points: expected (k, 2) in xy, got {tuple(points.shape)}")
        if len(points) and float(points.abs().max()) > self.box / 2 + 1e-6:
            raise ValueError(f"points: expected frequencies within {self.box / 2} Fourier pixels")
        self.device = points.device
        mirrored = points[:, 0] < 0
        upright = torch.where(mirrored[:, None], -points, points) * ratio
        # On the column kx = 0 windows reach negative kx: the spectrum is kept from -WIDTH / 2 on.
        self._margin = WIDTH // 2
        self._reach = int(math.ceil(float(upright.abs().max()) if len(points) else 0.0)) + WIDTH // 2
        self._beta = math.pi * math.sqrt((WIDTH * (1 - 0.5 / ratio)) ** 2 - 0.8)
        first = torch.floor(upright).to(torch.int64) - (WIDTH // 2 - 1)  # (k, 2)
        taps = torch.arange(WIDTH, device=self.device)
        distance = upright[:, :, None] - (first[:, :, None] + taps)  # (k, 2, taps)
        window = _kaiser_bessel(distance, self._beta)
        self._wx, self._wy = window[:, 0].to(torch.float32), window[:, 1].to(torch.float32)
        self._ix = (first[:, 0] + self._margin).to(torch.int32)
        self._iy = (first[:, 1] + self._reach + 1).to(torch.int32)
        self._sign = torch.where(mirrored, -1.0, 1.0).to(torch.float32)
        x = (torch.arange(self.box, dtype=torch.float64) - self.box // 2) / self.padded
        self._profile = (1.0 / _kaiser_bessel_transform(x, self._beta)).to(torch.float32).to(self.device)

    def __len__(self) -> int:
        return len(self._sign)

    def __call__(self, images: Tensor) -> Tensor:
        """Sample the transforms (phase origin at the centre pixel) of `(b, box, box)`, giving complex `(b, k)`."""
        return self.sample(self.spectrum(images))

    def spectrum(self, images: Tensor) -> Tensor:
        """Finely sampled spectra that `sample` reads, complex `(b, rows, columns)`."""
        if images.shape[-2:] != (self.box, self.box):
            raise ValueError(f"images: expected (b, {self.box}, {self.box}), got {tuple(images.shape)}")
        n = self.padded
        flat = images * (self._profile[:, None] * self._profile)
        columns = self._columns()
        rows = self._rows()
        x = _transform(flat, n, real=True)  # (b, y, kx >= 0)
        wrapped = columns % n
        folded = wrapped > n // 2  # rows are real: X(-kx) = conj(X(kx)) before the transform along y
        x = x[..., torch.where(folded, n - wrapped, wrapped)]
        x[..., folded] = x[..., folded].conj()
        y = _transform(x.transpose(-1, -2), n, real=False)[..., rows % n]  # (b, kx, ky)
        y = y * self._ramp(columns)[:, None] * self._ramp(rows)
        return y.transpose(-1, -2).contiguous()

    def sample(self, spectrum: Tensor) -> Tensor:
        """Samples from spectra made by `spectrum`, complex `(b, k)`."""
        if spectrum.device.type == "cpu" and spectrum.dtype == torch.complex64:
            out = np.empty((len(spectrum), len(self), 2), np.float32)
            _sample_kernel(
                torch.view_as_real(spectrum).numpy(),
                self._ix.numpy(),
                self._iy.numpy(),
                self._wx.numpy(),
                self._wy.numpy(),
                self._sign.numpy(),
                out,
            )
            return torch.view_as_complex(torch.from_numpy(out))
        index, weight = self._taps(spectrum.shape[-1])
        values = spectrum.reshape(len(spectrum), -1)[:, index]  # (b, k, taps²)
        picked = (values * weight.to(spectrum.real.dtype)).sum(-1)
        return torch.where(self._sign < 0, picked.conj(), picked)

    def adjoint(self, samples: Tensor) -> Tensor:
        """Images `(b, box, box)` with `Re Σ conj(A x) y = Σ x · adjoint(y)` for complex samples `y` `(b, k)`."""
        b = len(samples)
        n = self.padded
        columns, rows = self._columns(), self._rows()
        upright = torch.where(self._sign < 0, samples.conj(), samples)
        index, weight = self._taps(len(columns))
        spread = (upright[..., None] * weight.to(samples.real.dtype)).reshape(b, -1)
        flat = torch.zeros(b, len(rows) * len(columns), dtype=samples.dtype, device=samples.device)
        flat.index_add_(1, index.reshape(-1), spread)
        y = flat.reshape(b, len(rows), len(columns))
        y = y * self._ramp(rows).conj()[:, None] * self._ramp(columns).conj()
        full = torch.zeros(b, n, n, dtype=samples.dtype, device=samples.device)
        at = (rows % n)[:, None] * n + (columns % n)
        full.reshape(b, -1).index_add_(1, at.reshape(-1), y.reshape(b, -1))
        image = torch.fft.ifft2(full).real[:, : self.box, : self.box] * (n * n)
        return image * (self._profile[:, None] * self._profile).to(image.dtype)

    def _columns(self) -> Tensor:
        return torch.arange(-self._margin, self._reach + WIDTH // 2 + 2, device=self.device)

    def _rows(self) -> Tensor:
        return torch.arange(-self._reach - 1, self._reach + WIDTH // 2 + 2, device=self.device)

    def _ramp(self, k: Tensor) -> Tensor:
        """Move the phase origin from the first pixel to the centre of the box."""
        phase = 2 * math.pi * (self.box // 2) / self.padded * k.to(torch.float64)
        return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)

    def _taps(self, row_length: int) -> tuple[Tensor, Tensor]:
        taps = torch.arange(WIDTH, device=self.device)
        index = (self._iy[:, None] + taps)[:, :, None] * row_length + (self._ix[:, None] + taps)[:, None, :]
        weight = self._wy[:, :, None] * self._wx[:, None, :]
        return index.reshape(len(self), -1).to(torch.int64), weight.reshape(len(self), -1)


def _kaiser_bessel(distance: Tensor, beta: float) -> Tensor:
    inside = (1 - (2 * distance / WIDTH) ** 2).clamp_min(0)
    window = torch.special.i0(beta * inside.sqrt()) / WIDTH
    return torch.where((2 * distance.abs() / WIDTH) <= 1, window, torch.zeros_like(window))


def _kaiser_bessel_transform(x: Tensor, beta: float) -> Tensor:
    """`∫ window(u) exp(2πi u x) du` of `_kaiser_bessel`."""
    inside = beta**2 - (math.pi * WIDTH * x) ** 2
    root = inside.abs().sqrt().clamp_min(1e-12)
    return torch.where(inside > 0, root.sinh(), root.sin()) / root


def _transform(x: Tensor, n: int, *, real: bool) -> Tensor:
    if x.device.type != "cpu":
        return torch.fft.rfft(x, n) if real else torch.fft.fft(x, n)
    function = scipy.fft.rfft if real else scipy.fft.fft
    return torch.from_numpy(function(x.resolve_conj().contiguous().numpy(), n, workers=torch.get_num_threads()))


@njit(nogil=True, cache=True, fastmath=True)
def _sample_kernel(
    spectrum: np.ndarray,
    ix: np.ndarray,
    iy: np.ndarray,
    wx: np.ndarray,
    wy: np.ndarray,
    sign: np.ndarray,
    out: np.ndarray,
) -> None:
    zero = np.float32(0)
    for b in range(spectrum.shape[0]):
        for k in range(ix.shape[0]):
            x0, y0 = ix[k], iy[k]
            real, imaginary = zero, zero
            for j in range(4):
                row_real, row_imaginary = zero, zero
                for i in range(4):
                    row_real += wx[k, i] * spectrum[b, y0 + j, x0 + i, 0]
                    row_imaginary += wx[k, i] * spectrum[b, y0 + j, x0 + i, 1]
                real += wy[k, j] * row_real
                imaginary += wy[k, j] * row_imaginary
            out[b, k, 0] = real
            out[b, k, 1] = sign[k] * imaginary
