"""Half maps whose B-factor is planted: alike everywhere, or different in two parts of a particle."""

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from cryoloom.maps import apply_bfactor, lowpass, soft_mask_from_map
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from phantoms import half_maps, noise_for


@cache
def particle(seed: int, box: int, pixel_size: float) -> np.ndarray:
    """Potential of a made-up protein of 60 to 90 kDa, atoms at rest; kept, since it takes long to make."""
    atoms = phantom("globule", "C1", mass_kda=60.0 + 10 * seed, seed=seed)
    return potential_map(replace(atoms, bfactor=np.zeros_like(atoms.bfactor)), box, pixel_size).data


@dataclass(frozen=True)
class SharpeningCase:
    """Half maps, soft mask, planted B-factor in Å2 per voxel, and which part is the sharper one."""

    half1: torch.Tensor
    half2: torch.Tensor
    mask: torch.Tensor
    bfactor: np.ndarray
    sharp: np.ndarray
    pixel_size: float


def sharpening_case(seed: int, box: int = 80, pixel_size: float = 1.5) -> SharpeningCase:
    """Case of a seed: one B-factor when it is even, else two parts that differ by 30 to 200 Å2; 3.5 to 4.5 Å."""
    rng = np.random.default_rng([9, seed])
    truth = torch.from_numpy(particle(int(rng.integers(4)), box, pixel_size).copy())
    normal = rng.normal(size=3)
    grid = np.stack(np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij"), -1) * pixel_size
    height = grid @ (normal / np.linalg.norm(normal))
    share = torch.from_numpy(1 / (1 + np.exp(height / 2.0))).float()
    low = rng.uniform(40, 120)
    high = low if seed % 2 == 0 else low + rng.uniform(30, 200)
    blurred = share * apply_bfactor(truth, pixel_size, low) + (1 - share) * apply_bfactor(truth, pixel_size, high)
    mask = soft_mask_from_map(lowpass(truth, pixel_size, 15.0), pixel_size)
    halves = half_maps(blurred, noise_for(blurred, mask, pixel_size, rng.uniform(3.5, 4.5)), seed)
    sharp = height < 0
    return SharpeningCase(*halves, mask, np.where(sharp, low, high), sharp, pixel_size)
