"""Defocus of each particle, from the map of the defocus of its micrograph.

The map differs from the defocus of the whole micrograph by what is there (tilt, bent ice) and by its errors. How much
is there is known from the map itself: the mean square of the differences less that of the errors. Each difference is
taken times the share of it that is expected to be there (empirical Bayes; Efron and Morris 1973,
doi:10.1080/01621459.1973.10481350), so a flat micrograph keeps one defocus, and is interpolated between the places,
linearly, or as at the nearest place outside of them. Astigmatism is that of the whole micrograph. Neglected: errors of
neighbouring places are alike, and heights of particles within the ice, which no map shows.
"""

from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from cryoloom.data import MicrographSet
from cryoloom.io.defocus_map import read_defocus_map


def particle_defocus(micrographs: MicrographSet, row: np.ndarray, position_px: np.ndarray) -> np.ndarray:
    """By how much the defocus of particles differs from that of their micrograph, Å, `(n,)`; 0 where no map tells.

    Parameters
    ----------
    micrographs
        With the files of their maps.
    row, position_px
        Micrograph of each particle, `(n,)`, and where it lies, pixels yx, `(n, 2)`.
    """
    out = np.zeros(len(row))
    if micrographs.defocus_map is None or micrographs.defocus_u is None or micrographs.defocus_v is None:
        return out
    for each in np.unique(row):
        path = str(micrographs.defocus_map[each])
        mean = 0.5 * (float(micrographs.defocus_u[each]) + float(micrographs.defocus_v[each]))
        if path and Path(path).is_file() and np.isfinite(mean):
            own = row == each
            place, defocus, error = read_defocus_map(path)
            out[own] = interpolate_difference(place, defocus - mean, error, position_px[own])
    return out


def interpolate_difference(
    place_px: np.ndarray, difference: np.ndarray, error: np.ndarray, at_px: np.ndarray
) -> np.ndarray:
    """Expected difference at pixels yx `(n, 2)`, from differences `(m,)` with standard errors at places `(m, 2)`."""
    known = np.isfinite(difference) & np.isfinite(error)
    place, difference, error = place_px[known], difference[known], error[known]
    if not len(place):
        return np.zeros(len(at_px))
    there = max(float(np.mean(difference**2 - error**2)), 0.0)
    expected = difference * there / np.maximum(there + error**2, 1e-12)
    found = NearestNDInterpolator(place, expected)(at_px)
    if np.linalg.matrix_rank(place - place.mean(0)) == 2:
        within = LinearNDInterpolator(place, expected)(at_px)
        found = np.where(np.isfinite(within), within, found)
    return np.asarray(found, dtype=np.float64)
