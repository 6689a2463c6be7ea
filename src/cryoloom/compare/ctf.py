"""`compare ctf`: defocus by a fit to spectra of tiles against defocus by demodulated rings of the whole image.

The methods are `ctf_fit.estimate` and `ctf_fit.demodulation`; they share the image and nothing else. What is compared
are the three numbers that make the phase of the CTF: mean defocus and both components of astigmatism. Where the
methods disagree by more than their errors explain, the answer for which both spectra together have more evidence is
taken. Micrographs in which rings hardly show count as disagreement, as they are left out by `ctf`: there both methods
may fall for the same noise.

Errors of either are 1.2 times the Cramér-Rao bound with all else known, and their correlation is 0.85: the mean is
hardly better than either (1.15 times the bound), and which of them is nearer to the truth in a set of twelve faint
micrographs is decided by the noise of the one or two faintest. On 144 micrographs of 1024² px with rings as faint as
those of the tests, in sets drawn at random, the mean is within 1.05 of the luckier method in 71 % of the sets; it would
be in 86 % if the right answer were taken in every dispute. By luck alone, with Gaussian errors so correlated and no
disputes, the mean of two equally good answers is within 1.05 of the luckier one in 78 % of sets of twelve, and an
estimate at the very bound of the images in 91 %. The model of the first method on the data of the second, as a third
answer, is not better than the mean of both.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from torch import Tensor

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.settings import COMPARE_CTF, CompareCtfSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Run, WorkFailed, stage
from cryoloom.ctf_fit.demodulation import demodulate_ctf, evidence_at
from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.fit import fit_at
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.profile import RingProfile
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.stage import image_path, load_image
from cryoloom.ctf_fit.verdict import MAX_ERROR, MIN_GAIN
from cryoloom.data import MicrographSet

CORRELATION = 0.8
"""Of the errors of the two methods, which see the same noise (0.8 to 0.9 on simulated micrographs)."""

EXPLAINED = 2.0
"""Distance that errors explain, in units of both together."""


@dataclasses.dataclass(frozen=True)
class TwoCtfs:
    """What both methods say of one micrograph.

    Attributes
    ----------
    values
        Mean defocus and the two components of astigmatism in Å, per method, `(2, 3)`.
    error
        Standard error of one of these numbers, per method, `(2,)`.
    support
        Evidence for each answer in both spectra together, `(2,)`.
    gain
        Evidence of the rings over none, by the spectra of tiles (`CtfEstimate.gain`).
    """

    values: np.ndarray
    error: np.ndarray
    support: np.ndarray
    gain: float


def two_ctfs(image: Tensor, pixel_size: float, beam: Beam, where: SearchRange) -> TwoCtfs:
    """Both estimates of the CTF of a micrograph `(h, w)`."""
    first = estimate_image_ctf(image, pixel_size, beam, where)
    second = demodulate_ctf(image, pixel_size, beam, where)
    noise = first.spectra.variance_factor() * first.spectra.n_independent
    support = []
    for defocus in (first.defocus, second.defocus):
        profile = RingProfile(first.rings, beam, defocus.mean)
        tiles = fit_at(profile, defocus.as_array(), 3).evidence(noise)
        support.append(tiles + evidence_at(second.data, beam, defocus))
    covariances = (first.posterior.covariance[:3, :3], second.covariance)
    return TwoCtfs(
        np.stack([d.as_array()[:3] for d in (first.defocus, second.defocus)]),
        np.array([math.sqrt(max(float(np.trace(c)), 0.0) / 3) for c in covariances]),
        np.array(support),
        first.gain,
    )


def compare_ctfs(items: np.ndarray, pairs: list[TwoCtfs], tolerance: float) -> Comparison:
    """Hold both answers of all micrographs together; `tolerance` in Å."""
    values, error = np.stack([pair.values for pair in pairs], 1), np.stack([pair.error for pair in pairs], 1)
    support = np.stack([pair.support for pair in pairs], 1)
    apart = np.sqrt(((values[0] - values[1]) ** 2).mean(-1))
    support[:, apart < EXPLAINED * np.hypot(*error)] = 0.0  # of one maximum; their mean is better than either
    unsure = (np.array([pair.gain for pair in pairs]) < MIN_GAIN) | (error > MAX_ERROR).any(0)
    methods = ("fit to spectra of tiles", "demodulated rings")
    answers = [Answers(method, values[i], error[i], support[i]) for i, method in enumerate(methods)]
    return compare_answers(
        "defocus", "Å", items, *answers, tolerance=tolerance, correlation=CORRELATION, margin=1e-9, unsure=unsure
    )


@stage(COMPARE_CTF)
def compare_ctf(micrographs: MicrographSet, settings: CompareCtfSettings, run: Run) -> dict[str, Any]:
    """Estimate the CTF of every micrograph by both methods, and say what both agree on."""
    where = SearchRange(
        settings.defocus_min, settings.defocus_max, settings.astigmatism_max, (math.radians(settings.phase_shift_deg),)
    )

    def both(i: int) -> dict[str, Any]:
        optics = micrographs.optics[int(micrographs.optics_index[i])]
        beam = Beam(optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast)
        pair = two_ctfs(load_image(image_path(micrographs, i), "cpu"), optics.pixel_size, beam, where)
        return {name: np.asarray(value).tolist() for name, value in dataclasses.asdict(pair).items()}

    found = run.each(list(range(len(micrographs))), both, key=lambda i: str(micrographs.path[i]), label="compare ctf")
    kept = np.array([result is not None for result in found], bool)
    if not kept.any():
        raise WorkFailed("No micrograph could be read; the causes are in run.log.")
    pairs = [
        TwoCtfs(np.asarray(r["values"]), np.asarray(r["error"]), np.asarray(r["support"]), float(r["gain"]))
        for r in found
        if r is not None
    ]
    chosen = micrographs.select(kept)
    comparison = compare_ctfs(np.asarray(chosen.path), pairs, settings.tolerance)
    show_comparison(comparison, run)
    u, v, angle = np.array([Defocus(*values).uv_angle for values in comparison.consensus]).T
    return {
        "micrographs": chosen.replace(
            defocus_u=u,
            defocus_v=v,
            defocus_angle=angle,
            phase_shift=np.full(len(u), where.phase_shifts[0]),
            defocus_error=comparison.error,
            extra=dict(chosen.extra) | {"cryoloomMethodsDisagree": comparison.disagree.astype(np.float64)},
        )
    }
