"""Where the symmetry axes of a map lie, and the turn that brings them onto the axes of the convention.

A map with a point group correlates with itself turned by any operator about the true axes. The main axis is sought over
an even grid of directions at low resolution, the second generator by a turn about it; both, and the place where the
axes meet, are then refined together on more and more shells. Shells are whitened, so that the overall shape does not
decide alone. All is done on samples of the transform: no map is interpolated in real space on the way.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from cryoloom.geometry import axis_angle_to_matrix, direction_grid, grid_rotations, rotation_about_z, symmetry_matrices
from cryoloom.maps.corrected import flatten_amplitudes
from cryoloom.maps.mask import find_mask
from cryoloom.maps.rotate import SplineSpectrum, half_sphere, sample_spectrum, spline_spectrum, transform_map
from cryoloom.maps.superpose import map_diameter

N_POINTS, N_POINTS_LAST = 6_000, 50_000
"""Most frequencies at which maps are compared, and in the last step."""


@dataclass(frozen=True)
class SymmetryFrame:
    """How a map must move for its axes to lie as the convention has them.

    Attributes
    ----------
    rotation
        Turn of the content about the centre voxel, `(3, 3)` float64, acting on xyz columns.
    shift
        Å, zyx, `(3,)`: how the content moves after the turn, so that the axes meet in the centre voxel.
    correlation
        Mean correlation of the whitened map with itself turned by the operators; 1 for exact symmetry.
    symmetry
        The point group.
    pixel_size
        Å.
    """

    rotation: Tensor
    shift: Tensor
    correlation: float
    symmetry: str
    pixel_size: float

    def apply(self, volume: Tensor) -> Tensor:
        """Bring a map `(n, n, n)` onto the axes."""
        return transform_map(volume, self.rotation, self.shift / self.pixel_size)


def find_symmetry_frame(
    volume: Tensor, pixel_size: float, symmetry: str, *, resolution: float | None = None, n_candidates: int = 6
) -> SymmetryFrame:
    """Find the axes of a point group in a map.

    Parameters
    ----------
    volume
        Cube `(n, n, n)`, protein bright, the particle anywhere near its centre.
    pixel_size
        Å.
    symmetry
        The group that the map is known to have; C1 has no axes.
    resolution
        Finest detail to compare, Å; 10 Å or 2.2 pixels by default. Shells weigh as much as their copies share.
    n_candidates
        Main axes of the search that are refined.

    Raises
    ------
    ValueError
        If the group is C1 or the map is no cube.
    """
    operators = symmetry_matrices(symmetry).numpy()
    if len(operators) == 1:
        raise ValueError("symmetry: expected a group with axes, got C1")
    radii = _ladder(volume, pixel_size, resolution or max(10.0, 2.2 * pixel_size))
    body = find_mask(volume, pixel_size, lowpass_resolution=max(20.0, 4 * pixel_size), extend=4.0, edge=6.0).mask
    start = _centre_of_mass(volume, body)
    white = flatten_amplitudes(volume * body, volume * body)[0]
    spectrum = spline_spectrum(white, radii[-1] + 1)
    coarse = _SelfCompare(spectrum, radii[0])
    main, second = _generators(operators)
    candidates = _main_axes(coarse, main, start, n_candidates)
    frames = [_second_axis(coarse, candidate, main, second, start) for candidate in candidates]
    chosen = [main] if second is None else [main, second, main @ second]
    best = max((_refined(coarse, frame, start, chosen, 150) for frame in frames), key=lambda item: item[2])
    several = [*chosen, *operators[1 :: max(1, len(operators) // 8)]][: len(operators) - 1]
    n_last = N_POINTS_LAST // max(1, len(several) // 3)
    steps = [(radius, N_POINTS, 1.0, 250) for radius in radii[1:]] + [(radii[-1], n_last, 0.1, 120)]
    for radius, n_points, size, n_most in steps:
        if size < 1:
            chosen = several  # more copies, less noise
        compare = _SelfCompare(spectrum, radius, n_points)
        compare.weigh_shells(best[0], best[1], chosen)
        best = _refined(compare, best[0], best[1], chosen, n_most, size)
    frame, centre, _ = best
    final = compare.correlation(frame, centre, list(operators[1:][:24]))
    # `frame` takes conventional axes to those of the map; the map is turned back, then its centre is put in place.
    rotation = torch.from_numpy(frame.T.copy())
    shift_px = -(frame.T @ centre)
    return SymmetryFrame(
        rotation=rotation,
        shift=torch.from_numpy(shift_px[::-1].copy()) * pixel_size,
        correlation=final,
        symmetry=symmetry.upper(),
        pixel_size=pixel_size,
    )


class _SelfCompare:
    """Correlation of a map's transform with itself turned about an axis through a centre."""

    def __init__(self, spectrum: SplineSpectrum, radius: int, n_most: int = N_POINTS) -> None:
        points, _ = half_sphere(spectrum.box, radius)
        points = points[np.linalg.norm(points, axis=1) > 0.5]
        if len(points) > n_most:
            points = points[np.random.default_rng(0).permutation(len(points))[:n_most]]
        self.spectrum, self.points, self.radius = spectrum, points, radius
        self.shell = np.rint(np.linalg.norm(points, axis=1)).astype(np.int64)
        self.weight = np.ones(len(points))

    def weigh_shells(self, frame: np.ndarray, centre: np.ndarray, operators: list[np.ndarray]) -> None:
        """Weigh shells by what turned copies share in a frame that is nearly right: `c / (1 - c²)` of whitened shells.

        That is the weight under which the correlation of two noisy copies is their log-likelihood.
        """
        n = int(self.shell.max()) + 1
        own = self.samples(frame, centre)
        cross, norm = np.zeros(n), np.zeros(n)
        for operator in operators:
            turned = self.samples(frame @ operator, centre)
            cross += np.bincount(self.shell, (own.conj() * turned).real, n)
            norm += np.bincount(self.shell, 0.5 * (np.abs(own) ** 2 + np.abs(turned) ** 2), n)
        shared = np.clip(cross / np.maximum(norm, 1e-30), 0.0, 0.99)
        weight = shared / (1 - shared**2)
        if weight[self.shell].any():
            self.weight = weight[self.shell]

    def samples(self, turn: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Transform of the map, its centre moved to the origin and turned by the inverse of `turn`."""
        points = self.points @ turn.T
        ramp = np.exp(2j * np.pi * (points @ centre) / self.spectrum.box)
        return sample_spectrum(self.spectrum, points) * ramp

    def correlation(self, frame: np.ndarray, centre: np.ndarray, operators: list[np.ndarray]) -> float:
        """Mean correlation over operators given in the conventional frame."""
        own = self.samples(frame, centre)
        norm = float((self.weight * np.abs(own) ** 2).sum())
        total = 0.0
        for operator in operators:
            turned = self.samples(frame @ operator, centre)
            other = float((self.weight * np.abs(turned) ** 2).sum())
            total += float((self.weight * (own.conj() * turned).real).sum()) / max(math.sqrt(norm * other), 1e-30)
        return total / len(operators)


def _ladder(volume: Tensor, pixel_size: float, resolution: float) -> list[int]:
    """Radii in Fourier pixels: from what a coarse grid of directions can follow to the resolution asked for."""
    box = volume.shape[0]
    per_px = box * pixel_size
    last = int(min((box - 2) // 2, max(round(per_px / resolution), 4)))
    diameter = map_diameter(volume, pixel_size)
    return sorted({min(last, max(4, round(per_px * x / diameter))) for x in (6.0, 12.0)} | {last})


def _centre_of_mass(volume: Tensor, body: Tensor) -> np.ndarray:
    """Centre of mass of the density in a body, xyz in voxels from the centre voxel."""
    weight = (volume * body).clamp_min(0).double()
    total = float(weight.sum())
    place = []
    for axis in range(3):
        n = volume.shape[axis]
        line = torch.arange(n, dtype=torch.float64) - n // 2
        others = [i for i in range(3) if i != axis]
        place.append(float((weight.sum(others) * line).sum()) / max(total, 1e-30))
    return np.array(place[::-1])


def _generators(operators: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """An operator about the axis of highest order, and one about another axis (None for cyclic groups)."""
    turns = [(_order(op), op) for op in operators[1:]]
    main = max(turns, key=lambda item: (item[0], item[1][2, 2]))[1]
    axis = _axis(main)
    others = [(order, op) for order, op in turns if abs(_axis(op) @ axis) < 0.999]
    if not others:
        return main, None
    return main, max(others, key=lambda item: item[0])[1]


def _order(operator: np.ndarray) -> int:
    angle = math.acos(float(np.clip((np.trace(operator) - 1) / 2, -1, 1)))
    return round(2 * math.pi / angle) if abs(2 * math.pi / angle - round(2 * math.pi / angle)) < 1e-3 else 1


def _axis(operator: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(0.5 * (operator + operator.T))
    return vectors[:, int(np.argmax(values))]


def _main_axes(compare: _SelfCompare, main: np.ndarray, centre: np.ndarray, n: int) -> list[np.ndarray]:
    """Frames whose main axis correlates best, over a grid finer than the detail, no two alike."""
    step = math.degrees(0.35 / compare.radius * 2)
    directions = direction_grid(max(4, round(58.6 / step)))
    directions = directions[directions[:, 2] >= -1e-9]  # an axis has no sense
    to_z = _turn_onto(_axis(main), np.array([0.0, 0.0, 1.0]))
    frames = grid_rotations(directions).numpy() @ to_z
    scores = np.array([compare.correlation(frame, centre, [main]) for frame in frames])
    axes = directions.numpy()
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(abs(axes[i] @ axes[j]) < math.cos(math.radians(2.5 * step)) for j in kept):
            kept.append(int(i))
        if len(kept) == n:
            break
    return [frames[i] for i in kept]


def _second_axis(
    compare: _SelfCompare, frame: np.ndarray, main: np.ndarray, second: np.ndarray | None, centre: np.ndarray
) -> np.ndarray:
    """Turn a frame about its main axis to where the second generator correlates best."""
    if second is None:
        return frame
    axis = torch.from_numpy(_axis(main).copy())
    n = max(36, 6 * compare.radius)
    best, score = frame, -2.0
    for angle in np.arange(n) * (2 * math.pi / n):
        turned = frame @ axis_angle_to_matrix(axis * float(angle)).numpy()
        value = compare.correlation(turned, centre, [second])
        if value > score:
            best, score = turned, value
    return best


def _refined(
    compare: _SelfCompare,
    frame: np.ndarray,
    centre: np.ndarray,
    operators: list[np.ndarray],
    n_most: int,
    size: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Improve frame and centre together by a simplex in units of the finest detail, in at most `n_most` steps."""
    angle_unit = size * 0.25 / compare.radius * 2
    shift_unit = size * 0.08 * compare.spectrum.box / compare.radius

    def place(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = axis_angle_to_matrix(torch.from_numpy(x[:3] * angle_unit)).numpy()
        return turn @ frame, centre + x[3:] * shift_unit

    start = np.vstack([np.zeros(6), np.eye(6)])
    found = scipy.optimize.minimize(
        lambda x: -compare.correlation(*place(x), operators),
        np.zeros(6),
        method="Nelder-Mead",
        options={"initial_simplex": start, "maxfev": n_most, "xatol": 2e-3, "fatol": 1e-7, "adaptive": True},
    )
    turned, moved = place(found.x)
    return turned, moved, -float(found.fun)


def _turn_onto(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A rotation that takes the unit vector `a` to `b`."""
    cross = np.cross(a, b)
    sine, cosine = float(np.linalg.norm(cross)), float(a @ b)
    if sine < 1e-9:
        if cosine > 0:
            return np.eye(3)
        return rotation_about_z(torch.tensor(math.pi, dtype=torch.float64)).numpy() @ np.diag([1.0, -1.0, -1.0])
    return axis_angle_to_matrix(torch.from_numpy(cross / sine * math.atan2(sine, cosine))).numpy()
