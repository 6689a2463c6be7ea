"""From oriented scores to curves: follow each ridge from its clearest place to both ends.

A step goes a quarter of a diameter on, in the direction that the scores of the directions near the present one tell,
and is centred across the filament. Directions are kept apart, so a filament that crosses another one is followed
through. A trace ends where the score falls below half of what is typical of the filament: there half of the template
lies beyond the end. Traces that lie on a clearer one in the same direction are dropped.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates, maximum_filter
from scipy.stats import norm

from cryoloom.picking.filaments.oriented import N_ANGLES, Oriented

_STEP = 0.25  # diameters
_END = 0.5  # of the typical score
_TYPICAL = 0.7  # quantile of the scores along the trace so far that is called typical
_BESIDE = 0.75  # diameters; within this distance and nearly parallel, it is the same filament
_PARALLEL = math.radians(30)
_SEED, _LEAST_SIGMA = 3.5, 3.0  # score at which a trace begins, and at which it ends at the latest: that of noise
_INDEPENDENT = 2.5  # diameters between places whose templates hardly overlap
_MOST = 400  # traces on one micrograph


@dataclass(frozen=True)
class Filament:
    """One traced filament.

    Attributes
    ----------
    points
        Along the axis, about a quarter of a diameter apart, pixels yx of the searched image, `(n, 2)`.
    score
        Mean score along it.
    """

    points: np.ndarray
    score: float

    @property
    def length_px(self) -> float:
        """Length of the curve."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())


def certain_score(shape: tuple[int, ...], false_places: float) -> float:
    """Score that pure noise exceeds at `false_places` places of a map of this shape, all values being independent.

    Neighbours are not independent, so noise exceeds it less often.
    """
    return float(norm.isf(min(0.5, false_places / math.prod(shape))))


def trace_ridges(
    oriented: Oriented, diameter: float, *, certain: float, least_length: float, bend: float
) -> list[Filament]:
    """All filaments of a micrograph, the clearest first.

    Parameters
    ----------
    diameter
        Å.
    certain
        Score that noise hardly ever reaches; what a filament as a whole has to reach, its score times the root of the
        number of its independent pieces.
    least_length
        Å.
    bend
        Largest change of direction over one diameter of length, radians.
    """
    volume = oriented.score.cpu().numpy()
    px = diameter / oriented.pixel_size
    ridges = _Ridges(volume, px, bend)
    best, angle = volume.max(0), volume.argmax(0)
    peaks = (best == maximum_filter(best, max(3, int(px / 2)))) & (best > _SEED)
    places = np.argwhere(peaks)
    places = places[np.argsort(-best[tuple(places.T)], kind="stable")]
    found: list[Filament] = []
    for y, x in places[: 20 * _MOST]:
        if len(found) >= _MOST:
            break
        direction = math.pi * angle[y, x] / N_ANGLES
        if any(_same(other, np.array([y, x]), direction, px) for other in found):
            continue
        filament = ridges.follow(np.array([y, x], np.float64), direction)
        if filament.length_px < least_length / oriented.pixel_size or _repeats(filament, found, px):
            continue
        if filament.score * max(1.0, filament.length_px / (_INDEPENDENT * px)) ** 0.5 < certain:
            continue
        found.append(filament)
    return found


class _Ridges:
    """Scores between pixels and directions, and steps along them; `px` is the diameter in pixels."""

    def __init__(self, volume: np.ndarray, px: float, bend: float) -> None:
        # directions repeat after half a turn
        self._volume = np.concatenate([volume[-2:], volume, volume[:2]])
        self._shape = volume.shape[1:]
        self._px = px
        self._turns = np.linspace(-1, 1, 9) * bend * _STEP * 2
        self._offsets = np.linspace(-0.15, 0.15, 7) * px

    def score(self, place: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Scores at places yx `(..., 2)` in directions `(...)`; 0 off the micrograph."""
        at = np.mod(direction, math.pi) * N_ANGLES / math.pi + 2
        coordinates = np.stack([at, place[..., 0], place[..., 1]])
        return map_coordinates(self._volume, coordinates, order=1, mode="constant", cval=0.0)

    def follow(self, start: np.ndarray, direction: float) -> Filament:
        """The filament through a place."""
        first = float(self.score(start[None], np.array([direction]))[0])
        ahead, values = self._one_way(start, direction, [first])
        back, values = self._one_way(start, direction + math.pi, values)
        points = np.concatenate([back[::-1], start[None], ahead])
        return Filament(self._smooth(points), float(np.mean(values)))

    def _one_way(self, start: np.ndarray, direction: float, values: list[float]) -> tuple[np.ndarray, list[float]]:
        place, points, values = start, [], list(values)
        step = _STEP * self._px
        for _ in range(int(4 * sum(self._shape) / step)):
            ways = direction + self._turns
            across = np.stack([np.cos(ways), -np.sin(ways)], -1)
            ahead = place + step * np.stack([np.sin(ways), np.cos(ways)], -1)
            trial = ahead[:, None] + self._offsets[:, None] * across[:, None]
            # a mild preference for going straight decides where the scores do not
            straight = 1 - 0.02 * (self._turns / self._turns[-1]) ** 2
            scores = self.score(trial, np.broadcast_to(ways[:, None], trial.shape[:2])) * straight[:, None]
            i, j = np.unravel_index(int(scores.argmax()), scores.shape)
            value = float(scores[i, j])
            if value < max(_END * float(np.quantile(values, _TYPICAL)), _LEAST_SIGMA):
                break
            moved = trial[i, j]
            if not ((moved >= 0) & (moved <= np.array(self._shape) - 1)).all():
                break
            direction += 0.5 * float(_wrapped(math.atan2(*(moved - place)) - direction)) + 0.5 * float(self._turns[i])
            place = moved
            points.append(place)
            values.append(value)
        return np.asarray(points).reshape(-1, 2), values

    def _smooth(self, points: np.ndarray) -> np.ndarray:
        """The curve without the jitter of the steps; its ends stay."""
        if len(points) < 5:
            return points
        ends = 2 * points[0] - points[1:5][::-1], 2 * points[-1] - points[-5:-1][::-1]
        return gaussian_filter1d(np.concatenate([ends[0], points, ends[1]]), 2.0, axis=0)[4:-4]


def _same(filament: Filament, place: np.ndarray, direction: float, px: float) -> bool:
    """Whether a place lies on a filament that runs in nearly that direction there."""
    distance = np.linalg.norm(filament.points - place, axis=1)
    i = int(distance.argmin())
    if distance[i] > _BESIDE * px:
        return False
    return abs(_half_turn(_direction_at(filament.points, i) - direction)) < _PARALLEL


def _repeats(filament: Filament, others: list[Filament], px: float) -> bool:
    """Whether more than half of a filament lies on clearer ones."""
    if not others:
        return False
    along = [_direction_at(filament.points, i) for i in range(len(filament.points))]
    on = [any(_same(other, p, a, px) for other in others) for p, a in zip(filament.points, along, strict=True)]
    return bool(np.mean(on) > 0.5)


def _direction_at(points: np.ndarray, i: int) -> float:
    a, b = points[max(i - 2, 0)], points[min(i + 2, len(points) - 1)]
    return math.atan2(*(b - a))


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _half_turn(angle: float) -> float:
    return (angle + math.pi / 2) % math.pi - math.pi / 2
