"""Particles with poses, ready to be asked about a map: images, noise, poses and halves in one record."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor, InputError
from cryoloom.data import ParticleSet
from cryoloom.em.accumulate import accumulate
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.images import ImageReader, ImageSource
from cryoloom.em.noise import NoiseModel, estimate_image_power
from cryoloom.em.poses import Candidates, single_candidates
from cryoloom.em.solve import SolvableSums, prepare_sums, solve


@dataclass(frozen=True)
class PosedParticles:
    """Particles and what is needed to compare them with a map.

    Attributes
    ----------
    source
        Images.
    noise
        Noise spectra.
    poses
        One candidate per usable particle, rows ascending.
    half
        Half of each row of the particle set, 1 or 2, `(n,)`.
    given_halves
        Whether the halves came with the particles.
    """

    source: ImageSource
    noise: NoiseModel
    poses: Candidates
    half: np.ndarray
    given_halves: bool

    @property
    def rows(self) -> np.ndarray:
        """Rows of the particle set that have a pose."""
        return self.poses.row

    def of_half(self, half: int) -> Candidates:
        """Poses of one half."""
        return self.poses.select(self.half[self.poses.row] == half)


def pose_particles(
    particles: ParticleSet,
    reader: ImageReader,
    diameter: float,
    executor: Executor,
    generator: torch.Generator,
    *,
    largest_number: int | None = None,
    cache_bytes: int = 1 << 30,
) -> PosedParticles:
    """Gather images, noise and poses of a particle set.

    Parameters
    ----------
    particles
        With rotations; `shift` and `scale` are 0 and 1 where they are missing.
    reader
        Of the images.
    diameter
        Of the particle's circle, Å.
    executor, generator
        Run work; split halves that are not given.
    largest_number
        At most so many particles, spread evenly over the set.

    Raises
    ------
    InputError
        If there are no poses.
    """
    if particles.rotation is None:
        raise InputError("The particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run refine first.")
    if largest_number is not None and len(particles) > largest_number:
        keep = np.linspace(0, len(particles) - 1, largest_number).astype(np.int64)
        reader, particles = _Rows(reader, keep), particles.select(keep)
    source = ImageSource(
        reader, particles, diameter, noise_group=noise_groups(particles, "optics"), cache_bytes=cache_bytes
    )
    n, rotation = len(particles), np.asarray(particles.rotation)
    shift_px = np.zeros((n, 2)) if particles.shift is None else particles.shift / source.pixel_size
    scale = np.ones(n) if particles.scale is None else np.nan_to_num(particles.scale, nan=1.0)
    usable = np.isfinite(rotation).all((1, 2)) & np.isfinite(shift_px).all(1)
    rows = np.flatnonzero(usable)
    given = particles.half is not None and len(np.unique(particles.half)) == 2
    return PosedParticles(
        source=source,
        noise=estimate_image_power(source, executor, rows),
        poses=single_candidates(rows, rotation[rows], shift_px[rows], scale[rows]),
        half=half_sets(particles, generator),
        given_halves=given,
    )


def insert(
    posed: PosedParticles, poses: Candidates, executor: Executor, *, symmetry: str = "C1", radius: int | None = None
) -> SolvableSums:
    """Sums of the particles at their poses, all into one volume."""
    radius = posed.source.points.radius if radius is None else min(radius, posed.source.points.radius)
    target = np.zeros(len(poses), np.int64)
    sums = accumulate(posed.source, poses, target, 1, posed.noise, executor, radius=radius)
    return prepare_sums(sums[0], symmetry, executor)


def reconstruct(
    posed: PosedParticles,
    poses: Candidates,
    executor: Executor,
    *,
    symmetry: str = "C1",
    radius: int | None = None,
    box: int | None = None,
) -> Tensor:
    """Unregularised map of the particles at their poses, `(box, box, box)`."""
    return solve(insert(posed, poses, executor, symmetry=symmetry, radius=radius), box or posed.source.box)


class _Rows:
    """Some rows of a reader."""

    def __init__(self, reader: ImageReader, rows: np.ndarray) -> None:
        self.reader, self.rows = reader, rows

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.reader.read(self.rows[rows])
