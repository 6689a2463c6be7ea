"""Examples for training: labelled micrographs, turned and mirrored, and cut into small images.

Each micrograph is turned by a few angles once, with splines, and each small image is then turned by right angles and
mirrored. Labelled and unlabelled places go through the same, so nothing that turning does to noise tells them apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import affine_transform
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.picking.learned.network import STRIDE, network_input
from cryoloom.picking.prepare import Prepared

UNLABELLED, PARTICLE, OFF_CENTRE, IGNORED = range(4)
"""What is known of a pixel of the network's answer."""
AT_CENTRE, NEAR, APART = 0.1, 0.3, 0.55
"""Extents of a particle: its centre; where nothing is said; where it is, but not its centre, and no other one's."""
CROP = 72
"""Pixels of a small image."""
_TURNS = (0.0, math.pi / 6, math.pi / 3)
_CONTRAST = 0.15  # standard deviation of the logarithm of the contrast


@dataclass(frozen=True)
class Labelled:
    """A micrograph as the network sees it, with its labels.

    Attributes
    ----------
    image
        `(2, h, w)` float32.
    place
        Labelled particles, pixels yx, `(n, 2)`.
    weight
        Probability that each is one, `(n,)`.
    excluded
        Where no particle can be, `(h, w)` bool.
    """

    image: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    excluded: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Small images `(b, 2, CROP, CROP)`, what is known of them `(b, CROP / 2, CROP / 2)`, and whether they were cut at
    random places `(b,)`; the others are around labels.
    """

    image: Tensor
    known: Tensor
    anywhere: Tensor


def labelled_micrograph(prepared: Prepared, place_px: np.ndarray, weight: np.ndarray) -> Labelled:
    """A prepared micrograph as the network sees it, with its labels.

    Parameters
    ----------
    prepared
        The micrograph.
    place_px, weight
        Particles in pixels yx of the micrograph as it is on the disk `(n, 2)`, and their probabilities `(n,)`.
    """
    place = prepared.reduced.from_micrograph(torch.from_numpy(np.asarray(place_px, dtype=np.float64))).numpy()
    excluded = prepared.excluded
    outside = np.zeros(prepared.flat.shape, dtype=bool) if excluded is None else excluded.cpu().numpy()
    return Labelled(network_input(prepared).cpu().numpy(), place, np.asarray(weight, dtype=np.float64), outside)


def known_of(shape: tuple[int, int], place: np.ndarray, extent_px: float, excluded: np.ndarray) -> np.ndarray:
    """What is known of each pixel of the answer, `(h // 2, w // 2)` uint8.

    Parameters
    ----------
    shape
        `(h, w)` of the micrograph.
    place
        Labelled particles, pixels yx, `(n, 2)`.
    extent_px
        Largest extent of a particle in pixels.
    excluded
        `(h, w)` bool.
    """
    h, w = (n // STRIDE for n in shape)
    known = np.full((h, w), UNLABELLED, dtype=np.uint8)
    if len(place):
        grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2)
        centres = STRIDE * grid + 0.5 * (STRIDE - 1)
        distance = cKDTree(place).query(centres)[0].reshape(h, w) / extent_px
        known[distance < APART] = OFF_CENTRE
        known[distance < NEAR] = IGNORED
        known[distance < AT_CENTRE] = PARTICLE
        own = np.rint((place - 0.5 * (STRIDE - 1)) / STRIDE).astype(int)
        own = own[((own >= 0) & (own < (h, w))).all(1)]
        known[own[:, 0], own[:, 1]] = PARTICLE  # however small the particle is
    blocks = excluded[: h * STRIDE, : w * STRIDE].reshape(h, STRIDE, w, STRIDE)
    known[blocks.any((1, 3))] = IGNORED
    return known


def turned(labelled: Labelled, angle: float) -> Labelled:
    """The same micrograph turned about its centre; what comes in at its corners is excluded."""
    if angle == 0:
        return labelled
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.asarray([[cos, -sin], [sin, cos]])
    centre = (np.asarray(labelled.excluded.shape) - 1) / 2
    offset = centre - matrix @ centre
    planes = [affine_transform(plane, matrix, offset=offset, order=3, mode="reflect") for plane in labelled.image]
    excluded = affine_transform(labelled.excluded.astype(np.float32), matrix, offset=offset, order=1, cval=1.0) > 0.5
    # the value at p comes from `matrix @ p + offset`, so what was at q is seen at `matrix.T @ (q - offset)`
    return Labelled(np.stack(planes), (labelled.place - offset) @ matrix, labelled.weight, excluded)


class Examples:
    """Small images cut from labelled micrographs.

    Parameters
    ----------
    micrographs
        At least one of them with labels.
    extent_px
        Largest extent of a particle in pixels.
    rng
        Decides which small images are cut, and how they are turned.

    Raises
    ------
    ValueError
        If there are no labels, or a micrograph is smaller than a small image.
    """

    def __init__(self, micrographs: Sequence[Labelled], extent_px: float, rng: np.random.Generator) -> None:
        views = [turned(one, angle) for one in micrographs for angle in _TURNS]
        self._images = [torch.from_numpy(np.ascontiguousarray(one.image, dtype=np.float32)) for one in views]
        self._known = [
            torch.from_numpy(known_of(one.excluded.shape, one.place, extent_px, one.excluded)) for one in views
        ]
        if min(min(image.shape[1:]) for image in self._images) < CROP:
            raise ValueError(f"micrographs: expected at least {CROP} pixels along each edge")
        seen = [_inside(one) for one in views]
        self._view_of = np.concatenate([np.full(len(rows), i) for i, rows in enumerate(seen)])
        if not len(self._view_of):
            raise ValueError("micrographs: expected at least one label outside of what is excluded")
        self._place = np.concatenate([one.place[rows] for one, rows in zip(views, seen, strict=True)])
        weight = np.concatenate([one.weight[rows] for one, rows in zip(views, seen, strict=True)])
        self._chance = weight / weight.sum()
        self._n_labels = sum(len(rows) for rows in seen[:: len(_TURNS)])
        self._rng = rng

    def prior(self, n_unlabelled: float) -> float:
        """Share of the unlabelled pixels that are centres of particles, if there are `n_unlabelled` more particles."""
        whole = self._known[:: len(_TURNS)]
        free = sum(int((known == UNLABELLED).sum()) for known in whole)
        own = sum(int((known == PARTICLE).sum()) for known in whole)
        return float(min(0.5, max(n_unlabelled, 0.0) * own / max(self._n_labels, 1) / max(free, 1)))

    def batch(self, n: int) -> Batch:
        """`n` small images, half of them around labels."""
        images, known = [], []
        for number in range(n):
            if number < n // 2:
                label = self._rng.choice(len(self._chance), p=self._chance)
                view = int(self._view_of[label])
                centre = self._place[label] + self._rng.uniform(-CROP / 4, CROP / 4, 2)
            else:
                view = int(self._rng.integers(len(self._images)))
                centre = self._rng.uniform(0, 1, 2) * self._images[view].shape[1:]
            image, own = self._cut(view, centre)
            images.append(image * float(np.exp(_CONTRAST * self._rng.standard_normal())))
            known.append(own)
        return Batch(torch.stack(images), torch.stack(known), torch.arange(n) >= n // 2)

    def _cut(self, view: int, centre: np.ndarray) -> tuple[Tensor, Tensor]:
        image, known = self._images[view], self._known[view]
        last = (np.asarray(known.shape) * STRIDE - CROP) // STRIDE
        y, x = np.clip(((centre - CROP / 2) // STRIDE).astype(int), 0, last)
        n = CROP // STRIDE
        cut = image[:, STRIDE * y : STRIDE * y + CROP, STRIDE * x : STRIDE * x + CROP]
        own = known[y : y + n, x : x + n]
        if self._rng.random() < 0.5:
            cut, own = cut.flip(-1), own.flip(-1)
        quarter = int(self._rng.integers(4))
        return torch.rot90(cut, quarter, (-2, -1)), torch.rot90(own, quarter, (-2, -1))


def _inside(one: Labelled) -> np.ndarray:
    """Rows of the labels that lie on the micrograph and not in an excluded region."""
    pixel = np.rint(one.place).astype(int)
    rows = np.flatnonzero(((pixel >= 0) & (pixel < one.excluded.shape)).all(1))
    return rows[~one.excluded[pixel[rows, 0], pixel[rows, 1]]]
