"""CTF parameters against the truth."""

from dataclasses import dataclass

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, ParticleSet
from cryoloom.scoring.matching import match_particles, stems


@dataclass(frozen=True)
class DefocusScore:
    """Errors of CTF parameters; a row is a micrograph or a particle.

    Attributes
    ----------
    defocus
        Error of the mean defocus in Å, `(n,)`.
    astigmatism
        Length of the error of the astigmatism `½ (U - V) (cos 2θ, sin 2θ)` in Å, `(n,)`: the swap of U and V with a
        turn by 90 degrees is no error.
    phase_shift
        Error in radians, `(n,)`, or None.
    """

    defocus: np.ndarray
    astigmatism: np.ndarray
    phase_shift: np.ndarray | None

    @property
    def median(self) -> float:
        """Median absolute error of the mean defocus in Å."""
        return float(np.median(np.abs(self.defocus)))

    def summary(self) -> dict[str, float | int]:
        """The figures a report shows."""
        figures: dict[str, float | int] = {
            "n": len(self.defocus),
            "median_error": round(self.median, 2),
            "error_95": round(float(np.quantile(np.abs(self.defocus), 0.95)), 2),
            "bias": round(float(np.median(self.defocus)), 2),
            "astigmatism_median_error": round(float(np.median(self.astigmatism)), 2),
        }
        if self.phase_shift is not None:
            figures["phase_shift_median_error_deg"] = round(float(np.rad2deg(np.median(np.abs(self.phase_shift)))), 3)
        return figures


def score_defocus(estimated: MicrographSet | ParticleSet, truth: MicrographSet | ParticleSet) -> DefocusScore:
    """Compare CTF parameters of micrographs (matched by file name) or of particles (`match_particles`).

    Raises
    ------
    InputError
        If a set has no defocus or nothing matches.
    """
    if estimated.defocus_u is None or truth.defocus_u is None:
        raise InputError("score: defocus is missing.")
    if isinstance(estimated, ParticleSet) and isinstance(truth, ParticleSet):
        a, b = match_particles(estimated, truth)
        if truth.class_number is not None:
            real = truth.class_number[b] > 0
            a, b = a[real], b[real]
    elif isinstance(estimated, MicrographSet) and isinstance(truth, MicrographSet):
        place = {name: i for i, name in enumerate(stems(truth.path))}
        pairs = [(i, place[name]) for i, name in enumerate(stems(estimated.path)) if name in place]
        rows = np.asarray(pairs, np.int64).reshape(-1, 2)
        a, b = rows[:, 0], rows[:, 1]
    else:
        raise InputError("score: compare micrographs with micrographs, particles with particles.")
    known = np.isfinite(estimated.defocus_u[a])
    a, b = a[known], b[known]
    if not len(a):
        raise InputError("score: nothing of the result is in the truth.")
    phase = None
    if estimated.phase_shift is not None and truth.phase_shift is not None:
        difference = estimated.phase_shift[a] - truth.phase_shift[b]
        phase = (difference + np.pi / 2) % np.pi - np.pi / 2
    return DefocusScore(
        defocus=_mean(estimated)[a] - _mean(truth)[b],
        astigmatism=np.linalg.norm(_astigmatism(estimated)[a] - _astigmatism(truth)[b], axis=1),
        phase_shift=phase,
    )


def _mean(record: MicrographSet | ParticleSet) -> np.ndarray:
    return 0.5 * (np.asarray(record.defocus_u, np.float64) + np.asarray(record.defocus_v, np.float64))


def _astigmatism(record: MicrographSet | ParticleSet) -> np.ndarray:
    half = 0.5 * (np.asarray(record.defocus_u, np.float64) - np.asarray(record.defocus_v, np.float64))
    angle = 2 * np.asarray(record.defocus_angle, np.float64)
    return np.stack([half * np.cos(angle), half * np.sin(angle)], axis=1)
