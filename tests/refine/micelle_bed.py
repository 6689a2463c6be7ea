"""A membrane protein in a detergent belt that is different around every particle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map


@dataclass(frozen=True)
class MicelleBed:
    """Images, their truth, the map of the protein alone, and the mean of what is in the ice."""

    particles: ParticleSet
    truth: ParticleSet
    protein: VolumeMap
    mean: VolumeMap
    diameter: float


def belt(protein: Atoms, rng: np.random.Generator, inner: float, outer: float, height: float) -> Atoms:
    """Carbon atoms at the density of detergent, in random clumps of the size of molecules, in a ring about z."""
    volume = np.pi * (outer**2 - inner**2) * height
    n_molecules = int(volume * 0.03 / 22)  # 22 atoms each, 0.03 atoms per Å3
    radius = np.sqrt(rng.uniform(inner**2, outer**2, n_molecules))
    angle, z = rng.uniform(0, 2 * np.pi, n_molecules), rng.uniform(-0.5, 0.5, n_molecules) * height
    middle = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    position = (middle[:, None] + 4.0 * rng.standard_normal((n_molecules, 22, 3))).reshape(-1, 3)
    free = cKDTree(protein.position).query(position)[0] > 3.0
    n = int(free.sum())
    return Atoms(
        position[free], np.full(n, 6), np.full(n, 20.0), np.ones(n), np.full(n, "M")
    )  # fmt: skip


def make_micelle_bed(
    folder: Path, *, n: int = 3000, snr: float = 0.05, n_belts: int = 100, seed: int = 0
) -> MicelleBed:
    """Simulate the bed: a 130 kDa protein, box 128 at 1.6 Å, `n_belts` different belts."""
    box, pixel_size = 128, 1.6
    rng = np.random.default_rng(seed)
    protein = phantom("globule", "C1", mass_kda=130.0, seed=seed + 1)
    reach = np.hypot(protein.position[:, 0], protein.position[:, 1])
    reach = float(np.quantile(reach[np.abs(protein.position[:, 2]) < 17], 0.9))
    core = potential_map(protein, box, pixel_size)
    states = []
    mean = np.zeros_like(core.data)
    for _ in range(n_belts):
        around = belt(protein, rng, 0.6 * reach, reach + 22.0, 34.0)
        whole = VolumeMap(core.data + potential_map(around, box, pixel_size).data, pixel_size)
        mean += whole.data / n_belts
        states.append((whole,))
    diameter = 2 * (reach + 30.0)
    specimen = Specimen(tuple(states), diameter=max(diameter, protein.diameter))
    truth = simulate_particles(specimen, folder, ParticleRecipe(n=n, snr=snr, junk=0.0), seed=seed)
    return MicelleBed(observed(truth), truth, core, VolumeMap(mean, pixel_size), specimen.diameter)
