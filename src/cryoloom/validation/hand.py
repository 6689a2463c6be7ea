"""The hand of a map from its alpha helices, with its confidence.

Images cannot choose between a map and its mirror image, but proteins can: their helices are right-handed. An ideal
helix and its mirror image are laid over the map in all directions (local correlation behind a cylinder, Roseman 2003,
Ultramicroscopy 94). At the places where either fits best, the right-handed one must fit better; each
place is one independent witness, and together they give a t-value. Below about 5.5 Å, the pitch of a helix, grooves are
not resolved and the witnesses cancel: the answer is then `unsure`, as it is where there are few helices.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, fourier_crop, good_size, image_to_dft, irfftn, rfftn
from cryoloom.geometry import direction_grid, grid_rotations
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.spectrum import radial_power
from cryoloom.validation.helix import helix_atoms, helix_density

SURE = 5.0
"""t-value from which on the hand is called."""

BLIND = 6.5
"""Å; coarser maps are not asked."""

FINEST, LARGEST = 3.6, 80
"""Å at which finer maps are asked, and voxels of the largest cube: the middle of a large particle is enough."""

LENGTH, RADIUS = 16.0, 5.0
"""Å, of the cylinder in which a helix is compared."""

WITNESSES = (12, 150)
"""Fewest places that can decide, and most that are asked."""


@dataclass(frozen=True)
class HandCall:
    """What the helices say about the hand.

    Attributes
    ----------
    call
        `right` (the map shows the hand of proteins), `mirrored`, or `unsure`.
    t
        Mean over the witnesses of the advantage of the right-handed helix, in standard errors.
    n_witnesses
        Places that were asked.
    advantage
        Mean advantage in correlation.
    reason
        One sentence.
    """

    call: str
    t: float
    n_witnesses: int
    advantage: float
    reason: str


def call_hand(volume: Tensor, pixel_size: float, mask: Tensor, resolution: float) -> HandCall:
    """Call the hand of a map `(n, n, n)` from its helices.

    Parameters
    ----------
    volume
        Map, protein bright; its radial spectrum does not matter.
    pixel_size
        Å.
    mask
        Where the particle is, in [0, 1].
    resolution
        Å to which the map is believed.
    """
    if resolution > BLIND:
        return HandCall("unsure", 0.0, 0, 0.0, f"At {resolution:.1f} Å helices show no hand.")
    working = max(resolution, FINEST)
    cube, spacing = _working_cube(volume, pixel_size, mask, working)
    inside = cube[1] > 0.5
    right, left = _best_fits(cube[0], spacing, working)
    advantage = _witnesses(right, left, inside.numpy(), spacing)
    n = len(advantage)
    if n < WITNESSES[0]:
        return HandCall("unsure", 0.0, n, 0.0, f"Only {n} places of the map look like a helix.")
    t = float(advantage.mean() / max(advantage.std(ddof=1) / math.sqrt(n), 1e-12))
    mean = float(advantage.mean())
    if abs(t) < SURE:
        said = f"{n} places that look like helices do not agree on a hand (t = {t:.1f})."
        return HandCall("unsure", t, n, mean, said)
    call = "right" if t > 0 else "mirrored"
    hand = "right-handed" if t > 0 else "left-handed: the map is the mirror image"
    return HandCall(call, t, n, mean, f"Helices at {n} places are {hand} (t = {t:.1f}).")


def _working_cube(volume: Tensor, pixel_size: float, mask: Tensor, resolution: float) -> tuple[Tensor, float]:
    """Flattened map and mask around the middle of the particle, resampled to 0.4 of the resolution, `(2, m, m, m)`."""
    box = volume.shape[0]
    where = (mask > 0.5).nonzero()
    low, high = where.min(0).values, where.max(0).values
    side = min(
        box,
        good_size(int((high - low).max()) + math.ceil(LENGTH / pixel_size)),
        good_size(math.floor(LARGEST * 0.4 * resolution / pixel_size)),
    )
    centre = (low + high) // 2
    start = [int(min(max(int(c) - side // 2, 0), box - side)) for c in centre]
    part = tuple(slice(s, s + side) for s in start)
    smaller = min(side, good_size(math.ceil(side * pixel_size / (0.4 * resolution))))
    inside = fourier_crop(mask[part].float(), (smaller,) * 3)
    spacing = pixel_size * side / smaller
    dft = crop_dft(image_to_dft((volume * mask)[part].float(), 3), (side,) * 3, (smaller,) * 3)
    density = dft_to_image(dft, (smaller,) * 3)
    return torch.stack([_flattened(density, spacing, resolution), inside]), spacing


def _flattened(density: Tensor, spacing: float, resolution: float) -> Tensor:
    """Equal power in every shell up to the resolution, less at the lowest frequencies, which know no hand."""
    n = density.shape[0]
    power = radial_power(density).clamp_min(1e-30)
    k = radial_frequency((n,) * 3, spacing)
    index = (k * n * spacing).round().long().clamp_max(len(power) - 1)
    return irfftn(rfftn(density, 3) * power.rsqrt().float()[index] * _band(k, resolution), (n,) * 3)


def _band(k: Tensor, resolution: float) -> Tensor:
    """Soft band between 1/20 1/Å and the resolution."""
    rise = (k * 20.0).clamp(0, 1) ** 2
    fall = 0.5 + 0.5 * torch.cos(math.pi * ((k * resolution - 0.8) / 0.4).clamp(0, 1))
    return rise * fall


def _best_fits(density: Tensor, spacing: float, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Largest local correlation over all directions with the right-handed helix and with its mirror image."""
    n = density.shape[0]
    atoms = helix_atoms(11)
    first, second = rfftn(density, 3), rfftn(density**2, 3)
    small = min(n, 2 * math.ceil((0.5 * LENGTH + RADIUS) / spacing) + 3)
    band = _band(radial_frequency((small,) * 3, spacing), resolution)
    axis = (torch.arange(small) - small // 2) * spacing
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], dim=-1)  # xyz
    directions = direction_grid(3)
    mirror, over = np.diag([1.0, 1.0, -1.0]), np.diag([1.0, -1.0, -1.0])
    best = [np.full((n,) * 3, -1.0, np.float32) for _ in range(2)]
    # A cylinder is the same for a direction and its opposite, so they are done together.
    for rotation in grid_rotations(directions[directions[:, 2] >= 0]).numpy():
        along = grid @ torch.from_numpy(rotation[:, 2]).float()
        across = ((grid**2).sum(-1) - along**2).clamp_min(0).sqrt()
        cylinder = ((along.abs() <= 0.5 * LENGTH) & (across <= RADIUS)).float()
        count = float(cylinder.sum())
        window = _conjugate(cylinder, n)
        mean = irfftn(first * window, (n,) * 3) / count
        variance = irfftn(second * window, (n,) * 3) / count - mean**2
        # Places of little contrast say nothing; they must not win by a small denominator.
        norm = (variance.clamp_min(0.25 * float(variance.mean())) * count).rsqrt()
        for side, positions in enumerate((atoms, atoms @ mirror)):
            for turned in (positions, positions @ over):
                raw = helix_density(turned, rotation, small, spacing, 0.5)
                template = irfftn(rfftn(raw, 3) * band, (small,) * 3) * cylinder
                template = (template - template.sum() / count) * cylinder
                template = template / template.norm()
                score = irfftn(first * _conjugate(template, n), (n,) * 3) * norm
                np.maximum(best[side], score.numpy(), out=best[side])
    return best[0], best[1]


def _padded(small: Tensor, n: int) -> Tensor:
    """A small cube in a larger one, its centre at the first voxel."""
    out = torch.zeros((n,) * 3)
    m = small.shape[0]
    out[:m, :m, :m] = small
    return out.roll((-(m // 2),) * 3, (0, 1, 2))


def _conjugate(small: Tensor, n: int) -> Tensor:
    return rfftn(_padded(small, n), 3).conj()


def _witnesses(right: np.ndarray, left: np.ndarray, inside: np.ndarray, spacing: float) -> np.ndarray:
    """Advantage of the right hand at the best places, no two of them nearer than about 6 Å."""
    both = np.maximum(right, left)
    reach = 2 * math.ceil(3.0 / spacing) + 1
    peak = (both == maximum_filter(both, reach)) & inside & (both > 0)
    place = np.flatnonzero(peak)
    if not len(place):
        return np.zeros(0)
    order = place[np.argsort(-both.ravel()[place])]
    # The best tenth of all places, so that loops and sheets have little say.
    most = int(np.clip(len(order) // 5, WITNESSES[0], WITNESSES[1]))
    chosen = order[:most]
    return (right.ravel()[chosen] - left.ravel()[chosen]).astype(np.float64)
