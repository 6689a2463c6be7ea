"""Principal volumes: the directions in which particles of known pose differ, how far, and how sure both are.

Directions come from a probabilistic principal component analysis (`subspace.py`), once from all particles and once from
each half alone. A half's own directions fit its own noise, so how far particles differ along them is measured with
directions of the other half: there a particle's cross terms have covariance `s² G Λ G + G`, and Λ is found by maximum
likelihood with nothing shrunk. The halves' agreement says to which resolution the directions are known: what differs in
few particles or moves little shows at low resolution only (Sorzano & Carazo 2021, doi:10.1107/S2059798321002291).
Variances are those of the detail that is known: finer detail is held back by the filter against noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.class3d.common import CommonMap, mask_in_box
from cryoloom.class3d.subspace import Subspace, find_subspace
from cryoloom.contract import Executor
from cryoloom.em.halves import prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products
from cryoloom.fourier import rfftn
from cryoloom.maps.filter import weight_shells
from cryoloom.maps.fsc import cross_and_powers, crossing_shell, fourier_shell_correlation

KNOWN = np.deg2rad(10.0)
"""Angle from the truth up to which a volume counts as known."""
LIKE = 0.5
"""Least correlation of a volume as the two halves have it."""


@dataclass(frozen=True)
class PrincipalVolumes:
    """Mean and principal volumes over the field of the images, strongest first.

    Attributes
    ----------
    mean
        Mean map, `(m, m, m)`.
    volumes
        Orthonormal as vectors of voxels, q of `(m, m, m)`.
    deviation
        Standard deviation of the particles along each: times a volume it is a map, `(q,)`.
    variance, error
        Variance of the particles along each, of detail up to shell `known`, and its standard error, in units of the
        power of the mean map up to there, `(q,)`.
    coordinates, spread
        Of every particle along each in standard deviations, posterior mean and its standard error, `(n, q)`.
    angles
        Principal angles between the subspaces of the two halves, smallest first, radians, `(q,)`.
    likeness
        Correlation of each volume as the two halves have it, `(q,)`.
    fsc
        Of each volume as either half has it, `(q, m // 2 + 1)`.
    limit
        Resolution at which that FSC falls below 0.143, Å, `(q,)`.
    found
        Whether the halves agree on each and particles differ along it beyond doubt, `(q,)`.
    known
        Last shell up to which all that were found are expected to be right to `KNOWN`.
    radius
        Last shell that was looked at.
    """

    mean: Tensor
    volumes: list[Tensor]
    deviation: np.ndarray
    variance: np.ndarray
    error: np.ndarray
    coordinates: np.ndarray
    spread: np.ndarray
    angles: np.ndarray
    likeness: np.ndarray
    fsc: np.ndarray
    limit: np.ndarray
    found: np.ndarray
    known: int
    radius: int


def principal_volumes(
    source: ImageSource,
    poses: PoseTable,
    common: CommonMap,
    executor: Executor,
    generator: torch.Generator,
    *,
    n_volumes: int,
    radii: list[int],
    symmetry: str = "C1",
    log: Callable[[str], None],
) -> PrincipalVolumes:
    """Find them.

    Parameters
    ----------
    common
        Noise, where particles may differ, and the map that they share.
    radii
        Last shell of each stage of the fit.
    """
    rows = np.arange(len(source))

    def directions(of: np.ndarray, split: np.ndarray | None, note: str) -> Subspace:
        log(note)
        return find_subspace(
            source, common.volume, common.mask, poses, of, common.noise, executor, generator,
            n_directions=n_volumes, radii=radii, symmetry=symmetry, split=split, log=log,
        )  # fmt: skip

    together = directions(rows, None, "all particles")
    joint, shape = orthonormal(together.volumes[1:]), together.volumes[0].shape
    support = mask_in_box(common.support, shape[0])
    halves: list[_OfHalf] = []
    for h in (1, 2):
        mine = rows[poses.half == h]
        own = directions(mine, np.arange(len(mine)) % 2, f"half {h}")
        basis = orthonormal(own.volumes[1:])
        # turned to lie on the basis of all particles
        u, _, v = np.linalg.svd(basis.T @ joint)
        halves.append(_OfHalf(h, own.volumes[0] * support, basis @ (u @ v)))
    cosines = np.linalg.svd(halves[0].basis.T @ halves[1].basis, compute_uv=False)

    def along(bases: list[np.ndarray], radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Products of every particle with the other half's directions, and the particles' covariance along them."""
        cross, gram = np.empty((len(rows), n_volumes)), np.empty((len(rows), n_volumes, n_volumes))
        moments = []
        for half, basis in zip(halves, bases, strict=True):
            others = rows[poses.half != half.number]
            volumes = [half.mean, *_as_volumes(basis, shape)]
            cross[others], gram[others] = _products(source, volumes, poses, others, common, executor, radius)
            moments.append(covariance_along(cross[others], gram[others]))
        return cross, gram, np.mean(moments, axis=0)

    radius = radii[-1]
    cross, gram, covariance = along([half.basis for half in halves], radius)
    value, turn = np.linalg.eigh(covariance)
    value, turn = np.maximum(value[::-1], 1e-6 * value[-1]), turn[:, ::-1]
    cross, gram = cross @ turn, turn.T @ gram @ turn
    turned = [half.basis @ turn for half in halves]
    likeness = (turned[0] * turned[1]).sum(0)
    found = (value > 3 * variance_errors(gram, value)) & (likeness > LIKE)
    volumes = _as_volumes(joint @ turn, shape)
    pairs = zip(*(_as_volumes(basis, shape) for basis in turned), strict=True)
    fsc = np.stack([fourier_shell_correlation(a, b).numpy() for a, b in pairs])
    known = min([known_to(v, f, radius) for v, f, told in zip(volumes, fsc, found, strict=True) if told] or [radius])
    # variances of the detail that is known, along the volumes of the halves cut there
    cut = [orthonormal([_cut(v, known) for v in _as_volumes(basis, shape)]) for basis in turned]
    _, gram_known, covariance_known = along(cut, known)
    power = float((_cut(together.volumes[0] * support, known).double() ** 2).sum())
    mean, spread = _coordinates(cross, gram, value)
    return PrincipalVolumes(
        mean=together.volumes[0] * support,
        volumes=volumes,
        deviation=np.sqrt(value),
        variance=np.diag(covariance_known) / power,
        error=variance_errors(gram_known, np.diag(covariance_known)) / power,
        coordinates=mean / np.sqrt(value),
        spread=np.sqrt(np.einsum("njj->nj", spread) / value),
        angles=np.arccos(np.clip(cosines, 0.0, 1.0)),
        likeness=likeness,
        fsc=fsc,
        limit=np.array([source.field / min(max(crossing_shell(f, 0.143), 1.0), radius) for f in fsc]),
        found=found,
        known=known,
        radius=radius,
    )


@dataclass(frozen=True)
class _OfHalf:
    """What the particles of one half alone give: their mean map and a basis of their directions, `(voxels, q)`."""

    number: int
    mean: Tensor
    basis: np.ndarray


def _products(
    source: ImageSource,
    volumes: list[Tensor],
    poses: PoseTable,
    rows: np.ndarray,
    common: CommonMap,
    executor: Executor,
    radius: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Products of what is left of particles after the mean with the directions, and of these, grey scales in both."""
    spectra = prepare_references(volumes, executor, radius, source.place)
    b, g = slice_products(
        source, [spectra], np.zeros(len(rows), np.int64), rows, poses.rotation[rows], poses.shift_px[rows],
        common.noise, executor, radius=radius,
    )  # fmt: skip
    s = poses.scale[rows][:, None]
    return s * b[:, 1:] - s**2 * g[:, 1:, 0], s[..., None] ** 2 * g[:, 1:, 1:]


def known_to(volume: Tensor, fsc: np.ndarray, radius: int) -> int:
    """Last shell up to which a volume is expected to be right to the angle `KNOWN`, at least 3.

    A volume filtered by its signal's share `C² = 2 FSC / (1 + FSC)` has power `p = S C²` where the signal's is S, and
    up to a shell makes an angle with the truth whose squared cosine is `Σ p / Σ (p / C²)`. What both halves have wrong
    in common, such as the blur of inaccurate poses, is not seen: on bed `four` a volume is off by 12.7° where 10° is
    expected.

    Parameters
    ----------
    volume
        Made of all particles.
    fsc
        Between the halves' volumes.
    """
    spectrum = rfftn(volume.double(), 3)
    _, power, _ = cross_and_powers(spectrum, spectrum, volume.shape)
    p, f = power.numpy()[: radius + 1], np.clip(fsc[: radius + 1], 1e-3, 1.0)
    cosine = np.cumsum(p) / np.maximum(np.cumsum(p * (1.0 + f) / (2.0 * f)), 1e-300)
    right = np.flatnonzero(cosine[3:] >= np.cos(KNOWN) ** 2)
    return 3 + int(right[-1]) if len(right) else 3


def _cut(volume: Tensor, shell: int) -> Tensor:
    """A volume without what lies beyond a shell."""
    curve = (torch.arange(len(volume) // 2 + 1) <= shell).double()
    return weight_shells(volume, curve)


def orthonormal(volumes: list[Tensor]) -> np.ndarray:
    """Orthonormal basis of the span of volumes as vectors of voxels, `(voxels, q)` float64."""
    flat = np.stack([v.double().numpy().ravel() for v in volumes], axis=1)
    u, _, v = np.linalg.svd(flat, full_matrices=False)
    return np.asarray(u @ v)


def covariance_along(cross: np.ndarray, gram: np.ndarray, n_steps: int = 300) -> np.ndarray:
    """Maximum-likelihood covariance `(q, q)` of coordinates along given directions, about their own mean.

    Parameters
    ----------
    cross, gram
        Products of what is left of each particle after the mean, and of the slices, with the grey scale in both;
        `(n, q)` and `(n, q, q)`.
    n_steps
        Most steps of the expectation maximisation; it ends when nothing changes by a thousandth.
    """
    q = cross.shape[1]
    # method of moments for a start: E[b bᵀ] = G Λ G + G
    middle = gram.mean(0)
    inverse = np.linalg.inv(middle + 1e-12 * np.trace(middle) * np.eye(q))
    start = inverse @ (np.einsum("ni,nj->ij", cross, cross) / len(cross) - middle) @ inverse
    values, vectors = np.linalg.eigh(0.5 * (start + start.T))
    found = (vectors * np.maximum(values, 1e-2 / np.trace(middle) * q)) @ vectors.T
    centre = np.zeros(q)
    for _ in range(n_steps):
        precision = np.linalg.inv(found)
        posterior = np.linalg.inv(precision + gram)
        mean = np.einsum("nij,nj->ni", posterior, cross + precision @ centre)
        centre = mean.mean(0)
        before, apart = found, mean - centre
        found = posterior.mean(0) + apart.T @ apart / len(apart)
        if np.abs(found - before).max() < 1e-3 * np.abs(found).max() / q:
            break
    return np.asarray(found)


def variance_errors(gram: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Standard errors of variances along uncorrelated coordinates, `(q,)`, from the Fisher information."""
    out = []
    for j, value in enumerate(variance):
        weight = 1.0 / (max(value, 0.0) + 1.0 / np.maximum(gram[:, j, j], 1e-30))
        out.append(np.sqrt(2.0 / np.maximum((weight**2).sum(), 1e-300)))
    return np.array(out)


def _coordinates(cross: np.ndarray, gram: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance of the coordinates under a normal prior of these variances."""
    covariance = np.linalg.inv(gram + np.diag(1.0 / variance))
    return np.einsum("nij,nj->ni", covariance, cross), covariance


def _as_volumes(basis: np.ndarray, shape: torch.Size) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(column, np.float32)).reshape(shape) for column in basis.T]
