"""Stage `abinitio`: a first map from particles alone, or an honest "not found"."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.abinitio.climb import Centres, climb, recentre
from cryoloom.abinitio.images import SmallImages, centre_on_round_average, load_small_images
from cryoloom.abinitio.level import Level, evaluate, make_level
from cryoloom.abinitio.model import StartModel, complete_volumes
from cryoloom.abinitio.settings import ABINITIO, AbinitioSettings
from cryoloom.abinitio.store import StartStore
from cryoloom.abinitio.tournament import Contender, Outcome, Step, Tournament, survivors
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.extent import estimate_mask_diameter
from cryoloom.em.groups import noise_groups
from cryoloom.em.images import ImageSource
from cryoloom.em.place import Place
from cryoloom.fourier import fourier_crop
from cryoloom.geometry import rotation_about_z, symmetry_matrices
from cryoloom.io.particles import ParticleImages

# Levels of detail, coarse to fine. Most shapes are told apart at the first. A particle of a cubic group is round up to
# the first harmonic that its group allows (l = 3, 4, 6 for T, O, I), so its views differ in fine detail alone, and its
# few distinct views make that level cheap. The map is then carried on to the last number, a part of the diameter.
USUAL_STEPS = (
    Step(4.0, 40, 150, memory=0.8),
    Step(5.5, 40, 150, memory=0.8),
    Step(7.0, 40, 150, memory=0.8),
    Step(9.0, 30, 200, memory=0.85, wander=0.05),
)


def _cubic_steps(first: float, last: float) -> tuple[Step, ...]:
    return Step(first, 60, 150, memory=0.7), Step(last, 60, 150, memory=0.7), Step(last, 120, 150, memory=0.7)


CUBIC_STEPS = {"T": _cubic_steps(9.0, 12.0), "O": _cubic_steps(10.0, 13.0), "I": _cubic_steps(12.0, 16.0)}
LAST_PART = {"T": 12.0, "O": 13.0, "I": 16.0}
USUAL_LAST_PART = 12.0
ROUNDS = 3
INFORMATION_NEEDED = 4.5


@stage(ABINITIO)
def find_first_map(particles: ParticleSet, settings: AbinitioSettings, run: Run) -> dict[str, Any]:
    """Find a first map from particles alone."""
    symmetry_matrices(settings.symmetry)
    if len(particles) < 100:
        raise InputError(f"particles: {len(particles)} are too few for a first map; 100 are the least.")
    reader = ParticleImages(particles)
    box, pixel_size = reader.shape[-1], float(particles.optics[0].pixel_size)
    field = box * pixel_size
    diameter = settings.mask_diameter or estimate_mask_diameter(reader, len(particles), pixel_size)
    diameter = min(diameter, 0.95 * field)
    groups = noise_groups(particles, "micrograph")
    source = ImageSource(reader, particles, diameter, noise_group=groups, cache_bytes=0, place=Place(run.devices))
    particle_diameter = diameter / 1.2
    steps, last_part = _schedule(settings.symmetry)
    finest = max(settings.resolution or particle_diameter / last_part, 2.6 * pixel_size)
    order = torch.randperm(len(particles), generator=run.generator("sample"))
    rows = np.sort(order[: settings.max_particles].numpy())
    images = load_small_images(source, rows, round(field / finest) + 1, run.executor)
    first_px = _first_centres(images, particle_diameter, finest, settings.symmetry)
    diameter_px = particle_diameter / images.pixel_size
    held_out, training = _split(len(images), run)
    levels = [
        make_level(
            images, source, max(finest, particle_diameter / step.part), diameter, settings.symmetry, run.executor
        )
        for step in steps
    ]
    outcome = _play(levels, steps, first_px, diameter_px, training, held_out, settings, run)
    verdict, reasons = _verdict(outcome, levels[-1])
    best = outcome.contenders[0]
    level = make_level(images, source, finest, diameter, settings.symmetry, run.executor, first_ring=1.0)
    wander = steps[-1].wander
    model = _polish(best, level, Centres(first_px, wander * diameter_px), run)
    placed, column = _place(particles, images, source, level, model, diameter, wander, run)
    volumes = complete_volumes(model)
    full = [fourier_crop(volume, (box,) * 3) * (images.box / box) ** 3 for volume in volumes]
    results: dict[str, Any] = {"particles": placed}
    for k, volume in enumerate(full):
        name = f"class{k + 1:03d}"
        results[name] = VolumeMap(volume.to(torch.float32).numpy(), pixel_size)
        run.show(
            Figure(
                name=name,
                kind="volume",
                title=f"First map {k + 1}",
                caption="Central slices and surface. Its hand is a guess: images alone cannot tell it.",
                data={"volume": volumes[k].numpy(), "pixel_size": images.pixel_size},
            )
        )
    run.show(
        Figure(
            name="starts",
            kind="scatter",
            title="Starts",
            caption="Log-evidence per particle of the starts that reached the end; the right structure stands out.",
            x_label="rank",
            y_label="log-evidence per particle",
            data={
                "x": np.arange(1, len(outcome.contenders) + 1),
                "y": np.array([c.evidence for c in outcome.contenders]),
            },
        )
    )
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=len(particles),
        n_out=len(particles),
        resolution=round(level.resolution, 2),
        symmetry=settings.symmetry,
        pixel_size=pixel_size,
        diameter=round(particle_diameter, 1),
        evidence_gain=round(outcome.gain, 3),
        evidence_gain_error=round(outcome.gain_error, 3),
        information=round(outcome.information, 2),
        agreement=round(outcome.agreement, 3),
        n_agreeing=outcome.n_agreeing,
        populations=[float(v) for v in column],
    )
    return results


def _schedule(symmetry: str) -> tuple[tuple[Step, ...], float]:
    """Steps of the starts, and the part of the diameter to which the best is carried on."""
    group = symmetry.strip().upper()[0]
    return CUBIC_STEPS.get(group, USUAL_STEPS), LAST_PART.get(group, USUAL_LAST_PART)


def _is_cubic(symmetry: str) -> bool:
    return symmetry.strip().upper()[0] in CUBIC_STEPS


def _first_centres(images: SmallImages, particle_diameter: float, finest: float, symmetry: str) -> Tensor:
    """Where particles are thought to sit before there is a map, pixels yx, `(n, 2)`.

    Those of a cubic group are nearly round, so the round average of all finds them well. Any other particle it would
    move by where its view happens to be heavy: those are left where they are, and their centres follow the maps.
    """
    if _is_cubic(symmetry):
        return centre_on_round_average(images, 0.2 * particle_diameter, max(finest, particle_diameter / 6))
    return torch.zeros(len(images), 2)


def _split(n: int, run: Run) -> tuple[Tensor, Tensor]:
    """Held-out and training images: a fifth, and the rest."""
    order = torch.randperm(n, generator=run.generator("held out"))
    n_held = max(20, n // 5)
    return order[:n_held].sort().values, order[n_held:].sort().values


def _play(
    levels: list[Level], steps: tuple[Step, ...], first_px: Tensor, diameter_px: float, training: Tensor,
    held_out: Tensor, settings: AbinitioSettings, run: Run,
) -> Outcome:  # fmt: skip
    """Rounds of starts until they agree on something that tells views apart."""
    store = StartStore(run.checkpoint("starts"))
    n_starts = settings.starts
    outcome: Outcome | None = None
    for number in range(ROUNDS):
        title = "starts" if number == 0 else f"starts, round {number + 1} (those before did not meet closely)"
        with run.progress(sum(survivors(n_starts, i) for i in range(len(steps))), title) as progress:
            if outcome is None:
                tournament = Tournament(
                    levels, steps, settings.classes, training, held_out, first_px, diameter_px, run.generator,
                    run.executor,
                    recall=store.recall, keep=store.keep,
                )  # fmt: skip
            outcome = tournament.play(n_starts, progress.advance)
        run.log(
            f"round {number + 1}, to {levels[-1].resolution:.1f} Å: evidence "
            f"{[round(c.evidence, 2) for c in outcome.contenders]}, gain {outcome.gain:.2f} +- "
            f"{outcome.gain_error:.2f}, information {outcome.information:.1f}, agreement {outcome.agreement:.2f}, "
            f"{outcome.n_agreeing} agree"
        )
        if outcome.gain < 4 * outcome.gain_error:
            break  # there is nothing in the images: more starts would not find it
        if outcome.firm and outcome.information > INFORMATION_NEEDED:
            break
    assert outcome is not None
    return outcome


def _verdict(outcome: Outcome, level: Level) -> tuple[str, list[str]]:
    gain = f"{outcome.gain:.2f} ± {outcome.gain_error:.2f}"
    if outcome.gain < 4 * outcome.gain_error:
        return "not found", [
            f"no start explains held-out particles better than a round blob does (gain {gain} in log-evidence each)"
        ]
    if outcome.n_agreeing > 1 and outcome.information > INFORMATION_NEEDED:
        return "found", [
            f"{outcome.n_agreeing} independent starts met in one map at {level.resolution:.0f} Å (correlation "
            f"{outcome.agreement:.2f}), which explains held-out particles better than a round blob (gain {gain})"
        ]
    if outcome.stands_out and outcome.information > INFORMATION_NEEDED:
        lead = outcome.contenders[0].evidence - outcome.contenders[1].evidence
        return "found", [
            f"one start explains each particle {lead:.1f} units of log-evidence better than all others, which are "
            f"alike (at {level.resolution:.0f} Å; gain over a round blob on held-out particles {gain})"
        ]
    if outcome.n_agreeing > 1:
        return "doubtful", [
            f"starts agree, but views are hardly told apart at {level.resolution:.0f} Å (information "
            f"{outcome.information:.1f} of {INFORMATION_NEEDED} needed)"
        ]
    return "doubtful", [
        f"no two of the best starts met in one map (best correlation {outcome.agreement:.2f}); the one "
        f"that explains the particles best was taken (gain {gain})"
    ]


def _polish(best: Contender, level: Level, centres: Centres, run: Run) -> StartModel:
    """Carry the best start on to the finest detail of this stage, with all images."""
    rows = torch.arange(len(best.centre_px))
    batch = min(500, max(20, len(rows) // 2))
    with run.progress(1, "best start on all images") as progress:
        model, _ = climb(
            best.model, best.centre_px, level, rows, centres, 12, batch, 0.85, run.generator("polish"), run.executor
        )
        progress.advance()
    return model


def _place(
    particles: ParticleSet, images: SmallImages, source: ImageSource, level: Level, model: StartModel,
    diameter: float, wander: float, run: Run,
) -> tuple[ParticleSet, np.ndarray]:  # fmt: skip
    """Class, pose and shift of every particle, chunk by chunk: the most likely view, then its shift, twice."""
    n = len(particles)
    rotation, shift = np.empty((n, 3, 3)), np.empty((n, 2))
    class_number = np.empty(n, np.int64)
    weights = np.zeros(model.n_classes)
    n_views = len(level.rotations)
    particle_diameter, finest, symmetry = diameter / 1.2, level.resolution, level.symmetry
    chunk = 1000
    with run.progress(n, "poses of all particles") as progress:
        for start in range(0, n, chunk):
            rows = np.arange(start, min(start + chunk, n))
            some = load_small_images(source, rows, images.box // 2 - 4, run.executor)
            first_px = _first_centres(some, particle_diameter, finest, symmetry)
            centres = Centres(first_px, wander * particle_diameter / some.pixel_size)
            here = make_level(some, source, finest, diameter, symmetry, run.executor)
            every, centre = torch.arange(len(rows)), first_px
            for _ in range(2):
                sums = evaluate(model, here, here.images(every, centre), run.executor)
                centre = recentre(model, here, every, centre, centres, sums)
            reference, angle, _ = sums.best.unbind(1)
            psi = here.plan.angles.to(torch.float64)[angle]
            rotation[rows] = (here.rotations.double()[reference % n_views] @ rotation_about_z(psi)).numpy()
            class_number[rows] = (reference // n_views + 1).numpy()
            shift[rows] = (centre * some.pixel_size).numpy()
            weights += sums.reference_weight.double().sum(0).numpy()
            progress.advance(len(rows))
    placed = particles.replace(rotation=rotation, shift=shift, class_number=class_number)
    return placed, weights / weights.sum()
