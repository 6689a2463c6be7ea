"""Round templates: mixtures of uniform balls around one centre.

What a particle of any shape looks like on average over all its orientations is round, and a mixture of ball
projections. One ball is a template of its own; `radial.py` finds the mixture that the micrographs ask for.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

_QUANTILE = 0.98  # of the mass, within the extent


@dataclass(frozen=True)
class RoundTemplate:
    """Balls around one centre.

    Attributes
    ----------
    diameters
        Å.
    masses
        They sum to 1; those of hollows are negative.
    """

    diameters: tuple[float, ...]
    masses: tuple[float, ...]

    @classmethod
    def ball(cls, diameter: float) -> Self:
        """One uniform ball."""
        return cls((diameter,), (1.0,))

    @classmethod
    def mixture(cls, diameters: np.ndarray, masses: np.ndarray) -> Self:
        """Balls with masses `(n,)` each, scaled to unit mass; those without mass are dropped."""
        kept = masses != 0
        total = float(masses.sum())
        return cls(tuple(diameters[kept].tolist()), tuple((masses[kept] / total).tolist()))

    def transform(self, radius: Tensor) -> Tensor:
        """Transform of the projection at spatial frequencies `radius` in 1/Å; 1 at the origin."""
        total = torch.zeros_like(radius)
        for diameter, mass in zip(self.diameters, self.masses, strict=True):
            total = total + mass * ball_projection(radius, diameter)
        return total

    @cached_property
    def extent(self) -> float:
        """Diameter in Å of the sphere that holds 98 % of the mass."""
        r = np.linspace(0, max(self.diameters) / 2, 600)
        density = np.zeros_like(r)
        for diameter, mass in zip(self.diameters, self.masses, strict=True):
            density += mass / diameter**3 * (r <= diameter / 2)
        within = np.cumsum(density * r**2)
        return float(2 * np.interp(_QUANTILE, within / within[-1], r)) if len(self.diameters) > 1 else self.diameters[0]


def ball_projection(radius: Tensor, diameter: float) -> Tensor:
    """Transform of the projection of a uniform ball at spatial frequencies `radius` in 1/Å; 1 at the origin."""
    x = (math.pi * diameter * radius).clamp_min(1e-2)
    value = 3 * (torch.sin(x) - x * torch.cos(x)) / x**3
    return torch.where(radius * diameter * math.pi < 1e-2, torch.ones_like(value), value)
