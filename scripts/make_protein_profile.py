"""Recompute the average protein profile of `cryoloom.maps.protein` from model files.

Usage: python scripts/make_protein_profile.py MODEL [MODEL ...]

Each model (first assembly; waters and hydrogens left out; B set to one value and taken out again) gives its
rotationally averaged power of the electron scattering potential, divided by the sum over its atoms of their squared
scattering factors at zero angle. The mean of the logarithm over the models, and its spread, are printed on an even
grid of frequency.
"""

import sys
from pathlib import Path

import gemmi
import numpy as np
import scipy.fft

SPACING, BLUR = 0.6, 12.0
GRID = np.arange(0.05, 0.5001, 0.01)


def profile(path: Path) -> np.ndarray:
    """Logarithm of the normalised power on `GRID`."""
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    if structure.assemblies:
        structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Short)
        structure.setup_entities()
    structure.remove_ligands_and_waters()
    structure.remove_hydrogens()
    structure.remove_alternative_conformations()
    model = structure[0]
    atoms = [atom for chain in model for residue in chain for atom in residue]
    xyz = np.array([atom.pos.tolist() for atom in atoms])
    low = xyz.min(0) - 6
    extent = (xyz.max(0) + 6 - low).max()
    n = scipy.fft.next_fast_len(int(np.ceil(extent / SPACING)), real=True)
    cell = gemmi.UnitCell(n * SPACING, n * SPACING, n * SPACING, 90, 90, 90)
    for atom, position in zip(atoms, xyz - low, strict=True):
        atom.pos = gemmi.Position(*position)
        atom.b_iso, atom.occ, atom.aniso = BLUR, 1.0, gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    structure.cell = cell
    structure.spacegroup_hm = "P 1"
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.unit_cell = cell
    calculator.grid.set_size(n, n, n)
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    for atom in atoms:
        calculator.add_atom_density_to_grid(atom)
    density = np.array(calculator.grid, copy=False).astype(np.float32)
    power = np.abs(scipy.fft.rfftn(density * SPACING**3)) ** 2
    k = np.fft.fftfreq(n, SPACING)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.fft.rfftfreq(n, SPACING)[None, None, :] ** 2)
    edges = np.append(GRID - 0.005, GRID[-1] + 0.005)
    counts, _ = np.histogram(radius, edges)
    sums, _ = np.histogram(radius, edges, weights=power)
    measured = sums / counts * np.exp(BLUR * GRID**2 / 2)
    at_zero = 0.0
    for element in {atom.element.name for atom in atoms}:
        number = sum(atom.element.name == element for atom in atoms)
        at_zero += number * gemmi.Element(element).c4322.calculate_sf(0.0) ** 2
    return np.log(measured / at_zero)


def main() -> None:
    """Print the table."""
    curves = np.array([profile(Path(path)) for path in sys.argv[1:]])
    np.set_printoptions(precision=3, suppress=True, linewidth=120)
    print("mean", np.array2string(curves.mean(0), separator=", "))
    print("spread", np.array2string(curves.std(0, ddof=1), separator=", "))
    for path, curve in zip(sys.argv[1:], curves, strict=True):
        print(Path(path).stem, np.array2string(curve[::5], separator=", "))


if __name__ == "__main__":
    main()
