"""Views of a candidate: what each picker says of it, how they agree, and what its place looks like.

The peaks of all pickers are clustered, so that each particle is one candidate. Its views are the score of each picker
(peaks below the lowest score count as that), how far their peaks lie apart, and local means of the micrograph at three
scales, its variance and its slope (crystals and aggregates are denser, and have edges). Variance and slope are relative
to the variance around: a particle amid the fringes of a crystal is a particle still. The decoys of the pickers are
clustered in the same way on the inverted micrograph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.picking.exclusion import fill_excluded, grow_mask
from cryoloom.picking.finders import LOWEST, Finder
from cryoloom.picking.peaks import find_peaks
from cryoloom.picking.prepare import Prepared
from cryoloom.picking.reduce import Reduced, flatten_background
from cryoloom.picking.search import compete

_TOGETHER = 0.5  # of the smallest distance of two picks: peaks of different pickers that mean the same
_SCALES = (0.2, 0.5, 1.2)  # core diameters, of local means
_RIM = 0.15  # core diameters around masks, blurred by their edges
_LEAST_SEEN = 0.05  # of the weight of a local mean
_VARIANCE_SCALES = (0.35, 1.0)  # core diameters, of local variances
_LIMIT = 4.0  # robust deviations of a pixel, in variances


@dataclass(frozen=True)
class Views:
    """Candidates of one micrograph, or its decoys.

    Attributes
    ----------
    position_px
        Pixels yx of the micrograph, `(n, 2)`.
    scores
        Score of each picker, `(n, k)`; `LOWEST` where it sees nothing.
    looks
        Local statistics, `(n, j)`, see `LOOKS`.
    masked
        Whether the place lies on carbon, a crystal or an aggregate, `(n,)` bool.
    contested
        Whether a higher decoy lies near, `(n,)` bool; of decoys, always False.
    border
        Distance from the border of the micrograph in core diameters, `(n,)`.
    """

    position_px: np.ndarray
    scores: np.ndarray
    looks: np.ndarray
    masked: np.ndarray
    contested: np.ndarray
    border: np.ndarray

    def __len__(self) -> int:
        return len(self.masked)

    def select(self, rows: np.ndarray) -> "Views":
        """Some of them."""
        return Views(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def as_json(self) -> dict[str, Any]:
        """Plain lists for the journal of a job."""
        return {
            "position_px": np.round(self.position_px, 2),
            "scores": np.round(self.scores, 4),
            "looks": np.round(self.looks, 4),
            "masked": self.masked,
            "contested": self.contested,
            "border": np.round(self.border, 3),
            "shape": [self.scores.shape[1], self.looks.shape[1]],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Views":
        """Inverse of `as_json`."""
        k, j = stored["shape"]
        return cls(
            np.asarray(stored["position_px"], dtype=np.float64).reshape(-1, 2),
            np.asarray(stored["scores"], dtype=np.float64).reshape(-1, k),
            np.asarray(stored["looks"], dtype=np.float64).reshape(-1, j),
            np.asarray(stored["masked"], dtype=bool),
            np.asarray(stored["contested"], dtype=bool),
            np.asarray(stored["border"], dtype=np.float64),
        )

    @classmethod
    def join(cls, parts: Sequence["Views"]) -> "Views":
        """Those of several micrographs."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))


LOOKS = (
    "mean within the core", "mean around", "mean far around", "log variance within over that around",
    "slope over deviation around", "distance of the pickers",
)  # fmt: skip


def views_of(
    prepared: Prepared, finders: Sequence[Finder], core: float, *, distance: float, margin: float
) -> tuple[Views, Views]:
    """Candidates and decoys of one micrograph.

    Parameters
    ----------
    prepared
        The micrograph.
    finders
        The pickers.
    core
        Å, diameter of the dense part of the particle.
    distance, margin
        Å, smallest distance of two candidates, and of a candidate from the edge.
    """
    px = prepared.pixel_size
    reach = distance / px
    found = [find(prepared, reach) for find in finders]
    candidates = cluster([(peaks.position, peaks.value) for peaks in found], reach)
    decoys = cluster([find_peaks(peaks.decoy, reach, lowest=LOWEST) for peaks in found], reach)
    contested, kept = compete(candidates.place, candidates.total, decoys.place, decoys.total, reach)
    looks = _Looks(prepared.reduced, core / px, prepared.excluded)
    both = []
    for cluster_, sign, argued in ((candidates, 1, contested), (decoys.select(kept), -1, None)):
        inside = _inside(cluster_.place, prepared.flat.shape, margin / px)
        own, argued = cluster_.select(inside), argued[inside] if argued is not None else np.zeros(inside.sum(), bool)
        columns = looks.at(own.place, sign)
        columns = np.column_stack([columns, own.apart / max(reach, 1e-6)])
        masked = np.zeros(len(own.place), dtype=bool)
        if prepared.excluded is not None and len(masked):
            y, x = np.rint(own.place).astype(int).T
            masked = prepared.excluded.cpu().numpy()[y, x]
        position = prepared.reduced.to_micrograph(torch.from_numpy(own.place)).numpy()
        border = _from_border(own.place, prepared.flat.shape) * px / core
        both.append(Views(position, own.scores, columns, masked, argued, border))
    return both[0], both[1]


@dataclass(frozen=True)
class Cluster:
    """Clustered peaks: `place (n, 2)`, `scores (n, k)`, and how far the peaks of one lie apart at most, `(n,)`."""

    place: np.ndarray
    scores: np.ndarray
    apart: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Sum over the pickers of what lies above the lowest score, `(n,)`."""
        return np.asarray((self.scores - LOWEST).sum(1))

    def select(self, rows: np.ndarray) -> "Cluster":
        """Some of them."""
        return Cluster(self.place[rows], self.scores[rows], self.apart[rows])


def cluster(peaks: Sequence[tuple[np.ndarray, np.ndarray]], reach_px: float) -> Cluster:
    """Peaks of several pickers that mean the same made into one, by falling score; each picker counts once in each.

    Parameters
    ----------
    peaks
        Places `(n, 2)` and scores `(n,)` of each picker.
    reach_px
        Smallest distance of two candidates.
    """
    k = len(peaks)
    place = np.concatenate([p for p, _ in peaks])
    value = np.concatenate([v for _, v in peaks])
    picker = np.concatenate([np.full(len(v), i) for i, (_, v) in enumerate(peaks)]).astype(int)
    # a peak that other pickers see too comes first, however high the peaks of one of them are
    together = np.zeros(len(value))
    tree = cKDTree(place) if len(place) else None
    near = tree.query_ball_point(place, _TOGETHER * reach_px) if tree is not None else []
    for i, own in enumerate(near):
        best = np.full(k, LOWEST)
        np.maximum.at(best, picker[own], value[own])
        together[i] = best.sum()
    free = np.ones(len(value), dtype=bool)
    centres, scores, apart = [], [], []
    for i in np.lexsort((-value, -together)):
        if not free[i]:
            continue
        own = [j for j in near[i] if free[j]]
        best = np.full(k, LOWEST)
        np.maximum.at(best, picker[own], value[own])
        weight = value[own] - LOWEST + 1e-3
        centres.append((weight[:, None] * place[own]).sum(0) / weight.sum())
        scores.append(best)
        apart.append(np.linalg.norm(place[own] - place[i], axis=1).max())
        assert tree is not None
        free[tree.query_ball_point(place[i], reach_px)] = False
    if not centres:
        return Cluster(np.zeros((0, 2)), np.zeros((0, k)), np.zeros(0))
    return Cluster(np.stack(centres), np.stack(scores), np.asarray(apart))


class _Looks:
    """Maps of local statistics of a micrograph, in units of its own robust deviation.

    What is masked does not count, nor does it draw the background of places beside it. In variances no pixel counts
    more than `_LIMIT` deviations: a particle beside the edge of a crystal, which a mask leaves over, is one still.
    """

    def __init__(self, reduced: Reduced, core_px: float, excluded: Tensor | None) -> None:
        plain = reduced.image
        if excluded is not None:
            plain = fill_excluded(plain, excluded, reduced.mean_pixel_size)
        flat = flatten_background(plain, 4 * core_px, limit=1e3)
        image = (flat / (1.4826 * flat.abs().median().clamp_min(1e-6))).cpu().numpy().astype(np.float32)
        seen = np.ones(image.shape, dtype=np.float32)
        if excluded is not None and not bool(excluded.all()):
            seen = (~grow_mask(excluded, _RIM * core_px)).cpu().numpy().astype(np.float32)
        self._means = [_local_mean(image, seen, s * core_px) for s in _SCALES]
        self._deviation = [max(1.4826 * float(np.median(np.abs(m - np.median(m)))), 1e-6) for m in self._means]
        within, around = (
            np.log(np.maximum(_local_mean(np.clip(image, -_LIMIT, _LIMIT) ** 2, seen, size * core_px), 1e-6))
            for size in _VARIANCE_SCALES
        )
        self._rough = within - around
        self._slope = np.log(np.maximum(np.hypot(*np.gradient(self._means[1])), 1e-6)) - 0.5 * around

    def at(self, place: np.ndarray, sign: int) -> np.ndarray:
        """Statistics at pixels yx `(n, 2)`, of the inverted micrograph where `sign` is -1, `(n, 5)`."""
        y, x = np.rint(place).astype(int).T if len(place) else (np.zeros(0, int), np.zeros(0, int))
        means = [sign * np.arcsinh(m[y, x] / d) for m, d in zip(self._means, self._deviation, strict=True)]
        return np.stack([*means, self._rough[y, x], self._slope[y, x]], axis=1)


def _local_mean(plane: np.ndarray, seen: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of what is seen; where nothing is, that of all."""
    share = gaussian_filter(seen, sigma)
    whole = gaussian_filter(plane, sigma) if share.min() < _LEAST_SEEN else plane
    return np.asarray(
        np.where(share < _LEAST_SEEN, whole, gaussian_filter(plane * seen, sigma) / np.maximum(share, _LEAST_SEEN))
    )


def _inside(place: np.ndarray, shape: Sequence[int], margin_px: float) -> np.ndarray:
    return np.asarray(_from_border(place, shape) >= margin_px)


def _from_border(place: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Pixels from places `(n, 2)` to the nearest edge of an image, `(n,)`."""
    return np.asarray(np.minimum(place, np.asarray(shape) - 1 - place).min(1, initial=np.inf))
