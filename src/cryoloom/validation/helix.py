"""An ideal right-handed alpha helix of L-residues, built bond by bond, and its density."""

import math

import numpy as np
import torch
from torch import Tensor

PHI, PSI, OMEGA = (math.radians(a) for a in (-57.0, -47.0, 180.0))
_N_CA, _CA_C, _C_N, _C_O = 1.458, 1.525, 1.329, 1.231
_AT_CA, _AT_C, _AT_N, _AT_O = (math.radians(a) for a in (111.0, 116.6, 121.7, 120.1))


def helix_atoms(n_residues: int = 11) -> np.ndarray:
    """Backbone and beta carbons of a helix along z about the origin, xyz Å, `(5 * n_residues, 3)`."""
    n = np.array([0.0, 0.0, 0.0])
    ca = np.array([_N_CA, 0.0, 0.0])
    c = ca + _CA_C * np.array([-math.cos(_AT_CA), math.sin(_AT_CA), 0.0])
    chain = [(n, ca, c)]
    for _ in range(n_residues):
        n, ca, c = chain[-1]
        following_n = _place(n, ca, c, _C_N, _AT_C, PSI)
        following_ca = _place(ca, c, following_n, _N_CA, _AT_N, OMEGA)
        following_c = _place(c, following_n, following_ca, _CA_C, _AT_CA, PHI)
        chain.append((following_n, following_ca, following_c))
    atoms = []
    for n, ca, c in chain[:n_residues]:
        oxygen = _place(n, ca, c, _C_O, _AT_O, PSI + math.pi)
        b, e = ca - n, c - ca
        # The beta carbon of an L-residue by its tetrahedral place opposite to N, C and H.
        beta = ca - 0.58273431 * np.cross(b, e) + 0.56802827 * b - 0.54067466 * e
        atoms += [n, ca, c, oxygen, beta]
    return _along_z(np.stack(atoms), np.stack([ca for _, ca, _ in chain[:n_residues]]))


def helix_density(positions: np.ndarray, rotation: np.ndarray, box: int, pixel_size: float, sigma: float) -> Tensor:
    """Gaussians of width `sigma` Å at turned positions about voxel `box // 2`, `(box, box, box)` float32."""
    xyz = positions @ rotation.T
    axis = (np.arange(box) - box // 2) * pixel_size
    lines = [np.exp(-((axis[None] - xyz[:, i : i + 1]) ** 2) / (2 * sigma**2)) for i in range(3)]
    return torch.from_numpy(np.einsum("nz,ny,nx->zyx", lines[2], lines[1], lines[0], optimize=True).astype(np.float32))


def _place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, dihedral: float) -> np.ndarray:
    """The atom at a distance, bond angle and dihedral from three others."""
    forward = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, forward)
    normal /= np.linalg.norm(normal)
    side = np.cross(normal, forward)
    return c + length * (
        -math.cos(angle) * forward
        + math.sin(angle) * math.cos(dihedral) * side
        + math.sin(angle) * math.sin(dihedral) * normal
    )


def _along_z(atoms: np.ndarray, trace: np.ndarray) -> np.ndarray:
    """Turn so that the helix axis is z and put its middle at the origin."""
    # Second differences of the trace point to the axis; the axis is perpendicular to all of them.
    bend = trace[2:] - 2 * trace[1:-1] + trace[:-2]
    axis = np.linalg.svd(bend)[2][2]
    axis = axis if axis @ (trace[-1] - trace[0]) > 0 else -axis
    unit = bend / np.linalg.norm(bend, axis=1, keepdims=True)
    # Radius from the turn between neighbours: the middle of the trace moved inwards lies on the axis.
    rise = float(np.mean(np.diff(trace @ axis)))
    flat = trace - np.outer(trace @ axis, axis)
    step = np.linalg.norm(np.diff(flat, axis=0), axis=1).mean()
    turn = math.acos(np.clip(np.mean(np.sum(unit[1:] * unit[:-1], axis=1)), -1, 1))
    radius = step / (2 * math.sin(turn / 2))
    centre = (trace[1:-1] + radius * unit).mean(0)
    del rise
    helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(helper, axis)
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(axis, x), axis])
    return (atoms - centre) @ frame.T
