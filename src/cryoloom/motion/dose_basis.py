"""Dose weighting of a sum without a transform per frame.

The exposure filter of frame `t`, with its normalisation, is a smooth function of two variables and has low rank:
`q(t, k) ≈ Σ_j a_j(t) b_j(k)`. So frames are added into a few sums with weights `a_j(t)`, and each sum is filtered by
`b_j(k)` once. The first sum has weight one for every frame: it is the sum without dose weighting.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier.transform import rfftn
from cryoloom.optics.dose import dose_weight

_N_TABLE = 4096


@dataclass(frozen=True)
class DoseBasis:
    """Factors of the exposure filter.

    Attributes
    ----------
    coefficients
        `a`, `(t, j)`; the first column is one.
    filters
        `b` at `k_table`, `(j, n)`.
    k_table
        Frequencies in 1/Å, equally spaced from 0, `(n,)`.
    """

    coefficients: np.ndarray
    filters: np.ndarray
    k_table: np.ndarray

    def weighted_sum(self, sums: Tensor, pixel_size: float) -> tuple[Tensor, Tensor]:
        """Transforms `(h, w // 2 + 1)` of the dose-weighted sum of `sums` `(j, h, w)`, and of the first of them."""
        h, w = sums.shape[-2:]
        transforms = (rfftn(image, 2) for image in sums)
        first = next(transforms)
        total = torch.zeros_like(first) if first.is_cuda else torch.from_numpy(np.zeros(first.shape, np.complex64))
        self._add_filtered(first, 0, (h, w), pixel_size, total)
        for j, dft in enumerate(transforms, 1):
            self._add_filtered(dft, j, (h, w), pixel_size, total)
        return total, first

    def _add_filtered(self, dft: Tensor, j: int, shape: tuple[int, int], pixel_size: float, total: Tensor) -> None:
        """Add the transform of sum `j`, filtered, to `total`."""
        per_step = 1 / float(self.k_table[1])
        ky = torch.fft.fftfreq(shape[0], d=pixel_size, device=dft.device) * per_step
        kx = torch.fft.rfftfreq(shape[1], d=pixel_size, device=dft.device) * per_step
        table = torch.as_tensor(self.filters[j], dtype=torch.float32, device=dft.device)
        if dft.is_cuda:
            index = torch.hypot(ky[:, None], kx).round_().to(torch.int32).clamp_max_(len(table) - 1)
            total.add_(dft * table[index])
        else:
            _add_filtered_kernel(dft.numpy(), table.numpy(), ky.numpy(), kx.numpy(), total.numpy())


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_filtered_kernel(dft, table, ky, kx, total):
    last = table.shape[0] - 1
    index = np.empty(kx.shape[0], np.int32)
    for i in range(dft.shape[0]):
        for j in range(kx.shape[0]):
            index[j] = min(np.int32(np.sqrt(ky[i] ** 2 + kx[j] ** 2) + np.float32(0.5)), last)
        source, target = dft[i], total[i]
        for j in range(kx.shape[0]):
            target[j] += source[j] * table[index[j]]


def plain_basis(n_frames: int) -> DoseBasis:
    """Every frame with weight one."""
    return DoseBasis(np.ones((n_frames, 1)), np.ones((1, 2)), np.array([0.0, 1.0]))


def dose_basis(
    doses: np.ndarray, pixel_size: float, voltage_kv: float, *, used: np.ndarray | None = None, tolerance: float = 2e-3
) -> DoseBasis:
    """Factorise the exposure filter.

    Parameters
    ----------
    doses
        Dose at the end of each frame in e-/Å2, `(t,)`.
    pixel_size
        Å per pixel of the frames.
    used
        Frames that enter the sum, `(t,)` bool.
    tolerance
        Largest error of a weight; weights are at most about the root of the number of frames.
    """
    n_frames = len(doses)
    used = np.ones(n_frames, bool) if used is None else used
    k = np.linspace(0, 0.5 * np.sqrt(2) / pixel_size, _N_TABLE)
    raw = dose_weight(torch.from_numpy(k), torch.from_numpy(np.asarray(doses, np.float64)), voltage_kv).numpy()
    raw = raw * used[:, None]
    # white noise of the plain sum stays white and keeps its variance
    weights = raw * np.sqrt(used.sum() / np.maximum((raw**2).sum(0), 1e-30))
    constant = used.astype(np.float64)
    rest = weights - constant[:, None] * (constant @ weights / constant.sum())
    left, values, _ = np.linalg.svd(rest, full_matrices=False)
    basis = constant[:, None]
    for j in range(min(n_frames - 1, len(values)) + 1):
        basis = np.concatenate([constant[:, None], left[:, :j]], axis=1)
        filters = np.linalg.lstsq(basis, weights, rcond=None)[0]
        if np.abs(basis @ filters - weights).max() < tolerance:
            break
    return DoseBasis(basis, filters, k)
