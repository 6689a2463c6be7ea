"""What labels say: which micrographs they are on, the size of the particle, and whether it is dark.

Balls of several diameters are looked for, seen through the CTF, and the one that answers best at the labels has the
size of the dense part of the particle. The sign of the answer is its contrast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, PickSet
from cryoloom.data.names import match_rows
from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.peaks import normalise_by_background
from cryoloom.picking.reduce import flatten_background, reduce_micrograph
from cryoloom.picking.template import RoundTemplate


@dataclass(frozen=True)
class Answers:
    """Sum over the labels of one micrograph of the answers of balls `(n,)`, and the number of labels."""

    total: np.ndarray
    n: int


def labels_of(micrographs: MicrographSet, labels: PickSet) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Places in pixels yx `(n, 2)` and probabilities `(n,)` of the labels on each micrograph that has some, by row.

    Raises
    ------
    InputError
        If no label is on any of the micrographs.
    """
    weight = np.ones(len(labels)) if labels.probability is None else np.nan_to_num(labels.probability)
    row, known = match_rows(micrographs.path, labels.micrograph)
    found = {int(r): np.flatnonzero((row == r) & (weight > 0)) for r in np.unique(row[known])}
    found = {r: own for r, own in found.items() if len(own)}
    if not found:
        raise InputError("None of the labels is on these micrographs; give the micrographs on which they were placed.")
    return {row: (labels.position_px[own], weight[own]) for row, own in found.items()}


def answers_at_labels(
    image: Tensor,
    pixel_size: float,
    transfer: Transfer | None,
    place_px: np.ndarray,
    weight: np.ndarray,
    diameters: Sequence[float],
) -> Answers:
    """How balls of several diameters answer at the labels of one micrograph, positive if particles are dark.

    Parameters
    ----------
    image
        `(h, w)`, as it is on the disk.
    pixel_size
        Å per pixel.
    transfer
        CTF, or None.
    place_px, weight
        Labels, pixels yx `(n, 2)`, and what each counts `(n,)`.
    diameters
        Å, rising.
    """
    reduced = reduce_micrograph(image, pixel_size, diameters[0] / 8, dark=True)
    px = reduced.mean_pixel_size
    flat = flatten_background(reduced.image, diameters[-1] / px)
    spectrum = Spectrum(flat, reduced.pixel_size, transfer, margin_px=int(0.5 * diameters[-1] / px))
    place = np.rint(reduced.from_micrograph(torch.from_numpy(np.asarray(place_px, dtype=np.float64))).numpy())
    h, w = flat.shape
    y, x = np.clip(place.astype(int), 0, (h - 1, w - 1)).T
    total = np.zeros(len(diameters))
    for i, diameter in enumerate(diameters):
        (score,) = normalise_by_background(spectrum.score_map(RoundTemplate.ball(diameter)))
        total[i] = float((score[y, x].cpu().numpy() * weight).sum())
    return Answers(total, len(place))


def size_and_contrast(answers: Sequence[Answers], diameters: Sequence[float]) -> tuple[float, bool]:
    """Diameter in Å of the ball that answers best at all labels, and whether particles are dark."""
    total = np.sum([a.total for a in answers], axis=0)
    best = int(np.abs(total).argmax())
    return float(diameters[best]), bool(total[best] > 0)
