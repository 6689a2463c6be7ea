"""The turn and move that lay one map on another, either hand, found without a start.

Search: at about a tenth of the particle's size, every rotation of an even grid with all translations by one transform.
Refinement: the best few are improved at rising frequency by maximising the correlation of whitened coefficients,
each shell weighted by the correlation it has. Samples are exact (`fourier/exact.py`), so a map is not blurred by being turned.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from cryoloom.data import VolumeMap
from cryoloom.fourier.exact import ExactSpectrum, exact_spectrum, sample_spectrum
from cryoloom.fourier.shells import shell_index
from cryoloom.fourier.transform import dft_to_image, frequency_grid, image_to_dft, irfftn
from cryoloom.geometry import axis_angle_to_matrix, direction_grid, grid_rotations, rotation_about_z


@dataclass(frozen=True)
class Placement:
    """How a map lies on another.

    Attributes
    ----------
    rotation, translation
        A point of the moving map lies at `rotation @ p + translation` in the fixed one, xyz in Å from the centres; of
        the mirrored moving map if `mirrored`.
    mirrored
        The moving map was mirrored in z first.
    correlation
        Weighted correlation reached; larger is better, comparable between hands of the same pair of maps.
    """

    rotation: np.ndarray
    translation: np.ndarray
    mirrored: bool
    correlation: float


def mirror_map(volume: VolumeMap) -> VolumeMap:
    """The z-mirror, which keeps the centre voxel."""
    flipped = np.flip(volume.data, 0)
    if volume.data.shape[0] % 2 == 0:
        flipped = np.roll(flipped, 1, 0)
    return VolumeMap(np.ascontiguousarray(flipped), volume.pixel_size)


def superpose(
    moving: VolumeMap,
    fixed: VolumeMap,
    *,
    resolution: float | None = None,
    hands: bool = True,
    size: float | None = None,
    known: Placement | None = None,
) -> Placement:
    """Find the placement of `moving` on `fixed`.

    Parameters
    ----------
    moving, fixed
        Maps; boxes and pixel sizes may differ.
    resolution
        Finest detail used, Å; by default 2.5 pixels of the coarser map.
    hands
        Try the mirror image too.
    size
        Extent of the particle in Å; by default half of the fixed box.
    known
        Start here and refine only.
    """
    coarse = max(moving.pixel_size, fixed.pixel_size)
    resolution = 2.5 * coarse if resolution is None else max(resolution, 2.05 * coarse)
    size = 0.5 * fixed.data.shape[0] * fixed.pixel_size if size is None else size
    first = max(size / 6, resolution, 12.0)
    target = _prepare(fixed)
    best: Placement | None = None
    for mirrored in (False, True):
        if (mirrored and not hands) or (known is not None and known.mirrored != mirrored):
            continue
        source = _prepare(mirror_map(moving) if mirrored else moving)
        if known is not None:
            starts = [(known.rotation, known.translation)]
        else:
            starts = _search(source, target, first, size)
        refined = [_refine(source, target, r, t, first, mirrored) for r, t in starts]
        refined.sort(key=lambda p: -p.correlation)
        steps = np.geomspace(first, resolution, max(2, 1 + round(math.log2(first / resolution) / 0.6)))[1:]
        winner = refined[0]
        for step in steps:
            winner = _refine(source, target, winner.rotation, winner.translation, float(step), mirrored)
        if best is None or winner.correlation > best.correlation:
            best = winner
    assert best is not None
    return best


def place_map(moving: VolumeMap, placement: Placement, like: VolumeMap) -> VolumeMap:
    """The moving map laid on the grid of `like`."""
    source = _prepare(mirror_map(moving) if placement.mirrored else moving)
    n, pixel_size = like.data.shape[0], like.pixel_size
    k = frequency_grid((n, n, n), pixel_size, dtype=torch.float64).flip(-1)  # xyz, 1/Å
    values = _sample(source, k, placement.rotation, placement.translation)
    scale = (moving.pixel_size / pixel_size) ** 3
    return VolumeMap(dft_to_image((values * scale).to(torch.complex64), (n, n, n)).numpy(), pixel_size)


@dataclass(frozen=True)
class _Prepared:
    spectrum: ExactSpectrum
    field: float  # Å, side of the box


def _prepare(volume: VolumeMap) -> _Prepared:
    data = torch.from_numpy(np.ascontiguousarray(volume.data, np.float32))
    return _Prepared(exact_spectrum(data - data.mean()), volume.data.shape[0] * volume.pixel_size)


def _sample(source: _Prepared, k: Tensor, rotation: np.ndarray, translation: np.ndarray) -> Tensor:
    """Transform of the moved map at `k` xyz in 1/Å, `(..., 3)`: `F(R^T k) exp(-2πi k·t)`."""
    values = sample_spectrum(source.spectrum, (k @ torch.from_numpy(rotation)) * source.field)
    phase = -2 * math.pi * (k @ torch.from_numpy(translation))
    return values * torch.polar(torch.ones_like(phase), phase)


def _search(
    source: _Prepared, target: _Prepared, resolution: float, size: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best few placements at a coarse resolution."""
    field = 1.25 * size
    radius = field / resolution  # shells of a box that holds the particle
    n = 2 * math.ceil(radius) + 4
    k = frequency_grid((n, n, n), field / n, dtype=torch.float64).flip(-1)
    inside = (k.norm(dim=-1) <= 1 / resolution) & (k.norm(dim=-1) > 0)
    points = k[inside]
    shell = (points.norm(dim=-1) * field).round().long()
    reference = _whiten(_sample(target, points, np.eye(3), np.zeros(3)), shell)
    step = 1.6 * resolution / size  # radians: a turn by half of it moves the rim by 0.4 of the resolution
    n_side = max(3, math.ceil(1.02 / step))
    directions = grid_rotations(direction_grid(n_side))
    turns = rotation_about_z(torch.arange(0, 2 * math.pi, 2 * math.pi / round(2 * math.pi / step), dtype=torch.float64))
    rotations = (directions[:, None] @ turns).reshape(-1, 3, 3)
    peaks, places = [], []
    for batch in rotations.split(256):
        # sample the moving map at R^T k for all rotations at once
        values = sample_spectrum(source.spectrum, (points @ batch) * source.field)  # (p, k)
        product = torch.zeros(len(batch), n, n, n // 2 + 1, dtype=torch.complex64)
        product[:, inside] = (_whiten(values, shell).conj() * reference).to(torch.complex64)
        correlation = irfftn(product, (n, n, n)).reshape(len(batch), -1)
        peak = correlation.max(dim=1)
        peaks.append(peak.values)
        places.append(peak.indices)
    peak, place = torch.cat(peaks), torch.cat(places)
    order = peak.argsort(descending=True)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for i in order.tolist():
        rotation = rotations[i].numpy()
        if any(np.trace(rotation.T @ other) > 1 + 2 * math.cos(1.2 * step) for other, _ in chosen):
            continue
        index = np.array(np.unravel_index(int(place[i]), (n, n, n)), np.float64)
        index = np.where(index > n / 2, index - n, index)
        chosen.append((rotation, index[::-1] * field / n))
        if len(chosen) == 8:
            break
    return chosen


def _whiten(values: Tensor, shell: Tensor) -> Tensor:
    """Coefficients divided by the root mean square of their shell, `(*batch, k)`."""
    n = int(shell.max()) + 1
    power = torch.zeros(*values.shape[:-1], n, dtype=torch.float64)
    power.index_add_(-1, shell, (values.abs() ** 2).double())
    counts = torch.bincount(shell, minlength=n).clamp_min(1)
    return values / (power / counts).sqrt().clamp_min(1e-30)[..., shell]


def _refine(
    source: _Prepared,
    target: _Prepared,
    rotation: np.ndarray,
    translation: np.ndarray,
    resolution: float,
    mirrored: bool,
) -> Placement:
    """Maximise the weighted correlation over a small turn and move."""
    n = 2 * math.ceil(target.field / resolution) + 2
    k = frequency_grid((n, n, n), target.field / n, dtype=torch.float64).flip(-1)
    inside = (k.norm(dim=-1) <= 1 / resolution) & (k.norm(dim=-1) > 0)
    points = k[inside]
    shell = shell_index((n, n, n))[inside]
    if len(points) > 15_000:
        keep = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:15_000]
        points, shell = points[keep], shell[keep]
    shell = shell.clamp_max(n // 2)
    reference = _whiten(_sample(target, points, np.eye(3), np.zeros(3)), shell)
    counts = torch.bincount(shell, minlength=n // 2 + 1).clamp_min(1)
    unit = 0.25 * resolution  # Å that one step of a parameter stands for
    arm = 0.25 * target.field

    def curve(parameters: np.ndarray) -> Tensor:
        turn = axis_angle_to_matrix(torch.from_numpy(parameters[:3] * unit / arm)).numpy()
        moved = _whiten(_sample(source, points, turn @ rotation, translation + parameters[3:] * unit), shell)
        product = torch.zeros(n // 2 + 1, dtype=torch.float64)
        product.index_add_(0, shell, (moved * reference.conj()).real.double())
        return product / counts

    def gain(parameters: np.ndarray) -> float:
        return -float((curve(parameters) * weights).sum() / weights.sum())

    weights = curve(np.zeros(6)).clamp_min(0.0) * counts
    weights = weights + 0.05 * counts / (1 + torch.arange(n // 2 + 1))
    solution = np.zeros(6)
    options = {"maxiter": 15, "gtol": 2e-4, "eps": 2e-3}
    solution = scipy.optimize.minimize(gain, solution, method="BFGS", options=options).x
    turn = axis_angle_to_matrix(torch.from_numpy(solution[:3] * unit / arm)).numpy()
    final = curve(solution)
    return Placement(
        rotation=turn @ rotation,
        translation=translation + solution[3:] * unit,
        mirrored=mirrored,
        correlation=float((final.clamp_min(0) * counts).sum() / counts.sum()),
    )


def map_dft(volume: VolumeMap, mask: Tensor | None = None) -> Tensor:
    """Half spectrum of a map, masked first."""
    data = torch.from_numpy(np.ascontiguousarray(volume.data, np.float32))
    return image_to_dft(data if mask is None else data * mask, 3)
