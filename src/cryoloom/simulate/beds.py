"""The named beds of `docs/capabilities.md`: which particle, which box, how many images, how noisy.

Models are read from `CRYOLOOM_DATA/models`. With `phantom=True` a built-in phantom of like shape, size and symmetry
takes the place of the model, so a bed runs on any machine.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.particles import ParticleRecipe, Specimen, simulate_particles
from cryoloom.simulate.phantom import hinge_rotation, hinged_phantom, phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.structure import read_symmetric


@dataclass(frozen=True)
class Bed:
    """One named bed.

    Attributes
    ----------
    pixel_size, box
        Å per pixel and side of the images.
    symmetry
        Point group.
    recipe
        How the images are taken.
    model
        Model file, or None for a phantom always.
    shape, mass_kda
        The phantom that may stand for the model.
    missing
        Chains that each state lacks; one state that lacks none by default.
    weights
        Populations of the states.
    """

    pixel_size: float
    box: int
    symmetry: str
    recipe: ParticleRecipe
    model: str | None
    shape: str
    mass_kda: float
    missing: tuple[tuple[str, ...], ...] = ((),)
    weights: tuple[float, ...] = (1.0,)


_C1 = ParticleRecipe()
BEDS: dict[str, Bed] = {
    "c1": Bed(1.5, 160, "C1", _C1, "1WCM.pdb", "globule", 400.0),
    "d2": Bed(1.4, 192, "D2", replace(_C1, snr=0.03), "5a1a.pdb", "rod", 400.0),
    "d7": Bed(
        1.6, 192, "D7", replace(_C1, n=2000, snr=0.03, junk=0.0, preferred_fraction=0.7), "1oel.pdb", "ring", 700.0
    ),
    "o": Bed(1.4, 128, "O", replace(_C1, n=1500, snr=0.03, junk=0.0), "1fha.pdb", "shell", 140.0),
    "small": Bed(1.2, 192, "C1", replace(_C1, n=20_000, snr=0.02, junk=0.2), "3SN6.cif", "fork", 136.0),
    "two": Bed(
        1.9, 128, "C1", replace(_C1, n=4000, junk=0.0), "1WCM.pdb", "globule", 400.0, ((), ("D", "G")), (0.6, 0.4)
    ),
    "four": Bed(
        1.9, 128, "C1", replace(_C1, n=8000, junk=0.0), "1WCM.pdb", "globule", 400.0,
        ((), ("D",), ("G",), ("D", "G")), (0.4, 0.3, 0.2, 0.1),
    ),
    "hinge": Bed(1.5, 128, "C1", replace(_C1, n=20_000, junk=0.0), None, "hinge", 120.0),
    "null": Bed(1.5, 160, "C1", replace(_C1, snr=0.0, junk=0.0), None, "globule", 400.0),
}  # fmt: skip
"""All beds of particles by name."""

HINGE_OPENING = np.deg2rad(40.0)
"""Range of the opening angle of bed `hinge`: from minus to plus half of it."""


def bed_specimen(
    name: str,
    *,
    data: Path | str | None = None,
    phantom: bool = False,
    box: int | None = None,
    pixel_size: float | None = None,
) -> Specimen:
    """The maps of a bed.

    Parameters
    ----------
    name
        Key of `BEDS`.
    data
        Folder that holds `models`; by default the environment variable `CRYOLOOM_DATA`.
    phantom
        Use the built-in phantom in place of the model.
    box, pixel_size
        In place of the bed's own.

    Raises
    ------
    InputError
        If the bed is unknown or its model is not there.
    """
    if name not in BEDS:
        raise InputError(f"bed: expected one of {', '.join(BEDS)}, got {name!r}.")
    bed = BEDS[name]
    bed = replace(bed, box=box or bed.box, pixel_size=pixel_size or bed.pixel_size)
    if bed.shape == "hinge":
        return _hinge(bed)
    whole = _bed_atoms(name, bed, data, phantom or bed.model is None)
    states = []
    for missing in bed.missing:
        atoms = whole.without_chains(missing)
        if len(missing) and len(atoms) == len(whole):
            raise InputError(f"bed {name}: the model has no chains {', '.join(missing)}.")
        states.append((potential_map(atoms, bed.box, bed.pixel_size),))
    return Specimen(tuple(states), symmetry=bed.symmetry, diameter=whole.diameter, weights=bed.weights)


def bed_recipe(name: str, **changes: object) -> ParticleRecipe:
    """The recipe of a bed, some fields replaced."""
    return replace(BEDS[name].recipe, **changes)  # type: ignore[arg-type]


def simulate_bed(
    name: str,
    folder: Path | str,
    *,
    seed: int = 0,
    data: Path | str | None = None,
    phantom: bool = False,
    specimen: Specimen | None = None,
    **changes: object,
) -> ParticleSet:
    """Simulate the images of a bed into `folder` and return their truth.

    `changes` replace fields of the recipe (`n=500`, `snr=0.1`, ...); see `simulate_particles` and `observed`.
    """
    specimen = bed_specimen(name, data=data, phantom=phantom) if specimen is None else specimen
    run: Callable[..., ParticleSet] = partial(simulate_particles, specimen, folder, bed_recipe(name), seed=seed)
    return run(**changes)


def _bed_atoms(name: str, bed: Bed, data: Path | str | None, use_phantom: bool) -> Atoms:
    if use_phantom:
        return phantom(bed.shape, bed.symmetry, mass_kda=bed.mass_kda)
    folder = data or os.environ.get("CRYOLOOM_DATA")
    if not folder:
        raise InputError(
            f"bed {name}: set CRYOLOOM_DATA to the folder that holds models/{bed.model}, or use the phantom."
        )
    path = Path(folder) / "models" / str(bed.model)
    if not path.exists():
        raise InputError(f"bed {name}: {path} does not exist; set CRYOLOOM_DATA to the folder that holds models/.")
    return read_symmetric(path, bed.symmetry)


def _hinge(bed: Bed) -> Specimen:
    body, arm = hinged_phantom(0.0, mass_kda=bed.mass_kda)
    centre = Atoms.joined([body, arm]).centre_of_mass
    maps = tuple(potential_map(part.centred(centre), bed.box, bed.pixel_size) for part in (body, arm))

    def motion(coordinate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns = np.stack([hinge_rotation(HINGE_OPENING * (c - 0.5)) for c in coordinate])
        rotation = np.stack([np.broadcast_to(np.eye(3), turns.shape), turns], axis=1)
        # The hinge is the origin of the phantom, which sits at -centre in the frame of the maps.
        translation = np.stack([np.zeros((len(turns), 3)), turns @ centre - centre], axis=1)
        return rotation, translation

    return Specimen((maps,), diameter=Atoms.joined([body, arm]).centred(centre).diameter, motion=motion)
