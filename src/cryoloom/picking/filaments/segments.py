"""Filaments cut into segments, with what their curve tells of the pose of each."""

from dataclasses import dataclass

import numpy as np

from cryoloom.picking.filaments.trace import Filament


@dataclass(frozen=True)
class Segments:
    """Segments of the filaments of one micrograph.

    Attributes
    ----------
    position_px
        Pixels yx, `(n, 2)`.
    filament
        Number of the filament, from 1, `(n,)` int64.
    direction
        Of the axis in the image, radians from +x towards +y, `(n,)`.
    along
        Å from the start of the filament, `(n,)`.
    score
        Of its filament, `(n,)`.
    """

    position_px: np.ndarray
    filament: np.ndarray
    direction: np.ndarray
    along: np.ndarray
    score: np.ndarray


def cut_filaments(filaments: list[Filament], pixel_size: float, spacing: float) -> Segments:
    """Cut filaments at equal steps of arc length, beginning half a step from the start.

    Parameters
    ----------
    filaments
        Points in pixels of an image.
    pixel_size
        Å per pixel of that image.
    spacing
        Å between segments.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for number, filament in enumerate(filaments, start=1):
        arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(filament.points, axis=0), axis=1))] * pixel_size
        along = np.arange(0.5 * spacing, arc[-1], spacing)
        if not len(along):
            continue
        place = _at(filament.points, arc, along)
        reach = 0.5 * spacing + 1e-6
        tangent = _at(filament.points, arc, along + reach) - _at(filament.points, arc, along - reach)
        parts.append(
            (
                place,
                np.full(len(along), number),
                np.arctan2(tangent[:, 0], tangent[:, 1]),
                along,
                np.full(len(along), filament.score),
            )
        )
    if not parts:
        none = np.zeros(0)
        return Segments(np.zeros((0, 2)), np.zeros(0, np.int64), none, none, none)
    place, belongs, direction, arcs, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Segments(place, belongs.astype(np.int64), direction, arcs, score)


def _at(points: np.ndarray, arc: np.ndarray, along: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(along, arc, points[:, axis]) for axis in range(2)], axis=-1)
