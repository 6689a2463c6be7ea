"""Small sets of two and three states, with their truth."""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles


@dataclass(frozen=True)
class States:
    """Particles as a refinement leaves them (poses known), without poses, their truth, and the maps."""

    posed: ParticleSet
    bare: ParticleSet
    truth: ParticleSet
    maps: tuple[VolumeMap, ...]
    diameter: float

    def accuracy(self, class_number: np.ndarray) -> float:
        """Share of particles in their right class under the best matching of names."""
        k = max(int(class_number.max()), len(self.maps))
        return max(
            float(np.mean(np.array(names)[class_number - 1] == self.truth.class_number))
            for names in permutations(range(1, k + 1))
        )


def blob_states(box: int, n_states: int, seed: int) -> list[torch.Tensor]:
    """A body of blobs; state k > 0 lacks the k-th of its outer lobes."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(box, dtype=torch.float64) - box // 2

    def blobs(centres: torch.Tensor) -> torch.Tensor:
        g = [torch.exp(-((axis[None] - centres[:, i : i + 1]) ** 2) / (2 * (0.026 * box) ** 2)) for i in range(3)]
        return torch.einsum("nz,ny,nx->zyx", g[2], g[1], g[0]).float()

    def ball(n: int, radius: float) -> torch.Tensor:
        p = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        return p / p.norm(dim=1, keepdim=True) * radius * torch.rand(n, 1, generator=generator).double() ** (1 / 3)

    body = blobs(ball(60, 0.2 * box))
    lobes = []
    for _ in range(max(n_states - 1, 1)):
        direction = torch.randn(3, generator=generator, dtype=torch.float64)
        place = direction / direction.norm() * 0.24 * box
        lobes.append(blobs(ball(10, 0.08 * box) + place))
    whole = body + sum(lobes)
    return [whole, *(whole - lobe for lobe in lobes)][:n_states]


def make_states(
    folder: Path, *, n: int, weights: tuple[float, ...], snr: float, seed: int = 0, off: float = 0.2
) -> States:
    """Simulate; poses are true but for errors of `off` degrees and Å about each axis."""
    box, pixel_size = 40, 4.4
    maps = tuple(VolumeMap(v.numpy(), pixel_size) for v in blob_states(box, len(weights), seed))
    diameter = 0.66 * box * pixel_size
    specimen = Specimen(tuple((m,) for m in maps), diameter=diameter, weights=weights)
    truth = simulate_particles(specimen, folder, ParticleRecipe(n=n, snr=snr, junk=0.0), seed=seed)
    bare = observed(truth)
    rng = np.random.default_rng(seed)
    turn = torch.from_numpy(rng.normal(size=(n, 3)) * np.deg2rad(off))
    zero, (x, y, z) = torch.zeros(n, dtype=torch.float64), turn.unbind(1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(n, 3, 3)
    posed = bare.replace(
        rotation=truth.rotation @ torch.linalg.matrix_exp(skew).numpy(),
        shift=truth.shift + rng.normal(size=(n, 2)) * off,
        half=np.arange(n) % 2 + 1,
    )
    return States(posed, bare, truth, maps, diameter)


@pytest.fixture(scope="session")
def simulate_states():
    """The simulator itself."""
    return make_states


@pytest.fixture(scope="session")
def states(tmp_path_factory):
    """`states(n=..., weights=..., snr=...)`; equal arguments give one set."""
    made = {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = make_states(tmp_path_factory.mktemp("states"), **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def executor():
    return ThreadExecutor(2)
