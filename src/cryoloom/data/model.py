"""An atomic model: its atoms, grouped in residues."""

from dataclasses import dataclass

import numpy as np

BACKBONE = ("N", "CA", "C", "O", "OXT")


@dataclass(frozen=True)
class AtomicModel:
    """Atoms of a model without hydrogens and waters.

    Attributes
    ----------
    position
        xyz in Å, in the frame of the file, `(n, 3)` float64.
    element
        Atomic number, `(n,)` int64.
    bfactor
        Å2, `(n,)` float64.
    atom_name, residue_name, chain
        `(n,)` str.
    residue
        Index of the residue of each atom, ascending from 0, `(n,)` int64.
    number
        Residue number of the file, `(n,)` int64.
    """

    position: np.ndarray
    element: np.ndarray
    bfactor: np.ndarray
    atom_name: np.ndarray
    residue_name: np.ndarray
    chain: np.ndarray
    residue: np.ndarray
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    @property
    def is_side_chain(self) -> np.ndarray:
        """Atoms beyond the beta carbon, `(n,)`."""
        return ~np.isin(self.atom_name, (*BACKBONE, "CB"))

    @property
    def n_residues(self) -> int:
        """Number of residues."""
        return int(self.residue[-1]) + 1 if len(self) else 0

    def first_atom(self) -> np.ndarray:
        """Row of the first atom of each residue, `(n_residues,)`."""
        return np.flatnonzero(np.r_[True, self.residue[1:] != self.residue[:-1]])

    def residue_label(self, residue: int) -> str:
        """For instance `A/TRP 57`."""
        row = int(self.first_atom()[residue])
        return f"{self.chain[row]}/{self.residue_name[row]} {self.number[row]}"
