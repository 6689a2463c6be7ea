"""How large the particle is, and the round template that fits it best, from the mean of picked particles.

The mean of all picks of a micrograph is round but for noise: its transform is the CTF times that of the mean density
of the particle over all orientations. That density is a mixture of balls. The masses of balls of many diameters are
found for all micrographs together by least squares weighted with the noise, under the bound that they are positive
(Lawson and Hanson 1974); balls much larger than the particle may be negative, since other particles keep their
distance. The radius that holds nearly all of the mass is the extent.

Such a density falls from the centre outwards. Shells (ferritins, capsids) do not: the same is tried with densities that
rise up to a radius and fall from there on, mixtures of hollow balls, and the best of them is taken where it fits
much better than noise allows and leaves a hollow.

Picks that are off centre widen the result a little; the error is on the safe side for boxes and masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from cryoloom.fourier import frequency_grid, half_spectrum_weights
from cryoloom.picking.matched import Transfer
from cryoloom.picking.reduce import Reduced, flatten_background
from cryoloom.picking.template import RoundTemplate, ball_projection

_WINDOW = 4.0  # diameters, edge of the boxes that are averaged
_SMALLEST, _STEP, _N_BALLS = 0.5, 1.122, 18  # diameters tried, in units of the filter's
_HOLES_FROM = 1.5  # diameters; larger balls may be negative
_HIGHEST, _FINEST = 6.0, 0.4  # largest frequency: over the diameter, and over the pixel size
_LEAST_PICKS = 30
_MOST_HOLLOW = 7  # balls that may be hollows
_LEAST_GAIN, _LEAST_DIP = 30.0, 0.4  # of chi squared, and of the density, below which a particle is taken as solid


@dataclass(frozen=True)
class Normal:
    """Normal equations of one micrograph: `matrix (j, j)`, `vector (j,)`, and how many picks they hold."""

    matrix: np.ndarray
    vector: np.ndarray
    n: int

    def as_json(self) -> dict[str, Any]:
        """Plain lists for the journal of a job."""
        return {"matrix": self.matrix.tolist(), "vector": self.vector.tolist(), "n": self.n}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Normal":
        """Inverse of `as_json`."""
        return cls(np.asarray(stored["matrix"]), np.asarray(stored["vector"]), int(stored["n"]))


def ball_diameters(diameter: float) -> np.ndarray:
    """Diameters in Å of the balls that are mixed, `(j,)`."""
    return diameter * _SMALLEST * _STEP ** np.arange(_N_BALLS)


def normal_equations(reduced: Reduced, transfer: Transfer | None, place: np.ndarray, diameter: float) -> Normal:
    """What the picks of one micrograph say about the mixture.

    Parameters
    ----------
    reduced
        Micrograph with bright particles.
    transfer
        CTF, or None.
    place
        Picks, pixels yx of the reduced image, `(n, 2)`.
    diameter
        Å of the filter that found them.
    """
    px = reduced.mean_pixel_size
    diameters = ball_diameters(diameter)
    flat = flatten_background(reduced.image, 4 * diameter / px, limit=10.0).cpu().numpy()
    n = 2 * round(0.5 * _WINDOW * diameter / px)
    padded = np.pad(flat, n // 2)
    axis = (np.arange(n) - n // 2) / (n / 2)
    edge = np.clip((1 - np.hypot(axis[:, None], axis[None, :])) / 0.2, 0, 1)
    taper = 0.5 - 0.5 * np.cos(np.pi * edge)
    mean, power = np.zeros((n, n)), np.zeros((n, n // 2 + 1))
    for y, x in np.rint(place).astype(int):
        window = padded[y : y + n, x : x + n] * taper
        mean += window
        power += np.abs(np.fft.rfft2(window)) ** 2
    count = max(len(place), 1)
    seen = np.fft.rfft2(np.fft.ifftshift(mean)).real / count
    grid = frequency_grid((n, n), 1.0) / torch.tensor(reduced.pixel_size, dtype=torch.float32)
    radius = grid.square().sum(-1).sqrt()
    ctf = torch.ones_like(radius) if transfer is None else transfer.on_grid(grid)
    columns = half_spectrum_weights(n).numpy()
    shell = np.rint(radius.numpy() * n * px).astype(int)
    total = np.bincount(shell.reshape(-1), (power / count * columns).reshape(-1))
    noise = total / np.maximum(np.bincount(shell.reshape(-1), np.broadcast_to(columns, shell.shape).reshape(-1)), 1)
    use = (shell >= 1) & (radius.numpy() < min(_HIGHEST / diameter, _FINEST / px))
    weight = (columns * len(place) / np.maximum(noise[shell], 1e-12))[use]
    balls = np.stack([(ball_projection(radius, float(d)) * ctf).numpy()[use] for d in diameters], axis=1)
    weighted = balls * weight[:, None]
    return Normal(weighted.T @ balls, weighted.T @ seen[use], len(place))


def fit_template(parts: Sequence[Normal], diameter: float) -> RoundTemplate | None:
    """The mixture that fits all micrographs; None if there are too few picks or nothing fits."""
    if sum(p.n for p in parts) < _LEAST_PICKS:
        return None
    diameters = ball_diameters(diameter)
    matrix = np.sum([p.matrix for p in parts], axis=0)
    vector = np.sum([p.vector for p in parts], axis=0)
    solid, gain = _fit(_columns(diameters, diameter, 0), matrix, vector)
    shells = [_fit(_columns(diameters, diameter, peak), matrix, vector) for peak in range(1, _MOST_HOLLOW + 1)]
    shell, shell_gain = max(shells, key=lambda fit: fit[1])
    density = _density(diameters, shell)
    hollow = density[0] < (1 - _LEAST_DIP) * density.max() and shell_gain - gain > _LEAST_GAIN
    return _inner_part(diameters, shell if hollow else solid)


def _columns(diameters: np.ndarray, diameter: float, peak: int) -> np.ndarray:
    """Mixtures whose sums with positive weights have a density that rises to ball `peak` and falls from there on.

    Each is a ball, less a smaller one that is hollow, `(j, m)` masses; balls much larger than the particle have either
    sign.
    """
    unit = np.diag(diameters**3)
    large = diameters >= _HOLES_FROM * diameter
    rows = [unit[j] - hollow for j in np.flatnonzero(~large)[peak:] for hollow in (0 * unit[0], *unit[:peak])]
    return np.concatenate([np.stack(rows), unit[large], -unit[large]]).T


def _fit(columns: np.ndarray, matrix: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, float]:
    """Masses `(j,)` of the best sum of columns with positive weights, and by how much it lowers chi squared."""
    columns = columns / np.sqrt(np.einsum("jm,jk,km->m", columns, matrix, columns))
    normal = columns.T @ matrix @ columns
    # scaled to ones on its diagonal; the small ridge only chooses between balls that are alike
    factor = np.linalg.cholesky(normal + 1e-6 * np.eye(len(normal)))
    masses = columns @ nnls(factor.T, np.linalg.solve(factor, columns.T @ vector))[0]
    return masses, float(2 * masses @ vector - masses @ matrix @ masses)


def _density(diameters: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Density between each diameter and the next smaller one, `(j,)`."""
    return np.cumsum((masses / diameters**3)[::-1])[::-1]


def _inner_part(diameters: np.ndarray, masses: np.ndarray) -> RoundTemplate | None:
    """The particle itself: the density out to where, from its highest place on, it first falls to nothing."""
    density = _density(diameters, masses)
    inner = density[diameters < _HOLES_FROM * diameters[0] / _SMALLEST]
    peak = int(inner.argmax())
    if inner[peak] <= 0:
        return None
    empty = peak + np.flatnonzero(density[peak:] <= 1e-3 * density[peak])
    own = np.clip(density[: int(empty[0]) if len(empty) else len(density)], 0, None)
    own[peak:] = np.minimum.accumulate(own[peak:])
    return RoundTemplate.mixture(diameters[: len(own)], (own - np.append(own[1:], 0)) * diameters[: len(own)] ** 3)
