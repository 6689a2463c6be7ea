"""Atoms: what a structure is to the simulator, whether it came from a file or was made up.

Positions are xyz in Å. A record of atoms is turned, copied by symmetry and cut into states before
`potential.py` makes it a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

# Standard atomic weights in Da of the elements that occur in biological models; others count as their nearest metal.
_WEIGHT = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 11: 22.99, 12: 24.305, 15: 30.974, 16: 32.06, 17: 35.45,
           20: 40.078, 25: 54.938, 26: 55.845, 30: 65.38}  # fmt: skip


@dataclass(frozen=True)
class Atoms:
    """Atoms of one structure.

    Attributes
    ----------
    position
        xyz in Å, `(n, 3)` float64.
    element
        Atomic number, `(n,)` int64.
    bfactor
        B in Å2, scattering falls as `exp(-B k^2 / 4)`, `(n,)` float64.
    occupancy
        `(n,)` float64.
    chain
        Name of the chain of each atom, `(n,)` str.
    """

    position: np.ndarray
    element: np.ndarray
    bfactor: np.ndarray
    occupancy: np.ndarray
    chain: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    @property
    def mass_kda(self) -> float:
        """Mass of the atoms present in kDa; hydrogens are missing from most models (add about 7 %)."""
        numbers, counts = np.unique(self.element, return_counts=True)
        total = sum(_WEIGHT.get(int(z), 2.1 * int(z)) * int(n) for z, n in zip(numbers, counts, strict=True))
        return total / 1e3

    @property
    def centre_of_mass(self) -> np.ndarray:
        """Xyz in Å, `(3,)`, atoms weighted by their atomic number and occupancy."""
        weight = self.element * self.occupancy
        return (self.position * weight[:, None]).sum(0) / weight.sum()

    @property
    def diameter(self) -> float:
        """Twice the largest distance from the origin in Å, with the radius of an atom added."""
        return 2 * float(np.linalg.norm(self.position, axis=1).max() + 1.7)

    def centred(self, on: np.ndarray | None = None) -> Self:
        """Moved so that the centre of mass, or the point `on` xyz, is the origin."""
        return replace(self, position=self.position - (self.centre_of_mass if on is None else on))

    def moved(self, rotation: np.ndarray | None = None, translation: np.ndarray | None = None) -> Self:
        """`rotation @ position + translation`."""
        position = self.position if rotation is None else self.position @ np.asarray(rotation, np.float64).T
        return replace(self, position=position if translation is None else position + translation)

    def select(self, rows: np.ndarray) -> Self:
        """The atoms of a boolean mask or of indices."""
        return replace(
            self,
            position=self.position[rows],
            element=self.element[rows],
            bfactor=self.bfactor[rows],
            occupancy=self.occupancy[rows],
            chain=self.chain[rows],
        )

    def without_chains(self, names: Sequence[str]) -> Self:
        """All atoms but those of some chains."""
        return self.select(~np.isin(self.chain, list(names)))

    def only_chains(self, names: Sequence[str]) -> Self:
        """The atoms of some chains."""
        return self.select(np.isin(self.chain, list(names)))

    def copies(self, rotations: np.ndarray) -> Self:
        """Copies turned by each of `rotations` `(m, 3, 3)`, one after the other."""
        parts = [self.moved(rotation) for rotation in np.asarray(rotations)]
        return type(self).joined(parts)

    @classmethod
    def joined(cls, parts: Sequence["Atoms"]) -> Self:
        """All atoms of several records."""
        return cls(
            position=np.concatenate([p.position for p in parts]),
            element=np.concatenate([p.element for p in parts]),
            bfactor=np.concatenate([p.bfactor for p in parts]),
            occupancy=np.concatenate([p.occupancy for p in parts]),
            chain=np.concatenate([p.chain for p in parts]),
        )
