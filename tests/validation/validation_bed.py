"""Particles in memory at the noise of bed `c1`, of phantoms at a coarse pixel: few, so harder than the bed itself."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.simulate.particles import ParticleRecipe, Specimen, particle_images
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.validation.posed import PosedParticles, pose_particles


class InMemory:
    """A reader of images that lie in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


@dataclass(frozen=True)
class Bed:
    """Images, their truth and the map they show."""

    images: np.ndarray
    truth: ParticleSet
    volume: VolumeMap
    diameter: float
    symmetry: str

    def posed(self, particles: ParticleSet | None = None, images: np.ndarray | None = None) -> PosedParticles:
        return pose_particles(
            self.truth if particles is None else particles,
            InMemory(self.images if images is None else images),
            1.1 * self.diameter,
            ThreadExecutor(1),
            torch.Generator().manual_seed(0),
        )


@cache
def specimen_of(shape: str, symmetry: str, mass_kda: float, seed: int, box: int, pixel_size: float) -> Specimen:
    """A phantom's map; kept, since phantoms take longer to make than their images."""
    atoms = phantom(shape, symmetry, mass_kda=mass_kda, seed=seed)
    return Specimen(((potential_map(atoms, box, pixel_size),),), symmetry=symmetry, diameter=atoms.diameter)


def make_bed(
    n: int,
    *,
    seed: int = 0,
    snr: float = 0.05,
    box: int = 44,
    pixel_size: float = 4.4,
    mass_kda: float = 250.0,
    shape: str = "globule",
    symmetry: str = "C1",
    **changes: object,
) -> Bed:
    specimen = specimen_of(shape, symmetry, mass_kda, seed % 8, box, pixel_size)
    recipe = ParticleRecipe(**({"n": n, "snr": snr, "junk": 0.0} | changes))  # type: ignore[arg-type]
    images, truth = particle_images(specimen, recipe, seed=seed)
    truth = truth.replace(image_path=np.array(["memory"] * n), image_index=np.arange(n), half=np.arange(n) % 2 + 1)
    truth = truth.replace(ctf_bfactor=None)  # a pipeline does not know it
    return Bed(images.numpy(), truth, specimen.truth(0), specimen.diameter, symmetry)
