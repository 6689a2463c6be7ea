"""Electrostatic potential of atoms on a grid, as the contrast against vitreous ice.

Each atom is the sum of five Gaussians of the electron scattering factors of Peng et al. (1996,
doi:10.1107/S0108767395014371), as gemmi tabulates them, widened by its B-factor. Atoms are drawn on a grid of half the
pixel size with an extra blur that keeps aliases below 1e-4; the blur is taken off again in Fourier space, where the map
is cut to the sphere of its Nyquist frequency. Ice is displaced by the molecule: a smooth envelope of the atoms times
the potential of ice is subtracted, which takes away about half of the contrast below 1/15 1/Å, as in real images.
Units: scattering length per volume, 1/Å2 (times 47.878 gives volt).
"""

import math

import gemmi
import numba
import numpy as np
import torch

from cryoloom.data import VolumeMap
from cryoloom.fourier.resize import crop_dft
from cryoloom.fourier.transform import dft_to_image, frequency_grid, rfftn
from cryoloom.simulate.atoms import Atoms

VOLT_PER_DENSITY = 47.878
# Vitreous ice of 0.93 g/cm3: 0.0311 molecules per Å3 of f(0) = 3.05 Å (O + 2 H). Models carry no hydrogens, which
# would be 18 % of
# the scattering of a protein, so the ice is scaled by the same share and the contrast keeps its ratio.
ICE_DENSITY = 0.0311 * 3.05
ICE_WITHOUT_HYDROGENS = ICE_DENSITY * 0.82
_ENVELOPE_SIGMA = 1.8  # Å, width of the smooth envelope of an atom
_ENVELOPE_SCALE = 0.02  # atoms per Å3 at which the envelope reaches 1 - 1/e; the inside of a protein has 0.06
_STEP = 1 / 64  # Å2, spacing of the tabulated profiles in squared distance


def potential_map(
    atoms: Atoms, box: int, pixel_size: float, *, solvent: bool = True, bandlimit: float = 1.0
) -> VolumeMap:
    """Potential of atoms, the origin of their coordinates at voxel `box // 2`.

    Parameters
    ----------
    atoms
        Positions in Å around the origin.
    box
        Side of the map in voxels.
    pixel_size
        Å per voxel.
    solvent
        Subtract the ice that the atoms displace.
    bandlimit
        Largest frequency kept as a fraction of Nyquist; the last 15 % fall off as a cosine, so that detail at the
        limit does not ring through the box.

    Raises
    ------
    ValueError
        If an atom lies outside of the box.
    """
    reach = float(np.abs(atoms.position).max()) + 4.0
    if reach > pixel_size * (box // 2):
        raise ValueError(f"box: {box} voxels of {pixel_size} Å are too small for atoms that reach {reach:.0f} Å")
    fine = 2 * box
    blur = max(0.0, 18.4 * pixel_size**2 - float(np.quantile(atoms.bfactor, 0.01)))
    density = _draw_atoms(atoms, fine, pixel_size / 2, blur)
    dft = _coarse_dft(density, box)
    del density
    k2 = (frequency_grid((box,) * 3, pixel_size) ** 2).sum(-1)
    dft *= torch.exp(blur * k2 / 4)
    if solvent:
        # drawn on the fine grid too: it is no linear function of the atoms, so its detail must not alias
        dft -= ICE_WITHOUT_HYDROGENS * _coarse_dft(solvent_envelope(atoms, fine, pixel_size / 2).numpy(), box)
    dft *= _bandlimit(k2.sqrt() * (2 * pixel_size / bandlimit))
    return VolumeMap(dft_to_image(dft, (box,) * 3).numpy().astype(np.float32), pixel_size)


def solvent_envelope(atoms: Atoms, box: int, pixel_size: float) -> torch.Tensor:
    """How much of each voxel the atoms take from the ice, `(box, box, box)` in [0, 1)."""
    sigma = max(_ENVELOPE_SIGMA, 0.8 * pixel_size)
    r2 = np.arange(0, (4 * sigma) ** 2, _STEP)
    profile = np.exp(-r2 / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** 1.5
    grid = np.zeros((box,) * 3, np.float32)
    kind = np.zeros(len(atoms), np.int64)
    _draw(grid, atoms.position / pixel_size, kind, atoms.occupancy, profile[None].astype(np.float32), pixel_size**2)
    grid *= np.float32(-1 / _ENVELOPE_SCALE)
    return torch.from_numpy(-np.expm1(grid, out=grid))


def scattering_factor(element: int, k: np.ndarray, bfactor: float = 0.0) -> np.ndarray:
    """Electron scattering factor in Å at frequencies `k` in 1/Å, with the fall-off of a B-factor."""
    a, b = _gaussians(element)
    k2 = np.asarray(k, np.float64)[..., None] ** 2
    return (a * np.exp(-(b + bfactor) * k2 / 4)).sum(-1)


def _coarse_dft(fine: np.ndarray, box: int) -> torch.Tensor:
    """Half spectrum of a cube of twice the box, cropped to the box, phase origin at the centre."""
    dft = crop_dft(rfftn(torch.from_numpy(fine), 3), fine.shape, (box,) * 3) / 8
    # the centre is voxel `box` of the fine cube: half of its side, a factor of -1 for odd frequencies
    sign = 1 - 2 * (torch.fft.fftfreq(box, 1 / box).round().to(torch.int64) % 2)
    half = 1 - 2 * (torch.arange(box // 2 + 1) % 2)
    return dft * (sign[:, None, None] * sign[:, None] * half)


def _gaussians(element: int) -> tuple[np.ndarray, np.ndarray]:
    coefficients = gemmi.Element(int(element)).c4322
    if coefficients is None:
        raise ValueError(f"element: no electron scattering factors for atomic number {element}")
    return np.asarray(coefficients.a, np.float64), np.asarray(coefficients.b, np.float64)


def _bandlimit(fraction: torch.Tensor) -> torch.Tensor:
    """1 below 0.85 of the limit, a cosine down to 0 at the limit."""
    ramp = ((fraction - 0.85) / 0.15).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * ramp))


def _draw_atoms(atoms: Atoms, n: int, spacing: float, blur: float) -> np.ndarray:
    """Sum of the atoms' Gaussians, blurred, on an `n` cube; positions in Å around voxel `n // 2`."""
    level = np.round(np.clip(atoms.bfactor, 0.0, None)).astype(np.int64)  # whole Å2
    keys, kind = np.unique(np.stack([atoms.element, level]), axis=1, return_inverse=True)
    total_max = keys[1].max() + blur
    cutoff = math.sqrt((total_max + 20) / (8 * math.pi**2)) * 5.0 + 1.0
    r2 = np.arange(0, cutoff**2 + 2 * _STEP, _STEP)
    profiles = np.empty((keys.shape[1], len(r2)), np.float32)
    for i, (element, b_level) in enumerate(keys.T):
        a, b = _gaussians(int(element))
        width = b + b_level + blur  # f(k) = a exp(-width k^2 / 4)
        amplitude = a * (4 * math.pi / width) ** 1.5
        profiles[i] = (amplitude * np.exp(-4 * math.pi**2 * r2[:, None] / width)).sum(1)
    grid = np.zeros((n, n, n), np.float32)
    _draw(grid, atoms.position / spacing, kind.reshape(-1), atoms.occupancy, profiles, spacing**2)
    return grid


@numba.njit(nogil=True, cache=True, fastmath=True)
def _draw(
    grid: np.ndarray,
    position_px: np.ndarray,
    kind: np.ndarray,
    occupancy: np.ndarray,
    profiles: np.ndarray,
    spacing2: float,
) -> None:
    """Add radial profiles, tabulated over squared distance, at positions xyz in voxels around the centre."""
    n = grid.shape[0]
    last = profiles.shape[1] - 1
    limit = (last - 1) * _STEP / spacing2  # squared voxels
    radius = math.sqrt(limit)
    scale = spacing2 / _STEP
    for atom in range(position_px.shape[0]):
        x, y, z = position_px[atom, 0] + n // 2, position_px[atom, 1] + n // 2, position_px[atom, 2] + n // 2
        profile = profiles[kind[atom]]
        weight = np.float32(occupancy[atom])
        for iz in range(max(0, math.ceil(z - radius)), min(n - 1, math.floor(z + radius)) + 1):
            dz2 = (iz - z) ** 2
            for iy in range(max(0, math.ceil(y - radius)), min(n - 1, math.floor(y + radius)) + 1):
                dyz2 = dz2 + (iy - y) ** 2
                if dyz2 >= limit:
                    continue
                half = math.sqrt(limit - dyz2)
                for ix in range(max(0, math.ceil(x - half)), min(n - 1, math.floor(x + half)) + 1):
                    place = np.float32((dyz2 + (ix - x) ** 2) * scale)
                    i = int(place)
                    f = place - np.float32(i)
                    grid[iz, iy, ix] += weight * (profile[i] + f * (profile[i + 1] - profile[i]))
