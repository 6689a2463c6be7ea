"""Aberrations of cryoSPARC as lengths, and of RELION as Zernike coefficients: the same phases, term by term.

cryoSPARC stores lengths in Å per exposure group. An image carries the odd phase

    -2π (s · k) - 2π λ² (|k|² (t · k) + T₀ |k|³ cos 3θ + T₁ |k|³ sin 3θ)

with shift s, tilt t and trefoil T, and 2π λ³ |k|⁴ (A₀ cos 2θ + A₁ sin 2θ + A₂ cos 4θ + A₃ sin 4θ) is added to χ for
tetrafoil A; `anisomag` is the magnification matrix, row by row. A tilt is a coma of `Cs sin β` (the rule that beam
tilts in mrad follow); the basis functions were found by others on images that cryoSPARC simulated. The factors of
trefoil, tetrafoil and shift, and whether `anisomag` holds the matrix or its difference from 1, follow from the rule of
the tilt and from its value 0 where it was not refined; they were not checked on images.

RELION's polynomials mix orders (`Z42 = (4k⁴ - 3k²) cos 2θ`), so what they say in low orders becomes defocus,
astigmatism, Cs and phase shift. With that the two say the same phase exactly, up to fourth order.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from cryoloom.data import Optics
from cryoloom.optics.ctf import electron_wavelength

N_ODD, N_EVEN = 6, 9
_ROUNDING = 1e-5  # Å


@dataclass(frozen=True)
class CsAberrations:
    """Aberrations of one exposure group, and what the rest of the CTF must take over.

    Attributes
    ----------
    shift, tilt, trefoil
        Å, each `(2,)`.
    tetra
        Å, `(4,)`.
    anisomag
        `(4,)`, the matrix minus 1; zeros for none.
    cs_mm
        Spherical aberration with what RELION says of it in its even polynomials.
    defocus, astigmatism
        To be added to the mean defocus, and to `½ (U - V) (cos 2θ_U, sin 2θ_U)`, Å.
    phase_shift
        To be added to the phase shift, radians.
    """

    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    tilt: np.ndarray = field(default_factory=lambda: np.zeros(2))
    trefoil: np.ndarray = field(default_factory=lambda: np.zeros(2))
    tetra: np.ndarray = field(default_factory=lambda: np.zeros(4))
    anisomag: np.ndarray = field(default_factory=lambda: np.zeros(4))
    cs_mm: float = 0.0
    defocus: float = 0.0
    astigmatism: tuple[float, float] = (0.0, 0.0)
    phase_shift: float = 0.0


def aberrations_of(optics: Optics) -> CsAberrations:
    """What cryoSPARC would store for an optics group.

    Raises
    ------
    ValueError
        If the group has odd polynomials beyond third or even ones beyond fourth order.
    """
    odd, even = _padded(optics.odd_zernike, N_ODD), _padded(optics.even_zernike, N_EVEN)
    wavelength = electron_wavelength(optics.voltage_kv)
    two_pi = 2 * math.pi
    coma = np.array([odd[4], odd[3]])  # Z31, Z3-1 = (3k³ - 2k) cos θ, sin θ
    tilt = 1e7 * optics.cs_mm * 1e-3 * np.asarray(optics.beam_tilt_mrad)
    return CsAberrations(
        shift=-(np.array([odd[1], odd[0]]) - 2 * coma) / two_pi,
        tilt=tilt - 3 * coma / (two_pi * wavelength**2),
        trefoil=-np.array([odd[5], odd[2]]) / (two_pi * wavelength**2),
        tetra=np.array([4 * even[7], 4 * even[5], even[8], even[4]]) / (two_pi * wavelength**3),
        anisomag=np.asarray(optics.magnification, np.float64).reshape(4) - np.eye(2).reshape(4),
        cs_mm=optics.cs_mm + 12e-7 * even[6] / (math.pi * wavelength**3),
        defocus=-(2 * even[2] - 6 * even[6]) / (math.pi * wavelength),
        astigmatism=(
            -(even[3] - 3 * even[7]) / (math.pi * wavelength),
            -(even[1] - 3 * even[5]) / (math.pi * wavelength),
        ),
        phase_shift=-(even[0] - even[2] + even[6]),
    )


def optics_fields(stored: CsAberrations, voltage_kv: float, cs_mm: float) -> dict[str, object]:
    """Fields of `Optics` that say what cryoSPARC stored: beam tilt, polynomials, magnification.

    Parameters
    ----------
    stored
        `shift`, `tilt`, `trefoil`, `tetra` and `anisomag` as they are in the file; `anisomag` may be the matrix or its
        difference from 1.
    """
    wavelength = electron_wavelength(voltage_kv)
    third, fourth = 2 * math.pi * wavelength**2, 2 * math.pi * wavelength**3
    odd, even = np.zeros(N_ODD), np.zeros(N_EVEN)
    odd[[1, 0]] = -2 * math.pi * stored.shift
    odd[[5, 2]] = -third * stored.trefoil
    tilt_mrad = (0.0, 0.0)
    if stored.tilt.any():
        if cs_mm > 0:
            sine = 1e-7 * stored.tilt / cs_mm
            tilt_mrad = (float(1000 * np.arcsin(sine[0])), float(1000 * np.arcsin(sine[1])))
        else:  # without Cs a coma is no tilt: k³ = (Z31 + 2 Z11) / 3
            odd[[4, 3]] += -third * stored.tilt / 3
            odd[[1, 0]] += -2 * third * stored.tilt / 3
    even[[7, 5]] = fourth * stored.tetra[:2] / 4  # k⁴ = (Z42 + 3 Z22) / 4
    even[[3, 1]] = 3 * fourth * stored.tetra[:2] / 4
    even[[8, 4]] = fourth * stored.tetra[2:]
    return {
        "beam_tilt_mrad": tilt_mrad,
        "odd_zernike": tuple(odd.tolist()) if odd.any() else (),
        "even_zernike": tuple(even.tolist()) if even.any() else (),
        "magnification": _matrix(stored.anisomag),
    }


def shifted_ctf(
    defocus_u: np.ndarray, defocus_v: np.ndarray, defocus_angle: np.ndarray, change: CsAberrations
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Defocus U, V (Å) and angle (radians), each `(n,)`, with the changes of a group added; unchanged where none is."""
    if max(abs(change.defocus), *map(abs, change.astigmatism)) < _ROUNDING:
        return defocus_u, defocus_v, defocus_angle
    mean = 0.5 * (defocus_u + defocus_v) + change.defocus
    half = 0.5 * (defocus_u - defocus_v)
    x = half * np.cos(2 * defocus_angle) + change.astigmatism[0]
    y = half * np.sin(2 * defocus_angle) + change.astigmatism[1]
    size = np.hypot(x, y)
    return mean + size, mean - size, 0.5 * np.arctan2(y, x)


def _padded(values: tuple[float, ...], n: int) -> np.ndarray:
    if any(values[n:]):
        raise ValueError(f"Zernike coefficients beyond the first {n} have no counterpart in cryoSPARC")
    return np.array([*values[:n], *[0.0] * (n - len(values[:n]))])


def _matrix(stored: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """The matrix from what is stored: itself if its diagonal is near 1, else its difference from 1."""
    matrix = np.asarray(stored, np.float64).reshape(2, 2)
    if abs(matrix[0, 0]) < 0.5 and abs(matrix[1, 1]) < 0.5:
        matrix = matrix + np.eye(2)
    (a, b), (c, d) = matrix.tolist()
    return (a, b), (c, d)
