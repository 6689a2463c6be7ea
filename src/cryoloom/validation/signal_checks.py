"""What the signal in the images says of the map: how much of it the map explains, and what is left without it."""

from torch import Tensor

from cryoloom.contract import Run
from cryoloom.data import ParticleSet
from cryoloom.em.images import ImageReader, cache_bytes
from cryoloom.validation.explained import explained_share
from cryoloom.validation.half_map_checks import HalfMaps, low_shell
from cryoloom.validation.items import Report, number
from cryoloom.validation.posed import PosedParticles, pose_particles
from cryoloom.validation.random_phases import RandomisedImages, compare_random_phases
from cryoloom.validation.settings import ValidateSettings

ENOUGH_SIGNAL = 5.0
"""Standard errors by which images must exceed their background for their signal to be known."""

LEAST_EXPLAINED, USUAL_EXPLAINED, MOST_EXPLAINED = 0.75, 0.85, 1.3
"""A map that surely explains less of the signal than the first is wrong; a true one explains more than the second, and
cannot explain much more than all of it."""

POSES_HOLD = 15.0
"""Å; down to this resolution a structure that is seen with an FSC of 0.5 is hardly blurred by wrong poses."""


def answer_explained(
    maps: HalfMaps, halves: tuple[Tensor, ...], mask: Tensor, posed: PosedParticles, run: Run, report: Report
) -> None:
    """Whether the half maps explain the signal in the particles of the other half."""
    field, source = posed.source.field, posed.source
    last = min(low_shell(maps.found, 0.5), int(field / POSES_HOLD), source.points.radius - 1)
    why = ""
    if not posed.given_halves:
        why = "It is not known which particles went into which half map."
    elif last < 4:
        why = "The map shows the outline of the particle alone."
    elif bool(source.particles.per_row("ctf_premultiplied").any()):
        why = "The images were multiplied by their CTF, so their background is unlike their signal."
    if not why:
        masked = (halves[0] * mask, halves[1] * mask)
        found = explained_share(
            posed, masked, maps.found.curves.corrected, run.executor, first=(last + 1) // 2, last=last
        )
        if found.signal_z < ENOUGH_SIGNAL:
            why = "The images are no brighter in these shells where the particle is than around it."
        elif abs(found.background_ratio - 1) > 0.15:
            why = "The noise around the particle is unlike that within, so it cannot be taken off."
        elif found.share > MOST_EXPLAINED:
            why = "The images are so noisy that their poses follow the noise, or have neighbours all around them."
    if why:
        report.skip(("explained",), why)
        return
    error = 1.96 * found.standard_error
    wrong, poor = found.share + error < LEAST_EXPLAINED, found.share + error < USUAL_EXPLAINED
    said = (
        f"Between {field / found.first:.0f} and {field / last:.0f} Å the map explains {100 * found.share:.0f} % of the "
    )
    said += "signal that the images hold"
    report.add(
        "explained",
        "failed" if wrong else "doubtful" if poor else "passed",
        said + (", far less than its FSC claims: it is not the structure of these particles." if wrong else "."),
        value=number(100 * found.share, 1),
        unit="%",
        interval=(round(100 * (found.share - error), 1), round(100 * (found.share + error), 1)),
        limit=f">= {100 * LEAST_EXPLAINED:.0f}",
        detail={"by_shell": [number(v) for v in found.by_shell]},
    )


def answer_random_phases(
    maps: HalfMaps,
    mask: Tensor,
    posed: PosedParticles,
    particles: ParticleSet,
    reader: ImageReader,
    settings: ValidateSettings,
    run: Run,
    report: Report,
) -> None:
    """Whether detail goes when the phases of the images are made random, if that was asked for."""
    last = min(round(maps.found.crossing.shell), posed.source.points.radius - 1)
    first = max(round(0.65 * last), 2)
    why = ""
    if not settings.random_phases:
        why = "Not asked for (--random-phases)."
    elif not posed.given_halves:
        why = "It is not known which particles went into which half map."
    elif last - first < 4:
        why = "The map shows too few shells of detail."
    if why:
        report.skip(("random_phases",), why)
        return
    without = pose_particles(
        particles,
        RandomisedImages(reader, first, run.seed),
        posed.source.mask_diameter,
        run.executor,
        run.generator("halves"),
        largest_number=settings.particles_used,
        cache_bytes=cache_bytes(run.memory_budget),
    )
    test = compare_random_phases(
        posed, without, mask, run.executor, from_shell=first, last_shell=last, symmetry=settings.symmetry
    )
    true, left = test.beyond
    field = posed.source.field
    said = (
        f"Refined again from images without phases beyond {field / first:.1f} Å, the FSC there is {left:.2f} on average"
    )
    said += f"; from the images as they are it is {true:.2f}."
    report.add(
        "random_phases",
        "passed" if left < 0.1 else "failed" if left > 0.5 * true else "doubtful",
        said,
        value=number(left),
        limit="< 0.1",
        detail={"fsc": [number(v) for v in test.true], "fsc_random": [number(v) for v in test.randomised]},
    )
