"""`compare ctf`: defocus by a fit to spectra of tiles against defocus by demodulated rings of the whole image.

The methods are `ctf_fit.estimate` and `ctf_fit.demodulation`; they share the image and nothing else. What is compared
are the three numbers that make the phase of the CTF: mean defocus and both components of astigmatism. Where the
methods disagree, the answer that leaves less unexplained in both spectra together is taken.
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
from cryoloom.ctf_fit.demodulation import demodulate_ctf, gain_at
from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.fit import fit_at
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.profile import RingProfile
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.stage import image_path, load_image
from cryoloom.data import MicrographSet

CORRELATION = 0.8
"""Of the errors of the two methods, which see the same noise (0.7 to 0.9 on simulated micrographs)."""


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
    """

    values: np.ndarray
    error: np.ndarray
    support: np.ndarray


def two_ctfs(image: Tensor, pixel_size: float, beam: Beam, where: SearchRange) -> TwoCtfs:
    """Both estimates of the CTF of a micrograph `(h, w)`."""
    first = estimate_image_ctf(image, pixel_size, beam, where)
    second = demodulate_ctf(image, pixel_size, beam, where)
    noise = first.spectra.variance_factor() * first.spectra.n_independent
    support = []
    for defocus in (first.defocus, second.defocus):
        profile = RingProfile(first.rings, beam, defocus.mean)
        tiles = fit_at(profile, defocus.as_array(), 3).gain / noise
        support.append(tiles + gain_at(second.data, beam, defocus))
    covariances = (first.posterior.covariance[:3, :3], second.covariance)
    return TwoCtfs(
        np.stack([d.as_array()[:3] for d in (first.defocus, second.defocus)]),
        np.array([math.sqrt(max(float(np.trace(c)), 0.0) / 3) for c in covariances]),
        np.array(support),
    )


def compare_ctfs(items: np.ndarray, pairs: list[TwoCtfs], tolerance: float) -> Comparison:
    """Hold both answers of all micrographs together; `tolerance` in Å."""
    answers = [
        Answers(
            method,
            np.stack([pair.values[i] for pair in pairs]),
            np.array([pair.error[i] for pair in pairs]),
            np.array([pair.support[i] for pair in pairs]),
        )
        for i, method in enumerate(("fit to spectra of tiles", "demodulated rings"))
    ]
    return compare_answers("defocus", "Å", items, *answers, tolerance=tolerance, correlation=CORRELATION)


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
        return {name: value.tolist() for name, value in dataclasses.asdict(pair).items()}

    found = run.each(list(range(len(micrographs))), both, key=lambda i: str(micrographs.path[i]), label="compare ctf")
    kept = np.array([result is not None for result in found], bool)
    if not kept.any():
        raise WorkFailed("No micrograph could be read; the causes are in run.log.")
    pairs = [TwoCtfs(**{name: np.asarray(v) for name, v in result.items()}) for result in found if result is not None]
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
