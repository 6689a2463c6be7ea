"""Atoms of PDB and mmCIF files: the biological assembly, centred, with its symmetry on the conventional axes.

Crystal files hold one asymmetric unit and operators; the first assembly is built from them. For a point
group the copies of the first protomer are made exact, so that a refinement with that symmetry can be exact too.
"""

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np

from cryoloom.geometry import symmetry_matrices
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.frame import standard_frame, superpose_points


def read_atoms(path: str | Path, *, assembly: str | None = "1", bfactor: str | float = "relative") -> Atoms:
    """Atoms of a model file, centred on their centre of mass.

    Parameters
    ----------
    path
        PDB or mmCIF, may be compressed.
    assembly
        Name of the assembly to build, or None for the atoms as they are written. A file without assemblies is
        taken as it is.
    bfactor
        `"relative"`: B-factors of the file with their lowest tenth moved to 10 Å2 (crystal disorder does not
        occur in single particles), between 5 and 150 Å2. `"model"`: as in the file. A number: the same for all.

    Raises
    ------
    ValueError
        If the file holds no atoms or not the assembly asked for.
    """
    structure = gemmi.read_structure(str(path))
    if not len(structure):
        raise ValueError(f"{path}: the file holds no model")
    if assembly is not None and len(structure.assemblies):
        names = [a.name for a in structure.assemblies]
        if assembly not in names:
            raise ValueError(f"{path}: assembly {assembly!r} does not exist; the file has {', '.join(names)}")
        structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.Short)
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    structure.remove_waters()
    structure.remove_empty_chains()
    model = structure[0]
    atoms = _model_atoms(model)
    if not len(atoms):
        raise ValueError(f"{path}: the model holds no atoms")
    return _with_bfactor(atoms, bfactor).centred()


def read_symmetric(path: str | Path, symmetry: str, *, bfactor: str | float = "relative") -> Atoms:
    """Atoms of the assembly of a model file, turned so that its point group lies on the conventional axes.

    The copies are generated from the first protomer by the exact operators of `symmetry`.
    """
    if symmetry.upper() == "C1":
        return read_atoms(path, bfactor=bfactor)
    operators = symmetry_matrices(symmetry).numpy()
    atoms = read_atoms(path, bfactor=bfactor)
    protomers = _protomers(atoms, len(operators))
    reference = protomers[0]
    rotations, centres = [], []
    for other in protomers:
        rotation, translation = superpose_points(reference.position, other.position)
        rotations.append(rotation)
        centres.append(translation)
    # The fixed point c of all x -> R x + t, in the least-squares sense: (1 - R) c = t
    matrix = np.concatenate([np.eye(3) - r for r in rotations])
    centre = np.linalg.lstsq(matrix, np.concatenate(centres), rcond=None)[0]
    if symmetry.upper().startswith("C"):
        axis_free = atoms.centre_of_mass - centre
        axis = _common_axis(rotations)
        centre = centre + axis * (axis @ axis_free)
    frame = standard_frame(np.stack(rotations), symmetry)
    return reference.centred(centre).moved(frame).copies(operators)


def _common_axis(rotations: list[np.ndarray]) -> np.ndarray:
    mean = np.mean(rotations, axis=0)
    values, vectors = np.linalg.eigh(0.5 * (mean + mean.T))
    return vectors[:, np.argmax(values)]


def _protomers(atoms: Atoms, n: int) -> list[Atoms]:
    """`n` groups of chains with equal composition, in the order of the file; common atoms only."""
    names = list(dict.fromkeys(atoms.chain.tolist()))
    chains = [atoms.only_chains([name]) for name in names]
    sizes = np.array([len(c) for c in chains])
    # Chains of the same kind have nearly the same size; ions and small ligands form kinds of their own.
    kinds: dict[int, list[Atoms]] = {}
    for chain, size in zip(chains, sizes, strict=True):
        key = next((k for k in kinds if abs(k - size) <= 0.03 * k), int(size))
        kinds.setdefault(key, []).append(chain)
    largest = max(kinds, key=lambda k: k * (len(kinds[k]) >= n))
    group = kinds[largest]
    if len(group) < n:
        raise ValueError(f"symmetry: the model has {len(group)} equal chains, {n} are needed")
    size = min(len(c) for c in group)
    same = all(np.array_equal(c.element[:size], group[0].element[:size]) for c in group)
    if not same:
        raise ValueError("symmetry: the chains of the model differ in their atoms")
    return [c.select(np.arange(size)) for c in group[:n]]


def _model_atoms(model: gemmi.Model) -> Atoms:
    rows = [
        (atom.pos.x, atom.pos.y, atom.pos.z, atom.element.atomic_number, atom.b_iso, atom.occ, chain.name)
        for chain in model
        for residue in chain
        for atom in residue
        if atom.element.atomic_number > 0
    ]
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return Atoms(
        position=np.stack([np.asarray(c, np.float64) for c in columns[:3]], axis=-1),
        element=np.asarray(columns[3], np.int64),
        bfactor=np.asarray(columns[4], np.float64),
        occupancy=np.asarray(columns[5], np.float64),
        chain=np.asarray(columns[6], str),
    )


def _with_bfactor(atoms: Atoms, bfactor: str | float) -> Atoms:
    if bfactor == "model":
        return atoms
    if bfactor == "relative":
        low = np.quantile(atoms.bfactor, 0.1)
        return replace(atoms, bfactor=np.clip(atoms.bfactor - low + 10.0, 5.0, 150.0))
    return replace(atoms, bfactor=np.full(len(atoms), float(bfactor)))
