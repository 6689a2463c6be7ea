"""Stage `abinitio`: a first map from particles alone, or an honest "not found"."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.abinitio.images import SmallImages, centre_on_round_average, load_small_images
from cryoloom.abinitio.level import Level, climb, evaluate, make_level
from cryoloom.abinitio.model import StartModel, complete_volumes
from cryoloom.abinitio.settings import ABINITIO, AbinitioSettings
from cryoloom.abinitio.tournament import Outcome, run_tournament
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.groups import noise_groups
from cryoloom.em.images import ImageSource
from cryoloom.fourier import fourier_crop
from cryoloom.geometry import rotation_about_z, symmetry_matrices
from cryoloom.io.particles import ParticleImages

# Levels of detail, as parts of the diameter. Most shapes are told apart at the first. A particle of a cubic group is
# round up to the first harmonic that its group allows (l = 3, 4, 6 for T, O, I), so its views differ in fine detail
# alone, and its few distinct views make that level cheap.
LEVELS = {"T": (12.0,), "O": (13.0,), "I": (16.0,)}
USUAL_LEVELS = (6.0, 9.0, 12.0)
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
    diameter = min(settings.mask_diameter or 0.7 * field, 0.95 * field)
    source = ImageSource(reader, particles, diameter, noise_group=noise_groups(particles, "micrograph"), cache_bytes=0)
    particle_diameter = diameter / 1.2
    finest = max(settings.resolution or particle_diameter / _levels(settings.symmetry)[-1], 2.6 * pixel_size)
    order = torch.randperm(len(particles), generator=run.generator("sample"))
    rows = np.sort(order[: settings.max_particles].numpy())
    images = load_small_images(source, rows, round(field / finest) + 1, run.executor)
    reach = 0.2 * particle_diameter
    centre = centre_on_round_average(images, reach, max(finest, particle_diameter / 6))
    held_out, training = _split(len(images), run)
    outcome, level = _find_level(images, source, diameter, particle_diameter, finest, centre, training, held_out,
                                 settings, run)  # fmt: skip
    verdict, reasons = _verdict(outcome, level)
    best = outcome.contenders[0]
    model, level = _polish(best.model, level, images, source, diameter, finest, centre, settings, run)
    placed, column = _place(particles, images, source, level, model, run)
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


def _levels(symmetry: str) -> tuple[float, ...]:
    return LEVELS.get(symmetry.strip().upper()[0], USUAL_LEVELS)


def _split(n: int, run: Run) -> tuple[Tensor, Tensor]:
    """Held-out and training images: a fifth, and the rest."""
    order = torch.randperm(n, generator=run.generator("held out"))
    n_held = max(20, n // 5)
    return order[:n_held].sort().values, order[n_held:].sort().values


def _find_level(
    images: SmallImages, source: ImageSource, diameter: float, particle_diameter: float, finest: float,
    centre: Tensor, training: Tensor, held_out: Tensor, settings: AbinitioSettings, run: Run,
) -> tuple[Outcome, Level]:  # fmt: skip
    """Tournaments at finer and finer detail until the starts agree on something that tells views apart."""
    resolutions = sorted({max(finest, particle_diameter / part) for part in _levels(settings.symmetry)}, reverse=True)
    found: tuple[Outcome, Level] | None = None
    for i, resolution in enumerate(resolutions):
        n_starts = settings.starts * (2 if len(resolutions) == 1 else 1 + i)
        level = make_level(images, source, resolution, diameter, settings.symmetry, centre, run.executor)
        n_final = max(2, (n_starts + 2) // 3)
        with run.progress(n_starts + n_final, f"starts at {level.resolution:.1f} Å") as progress:
            outcome = run_tournament(
                level,
                n_starts,
                settings.classes,
                training,
                held_out,
                lambda *key, i=i: run.generator("level", i, *key),
                run.executor,
                advance=progress.advance,
            )
        run.log(
            f"level {level.resolution:.1f} Å: evidence {[round(c.evidence, 2) for c in outcome.contenders]}, gain "
            f"{outcome.gain:.2f} +- {outcome.gain_error:.2f}, information {outcome.information:.1f}, agreement "
            f"{outcome.agreement:.2f}, {outcome.n_agreeing} agree"
        )
        found = (outcome, level)
        if (
            (outcome.n_agreeing > 1 or outcome.stands_out)
            and outcome.gain > 4 * outcome.gain_error
            and outcome.information > INFORMATION_NEEDED
        ):
            break
    assert found is not None
    return found


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


def _polish(
    model: StartModel, level: Level, images: SmallImages, source: ImageSource, diameter: float, finest: float,
    centre: Tensor, settings: AbinitioSettings, run: Run,
) -> tuple[StartModel, Level]:  # fmt: skip
    """Go on with all images to the finest detail of this stage, centring on the way."""
    rows = torch.arange(len(images))
    resolution = level.resolution
    targets = [r for r in (0.8 * resolution, 0.65 * resolution) if r > 1.1 * finest] + [finest]
    with run.progress(len(targets), "best start on all images") as progress:
        for target in targets:
            sums = evaluate(model, level, rows, run.executor)
            centre += sums.shift_px
            level = make_level(
                images, source, min(target, level.resolution), diameter, settings.symmetry, centre, run.executor
            )
            model, _ = climb(model, level, rows, 5, run.executor, step=1.3)
            progress.advance()
    return model, level


def _place(
    particles: ParticleSet, images: SmallImages, source: ImageSource, level: Level, model: StartModel, run: Run
) -> tuple[ParticleSet, np.ndarray]:
    """Class, pose and shift of every particle, chunk by chunk."""
    n = len(particles)
    rotation, shift = np.empty((n, 3, 3)), np.empty((n, 2))
    class_number = np.empty(n, np.int64)
    weights = np.zeros(model.n_classes)
    n_views = len(level.rotations)
    diameter = level.plan.radii.new_tensor(source.mask_diameter)
    chunk = 1000
    with run.progress(n, "poses of all particles") as progress:
        for start in range(0, n, chunk):
            rows = np.arange(start, min(start + chunk, n))
            some = load_small_images(source, rows, images.box // 2 - 4, run.executor)
            centre = centre_on_round_average(some, 0.2 * float(diameter), max(level.resolution, float(diameter) / 8))
            here = make_level(
                some, source, level.resolution, float(diameter), level.symmetry, centre, run.executor, n_shift_rings=2
            )
            sums = evaluate(model, here, torch.arange(len(rows)), run.executor)
            reference, angle, at = sums.best.unbind(1)
            psi = here.plan.angles.to(torch.float64)[angle]
            rotation[rows] = (here.rotations.double()[reference % n_views] @ rotation_about_z(psi)).numpy()
            class_number[rows] = (reference // n_views + 1).numpy()
            shift[rows] = ((centre + here.images.shifts_px[at]) * some.pixel_size).numpy()
            weights += sums.reference_weight.double().sum(0).numpy()
            progress.advance(len(rows))
    placed = particles.replace(rotation=rotation, shift=shift, class_number=class_number)
    return placed, weights / weights.sum()
