"""Aggregates: clumps of matter on top of each other, which are denser than single particles.

The micrograph is smoothed at the scale of the particle, and peaks that noise does not make are objects. The typical
place says how high a single particle is: the nearest object within reach, or, where there is none, at most the peak
near by. An aggregate takes up little of the area, however many peaks it has, so it does not count here. Where more than
a particle lies over an area that is larger than a particle's, particles lie on top of each other. Such clumps are
outlined at four tenths of their typical height, and kept if they have room for more than a few particles, since bright
particles may lie next to each other. Neglected: aggregates that are no denser than a particle, and small ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from cryoloom.picking.peaks import find_peaks

_SMOOTH = 0.3  # of the diameter, standard deviation of the smoothing
_REACH = 0.5  # of the diameter, smallest distance of two peaks
_OBJECT = 4.0  # standard deviations of the background from which on a peak is an object
_NEAR = 1.5  # diameters, how far from a place an object tells what is to be found there
_FAR_MORE = 3.0  # heights of the typical object that are no particle, however small
_MORE = 1.2  # heights of a single particle that are more than one particle
_CORE_AREA, _LEAST_AREA = 1.5, 5.0  # discs of the diameter: with more than one particle, and within the outline
_SINGLE_AREA = 1.6  # discs of the diameter: objects that are no larger at half of their height are single particles
_HIDDEN = (2.0, 4.0)  # standard deviations, bounds of the height of particles that noise hides
_GAP = 0.5  # of the diameter, half the width of gaps within a clump
_LEVEL = 0.4  # of the typical height of a clump, at its outline
_SURROUNDINGS = 1.0  # diameters around a clump that belong to it
_LEAST_OBJECTS = 8
_GRID = 64


@dataclass(frozen=True)
class Objects:
    """What stands out at the scale of the particle.

    Attributes
    ----------
    score
        The micrograph smoothed at that scale, standard deviations of the background, `(h, w)`; 0 in rough regions.
    place, height
        Pixels yx of the peaks `(n, 2)` and their scores `(n,)`.
    hidden
        Score of particles that noise hides.
    whole
        Like `score`, with what lies in dense regions too, `(h, w)`.
    """

    score: np.ndarray
    place: np.ndarray
    height: np.ndarray
    hidden: float
    whole: np.ndarray


def find_objects(
    excess: np.ndarray, dense: np.ndarray, rough: np.ndarray, diameter_px: float, rim_px: float
) -> Objects | None:
    """What stands out at the scale of the particle; None where hardly anything does.

    Parameters
    ----------
    excess
        Image without the ice, dense matter positive, `(h, w)`.
    dense, rough
        Regions that are excluded for other reasons, `(h, w)` bool.
    diameter_px
        Diameter of the dense part of the particle in pixels.
    rim_px
        Width of the blurred edge of dense regions in pixels.
    """
    seen = _seen(dense, rough, rim_px)
    if seen.mean() < 0.1:
        return None
    smooth = _local_mean(excess, seen, max(_SMOOTH * diameter_px, 0.5))
    low, middle = np.quantile(smooth[seen], [0.1587, 0.5])
    score = np.where(rough, 0.0, (smooth - middle) / max(middle - low, 1e-12)).astype(np.float32)
    place, height = find_peaks(torch.from_numpy(score), max(_REACH * diameter_px, 1.5), lowest=_OBJECT)
    if len(place) < _LEAST_OBJECTS:
        return None
    hidden = float(np.clip(np.median(ndimage.maximum_filter(score, round(1.5 * diameter_px))[seen]), *_HIDDEN))
    whole = (ndimage.gaussian_filter(excess, max(_SMOOTH * diameter_px, 0.5)) - middle) / max(middle - low, 1e-12)
    return Objects(score, place, height, hidden, whole)


def far_too_dense(objects: Objects, label: np.ndarray, n: int) -> np.ndarray:
    """Which of the regions 1 to `n` of `label` `(h, w)` are several times as high as the typical object, `(n + 1,)`."""
    highest = ndimage.maximum(objects.whole, label, np.arange(n + 1))
    return np.asarray(np.asarray(highest) > _FAR_MORE * float(np.median(objects.height)))


def clumped_regions(
    objects: Objects, dense: np.ndarray, rough: np.ndarray, diameter_px: float, rim_px: float
) -> np.ndarray:
    """Where matter lies on top of other matter, `(h, w)` bool; arguments as for `find_objects`.

    Clumps have dense parts and go on around them; carbon is no clump.
    """
    score, thin = objects.score, ~rough
    single = single_height(
        objects.place, objects.height, _seen(dense, rough, rim_px), _NEAR * diameter_px, objects.hidden
    )
    if len(objects.place) and np.median(object_areas(objects, diameter_px)) < _SINGLE_AREA:
        single = max(single, float(np.median(objects.height)))  # few, but as large as particles are
    core = thin & (score > _MORE * single)
    disc = np.pi * (0.5 * diameter_px) ** 2
    label, n = ndimage.label(ndimage.distance_transform_edt(~core) <= _GAP * diameter_px) if core.any() else (core, 0)
    own = np.where(core, label, 0)
    clumps = np.flatnonzero(np.bincount(own.reshape(-1), minlength=n + 1)[1:] > _CORE_AREA * disc) + 1
    if not len(clumps):
        return np.zeros(score.shape, dtype=bool)
    level = np.full(n + 1, np.inf)
    level[clumps] = _LEVEL * np.atleast_1d(ndimage.median(score, own, clumps))
    distance, nearest = ndimage.distance_transform_edt(~np.isin(own, clumps), return_indices=True)
    clump = own[tuple(nearest)]
    inside = thin & (distance < _SURROUNDINGS * diameter_px) & (score > level[clump])
    area = np.bincount(clump[inside | (dense & (distance < _SURROUNDINGS * diameter_px))], minlength=n + 1)
    return inside & (area > _LEAST_AREA * disc)[clump]


def object_areas(objects: Objects, diameter_px: float) -> np.ndarray:
    """Area of each object at half of its height, in discs of the particle's diameter, `(n,)`."""
    reach = round(2 * diameter_px)
    out = np.empty(len(objects.place))
    for i, (place, height) in enumerate(zip(np.rint(objects.place).astype(int), objects.height, strict=True)):
        y, x = np.maximum(place - reach, 0)
        window = objects.score[y : place[0] + reach + 1, x : place[1] + reach + 1] > 0.5 * height
        label, _ = ndimage.label(window)
        own = label[place[0] - y, place[1] - x]
        out[i] = (label == own).sum() if own else 0
    return out / (np.pi * (0.5 * diameter_px) ** 2)


def single_height(place: np.ndarray, height: np.ndarray, seen: np.ndarray, reach_px: float, hidden: float) -> float:
    """Height of a single particle: median over all places that are seen, of the object nearest to each.

    Places with no object within `reach_px` count with `hidden`, since particles there are not higher than that.
    `place` `(n, 2)` and `height` `(n,)` are those of objects.
    """
    y, x = ((np.arange(_GRID) + 0.5) / _GRID * m for m in seen.shape)
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    grid = grid[seen[tuple(grid.astype(int).T)]]
    if not len(grid):
        return hidden
    _, nearest = cKDTree(place).query(grid, distance_upper_bound=reach_px)
    return float(np.median(np.append(height, hidden)[nearest]))


def _seen(dense: np.ndarray, rough: np.ndarray, rim_px: float) -> np.ndarray:
    """Thin ice and particles, apart from the blurred edges of dense regions."""
    thin = ~rough
    return thin & (ndimage.distance_transform_edt(~dense) > rim_px) if dense.any() else thin


def _local_mean(image: np.ndarray, seen: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of what is seen."""
    share = ndimage.gaussian_filter(seen.astype(np.float32), sigma)
    return ndimage.gaussian_filter(np.where(seen, image, 0.0).astype(np.float32), sigma) / np.maximum(share, 0.02)
