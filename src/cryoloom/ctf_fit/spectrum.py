"""Low-variance power spectra of a micrograph: overlapping tapered tiles, gathered in polar bins.

Each tile gives one periodogram under a sine taper (Welch 1967); its half plane is averaged in bins of one
frequency step by a few degrees, so that everything later works on some 15,000 numbers with known variance
instead of on pixels. The spectra of single tiles are kept: their scatter gives the standard errors, and their
positions the tilt. A bin is described by the mean of `k²`, `k² cos 2θ` and `k² sin 2θ` over its pixels, so the
phase of the CTF at a bin is right to second order.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import good_size, rfftn

N_SECTORS = 60


@dataclass(frozen=True)
class PolarBins:
    """Polar bins of the half plane of one tile.

    Attributes
    ----------
    index
        Bin of each coefficient of the half spectrum, `(rows, columns)` int32; -1 where it is not used. Only
        the first `columns` of the half spectrum occur.
    n_shells, n_sectors
        Bins are numbered `shell * n_sectors + sector`; sectors cover half a turn from -90°.
    count
        Coefficients in each bin, `(n_bins,)`.
    k2, k2_cos, k2_sin
        Means of `k²`, `k² cos 2θ`, `k² sin 2θ` in 1/Å², `(n_bins,)`; NaN where a bin is empty.
    shell_k
        Mean frequency of each shell, 1/Å, `(n_shells,)`.
    """

    index: np.ndarray
    n_shells: int
    n_sectors: int
    count: np.ndarray
    k2: np.ndarray
    k2_cos: np.ndarray
    k2_sin: np.ndarray
    shell_k: np.ndarray


@dataclass(frozen=True)
class TileSpectra:
    """Power spectra of the tiles of one micrograph in polar bins.

    Attributes
    ----------
    bins
        The bins.
    power
        Mean power per bin of each tile, divided by the power of its taper: white noise of variance σ² gives σ²,
        `(n_tiles, n_bins)` float32; 0 in empty bins.
    weight
        Share of each tile in the mean, sums to 1, `(n_tiles,)`.
    corner_px
        First pixel of each tile, yx, `(n_tiles, 2)`.
    tile, pixel_size
        Edge of a tile in pixels, Å per pixel.
    tapers
        Tapers along y `(n_rows, tile)` and x `(n_columns, tile)`; tile `i * n_columns + j` has their product.
    starts
        First pixels of the rows and columns of tiles.
    """

    bins: PolarBins
    power: np.ndarray
    weight: np.ndarray
    corner_px: np.ndarray
    tile: int
    pixel_size: float
    tapers: tuple[np.ndarray, np.ndarray]
    starts: tuple[tuple[int, ...], tuple[int, ...]]

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Weighted mean over the tiles, `(n_bins,)` float64."""
        return self.weight @ self.power.astype(np.float64)

    @functools.cached_property
    def n_independent(self) -> float:
        """Independent tiles that would give one coefficient of the mean the same variance."""
        return float(np.prod([_independent(t, s) for t, s in zip(self.tapers, self.starts, strict=True)]))

    def variance_factor(self, lag: float = 0.0) -> float:
        """Variance of a sum over coefficients whose factors ripple with period `1 / lag`, against independent ones.

        `Var Σ u P̂ = factor · Σ u² P²` over the coefficients of one tile. Slow factors feel that neighbouring
        coefficients are correlated by the taper, and that tiles share pixels.

        Parameters
        ----------
        lag
            Å; `2 λ Δf k` for the rings of a CTF.
        """
        lag_px = round(lag / self.pixel_size / math.sqrt(2))
        return float(np.prod([_spread(t, s, lag_px) for t, s in zip(self.tapers, self.starts, strict=True)]))

    def variance_factors(self, lag: np.ndarray) -> np.ndarray:
        """`variance_factor` at many lags (Å), by interpolation, shape of `lag`."""
        lags = np.linspace(0.0, float(lag.max()) + 1.0, 16)
        return np.interp(lag, lags, [self.variance_factor(x) for x in lags])

    @functools.cached_property
    def centre_px(self) -> np.ndarray:
        """Where each tile looks: centre of mass of its squared taper, yx pixels of the micrograph, `(n_tiles, 2)`."""
        axes = [
            np.asarray(starts) + (tapers**2 @ np.arange(self.tile)) / (tapers**2).sum(1)
            for tapers, starts in zip(self.tapers, self.starts, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def halves(self) -> tuple["TileSpectra", "TileSpectra"]:
        """Two halves of the tiles: opposite quadrants of the micrograph together, so that a tilt cancels."""
        middle = 0.5 * (self.corner_px.min(axis=0) + self.corner_px.max(axis=0))
        above = self.corner_px > middle
        first = above[:, 0] == above[:, 1]
        weights = [np.where(part, self.weight, 0.0) for part in (first, ~first)]
        return tuple(dataclasses.replace(self, weight=w / max(w.sum(), 1e-30)) for w in weights)  # type: ignore[return-value]

    def tile_variance_factor(self) -> float:
        """`variance_factor` of a single tile, mean over tiles."""
        return float(np.prod([np.mean([_spread(t[None], (0,), 0) for t in tapers]) for tapers in self.tapers]))


def choose_tile(shape: tuple[int, int], pixel_size: float, extent: float) -> int:
    """Edge of a tile in pixels: about `extent` Å, a good transform size, and no larger than the image."""
    return min(good_size(max(64, round(extent / pixel_size))), 2 * (min(shape) // 2))


def tile_spectra(image: Tensor, pixel_size: float, *, tile: int, k_max: float) -> TileSpectra:
    """Power spectra of overlapping tiles.

    Neighbours overlap by up to half; the ramps of their tapers are such that squares sum to one, and at the edges of
    the image the ramps are short, so nearly all of the image counts alike.

    Parameters
    ----------
    image
        Micrograph `(h, w)`, any real type; it may lie on a GPU.
    pixel_size
        Å per pixel.
    tile
        Edge of a tile in pixels.
    k_max
        Highest frequency kept, 1/Å.
    """
    bins = polar_bins(tile, pixel_size, min(k_max, 0.5 / pixel_size))
    starts = _starts(image.shape[0], tile), _starts(image.shape[1], tile)
    tapers = _tapers(starts[0], tile), _tapers(starts[1], tile)
    corners = np.asarray([(y, x) for y in starts[0] for x in starts[1]], np.int64).reshape(-1, 2)
    power = np.empty((len(corners), len(bins.count)), np.float32)
    energy = np.empty(len(corners))
    ramp = torch.linspace(-1, 1, tile, dtype=torch.float32, device=image.device)
    ramp_norm = float((ramp * ramp).sum()) * tile
    products = {}
    for n, (y, x) in enumerate(corners):
        row, column = divmod(n, len(starts[1]))
        key = (tapers[0][row].tobytes(), tapers[1][column].tobytes())
        if key not in products:
            taper = torch.from_numpy(np.outer(tapers[0][row], tapers[1][column]).astype(np.float32)).to(image.device)
            products[key] = (taper, float((taper.double() ** 2).sum()))
        taper, energy[n] = products[key]
        piece = image[y : y + tile, x : x + tile].to(torch.float32)
        rows, columns = piece.sum(1), piece.sum(0)
        level = rows.sum() / tile**2 + (rows @ ramp / ramp_norm) * ramp[:, None] + (columns @ ramp / ramp_norm) * ramp
        dft = rfftn((piece - level) * taper, 2)
        power[n] = _gather(dft, bins) / (np.maximum(bins.count, 1) * energy[n])
    return TileSpectra(bins, power, energy / energy.sum(), corners, tile, pixel_size, tapers, starts)


@functools.lru_cache(maxsize=8)
def polar_bins(tile: int, pixel_size: float, k_max: float, n_sectors: int = N_SECTORS) -> PolarBins:
    """Polar bins of the half plane of a tile up to `k_max` (1/Å); shells are one frequency step wide."""
    ky = np.fft.fftfreq(tile)[:, None] * tile
    columns = min(tile // 2, int(k_max * tile * pixel_size) + 1)
    kx = np.arange(columns, dtype=np.float64)[None, :]
    radius = np.hypot(ky, kx)
    angle = np.arctan2(ky, kx + 0 * ky)
    shell = np.rint(radius).astype(np.int64)
    n_shells = min(int(k_max * tile * pixel_size), tile // 2 - 1) + 1
    sector = np.minimum(((angle + 0.5 * math.pi) / math.pi * n_sectors).astype(np.int64), n_sectors - 1)
    used = (shell > 0) & (shell < n_shells) & ~((kx == 0) & (ky < 0))
    index = np.where(used, shell * n_sectors + sector, -1).astype(np.int32)
    n_bins = n_shells * n_sectors
    flat = index[used]
    count = np.bincount(flat, minlength=n_bins).astype(np.float64)
    step = 1.0 / (tile * pixel_size)
    k2 = (radius[used] * step) ** 2

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(flat, values, minlength=n_bins)
        return np.divide(total, count, out=np.full(n_bins, np.nan), where=count > 0)

    theta2 = 2 * angle[used]
    shell_count = np.bincount(shell[used], minlength=n_shells)
    shell_k = np.bincount(shell[used], radius[used] * step, minlength=n_shells) / np.maximum(shell_count, 1)
    return PolarBins(
        index, n_shells, n_sectors, count, mean(k2), mean(k2 * np.cos(theta2)), mean(k2 * np.sin(theta2)), shell_k
    )


def _gather(dft: Tensor, bins: PolarBins) -> np.ndarray:
    """Sum of `|dft|²` over the coefficients of each bin, `(n_bins,)` float64."""
    columns = bins.index.shape[1]
    if dft.is_cuda:
        kept = dft[:, :columns]
        index = torch.from_numpy(bins.index).to(dft.device, torch.int64)
        out = torch.zeros(len(bins.count) + 1, dtype=torch.float64, device=dft.device)
        energy = (kept.real.double() ** 2 + kept.imag.double() ** 2).reshape(-1)
        out.index_add_(0, torch.where(index < 0, len(bins.count), index).reshape(-1), energy)
        return out[:-1].cpu().numpy()
    return _gather_cpu(dft.numpy(), bins.index, len(bins.count))


@numba.njit(nogil=True, cache=True)
def _gather_cpu(dft: np.ndarray, index: np.ndarray, n_bins: int) -> np.ndarray:  # pragma: no cover - compiled
    out = np.zeros(n_bins)
    for i in range(index.shape[0]):
        for j in range(index.shape[1]):
            b = index[i, j]
            if b >= 0:
                value = dft[i, j]
                out[b] += value.real * value.real + value.imag * value.imag
    return out


def _starts(n: int, tile: int) -> tuple[int, ...]:
    """First pixels of evenly spread tiles that cover an axis of `n` pixels and overlap by at most half."""
    if n <= tile:
        return (0,)
    n_tiles = max(2, 1 + (n - tile) // ((tile + 1) // 2))
    return tuple(round(i * (n - tile) / (n_tiles - 1)) for i in range(n_tiles))


def _tapers(starts: tuple[int, ...], tile: int, edge: float = 0.04) -> np.ndarray:
    """Tapers along one axis, `(n, tile)`: sine ramps as long as the overlap, short ones at the outer edges."""
    out = np.ones((len(starts), tile))
    outer = max(2, round(edge * tile))
    for n, start in enumerate(starts):
        before = starts[n - 1] + tile - start if n else outer
        after = start + tile - starts[n + 1] if n + 1 < len(starts) else outer
        for length, side in ((max(before, 2), slice(None, None, 1)), (max(after, 2), slice(None, None, -1))):
            out[n, side][:length] *= np.sin(0.5 * math.pi * (np.arange(length) + 0.5) / length)
    return out


def _independent(tapers: np.ndarray, starts: tuple[int, ...]) -> float:
    """Equivalent number of independent tiles along one axis for a single coefficient (white noise)."""
    tile = tapers.shape[1]
    energy = (tapers**2).sum(1)
    total = 0.0
    for a, start_a in enumerate(starts):
        for b, start_b in enumerate(starts):
            lag = start_b - start_a
            if 0 <= lag < tile:
                product = float(np.dot(tapers[a, lag:], tapers[b, : tile - lag])) ** 2
                total += product if lag == 0 else 2 * product
    return float(energy.sum() ** 2 / total)


def _spread(tapers: np.ndarray, starts: tuple[int, ...], lag_px: int) -> float:
    """`variance_factor` along one axis: `tile Σ G_lag² / (Σ G_0)²` with `G_lag(x) = Σ_t h_t(x) h_t(x + lag)`."""
    tile = tapers.shape[1]
    coverage = np.zeros(starts[-1] - starts[0] + tile)
    total = float((tapers**2).sum())
    if lag_px < tile:
        for taper, start in zip(tapers, starts, strict=True):
            first = start - starts[0]
            coverage[first : first + tile - lag_px] += taper[lag_px:] * taper[: tile - lag_px]
    return float(tile * (coverage**2).sum() / total**2)
