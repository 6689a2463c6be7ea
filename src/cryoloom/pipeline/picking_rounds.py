"""From micrographs to centred particles: rounds of picking and 2D classes, each with the averages of the one before.

Nothing is known of the particle at first, so the first round may sit on its parts, and some particles are picked more
than once. The averages of a round are centred on whole particles, so the picks of the next one sit better. Rounds end
when classification moves the picks no more and finds the same size again. What is left is cut out anew at the centres
that the classes gave, each particle once.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Any

import numpy as np

from cryoloom.io.records import read_particles
from cryoloom.pipeline.way import Way
from cryoloom.project.runner import JobResult

SETTLED = 0.05  # median shift of the selected particles over their diameter at which picks sit where they should
LEAST_KEPT = 0.3  # a later round counts if it keeps this share of what was kept before: early ones count parts and junk
APART = 0.4  # centres nearer than this share of the diameter are one particle
AGREED = 1.15  # ratio of two diameters that are called equal
CIRCLE = 1.25  # diameter of the circle that 2D classes see, in diameters of the particle
FIRST_CIRCLE = 1.3  # the same, while the size is a first guess


@dataclass(frozen=True)
class FoundParticles:
    """What the rounds ended with.

    Attributes
    ----------
    particles
        STAR file of the centred particles, each once.
    diameter
        Of the particle, Å.
    """

    particles: Path
    diameter: float


@dataclass(frozen=True)
class _Round:
    """One round: the distinct particles of its good classes, how far they were moved, and the sizes found."""

    unique: JobResult
    moved: float
    diameter: float

    @property
    def n(self) -> int:
        return int(self.unique.summary["n_out"])


def find_particles(way: Way, micrographs: Path) -> FoundParticles | None:
    """Pick, look at the particles in 2D, pick again with what was seen; None if nothing looks like particles."""
    given = way.settings.diameter
    measured: list[float] = []  # in 2D, one per round
    extent = given
    first: float | None = given
    references: dict[str, Any] = {}
    best: _Round | None = None
    for number in range(way.settings.rounds_of_picking):
        inputs = {"micrographs": micrographs, **references}
        picks = way.step("pick", inputs, diameter=extent, method=way.settings.picking)
        if picks.summary["n_out"] == 0:
            break
        first = first or picks.summary["diameter"]
        found = extent or first
        circle = (CIRCLE if measured else FIRST_CIRCLE) * found
        classes = _classify(way, micrographs, {"picks": picks["picks"]}, found, circle)
        if classes.summary["n_out"] == 0:
            break
        # what reaches beyond the circle is a neighbour, or a particle that the next round sees whole
        measured.append(min(classes.summary.get("particle_diameter") or found, circle))
        extent = given or _extent(first, measured)
        this = _distinct(way, classes, extent)
        if best is None or this.n >= LEAST_KEPT * best.n:
            best = this
        if number > 0 and this.moved < SETTLED and (given or _alike(*measured[-2:])):
            break
        references = {"references": classes.folder / "class_averages_selected.mrcs"}
    if best is None:
        way.sink.message("No particles were found that look like particles in 2D.", warning=True)
        return None
    centred = _extract(way, micrographs, {"particles": best.unique["particles"]}, best.diameter)
    return FoundParticles(centred["particles"], best.diameter)


def _extent(first: float, measured: list[float]) -> float:
    """Å: what the last of two rounds measured in 2D, or the middle of three: a neighbour may be taken for a part, once.

    It is not less than what the first picks found, unless two rounds agree that it is: mean profiles of crowded
    particles reach too far, and averages of few images may lack a part.
    """
    middle = median_high(measured) if len(measured) > 2 else measured[-1]
    return middle if len(measured) > 1 and _alike(*measured[-2:]) else max(first, middle)


def _alike(one: float, other: float) -> bool:
    return max(one, other) <= AGREED * min(one, other)


def _classify(way: Way, micrographs: Path, where: dict[str, Path], diameter: float, circle: float) -> JobResult:
    particles = _extract(way, micrographs, where, diameter)
    return way.step("class2d", {"particles": particles["particles"]}, mask_diameter=circle)


def _extract(way: Way, micrographs: Path, where: dict[str, Path], diameter: float) -> JobResult:
    inputs = {"micrographs": micrographs, **where}
    return way.step("extract", inputs, diameter=diameter, target_pixel_size=pixel_size_2d(diameter))


def _distinct(way: Way, classes: JobResult, diameter: float) -> _Round:
    """The selected particles of a round, each once; of those that are one, the class likes one best."""
    unique = way.step(
        "particles unique", {"particles": classes["selected"]}, distance=APART * diameter, best="log_likelihood"
    )
    shift = read_particles(unique["particles"], root=way.root).shift
    moved = float(np.median(np.linalg.norm(np.nan_to_num(shift), axis=1))) / diameter if shift is not None else 0.0
    return _Round(unique, moved, diameter)


def pixel_size_2d(diameter: float) -> float:
    """Å per pixel that shows secondary structure in 2D with few pixels: a fortieth of the particle, 2 to 3.5 Å."""
    return min(3.5, max(2.0, diameter / 40))
