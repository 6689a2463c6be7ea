"""One micrograph: the evidence for each diameter, and all places where a particle might be.

Candidates come with the local statistics that tell particles from ice, carbon and aggregates; nothing is
decided here, since thresholds belong to all micrographs together.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.picking.exclusion import excluded_regions, fill_excluded
from cryoloom.picking.finders import LOWEST, Finder, Peaks, round_finder
from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.peaks import find_peaks
from cryoloom.picking.prepare import Prepared, prepare_micrograph
from cryoloom.picking.radial import Normal, normal_equations
from cryoloom.picking.reduce import Reduced, flatten_background, reduce_micrograph
from cryoloom.picking.scale import count_votes
from cryoloom.picking.template import RoundTemplate


@dataclass(frozen=True)
class Candidates:
    """Peaks of one micrograph, the highest first.

    Attributes
    ----------
    position_px
        Pixels yx of the micrograph, `(n, 2)`.
    score
        Standard deviations of the background, `(n,)`.
    density, texture
        Mean and standard deviation of the flattened image within the particle's circle, `(n,)`.
    contested
        True where a higher decoy lies within the distance that peaks keep, `(n,)`.
    decoys
        Scores of the peaks of the inverted map that no higher candidate contests, `(m,)`.
    labels
        Further columns (`psi`, `class_number`).
    """

    position_px: np.ndarray
    score: np.ndarray
    density: np.ndarray
    texture: np.ndarray
    contested: np.ndarray
    decoys: np.ndarray
    labels: dict[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """Plain lists for the journal of a job."""
        return {
            "position": np.round(self.position_px, 2),
            "score": np.round(self.score, 4),
            "density": np.round(self.density, 4),
            "texture": np.round(self.texture, 4),
            "contested": self.contested,
            "decoys": np.round(self.decoys, 4),
            "labels": {name: np.round(column, 4) for name, column in self.labels.items()},
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Candidates":
        """Inverse of `as_json`."""
        return cls(
            position_px=np.asarray(stored["position"], dtype=np.float64).reshape(-1, 2),
            score=np.asarray(stored["score"], dtype=np.float64),
            density=np.asarray(stored["density"], dtype=np.float64),
            texture=np.asarray(stored["texture"], dtype=np.float64),
            contested=np.asarray(stored["contested"], dtype=bool),
            decoys=np.asarray(stored["decoys"], dtype=np.float64),
            labels={name: np.asarray(column) for name, column in stored["labels"].items()},
        )


def survey_scales(
    micrograph: Tensor, pixel_size: float, transfer: Transfer | None, diameters: Sequence[float], *, exclude: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Votes of one micrograph for each diameter as if particles were dark, and as if bright; see `scale`."""
    reduced = reduce_micrograph(micrograph, pixel_size, diameters[0] / 8, dark=True)
    px = reduced.mean_pixel_size
    image = reduced.image
    mask = excluded_regions(reduced) if exclude else torch.zeros_like(image, dtype=torch.bool)
    flat = flatten_background(fill_excluded(image, mask, px), diameters[-1] / px)
    flat = torch.where(mask, torch.zeros_like(flat), flat)
    spectrum = Spectrum(flat, reduced.pixel_size, transfer, margin_px=int(0.5 * diameters[-1] / px))
    return count_votes(spectrum, diameters, px, ~mask)


def search_micrograph(
    image: Tensor,
    pixel_size: float,
    transfer: Transfer | None,
    diameter: float,
    *,
    dark: bool,
    distance: float,
    margin: float,
    exclude: bool = False,
    beside: float = 0.5,
    find: Finder | None = None,
) -> Candidates:
    """All candidates on one micrograph.

    Parameters
    ----------
    image, pixel_size, transfer, diameter, dark, exclude, beside
        As for `prepare.prepare_micrograph`.
    distance, margin
        Å, smallest distance of two candidates, and of a candidate from the edge.
    find
        Finds the peaks; by default a ball of `diameter` is looked for.
    """
    prepared = prepare_micrograph(image, pixel_size, transfer, diameter, dark=dark, exclude=exclude, beside=beside)
    peaks = (find or round_finder(RoundTemplate.ball(diameter)))(prepared, distance / prepared.pixel_size)
    return candidates_of(prepared, peaks, diameter, distance=distance, margin=margin)


def candidates_of(prepared: Prepared, peaks: Peaks, diameter: float, *, distance: float, margin: float) -> Candidates:
    """Peaks that may be particles, what is around them, and the decoys beside them; arguments as for the search."""
    reduced, excluded, reach = prepared.reduced, prepared.excluded, distance / prepared.pixel_size
    place, value = peaks.position, peaks.value
    decoy_place, decoys = find_peaks(peaks.decoy, reach, lowest=LOWEST)
    contested, decoys_kept = compete(place, value, decoy_place, decoys, reach)
    inside = _usable(place, reduced, margin, excluded)
    decoys = decoys[_usable(decoy_place, reduced, margin, excluded) & decoys_kept]
    place, value, contested = place[inside], value[inside], contested[inside]
    labels = {name: column[inside] for name, column in peaks.labels.items()}
    density, texture = circle_statistics(reduced, place, diameter)
    position = reduced.to_micrograph(torch.from_numpy(place)).numpy()
    return Candidates(position, value, density, texture, contested, decoys, labels)


def measure_shape(
    image: Tensor,
    pixel_size: float,
    transfer: Transfer | None,
    diameter: float,
    position_px: np.ndarray,
    *,
    dark: bool,
    distance: float,
    exclude: bool = False,
) -> Normal:
    """What the picks of a micrograph say about the size and the profile of the particle; see `radial`.

    `position_px` `(n, 2)` are pixels yx of the micrograph; picks closer than `distance` Å to the edge are left out.
    With `exclude`, carbon, crystals and aggregates are filled, whose steps would hide how far particles reach.
    """
    reduced = reduce_micrograph(image, pixel_size, diameter / 12, dark=dark)
    if exclude:
        mask = excluded_regions(reduced, least_diameter=diameter)
        filled = fill_excluded(reduced.image, mask, reduced.mean_pixel_size)
        reduced = dataclasses.replace(reduced, image=filled)
    place = reduced.from_micrograph(torch.from_numpy(position_px)).numpy()
    return normal_equations(reduced, transfer, place[_usable(place, reduced, distance, None)], diameter)


def compete(
    place: np.ndarray, value: np.ndarray, decoy_place: np.ndarray, decoys: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates a higher decoy contests within `reach` pixels, and which decoys no higher candidate contests.

    In noise both sides lose alike, so their counts stay comparable; beside a particle its own dark fringe does
    not count as a decoy.
    """
    contested, kept = np.zeros(len(value), dtype=bool), np.ones(len(decoys), dtype=bool)
    if len(value) and len(decoys):
        near = cKDTree(place).sparse_distance_matrix(cKDTree(decoy_place), reach, output_type="coo_matrix")
        higher = value[near.row] > decoys[near.col]
        kept[near.col[higher]] = False
        contested[near.row[~higher]] = True
    return contested, kept


def circle_statistics(reduced: Reduced, place: np.ndarray, diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the image in circles, relative to the image's own robust deviation.

    The image is flattened over four diameters without limiting its values, so that what is much denser or rougher
    than a particle shows.
    """
    px = reduced.mean_pixel_size
    flat = flatten_background(reduced.image, 4 * diameter / px, limit=1e3)
    flat = flat / (1.4826 * flat.abs().median().clamp_min(1e-6))
    image = flat.cpu().numpy()
    r = max(2, int(round(0.4 * diameter / px)))
    dy, dx = np.mgrid[-r : r + 1, -r : r + 1]
    inside = dy**2 + dx**2 <= r * r
    dy, dx = dy[inside], dx[inside]
    y = np.clip(np.rint(place[:, :1]).astype(int) + dy, 0, image.shape[0] - 1)
    x = np.clip(np.rint(place[:, 1:]).astype(int) + dx, 0, image.shape[1] - 1)
    values = image[y, x].astype(np.float64)
    return values.mean(1), values.std(1)


def _usable(place: np.ndarray, reduced: Reduced, margin: float, excluded: Tensor | None) -> np.ndarray:
    """Places at least `margin` Å from the edges and not in an excluded region."""
    h, w = reduced.image.shape
    my, mx = margin / reduced.pixel_size[0], margin / reduced.pixel_size[1]
    y, x = place[:, 0], place[:, 1]
    usable = (y >= my) & (y <= h - 1 - my) & (x >= mx) & (x <= w - 1 - mx)
    if excluded is not None and len(place):
        usable &= ~excluded.cpu().numpy()[np.rint(y).astype(int), np.rint(x).astype(int)]
    return usable
