"""Point groups C, D, T, O, I with RELION's axes, and distances of poses up to symmetry.

Axes follow RELION (Heymann, Chagoyen, Belnap 2005, doi:10.1016/j.jsb.2005.06.001, except T, whose
three-fold lies on z): Cn and Dn on z with the D two-fold on x; O with its four-folds on the axes; I1 and I2
with two-folds on the axes (I1 is I2 turned by 90° about z), I3 and I4 with a five-fold on z.
"""

import math
import re
from functools import lru_cache

import torch
from torch import Tensor

from cryoloom.geometry.rotation import axis_angle_to_matrix, rotation_angle

GOLDEN = (1 + math.sqrt(5)) / 2


def symmetry_matrices(name: str) -> Tensor:
    """Operators of a point group, `(m, 3, 3)` float64, the identity first.

    Parameters
    ----------
    name
        `C1`, `Cn`, `Dn`, `T`, `O`, `I` (= `I2`), `I1`, `I2`, `I3`, `I4`; case does not matter.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    return _symmetry_matrices(name.strip().upper()).clone()


@lru_cache(maxsize=64)
def _symmetry_matrices(name: str) -> Tensor:
    match = re.fullmatch(r"([CD])([1-9]\d*)|([TO])|(I)([1-4]?)", name)
    if match is None:
        raise ValueError(f"symmetry: expected one of C1, Cn, Dn, T, O, I, I1, I2, I3, I4, got {name!r}")
    letter = match[1] or match[3] or match[4]
    x, z = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    if letter == "C":
        generators = [(z, int(match[2]))]
    elif letter == "D":
        generators = [(z, int(match[2])), (x, 2)]
    elif letter == "T":
        # Three-fold on z; one of the other three-folds of the tetrahedron lies in the yz plane.
        generators = [(z, 3), ((0.0, 2 * math.sqrt(2) / 3, -1 / 3), 3)]
    elif letter == "O":
        generators = [(z, 4), (x, 4)]
    else:
        return _icosahedral(match[5] or "2")
    return _close([_turn(axis, 2 * math.pi / fold) for axis, fold in generators])


def _icosahedral(setting: str) -> Tensor:
    # I2: two-folds on x, y, z and a five-fold in the xz plane. I1 is I2 turned by 90 degrees about z. I3 has the
    # five-fold (that in the xz plane of I2) on z, I4 is I3 turned by 180 degrees about x.
    base = _close(
        [
            _turn((0.0, 0.0, 1.0), math.pi),
            _turn((1.0, 0.0, GOLDEN), 2 * math.pi / 5),
        ]
    )
    if setting == "2":
        return base
    if setting == "1":
        frame = _turn((0.0, 0.0, 1.0), math.pi / 2)
    else:
        frame = _turn((0.0, 1.0, 0.0), -math.atan2(1.0, GOLDEN))
        if setting == "4":
            frame = _turn((1.0, 0.0, 0.0), math.pi) @ frame
    return frame @ base @ frame.T


def _turn(axis: tuple[float, float, float], angle: float) -> Tensor:
    vector = torch.tensor(axis, dtype=torch.float64)
    return axis_angle_to_matrix(vector / vector.norm() * angle)


def _close(generators: list[Tensor]) -> Tensor:
    """All products of the generators, the identity first."""
    group = [torch.eye(3, dtype=torch.float64)]
    frontier = list(group)
    while frontier:
        found = []
        for element in frontier:
            for generator in generators:
                product = generator @ element
                if all((product - known).abs().max() > 1e-6 for known in group):
                    group.append(product)
                    found.append(product)
        if len(group) > 240:
            raise ValueError("symmetry: the generators do not close to a point group")
        frontier = found
    stacked = torch.stack(group)
    # Round-off grows with the length of the products: bring each operator back to a rotation.
    u, _, vh = torch.linalg.svd(stacked)
    return u @ vh


def pose_distance(a: Tensor, b: Tensor, symmetry: str = "C1") -> Tensor:
    """Smallest angle in radians between poses `a` and `b` `(*batch, 3, 3)`, up to symmetry.

    For an operator `S`, `R` and `S @ R` are the same view.
    """
    operators = symmetry_matrices(symmetry).to(a.dtype).to(a.device)
    best = None
    for operator in operators:
        angle = rotation_angle(a.transpose(-1, -2) @ operator @ b)
        best = angle if best is None else torch.minimum(best, angle)
    assert best is not None
    return best


def reduce_to_asymmetric_unit(rotation: Tensor, symmetry: str) -> Tensor:
    """Of all equivalent poses `S @ R`, the one nearest to the identity, `(*batch, 3, 3)`."""
    operators = symmetry_matrices(symmetry).to(rotation.dtype).to(rotation.device)
    equivalent = operators @ rotation[..., None, :, :]  # (*batch, m, 3, 3)
    best = rotation_angle(equivalent).argmin(-1)
    index = best[..., None, None, None].expand(*best.shape, 1, 3, 3)
    return equivalent.gather(-3, index)[..., 0, :, :]
