"""Symmetry expansion: every particle once in each of its equivalent poses.

For an operator `S` of the point group, `R` and `S @ R` are the same view. The expanded set, reconstructed without
symmetry, gives the map of the set reconstructed with it; sorted or refined inside a mask about one subunit it treats
every subunit as a particle of its own. Copies are no independent data: all keep the half of their parent.
"""

import numpy as np

from cryoloom.data import ParticleSet
from cryoloom.geometry import symmetry_matrices

PARENT = "cryoloomParent"
OPERATOR = "cryoloomOperator"


def expand_symmetry(particles: ParticleSet, symmetry: str, half: np.ndarray) -> ParticleSet:
    """Copies of each particle next to each other, the particle itself first.

    Parameters
    ----------
    particles
        With poses, `(n,)` rows.
    symmetry
        Point group of g operators about the origin of the map.
    half
        Half of each particle, 1 or 2, `(n,)`.

    Returns
    -------
    expanded
        `(n g,)` rows; extra columns `cryoloomParent` (row of the parent, from 1) and `cryoloomOperator` (from 1).

    Raises
    ------
    ValueError
        If the particles have no poses.
    """
    if particles.rotation is None:
        raise ValueError("particles: expected poses, got none")
    operators = symmetry_matrices(symmetry).numpy()
    n, g = len(particles), len(operators)
    parent = np.repeat(np.arange(n), g)
    operator = np.tile(np.arange(g), n)
    expanded = particles.select(parent)
    rotation = np.einsum("mij,mjk->mik", operators[operator], particles.rotation[parent])
    extra = {**expanded.extra, PARENT: parent + 1, OPERATOR: operator + 1}
    return expanded.replace(rotation=rotation, half=half[parent], extra=extra)
