"""Half maps whose local resolution is planted: bodies of two or three domains, each with its own fall of the signal."""

from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.maps import cosine_edge, filter_map, radial_frequency

BOX, PIXEL = 72, 1.3


@dataclass(frozen=True)
class LocalCase:
    """Half maps, soft mask, and the resolution at which the local FSC is 1/7 in Å per voxel."""

    half1: torch.Tensor
    half2: torch.Tensor
    mask: torch.Tensor
    truth: np.ndarray


def local_case(seed: int) -> LocalCase:
    """Case of a seed: 2 or 3 domains between 3 and 8 Å; in every third case the noise differs from place to place."""
    rng = np.random.default_rng([8, seed])
    generator = torch.Generator().manual_seed(seed)
    grid = np.stack(np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij"), -1) * PIXEL  # zyx, Å
    body = _body(grid, rng)
    seeds = rng.normal(size=(int(rng.integers(2, 4)), 3))
    seeds *= 18.0 / np.linalg.norm(seeds, axis=1, keepdims=True)
    domain = ((grid[..., None, :] - seeds) ** 2).sum(-1).argmin(-1)
    resolutions = np.exp(rng.uniform(np.log(3.2), np.log(8.0), len(seeds)))
    level = np.ones(grid.shape[:3])
    if seed % 3 == 2:
        direction = rng.normal(size=3)
        level = np.exp(0.25 * (grid @ (direction / np.linalg.norm(direction))) / 30.0)
    signal, truth = torch.zeros(BOX, BOX, BOX), np.zeros((BOX,) * 3)
    k = radial_frequency((BOX,) * 3, PIXEL)
    for i, resolution in enumerate(resolutions):
        steepness = rng.uniform(2.5, 4.5)
        power = (1 / 6) * torch.exp(steepness * (1 - (k * resolution) ** 2)).clamp(max=1e3)
        texture = filter_map(torch.randn(BOX, BOX, BOX, generator=generator), power.sqrt())
        signal = signal + texture * torch.from_numpy((domain == i) & (body > 0)).float()
        # In noise of amplitude m the ratio is 1/6 where steepness (1 - (k r)²) = 2 ln m.
        there = resolution / np.sqrt(np.clip(1 - 2 * np.log(level) / steepness, 0.05, None))
        truth = np.where(domain == i, there, truth)
    halves = [signal + torch.randn(signal.shape, generator=generator) * torch.from_numpy(level).float() for _ in "12"]
    return LocalCase(halves[0], halves[1], cosine_edge(torch.from_numpy(-30.0 * body), 4.0).float(), truth)


def _body(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positive inside an ellipsoid of random axes, falling by 1 over about 30 Å, `(d, h, w)`."""
    axes = rng.uniform(26.0, 36.0, 3)
    return 1.0 - np.sqrt(((grid / axes) ** 2).sum(-1))
