"""The diameter of the particles, and their contrast, found from the micrographs themselves.

A particle answers filters of many diameters, and most to the one that fits it (automatic scale selection;
Lindeberg 1998, doi:10.1023/A:1008045108935). So each micrograph is filtered with a row of diameters, and of all peaks
only those are kept that no higher peak of any diameter overlaps: each particle then votes once, for its own diameter,
with a weight that is bounded, so that a few crystals of ice cannot outvote the particles. Peaks of the inverted
micrograph vote against. Particles that are not round vote for the size of their view, hence the diameter is
the upper end of the main mode.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.picking.matched import Spectrum
from cryoloom.picking.peaks import find_peaks, normalise_by_background
from cryoloom.picking.template import RoundTemplate

_LOWEST, _COUNTS, _BOUND = 3.5, 4.0, 8.0  # standard deviations: kept as rivals, counted, and bounded
_OVERLAP = 0.6  # of the larger diameter
_QUANTILE, _MODE = 0.8, 0.35  # of the votes, within the range where they exceed this part of their maximum


@dataclass(frozen=True)
class Scale:
    """What the votes say.

    Attributes
    ----------
    diameter
        Å.
    dark
        True if particles are darker than what is around them, when the survey was made for dark ones.
    votes
        Votes for each diameter less those against, smoothed, `(n,)`.
    clear
        Whether the votes stand out from those of the inverted micrographs.
    """

    diameter: float
    dark: bool
    votes: np.ndarray
    clear: bool


def count_votes(
    spectrum: Spectrum, diameters: Sequence[float], pixel_size: float, valid: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Votes of one micrograph for each diameter, from bright and from dark peaks, `(n,)` each.

    Parameters
    ----------
    spectrum
        The micrograph.
    diameters
        Å, rising.
    pixel_size
        Å per pixel.
    valid
        Where the micrograph is not masked, `(h, w)` bool; by default everywhere.
    """
    bright: list[tuple[np.ndarray, np.ndarray]] = []
    dark: list[tuple[np.ndarray, np.ndarray]] = []
    for diameter in diameters:
        score = spectrum.score_map(RoundTemplate.ball(diameter))
        for sign, peaks in ((1, bright), (-1, dark)):
            peaks.append(_peaks(sign * score, diameter, pixel_size, valid))
    sizes = np.asarray(diameters)
    return _votes(bright, sizes), _votes(dark, sizes)


def _peaks(score: Tensor, diameter: float, pixel_size: float, valid: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    (score,) = normalise_by_background(score, valid=valid)
    place, value = find_peaks(score, _OVERLAP * diameter / pixel_size, lowest=_LOWEST)
    return place * pixel_size, value


def _votes(peaks: list[tuple[np.ndarray, np.ndarray]], diameters: np.ndarray) -> np.ndarray:
    place = np.concatenate([p for p, _ in peaks])
    value = np.concatenate([v for _, v in peaks])
    scale = np.concatenate([np.full(len(v), i) for i, (_, v) in enumerate(peaks)]).astype(np.int64)
    order = np.argsort(-value, kind="stable")
    place, value, scale = place[order], value[order], scale[order]
    if not len(value):
        return np.zeros(len(diameters))
    tree = cKDTree(place)
    alive = np.ones(len(value), dtype=bool)
    for i in range(len(value)):
        if alive[i]:
            near = np.asarray(tree.query_ball_point(place[i], _OVERLAP * diameters[-1]))
            near = near[near > i]
            distance = np.linalg.norm(place[near] - place[i], axis=1)
            alive[near[distance < _OVERLAP * np.maximum(diameters[scale[near]], diameters[scale[i]])]] = False
    weight = np.clip(np.minimum(value, _BOUND) ** 2 - _COUNTS**2, 0, None)
    return np.bincount(scale[alive], weight[alive], len(diameters))


def decide_scale(diameters: Sequence[float], bright: np.ndarray, dark: np.ndarray) -> Scale:
    """Diameter and contrast from the votes of all micrographs.

    Parameters
    ----------
    diameters
        Å, in a geometric row, `(n,)`.
    bright, dark
        Votes from bright and dark peaks of each micrograph (as surveyed, with dark particles made bright),
        `(n_micrographs, n)`.
    """
    totals = bright.sum(1) + dark.sum(1)
    limit = 3 * np.median(totals)
    weight = np.minimum(1.0, limit / np.maximum(totals, 1e-9))[:, None]
    up, down = (bright * weight).sum(0), (dark * weight).sum(0)
    inverted = bool(down.sum() > up.sum())
    if inverted:
        up, down = down, up
    votes = np.convolve(np.pad(up - down, 1), [0.25, 0.5, 0.25], mode="valid")
    best = int(np.argmax(votes))
    if votes[best] <= 0:
        return Scale(float(np.sqrt(diameters[0] * diameters[-1])), not inverted, votes, False)
    low, high = best, best
    while low > 0 and votes[low - 1] > _MODE * votes[best]:
        low -= 1
    while high < len(votes) - 1 and votes[high + 1] > _MODE * votes[best]:
        high += 1
    mass = np.clip((up - down)[low : high + 1], 0, None)
    share = np.concatenate([[0.0], np.cumsum(mass)]) / max(mass.sum(), 1e-9)  # below the edges of the steps
    step = np.log(diameters[-1] / diameters[0]) / (len(diameters) - 1)
    edges = np.log(diameters[low]) + step * (np.arange(len(share)) - 0.5)
    diameter = float(np.exp(np.interp(_QUANTILE, share, edges)))
    clear = bool(votes[best] > 2 * max(float(-votes.min()), 1e-9) and up.sum() > 1.2 * down.sum())
    return Scale(diameter, not inverted, votes, clear)
