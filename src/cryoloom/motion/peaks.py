"""The middle of correlation maps of band-limited spectra, and the highest place in it.

Few displacements are looked at, so direct sums beat a transform. The top is found by parabolas through the highest
value and its neighbours along both axes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier.resize import good_size
from cryoloom.motion.tiles import TileSpectra


@dataclass(frozen=True)
class PeakWindow:
    """The middle of correlation maps, by direct sums: few displacements are looked at, so this beats a transform.

    Attributes
    ----------
    along_y, along_x
        Phases `(rows, ny)` and `(nx, columns)`.
    step
        Spacing of rows and columns in pixels of the frames, `(2,)`.
    """

    along_y: Tensor
    along_x: Tensor
    step: np.ndarray

    def correlation(self, product: Tensor) -> np.ndarray:
        """Correlation at the displacements of the window from a cross-spectrum `(ny, nx)`, `(rows, columns)`."""
        return np.asarray((self.along_y @ product @ self.along_x).real.cpu().numpy())

    def peak(self, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Displacement in pixels `(2,)` at the highest place that is not on the rim, and the height there."""
        inner = values[1:-1, 1:-1]
        i, j = np.unravel_index(int(np.argmax(inner)), inner.shape)
        middle = 0.5 * (np.array(inner.shape) - 1)
        place = [i + _vertex(values[i : i + 3, j + 1]), j + _vertex(values[i + 1, j : j + 3])]
        return (np.array(place) - middle) * self.step, float(inner[i, j])


def peak_window(spectra: TileSpectra, radius_px: float) -> PeakWindow:
    """Displacements within `radius_px` and one more, two to a period of the highest frequency."""
    phases, steps = [], []
    for k in (spectra.ky_per_px, spectra.kx_per_px):
        n_half = (len(k) // 2 if k is spectra.ky_per_px else len(k) - 1) + 1
        size = good_size(2 * n_half)
        step = 1 / (float(k[1]) * size)
        reach = min(max(2, round(radius_px / step)), size // 2 - 2) + 1
        place = torch.arange(-reach, reach + 1, dtype=torch.float64, device=k.device) * step
        phases.append(torch.exp(2j * math.pi * place[:, None] * k).to(torch.complex64))
        steps.append(step)
    return PeakWindow(phases[0], phases[1].T.contiguous(), np.array(steps))


def _vertex(three: np.ndarray) -> float:
    """Place of the top of the parabola through three values, in steps from the middle one."""
    curvature = float(three[0] - 2 * three[1] + three[2])
    if curvature >= 0:
        return 0.0
    return float(np.clip(0.5 * (three[0] - three[2]) / curvature, -0.5, 0.5))
