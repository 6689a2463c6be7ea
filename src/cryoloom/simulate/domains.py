"""Domains of a made-up molecule: ellipsoids that are packed against one another and share the space between them.

A molecule is a set of ellipsoids, one for each domain of its asymmetric unit, and their copies by symmetry. A point
belongs to the domain whose surface is nearest (additively weighted Voronoi cells), and the molecule is all that
lies no farther outside of an ellipsoid than one distance, chosen so that its volume is that of its mass. So
domains and subunits meet in tight, flat interfaces, with clefts where ellipsoids part, as in proteins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

GRID = 2.0
"""Å, spacing of the points on which the space of a molecule is shared out."""
VOLUME_PER_DALTON = 1.45
"""Å3 per Da of atoms without hydrogens, pockets and the roughness of the surface included."""
_OVERLAP = 0.14  # how far packed ellipsoids reach into each other, as a share of the radius of the smaller
_N_SURFACE = 120  # points that stand for the surface of an ellipsoid


@dataclass(frozen=True)
class Domain:
    """One ellipsoid.

    Attributes
    ----------
    centre
        Xyz in Å, `(3,)`.
    frame
        Rotation whose columns are the axes of the ellipsoid, `(3, 3)`.
    axes
        Half axes in Å, `(3,)`.
    fold
        `helix` or `strand`: what it is mostly made of.
    chain
        Its name.
    """

    centre: np.ndarray
    frame: np.ndarray
    axes: np.ndarray
    fold: str
    chain: str

    @classmethod
    def of_mass(cls, mass: float, elongation: float, fold: str, chain: str) -> Self:
        """A domain of `mass` Da at the origin, long axis z, slightly flattened."""
        radius = (3 / (4 * math.pi) * mass * VOLUME_PER_DALTON) ** (1 / 3)
        thin = elongation ** (-1 / 3)
        return cls(np.zeros(3), np.eye(3), radius * np.array([thin * 1.12, thin / 1.12, thin**-2]), fold, chain)

    @property
    def radius(self) -> float:
        """Radius in Å of the ball of equal volume."""
        return float(np.prod(self.axes) ** (1 / 3))

    def outside(self, points: np.ndarray) -> np.ndarray:
        """About how many Å points `(n, 3)` lie outside of the surface; negative inside, `(n,)`."""
        return (np.linalg.norm((points - self.centre) @ self.frame / self.axes, axis=1) - 1) * self.radius

    def surface(self) -> np.ndarray:
        """Points on the surface, `(n, 3)`."""
        i = np.arange(_N_SURFACE) + 0.5
        z, angle = 1 - 2 * i / _N_SURFACE, math.pi * (1 + math.sqrt(5)) * i
        ring = np.sqrt(1 - z * z)
        ball = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], 1)
        return (ball * self.axes) @ self.frame.T + self.centre

    def moved(self, rotation: np.ndarray | None = None, translation: np.ndarray | None = None) -> Self:
        """`rotation @ position + translation`."""
        turn = np.eye(3) if rotation is None else rotation
        step = np.zeros(3) if translation is None else translation
        return replace(self, centre=turn @ self.centre + step, frame=turn @ self.frame)


@dataclass(frozen=True)
class Space:
    """The points of an asymmetric unit.

    Attributes
    ----------
    points
        Xyz in Å, `(n, 3)`.
    owner
        Index of the domain each belongs to, `(n,)`.
    depth
        Å below the surface of the molecule, `(n,)`.
    origin, index
        The point of grid cell `(i, j, k)` is `points[index[i, j, k]]`, or none where the index is -1; the cell `(0, 0,
        0)` is centred on `origin`.
    """

    points: np.ndarray
    owner: np.ndarray
    depth: np.ndarray
    origin: np.ndarray
    index: np.ndarray

    def find(self, positions: np.ndarray) -> np.ndarray:
        """Index of the grid point nearest to each position `(n, 3)`, -1 outside of the asymmetric unit, `(n,)`."""
        cell = np.rint((positions - self.origin) / GRID).astype(np.int64)
        within = ((cell >= 0) & (cell < self.index.shape)).all(1)
        cell = np.where(within[:, None], cell, 0)
        return np.where(within, self.index[cell[:, 0], cell[:, 1], cell[:, 2]], -1)


def share_space(domains: list[Domain], operators: np.ndarray, volume: float) -> Space:
    """The space of an asymmetric unit of `volume` Å3 shared out to its domains.

    Parameters
    ----------
    domains
        Of the asymmetric unit.
    operators
        Rotations of the point group, the identity first, `(m, 3, 3)`.
    volume
        Å3 of the asymmetric unit.
    """
    surface = np.concatenate([d.surface() for d in domains])
    margin = 0.35 * max(d.radius for d in domains) + 4.0
    low = surface.min(0) - margin
    shape = tuple(np.ceil((surface.max(0) + margin - low) / GRID).astype(int) + 1)
    points = low + GRID * np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    own = np.stack([d.outside(points) for d in domains])
    nearest, outside = own.argmin(0), own.min(0)
    candidate = np.flatnonzero(outside < margin)
    other = np.full(len(candidate), math.inf)
    for image in near_copies(domains, operators, len(operators)):
        other = np.minimum(other, image.outside(points[candidate]))
    candidate = candidate[outside[candidate] <= other]
    candidate = candidate[np.argsort(outside[candidate], kind="stable")]
    inside = candidate[: round(volume / GRID**3)]
    index = np.full(len(points), -1)
    index[inside] = np.arange(len(inside))
    limit = float(outside[inside].max())
    return Space(points[inside], nearest[inside], limit - outside[inside], low, index.reshape(shape))


def near_copies(domains: list[Domain], operators: np.ndarray, most: int) -> list[Domain]:
    """Domains of the `most` copies of the asymmetric unit that lie nearest to it, itself left out."""
    centre = np.mean([d.centre for d in domains], axis=0)
    distance = np.linalg.norm(operators[1:] @ centre - centre, axis=1)
    return [d.moved(operators[1 + i]) for i in np.argsort(distance, kind="stable")[:most] for d in domains]


def touches(domains: list[Domain], others: list[Domain]) -> bool:
    """Whether any of `domains` reaches farther into one of `others` than packed domains do."""
    for domain in domains:
        surface = domain.surface()
        for other in others:
            if np.linalg.norm(domain.centre - other.centre) > domain.axes.max() + other.axes.max():
                continue
            deepest = min(float(other.outside(surface).min()), float(domain.outside(other.surface()).min()))
            if deepest < -_OVERLAP * min(domain.radius, other.radius):
                return True
    return False


def buried(domains: list[Domain], others: list[Domain], reach: float = 4.0) -> float:
    """Share of the surface of `domains` that lies within `reach` Å of `others`."""
    surface = np.concatenate([d.surface() for d in domains])
    return float((np.min([o.outside(surface) for o in others], axis=0) < reach).mean())


def attach(domain: Domain, placed: list[Domain], rng: np.random.Generator, *, far: bool = False) -> Domain:
    """Slide a domain in straight lines until it packs against those placed; of all lines, the best.

    The best line ends nearest to the middle of the others, or, if `far`, farthest from the middle of the first.
    """
    volume = np.array([np.prod(d.axes) for d in placed])
    target = placed[0].centre if far else (volume[:, None] * [d.centre for d in placed]).sum(0) / volume.sum()
    best, best_distance = domain, math.inf
    for _ in range(20):
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        turned = domain.moved(random_rotation(rng))
        distance = slide(partial(_blocked_at, turned, target, direction, placed), 300.0)
        rank = -distance if far else distance
        if rank < best_distance:
            best, best_distance = turned.moved(translation=target + distance * direction), rank
    return best


def _blocked_at(
    domain: Domain, target: np.ndarray, direction: np.ndarray, placed: list[Domain], distance: float
) -> bool:
    return touches([domain.moved(translation=target + distance * direction)], placed)


def slide(blocked: Callable[[float], bool], farthest: float) -> float:
    """Smallest distance in Å, to 0.5 Å, from which on nothing is blocked."""
    low, high = 0.0, farthest
    while high - low > 0.5:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if blocked(middle) else (low, middle)
    return high


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation `(3, 3)`, all equally likely."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, 2]]
