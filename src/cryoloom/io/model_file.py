"""Atomic models from PDB and mmCIF files, as they lie in the frame of their map."""

from pathlib import Path

import gemmi
import numpy as np

from cryoloom.contract import InputError
from cryoloom.data.model import AtomicModel
from cryoloom.io.atomic import path_beside


def read_model(path: Path | str, *, assembly: bool = False) -> AtomicModel:
    """Read the first model of a file (may be compressed): no waters, no hydrogens, the first of alternative places.

    Parameters
    ----------
    path
        PDB or mmCIF.
    assembly
        Build the first biological assembly where the file has one, instead of the atoms as written.

    Raises
    ------
    InputError
        If the file cannot be read or holds no atoms.
    """
    structure = _read(path)
    if assembly and len(structure.assemblies):
        structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Short)
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    structure.remove_waters()
    structure.remove_empty_chains()
    rows = []
    index = 0
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                place = (atom.pos.x, atom.pos.y, atom.pos.z)
                names = (atom.name, residue.name, chain.name)
                rows.append((*place, atom.element.atomic_number, atom.b_iso, *names, index, residue.seqid.num))
            index += len(residue) > 0
    if not rows:
        raise InputError(f"{path}: the model holds no atoms.")
    columns = list(zip(*rows, strict=True))
    return AtomicModel(
        position=np.stack([np.asarray(c, np.float64) for c in columns[:3]], axis=-1),
        element=np.asarray(columns[3], np.int64),
        bfactor=np.asarray(columns[4], np.float64),
        atom_name=np.asarray(columns[5], str),
        residue_name=np.asarray(columns[6], str),
        chain=np.asarray(columns[7], str),
        residue=np.asarray(columns[8], np.int64),
        number=np.asarray(columns[9], np.int64),
    )


def write_moved_model(source: Path | str, target: Path | str, rotation: np.ndarray, translation: np.ndarray) -> None:
    """Write all of a model file with its atoms at `rotation @ position + translation` (Å, xyz), as mmCIF or PDB."""
    structure = _read(source)
    move = gemmi.Transform(gemmi.Mat33(np.asarray(rotation).tolist()), gemmi.Vec3(*np.asarray(translation).tolist()))
    for model in structure:
        model.transform_pos_and_adp(move)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = path_beside(target)
    if target.suffix.lower() == ".pdb":
        structure.write_pdb(str(beside))
    else:
        structure.make_mmcif_document().write_file(str(beside))
    beside.replace(target)


def _read(path: Path | str) -> gemmi.Structure:
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a PDB or mmCIF model that can be read ({error}).") from None
    if not len(structure):
        raise InputError(f"{path}: the file holds no model.")
    return structure
