"""How far defocus displaces detail, and to what resolution a box still holds it.

Detail of frequency k is displaced by the slope of the phase over 2π, `|λ Δf k - Cs λ³ k³|` (Å). A box that is to keep
the detail of a whole particle has to be larger than its diameter by twice that (Rosenthal, Henderson 2003,
doi:10.1016/j.jmb.2003.07.013); in a smaller one the rings of the CTF fade, since what is displaced over the edge is
missing (Glaeser, Hagen, Han, Henderson, McMullan, Russo 2021, doi:10.1016/j.ultramic.2020.113204).
"""

import math

import numpy as np

from cryoloom.optics.ctf import electron_wavelength


def displacement(k: np.ndarray, defocus: float, voltage_kv: float, cs_mm: float) -> np.ndarray:
    """Å by which detail of frequency `k` (1/Å) is displaced at `defocus` Å, shape of `k`."""
    wavelength = electron_wavelength(voltage_kv)
    k = np.asarray(k, np.float64)
    return np.abs(wavelength * defocus * k - cs_mm * 1e7 * wavelength**3 * k**3)


def resolution_held(
    box_extent: float, diameter: float, defocus: float, voltage_kv: float, cs_mm: float, finest: float
) -> float:
    """Finest resolution in Å, at most `finest`, up to which nothing is displaced over the edge of the box.

    Parameters
    ----------
    box_extent, diameter
        Edge of the box and diameter of the particle, Å.
    finest
        Resolution that the pixels allow, Å.

    Returns
    -------
    resolution
        `finest` if the box holds everything, infinity if it does not hold the particle.
    """
    margin = 0.5 * (box_extent - diameter)
    if margin <= 0:
        return math.inf
    k = np.linspace(0, 1 / finest, 8192)
    beyond = displacement(k, defocus, voltage_kv, cs_mm) > margin
    if not beyond.any():
        return finest
    return float(1 / k[max(int(np.argmax(beyond)) - 1, 1)])
