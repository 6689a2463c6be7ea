"""What is looked for: the potential of an atomic model, or a map, on the grid of the micrographs, and its views.

A model becomes Gaussians at its atoms (`maps.atoms`). The ice that it displaces takes most of its contrast at low
resolution away: a smooth envelope of the atoms, in the share that ice has of the potential of protein, is subtracted.
Neglected: charges, bonds, and how much more nucleic acids stand out than protein.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.fourier import fourier_crop, good_size
from cryoloom.geometry.directions import direction_grid, grid_rotations
from cryoloom.geometry.rotation import rotation_about_z
from cryoloom.geometry.symmetry import symmetry_matrices
from cryoloom.io.map_file import read_map
from cryoloom.io.model_file import read_model
from cryoloom.maps.atoms import FORM_FACTOR_B, atom_density
from cryoloom.maps.resample import resample_map, resize_box

MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz")
_ICE = 0.55  # of the mean inner potential of protein, without hydrogens on either side
_ATOMS = 0.06  # per Å3 in protein
_ENVELOPE_SIGMA, _ENVELOPE_SCALE = 1.8, 0.02  # Å, atoms per Å3
_GENERIC = (0.3217, 0.5433, 0.7755)  # lies on no axis and no mirror plane of any point group


@dataclass(frozen=True)
class SearchTemplate:
    """A centred volume.

    Attributes
    ----------
    volume
        Cube `(n, n, n)`, bright.
    pixel_size, diameter
        Å per voxel, and largest extent about the centre.
    """

    volume: Tensor
    pixel_size: float
    diameter: float


def load_template(path: Path, pixel_size: float, map_pixel_size: float | None = None) -> SearchTemplate:
    """The template of a model or map file on a grid of `pixel_size` Å.

    Raises
    ------
    InputError
        If the file is neither, or the map is no cube.
    """
    if str(path).lower().endswith(MODEL_SUFFIXES):
        model = read_model(path, assembly=True)
        return template_of_atoms(model.position, model.element, model.bfactor, pixel_size)
    volume = read_map(path, pixel_size=map_pixel_size)
    data = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32))
    if len(set(data.shape)) != 1:
        raise InputError(f"{path}: a map of {tuple(data.shape)} voxels, a cube was expected; crop it first.")
    grid = resample_map(data, volume.pixel_size, pixel_size) if abs(volume.pixel_size / pixel_size - 1) > 1e-4 else data
    return SearchTemplate(grid, pixel_size, _extent(grid.numpy(), pixel_size))


def template_of_atoms(
    position: np.ndarray, element: np.ndarray, bfactor: np.ndarray, pixel_size: float
) -> SearchTemplate:
    """The template of atoms at xyz in Å `(n, 3)`, with atomic numbers and B-factors `(n,)`, centred."""
    xyz = position - position.mean(0)
    radius = float(np.linalg.norm(xyz, axis=1).max())
    box = good_size(math.ceil(2.2 * (radius + 4.0) / pixel_size))
    fine, step = 2 * box, pixel_size / 2
    corner = (-step * (fine // 2),) * 3
    shape = (fine,) * 3
    density = atom_density(xyz, element, bfactor, shape, step, corner)
    spread = np.full(len(xyz), 8 * math.pi**2 * _ENVELOPE_SIGMA**2 - FORM_FACTOR_B)
    atoms = atom_density(xyz, np.ones(len(xyz)), spread, shape, step, corner) / step**3  # per Å3
    ice = _ICE * _ATOMS * float(np.mean(element)) * step**3
    density = density + ice * torch.expm1(-atoms / _ENVELOPE_SCALE)
    return SearchTemplate(fourier_crop(density, (box,) * 3), pixel_size, 2 * radius)


def in_box(template: SearchTemplate, box: int) -> Tensor:
    """The volume in a box of another size, `(box, box, box)`."""
    return resize_box(template.volume, (box,) * 3)


def search_views(step: float, symmetry: str) -> Tensor:
    """Rotations about `step` radians apart that cover all views up to symmetry, `(n, 3, 3)` float64.

    Views along directions of one asymmetric unit, each turned in its plane.
    """
    directions = direction_grid(max(1, math.ceil(math.radians(58.6) / step)))
    operators = symmetry_matrices(symmetry)
    along = torch.einsum("sij,nj->nsi", operators, directions) @ torch.tensor(_GENERIC, dtype=torch.float64)
    directions = directions[(directions @ torch.tensor(_GENERIC, dtype=torch.float64)) >= along.amax(1) - 1e-9]
    n_turns = max(1, math.ceil(2 * math.pi / step))
    turns = rotation_about_z(torch.arange(n_turns, dtype=torch.float64) * (2 * math.pi / n_turns))
    return (grid_rotations(directions)[:, None] @ turns).reshape(-1, 3, 3)


def _extent(volume: np.ndarray, pixel_size: float) -> float:
    """Diameter about the centre of what is clearly inside at 10 Å."""
    smooth = gaussian_filter(volume, max(0.5, 3.5 / pixel_size))
    centre = volume.shape[0] // 2
    inside = np.argwhere(smooth > 0.1 * smooth.max()) - centre
    return 2 * float(np.linalg.norm(inside, axis=1).max()) * pixel_size
