"""What the power spectrum of a micrograph should be, given the CTF: a smooth background and rings.

`P(k) = M(k) · [b(k, θ) - a(k) cos 2χ(k)]`, since `sin² χ = ½ (1 - cos 2χ)`. `M` is a first smooth radial average
(it only scales), `b` a cubic spline with a slow dependence on direction, `a >= 0` a cubic spline: the depth of the
rings. The taper, the width of the bins, drift and chromatic envelopes all multiply `cos 2χ` by smooth factors, so
they are inside `a` and bias nothing. Given the phase the model is linear, and the phase is linear in mean defocus,
both components of astigmatism and phase shift.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline

from cryoloom.optics import electron_wavelength


@dataclass(frozen=True)
class Beam:
    """What is known of the microscope.

    Attributes
    ----------
    voltage_kv, cs_mm, amplitude_contrast
        Acceleration, spherical aberration in mm, amplitude contrast as a fraction.
    """

    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    @property
    def wavelength(self) -> float:
        """Å."""
        return electron_wavelength(self.voltage_kv)

    def double_phase_at_focus(self, k2: np.ndarray) -> np.ndarray:
        """`2χ` at zero defocus and phase shift, at squared frequencies in 1/Å²."""
        spherical = math.pi * self.cs_mm * 1e7 * self.wavelength**3 * k2**2
        return spherical - 2 * math.asin(self.amplitude_contrast)


@dataclass(frozen=True)
class Defocus:
    """Defocus in the form that makes the phase linear.

    Attributes
    ----------
    mean
        `(U + V) / 2` in Å.
    cos, sin
        `(U - V) / 2` times the cosine and sine of twice the angle of U, Å.
    phase_shift
        Radians.
    """

    mean: float
    cos: float = 0.0
    sin: float = 0.0
    phase_shift: float = 0.0

    @property
    def uv_angle(self) -> tuple[float, float, float]:
        """`U >= V` in Å and the angle of U in radians, in [0, π)."""
        half = math.hypot(self.cos, self.sin)
        return self.mean + half, self.mean - half, (0.5 * math.atan2(self.sin, self.cos)) % math.pi

    @classmethod
    def from_uv(cls, u: float, v: float, angle: float, phase_shift: float = 0.0) -> "Defocus":
        """From both defoci in Å and the angle of U in radians."""
        half = 0.5 * (u - v)
        return cls(0.5 * (u + v), half * math.cos(2 * angle), half * math.sin(2 * angle), phase_shift)

    def as_array(self) -> np.ndarray:
        """`(mean, cos, sin, phase_shift)`."""
        return np.asarray([self.mean, self.cos, self.sin, self.phase_shift])


def double_phase(beam: Beam, defocus: Defocus, k2: np.ndarray, k2_cos: np.ndarray, k2_sin: np.ndarray) -> np.ndarray:
    """`2χ` at bins described by `k²`, `k² cos 2θ`, `k² sin 2θ` in 1/Å²."""
    bend = defocus.mean * k2 + defocus.cos * k2_cos + defocus.sin * k2_sin
    return beam.double_phase_at_focus(k2) - 2 * math.pi * beam.wavelength * bend - 2 * defocus.phase_shift


def spline_basis(x: np.ndarray, low: float, high: float, n: int) -> np.ndarray:
    """`n` cubic B-splines over `[low, high]`, evaluated at `x`, `(len(x), n)`."""
    inner = np.linspace(low, high, n - 2)
    knots = np.concatenate([[low] * 3, inner, [high] * 3])
    return BSpline.design_matrix(np.clip(x, low, high), knots, 3).toarray()
