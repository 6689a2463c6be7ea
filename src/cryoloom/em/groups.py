"""Half sets, noise groups and diameters: what every stage on the engine settles before it begins."""

import numpy as np
import torch

from cryoloom.data import ParticleSet

N_QUARTERS = 4
"""Quarters 0 and 1 are those of half 1, quarters 2 and 3 those of half 2."""


def half_sets(particles: ParticleSet, generator: torch.Generator) -> np.ndarray:
    """Half of each particle, 1 or 2, `(n,)`: the column `half` where it is there, else a random even split."""
    n = len(particles)
    if particles.half is not None and np.isin(particles.half, (1, 2)).all() and len(np.unique(particles.half)) == 2:
        return particles.half.astype(np.int64)
    order = torch.randperm(n, generator=generator).numpy()
    half = np.empty(n, np.int64)
    half[order] = np.arange(n) % 2 + 1
    return half


def parts_of(half: np.ndarray, n: int) -> np.ndarray:
    """Part of each particle from 0, `(n,)` int64, when each half (1 or 2) is dealt out in turn into `n` parts."""
    part = np.empty(len(half), np.int64)
    for h in (1, 2):
        mine = np.flatnonzero(half == h)
        part[mine] = n * (h - 1) + np.arange(len(mine)) % n
    return part


def quarter_of(half: np.ndarray) -> np.ndarray:
    """Quarter of each particle from 0, `(n,)` int64: the particles of each half (1 or 2) in turn."""
    return parts_of(half, N_QUARTERS // 2)


def noise_groups(particles: ParticleSet, which: str) -> np.ndarray:
    """Noise group of each particle from 0, `(n,)`: its optics group or its micrograph."""
    if which == "micrograph" and particles.micrograph is not None:
        return np.unique(particles.micrograph.astype(str), return_inverse=True)[1].astype(np.int64)
    return np.unique(particles.optics_index, return_inverse=True)[1].astype(np.int64)
