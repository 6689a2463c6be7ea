"""Central slices of a volume's transform, and their exact adjoint.

`dft_image(kx, ky) = dft_volume(R @ (kx, ky, 0))`. The volume is divided by the transform of the trilinear
kernel, zero-padded twice and transformed once (`prepare_volume`); slices are then trilinear samples of
that spectrum (`extract_slices`, `extract_points`). `insert_points` is the adjoint: it spreads values and weights
with the same trilinear kernel. `restore_volume` goes back from a padded spectrum to the volume, again dividing by the
kernel. Frequencies are counted in Fourier pixels of the box, so a volume that was cropped in Fourier
space serves images of the full box unchanged.

On the CPU Numba kernels do the work (any float32 input), with float64 inputs and on other devices plain torch
does. Threads are the caller's: every function here is single-threaded apart from the transforms, and insertion
may be split in slabs of z without changing a bit of the sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryoloom.fourier.slice_kernels import extract_points_kernel, insert_points_kernel

PADDING = 2


@dataclass(frozen=True)
class PaddedSpectrum:
    """Transform of a volume, sampled twice as finely as its box asks, cropped to a radius.

    Attributes
    ----------
    values
        Complex, `(2n+1, 2n+1, n+2)`: kz and ky from -n to n, kx from 0 to n + 1, in padded Fourier pixels, phase
        origin at the centre voxel. `n = PADDING * radius + 1`.
    box
        Side of the volume in voxels.
    radius
        Largest radius, in Fourier pixels of the box, at which slices can be taken.
    """

    values: Tensor
    box: int
    radius: int

    @property
    def centre(self) -> int:
        """Index of frequency zero along z and y."""
        return self.values.shape[-3] // 2

    def on(self, device: str) -> "PaddedSpectrum":
        """The same on another device."""
        return replace(self, values=self.values.to(device))


def reach(references: Sequence[PaddedSpectrum] | Sequence[Sequence[PaddedSpectrum]]) -> int:
    """Largest radius at which slices can be taken of all references: one per half, or one per half and class."""
    return min(s.radius for r in references for s in ([r] if isinstance(r, PaddedSpectrum) else r))


def largest_radius(box: int) -> int:
    """Largest slice radius of a box, in Fourier pixels: one shell below Nyquist."""
    return max((box - 2) // 2, 0)


def padded_half_size(radius: int) -> int:
    """`n` of a padded spectrum that reaches `radius`."""
    return PADDING * radius + 1


def empty_sums(radius: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Zeros for `insert_points`, `(2n+1, 2n+1, n+2, 4)`: real, imaginary, weight, unused."""
    n = padded_half_size(radius)
    sums = _allocate((2 * n + 1, 2 * n + 1, n + 2, 4), dtype, device)
    return sums.zero_()


def sums_bytes(radius: int) -> int:
    """What `empty_sums` takes in memory, bytes."""
    n = padded_half_size(radius)
    return (2 * n + 1) ** 2 * (n + 2) * 16


def kernel_profile(box: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Transform of the trilinear kernel along one axis of the box, `(box,)`, 1 at the centre."""
    x = (torch.arange(box, dtype=dtype) - box // 2) / (PADDING * box)
    return torch.sinc(x) ** 2


def prepare_volume(volume: Tensor, radius: int | None = None) -> PaddedSpectrum:
    """Transform a volume for slicing.

    Parameters
    ----------
    volume
        Real cube, `(n, n, n)` zyx.
    radius
        Largest radius that will be asked for, in Fourier pixels; at most (and by default) `largest_radius(n)`.
    """
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"volume: expected a cube (n, n, n), got {tuple(volume.shape)}")
    box = volume.shape[0]
    radius = largest_radius(box) if radius is None else min(int(radius), largest_radius(box))
    n, m = padded_half_size(radius), PADDING * box
    profile = kernel_profile(box).to(volume.dtype).to(volume.device)
    corrected = volume / (profile[:, None, None] * profile[:, None] * profile)
    signed = torch.arange(-n, n + 1, device=volume.device)
    positive = torch.arange(0, n + 2, device=volume.device)
    # one axis at a time, keeping only what is asked for
    x = _rfft(corrected, m)[..., : n + 2]  # (z, y, kx); n + 1 <= m / 2
    y = _fft(x.transpose(-1, -2), m)[..., signed % m]  # (z, kx, ky)
    z = _fft(y.permute(2, 1, 0), m)[..., signed % m]  # (ky, kx, kz)
    ramp = _centre_ramp(signed, box, x.dtype)
    values = _allocate((2 * n + 1, 2 * n + 1, n + 2), x.dtype, volume.device)
    torch.mul(z.permute(2, 0, 1), ramp[:, None, None] * ramp[:, None], out=values)
    values *= _centre_ramp(positive, box, x.dtype)
    return PaddedSpectrum(values, box, radius)


def restore_volume(spectrum: PaddedSpectrum, box: int | None = None, *, correct: bool = True) -> Tensor:
    """Volume of a padded spectrum, `(box, box, box)`: inverse of `prepare_volume` up to the band limit.

    Parameters
    ----------
    spectrum
        Padded spectrum with a Hermitian plane at kx = 0.
    box
        Side of the result over the same field; by default that of the spectrum. Voxel values keep their scale
        as those of a plain inverse transform of that box, i.e. they scale by `(box / spectrum.box) ** 3`.
    correct
        Divide by the transform of the trilinear kernel.
    """
    box = spectrum.box if box is None else int(box)
    values, n = spectrum.values, spectrum.centre
    m = PADDING * box
    signed = torch.arange(-n, n + 1, device=values.device)
    positive = torch.arange(0, n + 2, device=values.device)
    keep_signed, keep_positive = signed.abs() < box, positive < box
    signed, positive = signed[keep_signed], positive[keep_positive]
    values = values[keep_signed][:, keep_signed][:, :, keep_positive]
    ramp = _centre_ramp(signed, box, values.dtype).conj()
    values = values * ramp[:, None, None] * ramp[:, None] * _centre_ramp(positive, box, values.dtype).conj()

    def back(x: Tensor) -> Tensor:
        full = torch.zeros(*x.shape[:-1], m, dtype=x.dtype, device=x.device)
        full[..., signed % m] = x
        return _ifft(full)[..., :box]

    z = back(values.permute(1, 2, 0))  # (ky, kx, z)
    y = back(z.permute(2, 1, 0))  # (z, kx, y)
    half = torch.zeros(box, box, m // 2 + 1, dtype=values.dtype, device=values.device)
    half[..., : len(positive)] = y.transpose(-1, -2)
    volume = _irfft(half, m)[..., :box]
    if correct:
        profile = kernel_profile(box).to(volume.dtype).to(volume.device)
        volume = volume / (profile[:, None, None] * profile[:, None] * profile)
    return volume.contiguous()


def extract_points(spectrum: PaddedSpectrum, rotations: Tensor, points: Tensor) -> Tensor:
    """Samples of central slices at given points of the image plane.

    Parameters
    ----------
    spectrum
        From `prepare_volume`.
    rotations
        Image frame to volume frame, `(p, 3, 3)`.
    points
        Frequencies in Fourier pixels, xy, `(k, 2)`, none beyond `spectrum.radius`.

    Returns
    -------
    samples
        Complex, `(p, k)`.
    """
    values = spectrum.values
    columns = _columns(rotations, values)
    if values.device.type == "cpu" and values.dtype == torch.complex64:
        points = points.to(torch.float32)
        out = np.empty((len(columns), len(points), 2), np.float32)
        extract_points_kernel(
            torch.view_as_real(values).numpy(),
            spectrum.centre,
            columns.numpy(),
            points[:, 0].contiguous().numpy(),
            points[:, 1].contiguous().numpy(),
            out,
        )
        return torch.view_as_complex(torch.from_numpy(out))
    index, corner_weights, mirrored = _corners(columns, points.to(columns), spectrum.centre, values.shape)
    samples = (values.reshape(-1)[index] * corner_weights).sum(-1)
    return torch.where(mirrored, samples.conj(), samples)


def insert_points(
    sums: Tensor,
    rotations: Tensor,
    points: Tensor,
    values: Tensor,
    weights: Tensor,
    z_slab: tuple[int, int] | None = None,
) -> None:
    """Add values and weights to `sums`, in place: the adjoint of `extract_points`.

    Points and weights count for themselves and their Friedel mates; `complete_sums` adds what the
    mates bring to the plane kx = 0 and must be called once after all insertions.

    Parameters
    ----------
    sums
        From `empty_sums`.
    rotations, points
        As in `extract_points`.
    values, weights
        Complex `(p, k)` and real `(p, k)`.
    z_slab
        Only planes with `z_slab[0] <= z < z_slab[1]` are changed (CPU); slabs may run side by side.
    """
    columns = _columns(rotations, sums)
    centre = sums.shape[0] // 2
    low, high = (0, sums.shape[0]) if z_slab is None else z_slab
    if sums.device.type == "cpu" and sums.dtype == torch.float32:
        points = points.to(torch.float32)
        insert_points_kernel(
            sums.numpy(),
            centre,
            low,
            high,
            columns.numpy(),
            points[:, 0].contiguous().numpy(),
            points[:, 1].contiguous().numpy(),
            torch.view_as_real(values.to(torch.complex64).resolve_conj().contiguous()).numpy(),
            weights.to(torch.float32).contiguous().numpy(),
        )
        return
    index, corner_weights, mirrored = _corners(columns, points.to(columns), centre, sums.shape[:3])
    upright = torch.where(mirrored, values.conj(), values)
    rows = torch.stack([upright.real, upright.imag, weights, torch.zeros_like(weights)], dim=-1)  # (p, k, 4)
    spread = rows[..., None, :] * corner_weights[..., None]  # (p, k, 8, 4)
    sums.view(-1, 4).index_add_(0, index.reshape(-1), spread.reshape(-1, 4).to(sums.dtype))


def complete_sums(sums: Tensor) -> None:
    """Add what the Friedel mates bring to the plane kx = 0, in place; once, after all insertions."""
    plane = sums[:, :, 0]
    mates = plane.flip(0, 1)
    mates[..., 1] *= -1
    plane += mates


def split_sums(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator (complex) and weight of sums, `(2n+1, 2n+1, n+2)` each."""
    return torch.complex(sums[..., 0].contiguous(), sums[..., 1].contiguous()), sums[..., 2]


def extract_slices(spectrum: PaddedSpectrum, rotations: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Projections as half spectra, `(p, h, w // 2 + 1)`, zero beyond `spectrum.radius`; `(h, w)` square."""
    h, w = (int(n) for n in image_shape)
    points, place = disc_points(h, w, spectrum.radius, device=spectrum.values.device)
    samples = extract_points(spectrum, rotations, points)
    out = torch.zeros(len(samples), h * (w // 2 + 1), dtype=samples.dtype, device=samples.device)
    out[:, place] = samples
    return out.reshape(-1, h, w // 2 + 1)


def disc_points(h: int, w: int, radius: float, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Points xy `(k, 2)` of a half spectrum within `radius` Fourier pixels, and their flat indices `(k,)`."""
    if h != w:
        raise ValueError(f"image_shape: expected a square image, got {h} x {w}")
    ky = (torch.fft.fftfreq(h, dtype=torch.float64) * h).round()
    kx = torch.arange(w // 2 + 1, dtype=torch.float64)
    y, x = torch.meshgrid(ky, kx, indexing="ij")
    inside = (x**2 + y**2 <= radius**2 + 1e-9).reshape(-1)
    place = inside.nonzero()[:, 0]
    points = torch.stack([x.reshape(-1)[place], y.reshape(-1)[place]], dim=-1)
    return points.to(device), place.to(device)


def _columns(rotations: Tensor, like: Tensor) -> Tensor:
    real = torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
    return (PADDING * rotations[..., :2]).to(device=like.device, dtype=real).contiguous()


def _corners(columns: Tensor, points: Tensor, centre: int, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices `(p, k, 8)`, weights `(p, k, 8)` and mirror flags `(p, k)` of trilinear samples."""
    xyz = torch.einsum("pij,kj->pki", columns, points)
    mirrored = xyz[..., 0] < 0
    xyz = torch.where(mirrored[..., None], -xyz, xyz)
    base = xyz.floor()
    fraction = xyz - base
    base = base.to(torch.int64)
    index, weight = [], []
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                z, y, x = base[..., 2] + centre + dz, base[..., 1] + centre + dy, base[..., 0] + dx
                index.append((z * shape[1] + y) * shape[2] + x)
                parts = [fraction[..., i] if d else 1 - fraction[..., i] for i, d in enumerate((dx, dy, dz))]
                weight.append(parts[0] * parts[1] * parts[2])
    return torch.stack(index, -1), torch.stack(weight, -1), mirrored


def _allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Uninitialised memory; on the CPU NumPy's, which asks for huge pages (random access is faster by a fifth)."""
    if torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def _centre_ramp(k: Tensor, box: int, dtype: torch.dtype) -> Tensor:
    """Factors that move the phase origin from the first voxel to the centre of the box."""
    phase = 2 * math.pi * (box // 2) / (PADDING * box) * k.to(torch.float64)
    return torch.polar(torch.ones_like(phase), phase).to(dtype)


def _rfft(x: Tensor, n: int) -> Tensor:
    if x.device.type != "cpu":
        return torch.fft.rfft(x, n)
    return torch.from_numpy(scipy.fft.rfft(x.numpy(), n, workers=torch.get_num_threads()))


def _fft(x: Tensor, n: int) -> Tensor:
    if x.device.type != "cpu":
        return torch.fft.fft(x, n)
    return torch.from_numpy(scipy.fft.fft(x.contiguous().numpy(), n, workers=torch.get_num_threads()))


def _ifft(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return torch.fft.ifft(x)
    return torch.from_numpy(scipy.fft.ifft(x.numpy(), workers=torch.get_num_threads(), overwrite_x=True))


def _irfft(x: Tensor, n: int) -> Tensor:
    if x.device.type != "cpu":
        return torch.fft.irfft(x, n)
    return torch.from_numpy(scipy.fft.irfft(x.resolve_conj().numpy(), n, workers=torch.get_num_threads()))
