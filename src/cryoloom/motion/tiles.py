"""Band-limited, whitened spectra of tiles of all frames: all that the measurement of motion looks at.

Each tile is cut where its content is expected, to the nearest pixel; the rest of the shift is a phase. A movie of
`t` frames becomes some hundred tiles of `t` spectra, a fifth of the size of the movie as float32.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier.resize import good_size
from cryoloom.fourier.transform import rfftn
from cryoloom.motion.static import pattern_share

_FADE = 0.05  # part of a tile over which it fades at each side
_AXIS_LINES = 1  # patterns of rows and columns lie on the axes of the spectrum: left out


@dataclass(frozen=True)
class TileSpectra:
    """Spectra of tiles, white noise of power 1 per coefficient.

    Attributes
    ----------
    dft
        `(j, t, ny, nx)` complex64, rows in FFT order.
    centre_px
        Centres of the tiles, `(j, 2)` float64, pixels yx of the frames that were cut.
    offset_px
        Whole pixels by which the tile was moved in each frame, `(j, t, 2)` float64.
    ky_per_px, kx_per_px
        Frequencies `(ny,)` and `(nx,)`.
    shell
        Shell of each coefficient, `(ny, nx)` int64; `n_shells` for coefficients that are not used.
    n_shells
        Number of shells.
    shell_width_per_px
        Width of a shell in cycles per pixel.
    multiplicity
        How often a coefficient counts in a sum over half the plane, `(ny, nx)` float32, 0 for those not used.
    noise_power
        Power by which each shell was divided, `(n_shells,)` float64.
    power
        `Σ_t |F_t|²` in each shell of each tile, with multiplicities, `(j, n_shells)` float64.
    alike
        By how much the fading of the tiles and their overlap raise the variance of sums over coefficients above that of
        independent ones, at least 1.
    pattern
        `κ` of `static.py`: share of the detector's fixed pattern that was taken out of each frame; 0 for none.
    """

    dft: Tensor
    centre_px: np.ndarray
    offset_px: np.ndarray
    ky_per_px: Tensor
    kx_per_px: Tensor
    shell: Tensor
    n_shells: int
    shell_width_per_px: float
    multiplicity: Tensor
    noise_power: np.ndarray
    power: np.ndarray
    alike: float
    pattern: float = 0.0

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(self.dft.shape[0])

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.dft.shape[1])

    def shell_frequency_per_px(self) -> np.ndarray:
        """Mean frequency of each shell, `(n_shells,)`."""
        return (np.arange(self.n_shells) + 0.5) * self.shell_width_per_px

    def spread(self, curve: np.ndarray) -> Tensor:
        """A value per shell on the coefficients, `(ny, nx)` float32; 0 where coefficients are not used."""
        padded = torch.as_tensor(np.append(curve, 0.0), dtype=torch.float32, device=self.dft.device)
        return padded[self.shell]

    def shell_sums(self, values: Tensor) -> np.ndarray:
        """Sums with multiplicities over shells of real values `(*batch, ny, nx)`, `(*batch, n_shells)` float64."""
        # the multiplicity is 1 in all shells
        if values.dim() == 2 and not values.is_cuda:
            places = self.shell.numpy().reshape(-1)
            return np.asarray(np.bincount(places, values.numpy().reshape(-1), self.n_shells + 1)[:-1])
        flat = (values * self.multiplicity).reshape(-1, self.shell.numel()).to(torch.float64)
        sums = torch.zeros(flat.shape[0], self.n_shells + 1, dtype=torch.float64, device=values.device)
        sums.index_add_(1, self.shell.reshape(-1), flat)
        return sums[:, :-1].reshape(*values.shape[:-2], self.n_shells).cpu().numpy()

    def shell_counts(self) -> np.ndarray:
        """Coefficients per shell of one tile, with multiplicities, `(n_shells,)`."""
        return self.shell_sums(torch.ones_like(self.multiplicity))


def tile_grid(n: int, tile: int) -> tuple[int, np.ndarray]:
    """Size near `tile` and first pixels of tiles that cover `n` pixels and overlap just where they fade.

    Returns
    -------
    size
        Pixels, a size that transforms fast.
    origins
        First pixel of each tile, int64.
    """
    count = max(1, round(n / tile))
    size = min(n, good_size(math.ceil(n / (count - _FADE * (count - 1)))))
    return size, np.rint(np.linspace(0, n - size, count)).astype(np.int64)


def cut_tiles(
    frames: Tensor, trajectory_px: np.ndarray, tile: tuple[int, int], k_min_per_px: float, k_max_per_px: float
) -> TileSpectra:
    """Cut tiles that follow the whole-frame motion, and transform them.

    Parameters
    ----------
    frames
        `(t, h, w)` float32.
    trajectory_px
        Where content sits in each frame, `(t, 2)`.
    tile
        Rows and columns of a tile, about.
    k_min_per_px, k_max_per_px
        Band that is kept, cycles per pixel.
    """
    n_frames, h, w = frames.shape
    device = frames.device
    tile_h, origin_y = tile_grid(h, tile[0])
    tile_w, origin_x = tile_grid(w, tile[1])
    origins = np.stack(np.meshgrid(origin_y, origin_x, indexing="ij"), -1).reshape(-1, 2)
    rounded = np.rint(trajectory_px).astype(np.int64)
    start = np.clip(origins[:, None] + rounded[None], 0, [h - tile_h, w - tile_w])  # (j, t, 2)

    m_y = min(math.ceil(k_max_per_px * tile_h), (tile_h - 1) // 2)
    m_x = min(math.ceil(k_max_per_px * tile_w), (tile_w - 1) // 2)
    ky = torch.cat([torch.arange(m_y + 1), torch.arange(-m_y, 0)]).to(torch.float64) / tile_h
    kx = torch.arange(m_x + 1, dtype=torch.float64) / tile_w
    k = torch.hypot(ky[:, None], kx)
    # one tile of the whole frame has fine shells; they are no finer than 128 to the Nyquist frequency
    width = max(1 / max(tile_h, tile_w), 0.5 / 128)
    n_shells = math.ceil(k_max_per_px / width)
    shell = (k / width).floor().to(torch.int64)
    used = (k >= k_min_per_px) & (k <= k_max_per_px) & (shell < n_shells)
    used &= ((ky * tile_h).abs() > _AXIS_LINES)[:, None] & (kx * tile_w > _AXIS_LINES)
    shell = torch.where(used, shell, n_shells)
    window = (_taper(tile_h)[:, None] * _taper(tile_w)).to(torch.float32).to(device)

    # NumPy asks for large pages, which saves most of the time that new memory costs
    dft = torch.from_numpy(np.empty((len(origins), n_frames, len(ky), len(kx)), np.complex64)).to(device)
    cut = torch.empty(n_frames, tile_h, tile_w, device=device)
    for j in range(len(origins)):
        if frames.is_cuda:
            for t, (y, x) in enumerate(start[j].tolist()):
                cut[t] = frames[t, y : y + tile_h, x : x + tile_w]
            cut -= cut.mean(dim=(1, 2), keepdim=True)
            cut *= window
        else:
            _cut_kernel(frames.numpy(), start[j], window.numpy(), cut.numpy())
        full = rfftn(cut, 2)
        dft[j, :, : m_y + 1] = full[:, : m_y + 1, : m_x + 1]
        dft[j, :, m_y + 1 :] = full[:, tile_h - m_y :, : m_x + 1]
    spectra = TileSpectra(
        dft=dft,
        centre_px=origins + 0.5 * (np.array([tile_h, tile_w]) - 1),
        offset_px=(start - origins[:, None]).astype(np.float64),
        ky_per_px=ky.to(torch.float32).to(device),
        kx_per_px=kx.to(torch.float32).to(device),
        shell=shell.to(device),
        n_shells=n_shells,
        shell_width_per_px=width,
        multiplicity=used.to(torch.float32).to(device),
        noise_power=np.ones(n_shells),
        power=np.zeros((len(origins), n_shells)),
        alike=_alike(origin_y, tile_h) * _alike(origin_x, tile_w),
    )
    return _whiten(spectra)


def without_pattern(spectra: TileSpectra, pattern: float) -> TileSpectra:
    """Take the pattern that is fixed on the detector out of all frames, in place; see `static.py`.

    Parameters
    ----------
    pattern
        Power of the pattern over that of the noise, `g` of `static.py`.
    """
    share = pattern_share(pattern, spectra.n_frames)
    if share <= 0:
        return spectra
    spectra.dft.mul_((1 + pattern) ** 0.5)  # whitening took the pattern for noise
    power = np.empty_like(spectra.power)
    for j in range(spectra.n_tiles):
        phase = pattern_phase(spectra, j)
        still = (phase.conj() * spectra.dft[j]).sum(0)
        spectra.dft[j] -= share * phase * still
        power[j] = spectra.shell_sums(_power(spectra.dft[j]))
    return TileSpectra(**{**spectra.__dict__, "power": power, "pattern": share})


def pattern_phase(spectra: TileSpectra, tile: int) -> Tensor:
    """Phase of what is fixed on the detector in each frame of a tile, `(t, ny, nx)` complex64."""
    offset = torch.as_tensor(spectra.offset_px[tile], dtype=torch.float32, device=spectra.dft.device)
    along_y = torch.exp(2j * math.pi * offset[:, :1] * spectra.ky_per_px)
    along_x = torch.exp(2j * math.pi * offset[:, 1:] * spectra.kx_per_px)
    return along_y[:, :, None] * along_x[:, None, :]


def _whiten(spectra: TileSpectra) -> TileSpectra:
    """Divide by the mean noise amplitude of each shell, in place; strong tiles do not set it (median over tiles)."""
    power = np.stack([spectra.shell_sums(_power(tile)) for tile in spectra.dft])  # (j, n_shells)
    counts = np.maximum(spectra.shell_counts(), 1e-9)
    mean = np.maximum(np.median(power, axis=0) / (counts * spectra.n_frames), 1e-30)
    spectra.dft.mul_(spectra.spread(1 / np.sqrt(mean)))
    return TileSpectra(**{**spectra.__dict__, "noise_power": mean, "power": power / mean})


def _power(dft: Tensor) -> Tensor:
    """Sum over frames of the power of spectra `(t, ny, nx)`, `(ny, nx)` float32."""
    if dft.is_cuda:
        return (dft.real**2 + dft.imag**2).sum(0)
    total = torch.zeros(dft.shape[1:])
    _power_kernel(dft.numpy(), total.numpy())
    return total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _power_kernel(dft, total):
    for t in range(dft.shape[0]):
        for i in range(dft.shape[1]):
            source, target = dft[t, i], total[i]
            for j in range(dft.shape[2]):
                target[j] += source[j].real ** 2 + source[j].imag ** 2


@numba.njit(nogil=True, cache=True, fastmath=True)
def _cut_kernel(frames, start, window, out):
    """Pieces of all frames from `start` `(t, 2)` on, less their mean, faded at the edges."""
    n, h, w = out.shape
    for t in range(n):
        y, x = start[t]
        total = 0.0
        for i in range(h):
            source, row = frames[t, y + i, x : x + w], np.float32(0)
            for j in range(w):
                row += source[j]
            total += float(row)
        mean = np.float32(total / (h * w))
        for i in range(h):
            source, factor, target = frames[t, y + i, x : x + w], window[i], out[t, i]
            for j in range(w):
                target[j] = (source[j] - mean) * factor[j]


def _alike(origins: np.ndarray, size: int) -> float:
    """Variance of a sum over the coefficients of all tiles along one axis, over that of independent coefficients.

    A sum over coefficients is a sum over pixels with the squared window as weight: `N Σ u² / (n (Σ w²)²)`, `u` the sum
    of the squared windows of the `n` tiles of `N` pixels.
    """
    squared = _taper(size).numpy() ** 2
    weight = np.zeros(int(origins[-1]) + size)
    for origin in origins:
        weight[origin : origin + size] += squared
    return float(size * (weight**2).sum() / (len(origins) * squared.sum() ** 2))


def _taper(n: int) -> Tensor:
    """Cosine edges."""
    width = max(1, round(_FADE * n))
    ramp = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(width, dtype=torch.float64) + 0.5) / width)
    return torch.cat([ramp, torch.ones(n - 2 * width, dtype=torch.float64), ramp.flip(0)])
