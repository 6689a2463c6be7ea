"""Small refinements for validation: the engine's own schedule on images in memory, from any reference."""

from dataclasses import dataclass

import numpy as np
import torch
from validation_bed import Bed, InMemory

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em import ImageSource, solve
from cryoloom.em.start import place_reference
from cryoloom.refine.plan import Plan
from cryoloom.refine.schedule import iterate
from cryoloom.refine.state import begin

EXECUTOR = ThreadExecutor(1)


@dataclass(frozen=True)
class Refined:
    """Half maps and particles with the poses that were found."""

    halves: tuple[torch.Tensor, torch.Tensor]
    particles: ParticleSet


def refine(
    bed: Bed, reference: np.ndarray, symmetry: str = "C1", *, lowpass: float = 30.0, iterations: int = 6
) -> Refined:
    """Refine the images of a bed from a reference under a point group."""
    blind = bed.truth.replace(rotation=None, shift=None, scale=None)
    source = ImageSource(InMemory(bed.images), blind, 1.1 * bed.diameter)
    placed = place_reference(VolumeMap(reference, bed.volume.pixel_size), source.field, source.box, lowpass)
    plan = Plan(
        symmetry=symmetry,
        diameter=1.1 * bed.diameter,
        initial_lowpass=lowpass,
        max_iterations=iterations,
        defocus_spread=0.0,
    )
    state, outcome = begin(source, placed, np.asarray(bed.truth.half), plan, EXECUTOR), None
    while not state.finished:
        state, outcome = iterate(source, state, plan, EXECUTOR, lambda message: None)
    assert outcome is not None
    halves = tuple(solve(sums, source.box) for sums in outcome.halves)
    poses = state.poses
    particles = blind.replace(
        rotation=poses.rotation, shift=poses.shift_px * source.pixel_size, scale=np.clip(poses.scale, 0.3, 3.0)
    )
    return Refined((halves[0], halves[1]), particles)


def ball(bed: Bed, radius: float = 0.3) -> np.ndarray:
    """A ball of `radius` particle diameters."""
    box = bed.images.shape[-1]
    z, y, x = np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij")
    return (np.sqrt(z**2 + y**2 + x**2) * bed.volume.pixel_size < radius * bed.diameter).astype(np.float32)
