"""Whether the pixel size is right, seen through the spherical aberration.

Rings follow `π λ Δf k² - ½ π Cs λ³ k⁴`. With a pixel size that is wrong by a factor `s` all frequencies are wrong by
`1 / s`; a fit takes that for a defocus of `s² Δf` and a spherical aberration of `s⁴ Cs`. The defocus is free, but Cs is
a constant of the microscope, so the Cs that the rings of many micrographs ask for says what the pixel size is (a lens
of 2.7 mm seen as 3.39 mm means a pixel size that is 6 % too large). Each micrograph is fitted with the Cs that belongs
to a row of factors, defocus and astigmatism free; the costs of all micrographs are added.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryoloom.ctf_fit.estimate import CtfEstimate
from cryoloom.ctf_fit.fit import fit_rings
from cryoloom.ctf_fit.model import Beam, Defocus

SCALES = 1 + 0.01 * np.array([-8.0, -6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0])
LEAST_DEVIATION = 0.01
LARGEST_ERROR = 0.006
MOST_ASKED = 48


@dataclass(frozen=True)
class PixelScale:
    """What the rings say of the pixel size.

    Attributes
    ----------
    scale
        Given pixel size over the one that the rings ask for; NaN if they do not say.
    error
        Its standard error.
    n_micrographs
        Number of micrographs that were asked.
    """

    scale: float
    error: float
    n_micrographs: int

    @property
    def is_known(self) -> bool:
        """Whether an error of 2 % would show."""
        return math.isfinite(self.scale) and self.error <= LARGEST_ERROR

    @property
    def is_wrong(self) -> bool:
        """Whether the pixel size is wrong beyond doubt."""
        away = abs(self.scale - 1)
        return self.is_known and away > LEAST_DEVIATION and away > 3 * self.error

    def said(self, pixel_size: float, cs_mm: float) -> str:
        """The evidence in a sentence; `pixel_size` is the given one."""
        if not self.is_known:
            return (
                f"the rings of {self.n_micrographs} micrographs do not reach far enough to tell whether the pixel size "
                f"of {pixel_size:g} Å is right"
            )
        seen, true = cs_mm * self.scale**4, pixel_size / self.scale
        words = (
            f"with a pixel size of {pixel_size:g} Å the rings of {self.n_micrographs} micrographs ask for a Cs of "
            f"{seen:.2f} mm, the microscope has {cs_mm:g} mm"
        )
        if self.is_wrong:
            return f"{words}: the pixel size is {true:.4g} ± {true * self.error:.2g} Å, if Cs and voltage are right"
        return f"{words}: the pixel size is right within {200 * self.error:.1f} %"


def chosen_for_scale(n: int) -> set[int]:
    """Which of `n` micrographs are asked: all, or so many spread evenly."""
    return set(np.unique(np.linspace(0, n - 1, min(n, MOST_ASKED)).round().astype(int)).tolist()) if n else set()


def scale_costs(found: CtfEstimate, beam: Beam, scales: np.ndarray = SCALES) -> np.ndarray:
    """Weighted sum of squares of one micrograph for each factor of the pixel size, in units of its noise, `(n,)`."""
    noise = found.spectra.variance_factor() * found.spectra.n_independent
    costs = []
    for scale in scales:
        lens = dataclasses.replace(beam, cs_mm=beam.cs_mm * float(scale) ** 4)
        # what Cs adds is taken off the defocus where most of the rings are
        k2 = 0.5 * max(found.k_limit, 0.15) ** 2
        shift = 0.5 * (lens.cs_mm - beam.cs_mm) * 1e7 * beam.wavelength**2 * k2
        theta = found.defocus.as_array()
        theta[0] += shift
        costs.append(fit_rings(found.rings, lens, Defocus(*(float(x) for x in theta)), n_iterations=8).cost / noise)
    return np.asarray(costs)


def pixel_scale(costs: Sequence[Sequence[float]] | np.ndarray, scales: np.ndarray = SCALES) -> PixelScale:
    """Factor of the pixel size from the costs of all micrographs `(n, n_scales)`.

    The error is that of the curvature, or of the scatter between micrographs if that is larger (jackknife).
    """
    n = len(costs)
    if n == 0:
        return PixelScale(math.nan, math.nan, 0)
    each = np.asarray(costs, np.float64)
    total = each.sum(0)
    best, error = _vertex(total, scales)
    if n > 3 and math.isfinite(best):
        left_out = np.array([_vertex(total - one, scales)[0] for one in each])
        scatter = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
        error = max(error, scatter) if math.isfinite(scatter) else math.nan
    return PixelScale(best, error, n)


def _vertex(cost: np.ndarray, scales: np.ndarray) -> tuple[float, float]:
    """Place of the lowest cost by a parabola through the five values around it, and its standard error."""
    i = int(np.argmin(cost))
    if i == 0 or i == len(cost) - 1:
        return math.nan, math.nan
    near = slice(max(0, i - 2), min(len(cost), i + 3))
    a, b, _ = np.polyfit(scales[near] - scales[i], cost[near], 2)
    if a <= 0:
        return math.nan, math.nan
    return float(scales[i] - 0.5 * b / a), float(1 / math.sqrt(a))
