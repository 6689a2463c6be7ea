"""What is looked for: the size of the particle, its contrast, and the pickers that find it, from what is given or seen.

A network knows all of it, references the shape; with neither, the micrographs tell the size, and the first picks the
mean profile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import InputError, Run
from cryoloom.data import MicrographSet
from cryoloom.io.images import read_micrograph
from cryoloom.picking.bank import BankMaker
from cryoloom.picking.finders import Finder, bank_finder, round_finder
from cryoloom.picking.learn import learn_template
from cryoloom.picking.learned.model import LearnedPicker, load_picker
from cryoloom.picking.prepare import CORE
from cryoloom.picking.references import load_references, reference_diameter
from cryoloom.picking.settings import PickSettings
from cryoloom.picking.survey import survey_micrographs
from cryoloom.picking.template import RoundTemplate
from cryoloom.picking.topaz import topaz_finder

MOST_EXTENT = 3.0
"""Extent of a particle over the diameter of the ball that fits it best, at most."""
BALLS = (0.6, 1.0, 1.25)
"""Diameters of the balls that a consensus looks for, over that of the best one."""


@dataclass(frozen=True)
class Sample:
    """The particle.

    Attributes
    ----------
    core, extent
        Å, diameter of its dense part, and its largest extent.
    dark
        Whether particles are darker than what is around them.
    """

    core: float
    extent: float
    dark: bool


@dataclass(frozen=True)
class LookedFor:
    """The particle, and who looks for it.

    Attributes
    ----------
    sample
        The particle.
    finders
        Pickers: a network, templates or Topaz, if given; one for the mean profile, if asked for or the size is unknown.
    learned
        The network, if given.
    reasons
        Why the size is in doubt, in words.
    """

    sample: Sample
    finders: tuple[Finder, ...]
    learned: LearnedPicker | None
    reasons: tuple[str, ...]


class MicrographImages:
    """Gives the image and the pixel size of a row of a set, on the device of the job."""

    def __init__(self, micrographs: MicrographSet, run: Run) -> None:
        self._micrographs, self._device = micrographs, run.device

    def __call__(self, row: int) -> tuple[Tensor, float]:
        """Image `(h, w)` and its pixel size in Å."""
        image = torch.from_numpy(read_micrograph(self._micrographs.path[row])).to(self._device)
        return image, self._micrographs.optics[int(self._micrographs.optics_index[row])].pixel_size


def look_for(
    micrographs: MicrographSet,
    load: Callable[[int], tuple[Tensor, float]],
    references: Path | None,
    model: Path | None,
    settings: PickSettings,
    run: Run,
    *,
    profile: bool,
) -> LookedFor:
    """Find out what is looked for.

    Parameters
    ----------
    micrographs, load
        All micrographs, and what reads them.
    references, model
        Class averages or a map; a network. At most one of them.
    settings, run
        Of the job.
    profile
        Learn the profile of the mean particle, although references or a network are given.

    Raises
    ------
    InputError
        If both references and a network are given, or cannot be read.
    """
    if references is not None and model is not None:
        raise InputError("--references and --model: two things to look for; give one of them.")
    if settings.topaz and (references is not None or model is not None):
        raise InputError("--topaz: two things to look for; leave out --references and --model.")
    reasons: list[str] = []
    finders: list[Finder] = [topaz_finder()] if settings.topaz else []
    extent, learned = settings.diameter, None
    if model is not None:
        learned = load_picker(model)
        extent = extent or learned.extent
        finders = [learned.find]
    if references is not None:
        images = load_references(
            references, pixel_size=settings.reference_pixel_size, contrast=settings.reference_contrast
        )
        extent = extent or reference_diameter(images)
        finders = [bank_finder(BankMaker(images, extent, np.deg2rad(settings.angle_step_deg)), CORE * extent)]
    dark = settings.contrast != "bright"
    core = CORE * extent if extent is not None else None
    if learned is not None and extent is not None:
        core = learned.core * extent / learned.extent  # a network knows the shape, at any size
        dark = learned.dark if settings.contrast == "auto" else dark
    elif core is None or settings.contrast == "auto":
        scale = survey_micrographs(micrographs, load, lambda row: str(micrographs.path[row]), core, settings, run)
        if settings.contrast == "auto":
            dark = scale.dark
        if core is None:
            core = scale.diameter
            if not scale.clear:
                reasons.append("no diameter stands out on these micrographs; give --diameter")
    if profile or not finders or extent is None:
        template = learn_template(micrographs, load, core, dark, settings, run)
        finders.append(round_finder(template or RoundTemplate.ball(core)))
        if extent is None:
            extent = min(max(template.extent, core), MOST_EXTENT * core) if template is not None else core / CORE
    assert extent is not None
    return LookedFor(Sample(core, float(extent), dark), tuple(finders), learned, tuple(reasons))


def balls(sample: Sample) -> list[Finder]:
    """Pickers of balls of several diameters, for a consensus."""
    return [round_finder(RoundTemplate.ball(size * sample.core)) for size in BALLS]
