"""Superposition of two maps of unknown orientation, place and hand.

A global search over rotations at low resolution, the translation by a transform for each rotation and both hands at
once (the transform of the inverted map is the conjugate), then Gauss-Newton steps in rotation and shift on more and
more shells. Shells are whitened, so that shape at low resolution does not outweigh detail.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryoloom.fourier import rfftn
from cryoloom.geometry import axis_angle_to_matrix, direction_grid, grid_rotations, rotation_about_z, rotation_angle
from cryoloom.maps.mask import find_mask
from cryoloom.maps.rotate import SplineSpectrum, half_sphere, sample_spectrum, spline_spectrum, transform_map


@dataclass(frozen=True)
class Superposition:
    """How one map is laid on another.

    The moving map is mirrored in z (if `mirrored`), turned about its centre voxel by `rotation`, then moved by `shift`.

    Attributes
    ----------
    rotation
        `(3, 3)` float64, acting on xyz columns.
    shift
        Å, zyx, `(3,)` float64.
    mirrored
        True if the other hand fits better.
    correlation
        Of the whitened maps up to `resolution`; 1 for equal maps.
    correlation_other_hand
        The same for the best fit of the other hand, or NaN if it was not tried.
    resolution
        Å to which the fit was done.
    pixel_size
        Å.
    """

    rotation: Tensor
    shift: Tensor
    mirrored: bool
    correlation: float
    correlation_other_hand: float
    resolution: float
    pixel_size: float

    def apply(self, volume: Tensor) -> Tensor:
        """Lay a map that is sampled like the moving one on the fixed one."""
        if self.mirrored:
            volume = mirror_z(volume)
        return transform_map(volume, self.rotation, self.shift / self.pixel_size)


def mirror_z(volume: Tensor) -> Tensor:
    """Mirror in z that keeps the centre voxel: the other hand."""
    flipped = volume.flip(-3)
    return flipped.roll(1, -3) if volume.shape[-3] % 2 == 0 else flipped


def superpose(
    fixed: Tensor,
    moving: Tensor,
    pixel_size: float,
    *,
    resolution: float = 8.0,
    either_hand: bool = True,
    diameter: float | None = None,
    n_survivors: int = 24,
) -> Superposition:
    """Find the rotation, shift and hand that lay `moving` on `fixed`.

    Parameters
    ----------
    fixed, moving
        Cubes `(n, n, n)` of equal size; noise is tolerated. The particle may lie off the centre.
    pixel_size
        Å, the same for both.
    resolution
        Å to which detail is compared at the end; at least two pixels.
    either_hand
        Also try the mirror image.
    diameter
        Largest extent of the particle in Å; found in the fixed map by default.
    n_survivors
        Poses of the global search that are refined.
    """
    if fixed.shape != moving.shape:
        raise ValueError(f"moving: expected the shape of fixed, {tuple(fixed.shape)}, got {tuple(moving.shape)}")
    box = fixed.shape[0]
    if diameter is None:
        diameter = map_diameter(fixed, pixel_size)
    nyquist = (box - 2) // 2
    per_px = box * pixel_size
    last = int(min(nyquist, max(round(per_px / resolution), 4)))
    ladder = sorted({min(last, max(4, round(per_px * x / diameter))) for x in (5.0, 8.0, 13.0)} | {last})
    target = _whitened_dft(fixed, last)
    source = _whitened_volume(moving, last)
    coarse = spline_spectrum(source, ladder[0] + 1, degree=1)
    poses = _global_search(target, coarse, box, ladder[0], 4, n_survivors, either_hand)
    spectrum = spline_spectrum(source, last + 1, degree=1)
    keep = n_survivors
    for step, radius in enumerate(ladder):
        lattice = _Lattice(target, box, radius)
        poses = [_refine(pose, lattice, spectrum, n_steps=6 if step == 0 else 4) for pose in poses]
        poses.sort(key=lambda pose: -pose.score)
        keep = max(3, keep // 3)
        poses = _keep_best(poses, keep)
    fine = spline_spectrum(source, last + 1, degree=3)
    lattice = _Lattice(target, box, last, n_most=400_000)
    best: dict[bool, _Pose] = {}
    for pose in poses:
        refined = _refine(pose, lattice, fine, n_steps=4)
        if refined.inverted not in best or refined.score > best[refined.inverted].score:
            best[refined.inverted] = refined
    winner = max(best.values(), key=lambda pose: pose.score)
    other = best.get(not winner.inverted)
    rotation = torch.from_numpy(winner.rotation)
    if winner.inverted:
        # The inverted map is the z-mirror turned by 180 degrees about z.
        rotation = rotation @ rotation_about_z(torch.tensor(math.pi, dtype=torch.float64))
    return Superposition(
        rotation=rotation,
        shift=torch.from_numpy(winner.shift[::-1].copy()) * pixel_size,
        mirrored=winner.inverted,
        correlation=winner.score,
        correlation_other_hand=other.score if other else math.nan,
        resolution=per_px / last,
        pixel_size=pixel_size,
    )


def superpose_near(fixed: Tensor, moving: Tensor, pixel_size: float, *, resolution: float) -> Superposition:
    """Find the small turn and shift that lay `moving` on `fixed`, from where it lies; parameters as in `superpose`.

    Within about a resolution length at the rim of the particle; the hand is not asked.
    """
    if fixed.shape != moving.shape:
        raise ValueError(f"moving: expected the shape of fixed, {tuple(fixed.shape)}, got {tuple(moving.shape)}")
    box = fixed.shape[0]
    last = int(min((box - 2) // 2, max(round(box * pixel_size / resolution), 3)))
    lattice = _Lattice(_whitened_dft(fixed, last), box, last, n_most=400_000)
    spectrum = spline_spectrum(_whitened_volume(moving, last), last + 1, degree=3)
    start = lattice.correlation(lattice.moved(spectrum, np.eye(3), np.zeros(3), inverted=False))
    found = _refine(_Pose(np.eye(3), np.zeros(3), False, start), lattice, spectrum, n_steps=8)
    return Superposition(
        rotation=torch.from_numpy(found.rotation),
        shift=torch.from_numpy(found.shift[::-1].copy()) * pixel_size,
        mirrored=False,
        correlation=found.score,
        correlation_other_hand=math.nan,
        resolution=box * pixel_size / last,
        pixel_size=pixel_size,
    )


def map_diameter(volume: Tensor, pixel_size: float) -> float:
    """Twice the largest distance of the density from its centroid in Å (98 % of it)."""
    found = find_mask(volume, pixel_size, lowpass_resolution=max(20.0, 4 * pixel_size), extend=0.0, edge=0.0)
    where = torch.nonzero(found.mask > 0.5).to(torch.float64)
    if len(where) < 8:
        return 0.6 * volume.shape[0] * pixel_size
    distance = (where - where.mean(0)).norm(dim=1)
    return (
        float(2 * distance.quantile(0.98) if len(distance) < 1_000_000 else 2 * distance[::8].quantile(0.98))
        * pixel_size
    )


@dataclass(frozen=True)
class _Pose:
    """Rotation `(3, 3)`, shift xyz in voxels, whether the moving map is inverted through its centre, correlation."""

    rotation: np.ndarray
    shift: np.ndarray
    inverted: bool
    score: float


class _Lattice:
    """Points of the fixed map's half spectrum up to a radius, with their weights."""

    def __init__(self, target: np.ndarray, box: int, radius: int, n_most: int = 60_000) -> None:
        points, where = half_sphere(box, radius)
        weight = np.where(points[:, 0] == 0, 1.0, 2.0)
        if len(points) > n_most:
            # A fixed random part of the outer shells is enough; inner ones are kept whole.
            rng = np.random.default_rng(1)
            r = np.linalg.norm(points, axis=1)
            chance = np.minimum(1.0, n_most / len(points) * np.where(r < 0.5 * radius, 4.0, 1.0))
            kept = rng.random(len(points)) < chance
            points, where, weight = points[kept], where[kept], weight[kept] / chance[kept]
        self.points, self.weight = points, weight
        self.values = target.reshape(-1)[where]
        self.norm = math.sqrt(float((weight * np.abs(self.values) ** 2).sum()))
        self.box = box

    def moved(self, spectrum: SplineSpectrum, rotation: np.ndarray, shift: np.ndarray, inverted: bool) -> np.ndarray:
        """Transform of the moving map laid down by a pose, at the points."""
        samples = sample_spectrum(spectrum, self.points @ rotation)
        if inverted:
            samples = samples.conj()
        return samples * np.exp(-2j * np.pi * (self.points @ shift) / self.box)

    def correlation(self, samples: np.ndarray) -> float:
        """Normalised correlation of samples with the fixed map."""
        norm = math.sqrt(float((self.weight * np.abs(samples) ** 2).sum()))
        return float((self.weight * (self.values.conj() * samples).real).sum()) / max(norm * self.norm, 1e-30)


def _shell_scale(dft: Tensor, box: int, last: int) -> Tensor:
    """Per-coefficient factor that makes the mean power of each shell 1 up to `last` shells, 0 beyond."""
    k = [torch.fft.fftfreq(box) * box] * 2 + [torch.fft.rfftfreq(box) * box]
    r = (k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2).sqrt()
    index = r.round().long().clamp_max(last + 2)
    power = torch.zeros(last + 3, dtype=torch.float64).index_add_(
        0, index.reshape(-1), dft.abs().double().reshape(-1) ** 2
    )
    counts = torch.bincount(index.reshape(-1), minlength=last + 3).double()
    scale = (power / counts).clamp_min(1e-300).rsqrt()
    scale[last + 2 :] = 0
    scale[0] = 0  # the mean level says nothing
    return scale[index].float()


def _whitened_dft(volume: Tensor, last: int) -> np.ndarray:
    box = volume.shape[0]
    dft = rfftn(torch.fft.ifftshift(volume.detach().cpu().float()), 3)
    return (dft * _shell_scale(dft, box, last)).numpy()


def _whitened_volume(volume: Tensor, last: int) -> Tensor:
    box = volume.shape[0]
    dft = rfftn(torch.fft.ifftshift(volume.detach().cpu().float()), 3)
    white = scipy.fft.irfftn((dft * _shell_scale(dft, box, last)).numpy(), s=(box,) * 3)
    return torch.fft.fftshift(torch.from_numpy(white))


def _global_search(
    target: np.ndarray, spectrum: SplineSpectrum, box: int, radius: int, n_side: int, n_keep: int, either_hand: bool
) -> list[_Pose]:
    """Best poses over an even grid of rotations and all shifts, no two within half a grid step of each other."""
    points, where = half_sphere(box, radius)
    fixed = target.reshape(-1)[where] * np.where(np.linalg.norm(points, axis=1) > 0, 1.0, 0.0)
    n_psi = 6 * n_side
    directions = grid_rotations(direction_grid(n_side))
    psi = rotation_about_z(torch.arange(n_psi, dtype=torch.float64) * (2 * math.pi / n_psi))
    rotations = (directions[:, None] @ psi[None]).reshape(-1, 3, 3).numpy()
    grid = int(scipy.fft.next_fast_len(2 * radius + 2, real=True))
    ip = points.astype(np.int64)
    place = ((ip[:, 2] % grid) * grid + ip[:, 1] % grid) * (grid // 2 + 1) + ip[:, 0]
    found: list[tuple[float, int, bool, int]] = []
    batch = 32
    for start in range(0, len(rotations), batch):
        part = rotations[start : start + batch]
        turned = (points[None] @ part).reshape(-1, 3)
        samples = sample_spectrum(spectrum, turned).reshape(len(part), -1)
        norm = np.sqrt((np.abs(samples) ** 2).sum(1))
        for inverted in (False, True) if either_hand else (False,):
            product = fixed * (samples if inverted else samples.conj())
            cells = np.zeros((len(part), grid * grid * (grid // 2 + 1)), np.complex64)
            cells[:, place] = product
            scores = scipy.fft.irfftn(cells.reshape(len(part), grid, grid, -1), s=(grid,) * 3, axes=(1, 2, 3))
            flat = scores.reshape(len(part), -1)
            best = flat.argmax(1)
            values = flat[np.arange(len(part)), best] / np.maximum(norm, 1e-30)
            found += [
                (float(v), start + i, inverted, int(b)) for i, (v, b) in enumerate(zip(values, best, strict=True))
            ]
    found.sort(key=lambda item: -item[0])
    poses: list[_Pose] = []
    for hand in (False, True) if either_hand else (False,):
        chosen: list[_Pose] = []
        for value, index, inverted, cell in found:
            if inverted != hand:
                continue
            rotation = rotations[index]
            if any(_angle(rotation, pose.rotation) < math.radians(30.0 / n_side) for pose in chosen):
                continue
            zyx = np.array(np.unravel_index(cell, (grid,) * 3), dtype=np.float64)
            zyx = (zyx + grid // 2) % grid - grid // 2
            chosen.append(_Pose(rotation, zyx[::-1] * (box / grid), inverted, value))
            if len(chosen) >= n_keep:
                break
        poses += chosen
    return poses


def _refine(pose: _Pose, lattice: _Lattice, spectrum: SplineSpectrum, n_steps: int) -> _Pose:
    """Damped Gauss-Newton on the residual of the fixed map, derivatives by differences."""
    rotation, shift = pose.rotation, pose.shift
    current = lattice.moved(spectrum, rotation, shift, pose.inverted)
    score = lattice.correlation(current)
    radius = float(np.linalg.norm(lattice.points, axis=1).max())
    angle_step, shift_step = 0.05 * 2 / radius, 0.02 * lattice.box / radius
    root = np.sqrt(lattice.weight)
    damping = 1e-3
    for _ in range(n_steps):
        columns = []
        for axis in range(3):
            turn = np.zeros(3)
            turn[axis] = angle_step
            plus = lattice.moved(spectrum, _turn(turn) @ rotation, shift, pose.inverted)
            minus = lattice.moved(spectrum, _turn(-turn) @ rotation, shift, pose.inverted)
            columns.append((plus - minus) / 2)
        for axis in range(3):
            ramp = -2j * np.pi * lattice.points[:, axis] / lattice.box * shift_step
            columns.append(current * ramp)
        jacobian = np.stack([np.concatenate([c.real * root, c.imag * root]) for c in columns], axis=1)
        model = np.concatenate([current.real * root, current.imag * root])
        data = np.concatenate([lattice.values.real * root, lattice.values.imag * root])
        gain = float(data @ model) / max(float(model @ model), 1e-30)
        # Variable projection: what the scale explains is no reason to turn.
        jacobian = jacobian - model[:, None] * ((model @ jacobian) / max(float(model @ model), 1e-30))
        hessian = gain * (jacobian.T @ jacobian)
        gradient = jacobian.T @ (data - gain * model)
        accepted = False
        for _ in range(4):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)) + 1e-12 * np.eye(6), gradient)
            step = np.clip(step, -8, 8)
            trial_rotation = _turn(step[:3] * angle_step) @ rotation
            trial_shift = shift + step[3:] * shift_step
            trial = lattice.moved(spectrum, trial_rotation, trial_shift, pose.inverted)
            trial_score = lattice.correlation(trial)
            if trial_score > score:
                accepted = True
                break
            damping *= 10
        if not accepted:
            break
        damping = max(damping / 5, 1e-4)
        improved = trial_score - score
        rotation, shift, current, score = trial_rotation, trial_shift, trial, trial_score
        if improved < 1e-6:
            break
    return _Pose(rotation, shift, pose.inverted, score)


def _keep_best(poses: list[_Pose], n: int) -> list[_Pose]:
    """The best `n` poses of each hand without repetitions."""
    kept: list[_Pose] = []
    for pose in poses:
        same = [other for other in kept if other.inverted == pose.inverted]
        if len(same) < n and all(_angle(pose.rotation, other.rotation) > math.radians(2.0) for other in same):
            kept.append(pose)
    return kept


def _turn(vector: np.ndarray) -> np.ndarray:
    return axis_angle_to_matrix(torch.from_numpy(np.asarray(vector, dtype=np.float64))).numpy()


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(rotation_angle(torch.from_numpy(a.T @ b)))
