"""The diameter of the particles, found from the micrographs themselves.

The filter that fits the particles turns them into the highest and most numerous peaks, so the distribution of
its scores has the heaviest right tail. The third moment of the scores is gathered over all micrographs for a
row of diameters; both ends of the row are judged like the middle because every map has unit variance.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryoloom.picking.matched import Spectrum


def tail_weight(spectrum: Spectrum, diameters: Sequence[float], *, inside: Tensor | None = None) -> np.ndarray:
    """Third moment of the scores for each diameter, `(n,)` float64; noise gives 0.

    Parameters
    ----------
    spectrum
        The micrograph.
    diameters
        Å.
    inside
        `(h, w)` bool, False where the micrograph is not to be looked at.
    """
    weights = []
    for diameter in diameters:
        score = spectrum.score_map(diameter)
        score = score[inside] if inside is not None else score.reshape(-1)
        centre, spread = score.mean(), score.std()
        score = ((score - centre) / spread).clamp(-8, 8).double()
        weights.append(float((score**3).mean()))
    return np.asarray(weights)


def best_scale(diameters: Sequence[float], weights: np.ndarray) -> tuple[float, float]:
    """Diameter of the largest weight, by a parabola over the logarithm of the diameter, and the weight there.

    Parameters
    ----------
    diameters
        Å, in a geometric row.
    weights
        Pooled weight of each, `(n,)`.
    """
    log = np.log(np.asarray(diameters))
    i = int(np.argmax(weights))
    if i in (0, len(weights) - 1):
        return float(diameters[i]), float(weights[i])
    low, mid, high = weights[i - 1 : i + 2]
    offset = 0.5 * (low - high) / min(low - 2 * mid + high, -1e-12)
    return float(np.exp(log[i] + np.clip(offset, -0.5, 0.5) * (log[i + 1] - log[i]))), float(mid)


def pool(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Weights of all micrographs, `(n_micrographs, n)`, to one row: a trimmed mean that a few bad ones do not move."""
    table = torch.as_tensor(np.asarray(weights))
    if len(table) < 5:
        return table.median(0).values.numpy() if len(table) > 2 else table.mean(0).numpy()
    ordered = table.sort(0).values
    cut = len(table) // 5
    return ordered[cut : len(table) - cut].mean(0).numpy()
