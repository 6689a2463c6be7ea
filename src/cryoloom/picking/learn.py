"""The template of the particles at hand: what the first picks with a ball look like on average.

Micrographs of a sample are searched with a ball, and the picks that stand out give the profile of the mean particle
(`radial.py`). It serves as template for all micrographs, and its extent is the diameter that boxes and masks need.
Where noise would give as many picks, nothing is learnt.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from cryoloom.contract import Run
from cryoloom.data import MicrographSet
from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.junk import outliers
from cryoloom.picking.matched import Transfer, default_transfer
from cryoloom.picking.prepare import CORE
from cryoloom.picking.radial import Normal, fit_template
from cryoloom.picking.search import Candidates, measure_shape, search_micrograph
from cryoloom.picking.settings import PickSettings
from cryoloom.picking.template import RoundTemplate

NOISE_P_VALUE = 1e-3
"""Picks that noise alone gives with more than this probability are not believed."""
_MOST_LEARNT = 24  # micrographs of the sample


def learn_template(
    micrographs: MicrographSet,
    load: Callable[[int], tuple[Tensor, float]],
    core: float,
    dark: bool,
    settings: PickSettings,
    run: Run,
) -> RoundTemplate | None:
    """The round template that the first picks with a ball ask for; None where they are too few or may be noise.

    Parameters
    ----------
    micrographs
        All micrographs.
    load
        Gives the image and the pixel size of a row.
    core
        Diameter of the ball in Å.
    dark
        Whether particles are darker than what is around them.
    settings, run
        Of the job.
    """
    n = len(micrographs)
    chosen = [int(row) for row in np.unique(np.linspace(0, n - 1, min(n, _MOST_LEARNT)).astype(int))]

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def search(row: int) -> dict[str, Any]:
        try:
            image, pixel_size = load(row)
        except (OSError, ValueError):
            return {}  # the search of all micrographs names what cannot be read
        found = search_micrograph(
            image,
            pixel_size,
            transfer_of(micrographs, row),
            core,
            dark=dark,
            distance=settings.distance * core / CORE,
            margin=0.5 * core,
            exclude=settings.exclude,
        )
        return found.as_json()

    stored = run.each(chosen, search, key=name_of, label="Looking for round particles")
    found = {row: Candidates.from_json(entry) for row, entry in zip(chosen, stored, strict=True) if entry}
    kept = _trusted(found, settings)
    if kept is None:
        return None

    def measure(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        transfer = transfer_of(micrographs, row)
        found = measure_shape(
            image, pixel_size, transfer, core, kept[row], dark=dark, distance=core, exclude=settings.exclude
        )
        return found.as_json()

    parts = run.each(list(found), measure, key=name_of, label="Measuring their profile")
    template = fit_template([Normal.from_json(entry) for entry in parts if entry is not None], core)
    if template is not None:
        run.log(f"profile of the mean particle: 98 % of its mass within {template.extent:.0f} Å")
    return template


def _trusted(found: dict[int, Candidates], settings: PickSettings) -> dict[int, np.ndarray] | None:
    """Positions of each micrograph that stand out and are no junk; None if noise would give as many."""
    if not found:
        return None
    each = list(found.values())
    score, density, texture, contested = (
        np.concatenate([getattr(c, name) for c in each]) for name in ("score", "density", "texture", "contested")
    )
    decoys = np.concatenate([c.decoys for c in each])
    # a threshold that the user sets is one for picks; what is learnt from stands out by itself
    rule = {"false_picks": settings.false_picks, "least_probability": settings.least_probability}
    first = calibrate(score[~contested], decoys, **rule)
    if first.p_value > NOISE_P_VALUE or not np.isfinite(first.threshold):
        return None
    good = score >= first.threshold
    if settings.exclude:
        good &= ~outliers(density, texture, good)
    ends = np.cumsum([len(c.score) for c in each])[:-1]
    return {row: c.position_px[own] for (row, c), own in zip(found.items(), np.split(good, ends), strict=True)}


def transfer_of(micrographs: MicrographSet, row: int) -> Transfer:
    """CTF of a micrograph; a usual one where it is not known."""
    optics = micrographs.optics[int(micrographs.optics_index[row])]
    if micrographs.defocus_u is None or not np.isfinite(micrographs.defocus_u[row]):
        return default_transfer(optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast)

    def value(column: np.ndarray | None, otherwise: float) -> float:
        return otherwise if column is None or not np.isfinite(column[row]) else float(column[row])

    defocus_u = float(micrographs.defocus_u[row])
    return Transfer(
        defocus_u,
        value(micrographs.defocus_v, defocus_u),
        value(micrographs.defocus_angle, 0.0),
        value(micrographs.phase_shift, 0.0),
        optics.voltage_kv,
        optics.cs_mm,
        optics.amplitude_contrast,
    )
