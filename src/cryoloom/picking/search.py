"""One micrograph: the evidence for each diameter, and all places where a particle might be.

Candidates come with the local statistics that tell particles from ice, carbon and aggregates; nothing is
decided here, since thresholds belong to all micrographs together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.peaks import find_peaks
from cryoloom.picking.reduce import Reduced, flatten_background, reduce_micrograph
from cryoloom.picking.scale import tail_weight

LOWEST = 2.0  # candidates below this many standard deviations of the background are not kept


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
    decoys
        Scores of the peaks of the inverted map, `(m,)`.
    labels
        Further columns (`psi`, `class_number`).
    """

    position_px: np.ndarray
    score: np.ndarray
    density: np.ndarray
    texture: np.ndarray
    decoys: np.ndarray
    labels: dict[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """Plain lists for the journal of a job."""
        return {
            "position": np.round(self.position_px, 2),
            "score": np.round(self.score, 4),
            "density": np.round(self.density, 4),
            "texture": np.round(self.texture, 4),
            "decoys": np.round(self.decoys, 4),
            "labels": {name: np.round(column, 4) for name, column in self.labels.items()},
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Candidates":
        """Inverse of `as_json`."""
        return cls(
            np.asarray(stored["position"], dtype=np.float64).reshape(-1, 2),
            *(np.asarray(stored[name], dtype=np.float64) for name in ("score", "density", "texture", "decoys")),
            {name: np.asarray(column) for name, column in stored["labels"].items()},
        )


def survey_scales(
    image: Tensor, pixel_size: float, transfer: Transfer | None, diameters: Sequence[float], *, dark: bool
) -> np.ndarray:
    """Evidence for each diameter from one micrograph, `(n,)`; see `scale.tail_weight`."""
    reduced = reduce_micrograph(image, pixel_size, diameters[0] / 8, dark=dark)
    flat = flatten_background(reduced.image, diameters[-1] / reduced.mean_pixel_size)
    margin = int(0.5 * diameters[-1] / reduced.mean_pixel_size)
    return tail_weight(Spectrum(flat, reduced.pixel_size, transfer, margin_px=margin), diameters)


def search_micrograph(
    image: Tensor,
    pixel_size: float,
    transfer: Transfer | None,
    diameter: float,
    *,
    dark: bool,
    distance: float,
    margin: float,
    matcher: Callable[[Spectrum], tuple[Tensor, dict[str, Tensor]]] | None = None,
) -> Candidates:
    """All candidates on one micrograph.

    Parameters
    ----------
    image
        `(h, w)`, as it is on the disk.
    pixel_size
        Å per pixel.
    transfer
        CTF, or None.
    diameter
        Å.
    dark
        Whether particles are darker than what is around them.
    distance, margin
        Smallest distance of two candidates, and of a candidate from the edge, in diameters.
    matcher
        Makes the score map (and label maps) from the prepared spectrum; by default the round filter.
    """
    reduced = reduce_micrograph(image, pixel_size, diameter / 16, dark=dark)
    px = reduced.mean_pixel_size
    flat = flatten_background(reduced.image, 2 * diameter / px)
    spectrum = Spectrum(flat, reduced.pixel_size, transfer, margin_px=int(diameter / px))
    if matcher is None:
        score, labels = spectrum.score_map(diameter), {}
    else:
        score, labels = matcher(spectrum)
    score = normalise_by_background(score)
    place, value = find_peaks(score, distance * diameter / px, lowest=LOWEST)
    decoy_place, decoys = find_peaks(-score, distance * diameter / px, lowest=LOWEST)
    inside = _away_from_edges(place, reduced, margin * diameter)
    decoys = decoys[_away_from_edges(decoy_place, reduced, margin * diameter)]
    place, value = place[inside], value[inside]
    density, texture = circle_statistics(reduced, place, diameter)
    y, x = np.rint(place).astype(int).T if len(place) else (np.zeros(0, int), np.zeros(0, int))
    columns = {name: plane[y, x].cpu().numpy() for name, plane in labels.items()}
    position = reduced.to_micrograph(torch.from_numpy(place)).numpy()
    return Candidates(position, value, density, texture, decoys, columns)


def normalise_by_background(score: Tensor) -> Tensor:
    """Shift and scale so that the background, judged by the lower half of all values, has mean 0 and deviation 1."""
    sample = score.reshape(-1)[:: max(1, score.numel() // 200_000)]
    low, middle = torch.quantile(sample, torch.tensor([0.1587, 0.5], device=score.device))
    return (score - middle) / (middle - low).clamp_min(1e-6)


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


def _away_from_edges(place: np.ndarray, reduced: Reduced, margin: float) -> np.ndarray:
    h, w = reduced.image.shape
    my, mx = margin / reduced.pixel_size[0], margin / reduced.pixel_size[1]
    y, x = place[:, 0], place[:, 1]
    return (y >= my) & (y <= h - 1 - my) & (x >= mx) & (x <= w - 1 - mx)
