"""Overlapping fringes taken apart: what each peak of a score map would be without its neighbours.

Seen through a CTF, the answer of a matched filter to one particle has side lobes. Between crowded particles they add
up, which hides some particles, invents others, and makes the background look as if its negative peaks were higher
than noise makes them. Peaks are subtracted in turn, each with the known answer of the filter to its template
(matching pursuit; Högbom 1974, the CLEAN algorithm), twice over so that neighbours settle. What is left is noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.picking.peaks import find_peaks, noise_level

_SUBTRACTED = 3.0  # standard deviations: weaker peaks stay
_PASSES = 2


@dataclass(frozen=True)
class Deblended:
    """Peaks, the highest first, and the map without them.

    Attributes
    ----------
    position, value
        Pixels yx `(n, 2)` and standard deviations of the residual `(n,)`.
    residual
        `(h, w)`; its standard deviation is 1.
    """

    position: np.ndarray
    value: np.ndarray
    residual: Tensor


def deblend(
    score: Tensor, spread: np.ndarray, distance_px: float, *, lowest: float, valid: Tensor | None = None
) -> Deblended:
    """Take the peaks of a score map apart.

    Parameters
    ----------
    score
        `(h, w)`; background of mean 0 and deviation 1.
    spread
        Answer of the filter to its own template, 1 at its centre, `(2 m + 1, 2 m + 1)`.
    distance_px
        Smallest distance of two peaks.
    lowest
        Peaks below are not listed.
    valid
        Where the map tells of the background, `(h, w)` bool; by default everywhere.
    """
    for _ in range(_PASSES):
        place, value = find_peaks(score, distance_px, lowest=lowest)
        residual, own, amplitude = _subtract(score.cpu().numpy(), place, value, spread)
        left = torch.from_numpy(residual).to(score.device)
        middle, deviation = noise_level(left, valid)
        score = (score - middle) / deviation
    residual_map = (left - middle) / deviation
    own = (own - middle) / deviation
    strong = amplitude > 0
    more_place, more_value = find_peaks(residual_map, distance_px, lowest=lowest)
    if strong.any() and len(more_place):
        far = cKDTree(place[strong]).query(more_place)[0] > distance_px
        more_place, more_value = more_place[far], more_value[far]
    place = np.concatenate([place[strong], more_place])
    value = np.concatenate([own[strong], more_value])
    order = np.argsort(-value, kind="stable")
    return Deblended(place[order], value[order], residual_map)


def _subtract(
    score: np.ndarray, place: np.ndarray, value: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual map, score of each peak on its own, and how much of each was subtracted."""
    residual = score.copy()
    m = spread.shape[0] // 2
    h, w = residual.shape
    pixel = np.clip(np.rint(place).astype(int), 0, np.asarray([h, w]) - 1)
    amplitude = np.zeros(len(value))
    for turn in range(3):
        for i in np.flatnonzero(value > _SUBTRACTED) if turn == 0 else np.flatnonzero(amplitude):
            y, x = pixel[i]
            wanted = amplitude[i] + residual[y, x]
            step = (wanted if wanted > _SUBTRACTED else 0.0) - amplitude[i]
            if step == 0:
                continue
            y0, y1, x0, x1 = max(0, y - m), min(h, y + m + 1), max(0, x - m), min(w, x + m + 1)
            residual[y0:y1, x0:x1] -= step * spread[y0 - y + m : y1 - y + m, x0 - x + m : x1 - x + m]
            amplitude[i] += step
    own = residual[pixel[:, 0], pixel[:, 1]] + amplitude
    return residual, own, amplitude
