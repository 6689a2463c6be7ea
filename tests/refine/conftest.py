"""A small set on disk, from a built-in phantom, with its truth; modules of this folder can be imported by its tests."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

sys.path.insert(0, str(Path(__file__).resolve().parent))


@dataclass(frozen=True)
class SmallSet:
    """Particles as a pipeline sees them, their truth, and the map they show."""

    particles: ParticleSet
    truth: ParticleSet
    volume: VolumeMap
    symmetry: str
    diameter: float


def make(folder: Path, *, n: int, snr: float, box: int, pixel_size: float, symmetry: str, seed: int = 0, **changes):
    shape = {"C1": "globule", "D2": "rod"}[symmetry]
    atoms = phantom(shape, symmetry, mass_kda=250.0)
    specimen = Specimen(((potential_map(atoms, box, pixel_size),),), symmetry=symmetry, diameter=atoms.diameter)
    recipe = ParticleRecipe(n=n, snr=snr, junk=0.0, **changes)
    truth = simulate_particles(specimen, folder, recipe, seed=seed)
    return SmallSet(observed(truth), truth, specimen.truth(0), symmetry, atoms.diameter)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """`small_set(n=..., snr=..., ...)`; equal arguments give one set."""
    made = {}

    def get(**options):
        options = dict(n=240, snr=0.5, box=44, pixel_size=4.4, symmetry="C1") | options
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = make(tmp_path_factory.mktemp("particles"), **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def half_column():
    """Halves 1 and 2 in turn."""
    return lambda n: np.arange(n) % 2 + 1
